# tests/test_*.c: one file, one program. They see the library's inside, so they link the static one.
file(GLOB test_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/test_*.c)
find_path(RATPLUS_CMOCKA_INCLUDE cmocka.h)
find_library(RATPLUS_CMOCKA_LIBRARY cmocka)
mark_as_advanced(RATPLUS_CMOCKA_INCLUDE RATPLUS_CMOCKA_LIBRARY)
set(RATPLUS_TESTS_LINE "off")

# NCCL's side of the communicator, over a NCCL between processes of one machine: its symbols come before
# those of the library. Two more programs have it, which so are other builds than ratplus; the second
# has no MPI.
if(RATPLUS_TESTS)
  add_library(ratplus_fake_nccl OBJECT ${PROJECT_SOURCE_DIR}/src/dist/comm_nccl.c
              ${PROJECT_SOURCE_DIR}/src/base/version.c ${PROJECT_SOURCE_DIR}/tests/fake/fake_nccl.c)
  target_compile_options(ratplus_fake_nccl PRIVATE -URATPLUS_WITH_NCCL -DRATPLUS_WITH_NCCL=1)
  add_library(ratplus_no_mpi OBJECT ${PROJECT_SOURCE_DIR}/src/dist/comm_mpi.c)
  target_compile_options(ratplus_no_mpi PRIVATE -URATPLUS_WITH_MPI -DRATPLUS_WITH_MPI=0)
  foreach(part ratplus_fake_nccl ratplus_no_mpi)
    add_dependencies(${part} ratplus_build_header)
    target_include_directories(${part} BEFORE PRIVATE ${PROJECT_SOURCE_DIR}/tests/fake)
    target_link_libraries(${part} PRIVATE ratplus_flags)
  endforeach()
  add_executable(ratplus-nccl ${cli_sources} $<TARGET_OBJECTS:ratplus_fake_nccl>)
  add_executable(ratplus-nccl-alone ${cli_sources} $<TARGET_OBJECTS:ratplus_fake_nccl>
                 $<TARGET_OBJECTS:ratplus_no_mpi>)
  foreach(program ratplus-nccl ratplus-nccl-alone)
    target_link_libraries(${program} PRIVATE ratplus_program_flags ratplus_static)
    set_target_properties(${program} PROPERTIES LINKER_LANGUAGE ${RATPLUS_LINKER_LANGUAGE}
      RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  endforeach()
endif()

# The driver and cuBLASLt as two libraries of the real names. Programs that link them have them loaded when
# the library asks for these names; the true ones come first in LD_LIBRARY_PATH where a GPU is.
if(RATPLUS_TESTS AND RATPLUS_HAVE_CUDA)
  enable_language(CXX) # kernels run in the stand-in, as C++
  file(GLOB device_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/ops/cuda/kernel/*.cu)
  set_source_files_properties(${device_sources} PROPERTIES LANGUAGE CXX
    COMPILE_OPTIONS "-xc++;-O2;-fno-strict-aliasing;-fno-exceptions;-Wno-shadow;-Wno-unknown-pragmas")
  foreach(part cuda cublaslt)
    add_library(ratplus_fake_${part} SHARED ${PROJECT_SOURCE_DIR}/tests/fake/fake_${part}.c)
    target_link_libraries(ratplus_fake_${part} PRIVATE ratplus_flags ratplus_cuda)
    target_include_directories(ratplus_fake_${part} PRIVATE ${PROJECT_SOURCE_DIR}/tests/fake)
    set_target_properties(ratplus_fake_${part} PROPERTIES C_VISIBILITY_PRESET default
      LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests/fake)
  endforeach()
  target_sources(ratplus_fake_cuda PRIVATE ${PROJECT_SOURCE_DIR}/tests/fake/emulate.cc ${device_sources})
  target_compile_definitions(ratplus_fake_cuda PRIVATE RP_EMULATE)
  set_target_properties(ratplus_fake_cuda PROPERTIES OUTPUT_NAME cuda SOVERSION 1)
  set_target_properties(ratplus_fake_cublaslt PROPERTIES OUTPUT_NAME cublasLt
    SOVERSION ${RATPLUS_CUBLAS_MAJOR})
  target_link_libraries(ratplus_fake_cublaslt PRIVATE ratplus_fake_cuda)
endif()
if(RATPLUS_TESTS AND RATPLUS_CMOCKA_INCLUDE AND RATPLUS_CMOCKA_LIBRARY)
  set(RATPLUS_TESTS_LINE "on")
  foreach(source IN LISTS test_sources)
    get_filename_component(name ${source} NAME_WE)
    add_executable(${name} ${source})
    target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
    target_include_directories(${name} SYSTEM PRIVATE ${RATPLUS_CMOCKA_INCLUDE})
    target_compile_definitions(${name} PRIVATE CHECK_SOURCE_DIR="${PROJECT_SOURCE_DIR}"
                               CHECK_BINARY_DIR="${PROJECT_BINARY_DIR}")
    target_link_libraries(${name} PRIVATE ratplus_flags ratplus_static ${RATPLUS_CMOCKA_LIBRARY})
    set_target_properties(${name} PROPERTIES LINKER_LANGUAGE ${RATPLUS_LINKER_LANGUAGE}
      RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  endforeach()
  target_sources(test_dist_comm PRIVATE $<TARGET_OBJECTS:ratplus_fake_nccl>)
  if(RATPLUS_HAVE_CUDA)
    foreach(name test_ops_cuda test_ops_cuda_gate test_ops_device test_ops_gemm test_ops_registry)
      target_link_libraries(${name} PRIVATE -Wl,--no-as-needed ratplus_fake_cuda ratplus_fake_cublaslt
                            ratplus_cuda)
    endforeach()
    target_include_directories(test_ops_cuda PRIVATE ${PROJECT_SOURCE_DIR}/tests/fake)
  endif()
elseif(RATPLUS_TESTS)
  set(RATPLUS_TESTS_LINE "off: cmocka not found (Debian package libcmocka-dev)")
endif()

# The example of docs/, as a user of the installed library would build it; tests/cli/generate.sh runs it.
if(RATPLUS_TESTS)
  add_executable(stream ${PROJECT_SOURCE_DIR}/docs/stream.c)
  target_link_libraries(stream PRIVATE ratplus_program_flags ratplus_shared)
endif()

# tests/fuzz/fuzz_*.c: with RATPLUS_FUZZ libFuzzer drives them, else replay.c feeds them the corpus,
# and they are tests like the others.
file(GLOB fuzz_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/fuzz/fuzz_*.c)
if(RATPLUS_FUZZ OR RATPLUS_TESTS)
  foreach(source IN LISTS fuzz_sources)
    get_filename_component(name ${source} NAME_WE)
    add_executable(${name} ${source})
    target_link_libraries(${name} PRIVATE ratplus_flags ratplus_static)
    if(RATPLUS_FUZZ)
      target_link_options(${name} PRIVATE -fsanitize=fuzzer)
    else()
      target_sources(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests/fuzz/replay.c)
    endif()
    set_target_properties(${name} PROPERTIES LINKER_LANGUAGE ${RATPLUS_LINKER_LANGUAGE}
      RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  endforeach()
endif()
