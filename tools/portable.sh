#!/bin/sh
# A folder that runs on machines which have nothing of ours: tools/portable.sh PROGRAM FOLDER
#
#   FOLDER/bin/ratplus             the program of the preset `portable`, stripped
#   FOLDER/lib                     the libraries it is linked with, but those of glibc
#   FOLDER/share/ratplus/configs   the tree of configurations
#
# The driver and cuBLASLt, hundreds of MiB, are the other machine's: the program opens them when it is asked
# for a GPU. The program's RPATH is $ORIGIN/../lib; a RUNPATH would not hold for the libraries of libraries.
# FOLDER is made anew, at most 60 MiB, and tried from another place in an empty environment.
set -u
export LC_ALL=C
program=${1:?tools/portable.sh PROGRAM FOLDER}
out=${2:?tools/portable.sh PROGRAM FOLDER}
source=$(cd "$(dirname "$0")/.." && pwd) || exit 2
most=60 # MiB
of_glibc='/(ld-linux[^/]*|lib(c|m|mvec|dl|rt|pthread|resolv))\.so\.[0-9]+$'

fail() {
  echo "tools/portable.sh: $*" >&2
  exit 1
}
# Paths of what the program loads.
loaded() {
  env -i "$(command -v ldd)" "$1" | awk '$2 == "=>" { print $3 == "not" ? "missing:" $1 : $3 }'
}

[ -x "$program" ] || fail "$program is not there; make portable builds it"
if [ -e "$out" ] && [ ! -x "$out/bin/ratplus" ]; then
  fail "$out is there and no such folder; give another name"
fi
rm -rf "$out"
mkdir -p "$out/bin" "$out/lib" "$out/share/ratplus" || exit 1
cp "$program" "$out/bin/ratplus" && strip "$out/bin/ratplus" || exit 1
cp -R "$source/configs" "$out/share/ratplus/" || exit 1
cp "$source/LICENSE" "$out/" || exit 1
for path in $(loaded "$program"); do
  case $path in missing:*) fail "the library ${path#missing:} is not here" ;; esac
  echo "$path" | grep -qE "$of_glibc" || cp -L "$path" "$out/lib/" || exit 1
done

kib=$(du -sk --apparent-size "$out" | cut -f 1)
[ "$kib" -le $((most * 1024)) ] || fail "$out has $kib KiB; the most is $most MiB"

# Elsewhere, with nothing around it.
moved=$(mktemp -d "${TMPDIR:-/tmp}/ratplus-portable-XXXXXX") || exit 2
trap 'rm -rf "$moved"' EXIT
cp -R "$out" "$moved/folder" || exit 1
there=$moved/folder/bin/ratplus
foreign=$(loaded "$there" | grep -v "^$moved/" | grep -vE "$of_glibc")
[ -z "$foreign" ] || fail "the program would load" $foreign
cd "$moved" || exit 1
env -i "$there" --version >/dev/null || fail "the program does not start from $there"
env -i "$there" info machine | grep -q '^GPUs' || fail "ratplus info machine says nothing of GPUs"
if "$there" --version | grep -q '^built in:.* yaml '; then
  env -i "$there" config experiment=cpu/ratplus-tiny >/dev/null 2>&1 ||
    fail "the tree of configurations is not found"
fi
glibc=$(objdump -T "$there" folder/lib/* 2>/dev/null | grep -oE 'GLIBC_[0-9.]+' | sort -uV | tail -n 1)
echo "$out: $((kib / 1024)) MiB, $(ls folder/lib | wc -l) libraries," \
  "for $(uname -m) with glibc ${glibc#GLIBC_} or later"
