#!/bin/sh
# Build the libFuzzer targets with clang and run each for KM_FUZZ_SECONDS (60) on its corpus.
set -eu
cd "$(dirname "$0")/.."
if ! command -v clang >/dev/null 2>&1; then
    echo "km: fuzzing needs clang; on Debian: apt-get install clang libclang-rt-14-dev" >&2
    exit 1
fi
cmake --preset fuzz
cmake --build --preset fuzz
for target in build/fuzz/tests/fuzz/fuzz_*; do
    [ -x "$target" ] && [ -f "$target" ] || continue
    parser="${target##*/fuzz_}"
    scratch="build/fuzz/corpus/$parser"
    mkdir -p "$scratch"
    echo "km: fuzzing $parser"
    "$target" -max_total_time="${KM_FUZZ_SECONDS:-60}" -timeout=5 -rss_limit_mb=512 -print_final_stats=1 \
        "$scratch" "tests/fuzz/corpus/$parser"
done
