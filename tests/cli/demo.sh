#!/bin/bash
# tools/demo.sh with a program of straw: what it calls, what it does not repeat, and how a signal
# reaches a training. TAP; runs in an empty folder.
set -u
demo=$RATPLUS_SOURCE/tools/demo.sh
here=$PWD

. "$RATPLUS_SOURCE/tests/cli/tap.bash"

# Notes its words; leaves what the script asks for; trains until a signal when told to.
cat >straw <<'END'
#!/bin/bash
echo "$*" >>calls
case $1 in
  tokenizer) : >demo/tokenizer.model ;;
  tokenize) mkdir -p demo/tokens; : >demo/tokens/val.bin
            [ -e half ] || : >demo/tokens/train.bin ;;
  train) if [ -e wait ]; then
           trap 'echo signal >>calls; sleep 0.5; exit 75' TERM INT HUP
           touch begun
           sleep 60 & wait $!
         fi ;;
  eval) echo '{}' ;;
esac
END
chmod +x straw
yes 'a text to learn from' | head -n 400 >text.txt
demonstrate() {
  RATPLUS=$here/straw NO_COLOR=1 sh "$demo" --text text.txt --out demo "$@" >out.txt 2>err.txt </dev/null
}

# stopped HOW: lets HOW (given the script's number) stop a training, exit code in $code.
stopped() {
  rm -f begun calls
  touch wait
  RATPLUS=$here/straw setsid sh "$demo" --text text.txt --out demo >out.txt 2>err.txt </dev/null &
  local pid=$!
  for _ in $(seq 100); do [ -e begun ] && break; sleep 0.1; done
  sleep 0.2
  "$1" $pid
  wait $pid
  code=$?
  rm wait
}
alone() { kill -TERM "$1"; }
all() { kill -HUP -- "-$1"; }

demonstrate
check "from text to a table" test $? = 0
check "two models and ten adaptations" test "$(grep -c '^train' calls)" = 12
check "the table is asked for last" grep -q '^info demo/results.jsonl --svg' calls
rm calls
demonstrate
check "what is there is not made again" test "$(grep -c '^token\|^eval' calls)" = 0
rm demo/tokens/train.bin calls
demonstrate
check "half of the token files is none" test "$(grep -c '^tokenize ' calls)" = 1
rm demo/results.jsonl

stopped alone
check "a signal to the script ends it with 75" test $code = 75
check "after the training heard it once" test "$(grep -c '^signal' calls)" = 1
check "which it says" grep -q 'the same command goes on' err.txt
check "and nothing else was begun" test "$(grep -c '^train' calls)" = 1
stopped all
check "a terminal that closes ends it with 75" test $code = 75
check "and the training heard it once too" test "$(grep -c '^signal' calls)" = 1
rm -f calls
demonstrate
check "it goes on" test $? = 0

yes 'another text' | head -n 500 >other.txt
RATPLUS=$here/straw sh "$demo" --text other.txt --out demo >out.txt 2>err.txt
check "another text in the same folder is refused" test $? = 2
check "with a sentence" grep -q 'holds the demo of another text' err.txt
RATPLUS=$here/straw sh "$demo" --text nowhere.txt >out.txt 2>err.txt
check "a text that is not there" test $? = 2
sh "$demo" --txet other.txt >out.txt 2>err.txt
check "an unknown word" test $? = 2
