#!/bin/bash
# GPUs from the outside: what info says of them, how they are refused, what is said when a library of CUDA
# is missing or strange; and that nvcc takes what kernels will include. TAP; see tap.bash.
R=$RATPLUS
. "$RATPLUS_SOURCE/tests/cli/tap.bash"
fake=$RATPLUS_BUILD/tests/fake

# With the driver of the folder $1.
with() {
  local dir=$1
  shift
  LD_LIBRARY_PATH=$dir "$@"
}

says "there is a line about GPUs" 0 "GPUs        " "" "$R" info machine
says "as JSON" 0 '"gpus":[' "" "$R" info machine --json
says "a model on a GPU is refused" 2 "" "device cuda: " "$R" generate --model x --prompt x --device cuda
says "and told what to do" 2 "" "; use --device cpu" "$R" generate --model x --prompt x --device cuda

if "$R" --version | grep -q '^left out:.*cuda'; then
  says "this build has none" 0 "none: this build has no CUDA" "" "$R" info machine
  echo "ok - with a driver # SKIP built without CUDA"
else
  blas=$(basename "$fake"/libcublasLt.so.*)
  says "a GPU" 0 "GPUs        0: stand-in, compute capability 8.0, 1.00 GiB" "" with "$fake" "$R" info machine
  says "a GPU as JSON" 0 '"compute_capability":"8.0","memory_bytes":1073741824}]' "" \
    with "$fake" "$R" info machine --json
  says "it is taken, and the model looked for" 3 "" "x: no such file" \
    with "$fake" "$R" generate --model x --prompt x --device cuda
  says "its rates" 0 "memory, copy" "" with "$fake" "$R" bench machine --device cuda --seconds 0.01
  says "rows of a product on it" 0 "\"processor\":\"stand-in\"" "" with "$fake" \
    "$R" bench kernel gemm --device cuda --seconds 0.001 --width 32 --batch 1,2 --only decode --json
  mkdir other strange
  cp "$fake/libcuda.so.1" other/
  cp "$fake/libcuda.so.1" "other/$blas"
  says "a cuBLASLt that is none" 2 "" "$blas has no cublasLtCreate" \
    with "$PWD/other" "$R" generate --model x --prompt x --device cuda
  says "which info does not ask for" 0 "0: stand-in" "" with "$PWD/other" "$R" info machine
  cp "$(ldd "$R" | awk '/libgomp|libomp/ { print $3; exit }')" strange/libcuda.so.1
  says "a driver that is none" 0 "GPUs        none: libcuda.so.1 has no cuInit" "" \
    with "$PWD/strange:$fake" "$R" info machine
  echo "no library" >strange/libcuda.so.1
  says "a broken driver" 0 "none: no CUDA driver (" "" with "$PWD/strange" "$R" info machine
fi

nvcc=$(command -v nvcc || ls "${CUDA_PATH:-/usr/local/cuda}/bin/nvcc" 2>/dev/null)
if [ -z "$nvcc" ]; then
  echo "ok - device code compiles # SKIP nvcc is not here"
else
  says "device code compiles for sm_80, sm_90a and sm_100" 0 "" "" "$nvcc" -Werror all-warnings \
    -I"$RATPLUS_SOURCE/src" -I"$RATPLUS_SOURCE/include" -gencode arch=compute_80,code=sm_80 \
    -gencode arch=compute_90a,code=sm_90a -gencode arch=compute_100,code=sm_100 \
    -c "$RATPLUS_SOURCE/tests/fake/device_code.cu" -o device_code.o
fi
