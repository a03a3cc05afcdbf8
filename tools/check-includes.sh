#!/bin/sh
# Holds the direction of #includes: base <- config, text, data, pattern <- ops <- dist <- model <-
# session <- train <- eval, serve, bench <- cli; never upward, and not sideways, but that everyone
# above base may see the typed settings of config. Also: an external library is included
# in one folder only, cli/ and include/ see public headers only, no file includes a .c file, and a
# file's name is unique in the repository. Prints each breach; exit 1 if there is one.
set -u
cd "$(dirname "$0")/.." || exit 2

files=$(find src include cli tests -name '*.c' -o -name '*.h' -o -name '*.cc' -o -name '*.inc' 2>/dev/null |
        grep -v '^tests/.*/build/' | sort)

# shellcheck disable=SC2086
grep -nE '^[[:space:]]*#[[:space:]]*include' $files /dev/null | awk '
  BEGIN {
    n = split("base:0 config:1 text:1 data:1 pattern:1 ops:2 dist:3 model:4 session:5 train:6 " \
              "eval:7 serve:7 bench:7", rooms, " ")
    for (i = 1; i <= n; i++) { split(rooms[i], r, ":"); rank[r[1]] = r[2] }
    # header prefix -> the library it belongs to
    n = split("oneapi/dnnl:oneDNN dnnl:oneDNN sentencepiece:SentencePiece yaml.h:libyaml " \
              "jansson:jansson microhttpd:libmicrohttpd zlib.h:zlib zstd:zstd zip.h:libzip " \
              "mpi.h:MPI cuda.h:CUDA cublas:CUDA cuda_runtime:NCCL nccl:NCCL", libs, " ")
    for (i = 1; i <= n; i++) { split(libs[i], l, ":"); prefix[i] = l[1]; library[i] = l[2] }
    nlibs = n
  }
  function breach(text) { print file ":" line ": " text; bad = 1 }
  {
    split($0, part, ":"); file = part[1]; line = part[2]
    if (!match($0, /[<"][^>"]*[>"]/)) { next }
    quoted = substr($0, RSTART, 1) == "\""
    name = substr($0, RSTART + 1, RLENGTH - 2)
    depth = split(file, dir, "/")
    top = dir[1]; room = top == "src" ? dir[2] : top
    if (name ~ /\.(c|cc)$/) breach("includes a source file, " name)
    if (quoted) {
      split(name, to, "/")
      if (top == "src" && to[1] != room && to[1] != "ratplus" && to[1] in rank) {
        if (!(room in rank)) breach("src/" room " is not in the list of rooms")
        else if (rank[to[1]] > rank[room]) breach("looks upward: " room " includes " name)
        else if (rank[to[1]] == rank[room] && to[1] != room && to[1] != "config")
          breach("rooms side by side: " room " includes " name)
      }
      if (top == "cli" && (to[1] in rank)) breach("the program includes an inner header, " name)
      if (top == "include" && name !~ /^ratplus\//) breach("a public header includes " name)
    } else {
      where = file; sub(/\/[^\/]*$/, "", where)
      for (i = 1; i <= nlibs; i++) {
        if (index(name, prefix[i]) != 1) continue
        if (top == "cli" || top == "include") breach(top "/ includes " library[i])
        if (top != "src") continue
        if (!(library[i] in home)) home[library[i]] = where
        else if (home[library[i]] != where)
          breach(library[i] " is included here and in " home[library[i]])
      }
    }
  }
  END { exit bad }'
bad=$?

twice=$(echo "$files" | sed 's|.*/||' | sort | uniq -d)
for name in $twice; do
  echo "the name $name is used twice:"
  echo "$files" | grep "/$name\$" | sed 's/^/  /'
  bad=1
done
exit $bad
