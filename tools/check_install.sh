#!/bin/sh
# Install the C libraries into a scratch folder, compile the C example with pkg-config alone as a C
# user would, and run it where a model is named: tools/check_install.sh [MODEL.gguf]
set -eu
cd "$(dirname "$0")/.."
build=build/install-check
prefix="$PWD/$build/prefix"
model="${1:-}"
mkdir -p "$build"

echo "km: building and installing the C libraries into $build/prefix"
cmake -S . -B "$build" -G Ninja -DCMAKE_INSTALL_PREFIX="$prefix" -DCMAKE_INSTALL_LIBDIR=lib >"$build.log" 2>&1 || { cat "$build.log"; exit 1; }
cmake --build "$build" >"$build.log" 2>&1 || { tail -n 40 "$build.log"; exit 1; }
cmake --install "$build" >"$build.log" 2>&1 || { cat "$build.log"; exit 1; }

echo "km: comparing exported symbols with abi/symbols.txt"
for library in km km_kb km_viz; do
    nm -D --defined-only "$prefix/lib/lib$library.so" | awk -v l="lib$library" '$2 != "A" {sub(/@.*/, "", $3); print l, $3}'
done | LC_ALL=C sort >"$build/symbols.txt"
diff -u abi/symbols.txt "$build/symbols.txt" || { echo "km: the exported symbols changed; copy $build/symbols.txt if that is meant" >&2; exit 1; }

echo "km: compiling the C example against the installed libraries"
export PKG_CONFIG_PATH="$prefix/lib/pkgconfig"
# shellcheck disable=SC2046
cc -std=c11 -Wall -Wextra -Werror examples/c/capitals.c $(pkg-config --cflags --libs km km-kb km-viz) \
    -Wl,-rpath,"$prefix/lib" -o "$build/capitals"
if [ -n "$model" ]; then
    rm -f "$build/capitals.db" "$build/capitals.svg"
    "$build/capitals" "$model" "$build/capitals.db" "$build/capitals.svg"
    test -s "$build/capitals.svg"
fi
echo "km: the C example works against the installed libraries"
