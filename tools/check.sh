#!/bin/sh
# Layers, formatting, lint, types and stubs. With --fix, format in place instead of checking.
set -eu
cd "$(dirname "$0")/.."

c_files=$(git ls-files '*.c' '*.h' 2>/dev/null || find libkm kb viz bindings tests examples -name '*.[ch]')
c_files=$(printf '%s\n' $c_files | grep -vE '(unicode|nfc)_tables.h' || true)

if [ "${1:-}" = "--fix" ]; then
    # shellcheck disable=SC2086
    clang-format -i $c_files
    ruff format bindings tests tools bench examples
    ruff check --fix bindings tests tools bench examples
    exit 0
fi

echo "km: checking layers (dependencies point down only) and allocation-failure tests"
python tools/check_layers.py
python tools/check_allocation.py
echo "km: checking the format of C and Python"
# shellcheck disable=SC2086
clang-format --dry-run --Werror $c_files
ruff format --check --quiet bindings tests tools bench examples
ruff check --quiet bindings tests tools bench examples
echo "km: checking types and that the stubs describe the compiled modules"
mypy --strict bindings/km
mkdir -p build # outside the sources, so that the installed modules are the ones compared
(cd build && python -m mypy.stubtest km._km km._kmviz --concise)
echo "km: checks passed"
