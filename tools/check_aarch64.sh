#!/bin/sh
# Build libkm for aarch64 and run its tests of kernels, products and forward pass under QEMU:
# tools/check_aarch64.sh [TEST...] (test_kernels, test_linear ...). Needs Debian's packages
# gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user-static, and arm64 among dpkg's foreign
# architectures (dpkg --add-architecture arm64 && apt-get update). The arm64 libraries are downloaded
# into build/aarch64-root and never installed.
set -eu
cd "$(dirname "$0")/.."
build=build/aarch64
KM_AARCH64_ROOT="$PWD/build/aarch64-root"
export KM_AARCH64_ROOT
tests="${*:-test_base test_pool test_kernels test_kernels_attention test_dtype test_dequant test_linear test_forward test_exact test_model}"

for tool in aarch64-linux-gnu-gcc qemu-aarch64-static dpkg-deb cmake ninja; do
    command -v "$tool" >/dev/null || { echo "km: $tool is missing; see the head of tools/check_aarch64.sh" >&2; exit 1; }
done

if [ ! -e "$KM_AARCH64_ROOT/.complete" ]; then
    echo "km: downloading the arm64 libraries into build/aarch64-root"
    mkdir -p "$KM_AARCH64_ROOT/packages"
    (cd "$KM_AARCH64_ROOT/packages" && apt-get download libopenblas0-pthread:arm64 libopenblas-pthread-dev:arm64 \
        libgfortran5:arm64 libjansson4:arm64 libjansson-dev:arm64 libcmocka0:arm64 libcmocka-dev:arm64 \
        libsqlite3-0:arm64 libsqlite3-dev:arm64 >download.log 2>&1) ||
        { cat "$KM_AARCH64_ROOT/packages/download.log" >&2; exit 1; }
    for package in "$KM_AARCH64_ROOT"/packages/*.deb; do
        dpkg-deb -x "$package" "$KM_AARCH64_ROOT"
    done
    touch "$KM_AARCH64_ROOT/.complete"
fi

echo "km: building for aarch64 into $build"
cmake -S . -B "$build" -G Ninja -DCMAKE_TOOLCHAIN_FILE="$PWD/cmake/aarch64.cmake" -DKM_BUILD_TESTS=ON -DKM_WERROR=ON \
    >"$build.log" 2>&1 || { cat "$build.log" >&2; exit 1; }
# shellcheck disable=SC2086
cmake --build "$build" --target $tests >"$build.log" 2>&1 || { tail -n 40 "$build.log" >&2; exit 1; }
if grep -qE -- '-m(avx|fma|f16c|bmi)' "$build/compile_commands.json"; then
    echo "km: flags of x86-64 in the aarch64 build" >&2
    exit 1
fi

echo "km: running the tests under QEMU"
ctest --test-dir "$build" --output-on-failure -R "^($(echo "$tests" | tr ' ' '|'))\$"
