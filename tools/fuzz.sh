#!/bin/sh
# Build the libFuzzer targets with clang and run each for KM_FUZZ_SECONDS (60) on its corpus; with
# KM_FUZZ_SECONDS=0 only build them. KM_CLANG names the compiler where it is not called clang.
set -eu
cd "$(dirname "$0")/.."

clang="${KM_CLANG:-}"
for name in clang clang-19 clang-18 clang-17 clang-16 clang-15 clang-14; do
    [ -n "$clang" ] || clang=$(command -v "$name" || true)
done
if [ -z "$clang" ]; then
    echo "km: no clang here, so the libFuzzer targets are not built (their corpora run in ctest);" \
        "on Debian: apt-get install clang libclang-rt-14-dev"
    [ "${KM_FUZZ_SECONDS:-60}" = 0 ] && exit 0
    exit 1
fi

targets=$(cd tests/fuzz && ls fuzz_*.c | sed 's/\.c$//')
echo "km: building the libFuzzer targets with $clang"
log=build-fuzz.log
cmake --preset fuzz -DCMAKE_C_COMPILER="$clang" >"$log" 2>&1 || { cat "$log"; exit 1; }
# shellcheck disable=SC2086
cmake --build --preset fuzz --target $targets >"$log" 2>&1 || { tail -n 40 "$log"; exit 1; }
rm -f "$log"
[ "${KM_FUZZ_SECONDS:-60}" = 0 ] && exit 0

for target in $targets; do
    parser="${target#fuzz_}"
    scratch="build/fuzz/corpus/$parser"
    mkdir -p "$scratch"
    echo "km: fuzzing $parser"
    "build/fuzz/tests/fuzz/$target" -max_total_time="${KM_FUZZ_SECONDS:-60}" -timeout=5 \
        -rss_limit_mb=512 -print_final_stats=1 "$scratch" "tests/fuzz/corpus/$parser"
done
