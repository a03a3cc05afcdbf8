#!/bin/bash
# tools/deps.sh before a system of straw: what is called, printed and returned.
set -u
deps=$RATPLUS_SOURCE/tools/deps.sh
here=$PWD
real=$PATH

check() { # check NAME CONDITION...
  local name=$1
  shift
  if "$@"; then
    echo "ok - $name"
  else
    echo "not ok - $name"
    sed 's/^/# /' out calls 2>/dev/null
  fi
}

# system ROOT APT SUDO MISSING...: stubs of the commands that matter.
system() {
  local root=$1 apt=$2 sudo=$3
  shift 3
  rm -rf bin lists calls
  mkdir -p bin lists
  touch calls lists/x_Packages
  for tool in sh env ls grep sed cat uname; do ln -s "$(command -v $tool)" bin/; done
  printf '#!/bin/sh\necho %s\n' "$([ "$root" = root ] && echo 0 || echo 1000)" >bin/id
  if [ "$apt" = apt ]; then
    cat >bin/apt-get <<END
#!/bin/sh
echo "apt-get \$DEBIAN_FRONTEND \$*" >>$here/calls
[ ! -f $here/stale ] || case "\$*" in *install*) [ -f $here/lists/new ] || exit 100 ;; *) : >$here/lists/new ;; esac
END
    cat >bin/dpkg-query <<END
#!/bin/sh
for last; do :; done
case " $* " in *" \$last "*) exit 1 ;; esac
echo "installed "
END
  fi
  if [ "$sudo" = sudo ]; then
    printf '#!/bin/sh\necho "sudo $*" >>%s/calls\n[ "$1" = -n ] || "$@"\n' "$here" >bin/sudo
  fi
  chmod +x bin/id bin/apt-get bin/dpkg-query bin/sudo 2>/dev/null
}
run() {
  PATH=$here/bin APT_LISTS=$here/lists sh "$deps" "$@" >out 2>&1 </dev/null
  status=$?
}

system root apt none
run test
check "nothing missing: silence" test "$status" = 0 -a ! -s out -a ! -s calls
system root apt none libyaml-dev libcmocka-dev
run test
check "only what is missing" grep -q 'install -y --no-install-recommends libyaml-dev libcmocka-dev$' calls
check "no question is asked" grep -q '^apt-get noninteractive ' calls
check "lists are there: no update" test "$(grep -c update calls)" = 0
run
check "the tests' packages only for tests" test "$(grep -c libcmocka-dev calls)" = 1
system root apt none libyaml-dev
rm lists/*
run
check "no lists: update first" grep -q update <(head -n 1 calls)
system root apt none libyaml-dev
touch stale
run
check "old lists: update and once more" test "$status" = 0 -a "$(wc -l <calls)" = 3
rm stale
system user apt none libyaml-dev
run
check "no right: exit 2" test "$status" = 2
check "no right: the line to type" grep -q 'apt-get install -y libyaml-dev' out
check "no right: nothing is called" test ! -s calls
system user apt sudo
run
check "nothing missing: no sudo" test "$status" = 0 -a ! -s calls
system user apt sudo libyaml-dev
run
check "sudo where it is needed" grep -q '^sudo env .*apt-get' calls
system user noapt none
run fuzz
check "no apt: Fedora's names, nothing changed" grep -q 'dnf install gcc .*libyaml-devel.* clang' out
check "no apt: exit 0" test "$status" = 0
system root apt none
run nonsense
check "an unknown part is a usage error" test "$status" = 2
export PATH=$real
