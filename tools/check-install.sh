#!/bin/bash
# Installs a build into a folder that is thrown away and builds a program against it: through
# pkg-config (shared and static) and through the CMake package. tools/check-install.sh BUILD
set -eu
cd "$(dirname "$0")/.."
build=$(cd "${1:?tools/check-install.sh BUILD}" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
DESTDIR=$scratch/stage cmake --install "$build" --prefix /opt/ratplus >"$scratch/log"
# Moved after the installation, which must not matter.
mv "$scratch/stage/opt/ratplus" "$scratch/moved"
prefix=$scratch/moved
cd "$scratch"

cat >program.c <<'END'
#include <stdio.h>
#include <ratplus/base.h>

int main(void) { return printf("%s\n", rp_version()) < 0; }
END
pc=$(find "$prefix" -name ratplus.pc)
export PKG_CONFIG_PATH=${pc%/*}
version=$(pkg-config --modversion ratplus)
lib=$(pkg-config --variable=libdir ratplus)
cc=${CC:-cc}

expect() {
  [ "$("$@")" = "$version" ] || { echo "$1 does not print $version"; exit 1; }
}
# shellcheck disable=SC2046
$cc program.c -o shared $(pkg-config --cflags --libs ratplus) -Wl,-rpath,"$lib"
expect ./shared
mkdir archive
cp "$lib/libratplus.a" archive/
# shellcheck disable=SC2046
$cc program.c -o static -Larchive $(pkg-config --static --cflags --libs ratplus |
  sed "s| -lratplus| -l:libratplus.a|")
expect ./static
if ldd ./static | grep -q libratplus; then
  echo "the static program needs libratplus.so"
  exit 1
fi

cat >CMakeLists.txt <<'END'
cmake_minimum_required(VERSION 3.25)
project(user C)
find_package(ratplus 0.1 REQUIRED)
add_executable(through_shared program.c)
target_link_libraries(through_shared PRIVATE ratplus::ratplus)
add_executable(through_static program.c)
target_link_libraries(through_static PRIVATE ratplus::static)
END
cmake -S . -B user -DCMAKE_PREFIX_PATH="$prefix" >>log
cmake --build user >>log
expect user/through_shared
expect user/through_static

if grep -rl "$build" "$prefix" | grep -q .; then
  echo "installed files hold the path of the build:"
  grep -rl "$build" "$prefix"
  exit 1
fi
