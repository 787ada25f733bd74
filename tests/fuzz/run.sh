#!/bin/sh
# Fuzz the pixel kernel under address and undefined-behaviour sanitizers, then report coverage.
#
#   tests/fuzz/run.sh [seconds] [directory]
#
# Needs clang with libFuzzer; llvm-profdata and llvm-cov for the coverage. The corpus stays in
# the directory and is used again. Exits non-zero if an input was found that breaks the kernel.
set -eu
seconds=${1:-60}
here=$(cd "$(dirname "$0")" && pwd)
work=${2:-"${TMPDIR:-/tmp}/platevault-fuzz"}
native="$here/../../native"
sources="$here/fuzz_kernel.c $native/kernel.c $native/portable.c $native/avx2.c"
mkdir -p "$work/corpus"

tool() { # the newest of name, name-NN
    command -v "$1" || ls /usr/bin/"$1"-[0-9]* 2>/dev/null | sort -V | tail -1
}
clang=$(tool clang)

# shellcheck disable=SC2086
"$clang" -std=c11 -O2 -g -fno-omit-frame-pointer -DPV_PROVE_BOUNDS \
    -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all $sources -o "$work/fuzz"
"$work/fuzz" -max_total_time="$seconds" -max_len=4096 -len_control=0 -timeout=20 -print_final_stats=1 \
    -artifact_prefix="$work/" "$work/corpus"

profdata=$(tool llvm-profdata) || profdata=
[ -n "$profdata" ] || { echo "llvm-profdata not found: no coverage"; exit 0; }
# shellcheck disable=SC2086
"$clang" -std=c11 -O1 -g -fsanitize=fuzzer -fprofile-instr-generate -fcoverage-mapping $sources \
    -o "$work/covered"
LLVM_PROFILE_FILE="$work/covered.profraw" "$work/covered" -runs=0 "$work/corpus" 2>/dev/null
"$profdata" merge "$work/covered.profraw" -o "$work/covered.profdata"
"$(tool llvm-cov)" report "$work/covered" -instr-profile="$work/covered.profdata" "$native"
