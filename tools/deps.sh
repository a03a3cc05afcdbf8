#!/bin/sh
# Installs the Debian packages that are missing, by name: tools/deps.sh [test] [fuzz] [ci]
#
# Nothing missing: says nothing, exit 0. No right to install: prints the line to type, exit 2.
# A system without apt: prints Fedora's names and changes nothing.
set -u

build="gcc g++ make cmake pkg-config libdnnl-dev libsentencepiece-dev libyaml-dev libzip-dev
libzstd-dev zlib1g-dev"
fedora="gcc gcc-c++ make cmake pkgconf-pkg-config onednn-devel sentencepiece-devel libyaml-devel
libzip-devel libzstd-devel zlib-devel"
for part in "$@"; do
  case $part in
    test) build="$build libcmocka-dev locales libopenmpi-dev openmpi-bin"
          fedora="$fedora libcmocka-devel glibc-locale-source openmpi-devel" ;;
    fuzz) build="$build clang libclang-rt-dev libomp-dev"
          fedora="$fedora clang compiler-rt libomp-devel" ;;
    ci) build="$build clang-format clang-tidy libomp-dev"
        fedora="$fedora clang-tools-extra libomp-devel" ;;
    *) echo "tools/deps.sh: unknown part \"$part\"; there are test, fuzz and ci" >&2
       exit 2 ;;
  esac
done

if ! command -v apt-get >/dev/null 2>&1 || ! command -v dpkg-query >/dev/null 2>&1; then
  echo "make deps: this system has no apt, so nothing was changed. On Fedora the packages are:"
  echo "  dnf install" $fedora
  exit 0
fi

missing=
for package in $build; do
  status=$(dpkg-query -W -f '${db:Status-Status} ' "$package" 2>/dev/null)
  case " $status" in
    *" installed "*) ;;
    *) missing="$missing $package" ;;
  esac
done
[ -n "$missing" ] || exit 0

sudo=
if [ "$(id -u)" != 0 ]; then
  if ! command -v sudo >/dev/null 2>&1 || { [ ! -t 0 ] && ! sudo -n true 2>/dev/null; }; then
    echo "make deps: packages are missing and there is no right to install them. As root:" >&2
    echo "  apt-get install -y$missing" >&2
    exit 2
  fi
  sudo=sudo
fi

apt() {
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0 "$@" </dev/null
}

have_lists() {
  ls "${APT_LISTS:-/var/lib/apt/lists}"/*_Packages* >/dev/null 2>&1
}

echo "make deps: installing$missing"
updated=
if ! have_lists; then
  apt update || exit 1
  updated=yes
fi
apt install -y --no-install-recommends $missing && exit 0
# Old lists name versions that are gone from the mirror.
if [ -z "$updated" ] && apt update && apt install -y --no-install-recommends $missing; then
  exit 0
fi
echo "make deps: apt-get could not install$missing; see its messages above" >&2
exit 1
