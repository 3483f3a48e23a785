# Toolchain file for aarch64 with Debian's cross compiler and QEMU; tools/check_aarch64.sh uses it.
# The environment variable KM_AARCH64_ROOT names a folder with the files of the arm64 packages of the
# libraries km needs; without it they are looked for where Debian's multiarch puts them.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)

set(KM_AARCH64_LIB "$ENV{KM_AARCH64_ROOT}/usr/lib/aarch64-linux-gnu")
set(ENV{PKG_CONFIG_SYSROOT_DIR} "$ENV{KM_AARCH64_ROOT}")
set(ENV{PKG_CONFIG_LIBDIR}
    "${KM_AARCH64_LIB}/pkgconfig:${KM_AARCH64_LIB}/openblas-pthread/pkgconfig")
set(CMAKE_EXE_LINKER_FLAGS_INIT "-Wl,-rpath-link,${KM_AARCH64_LIB}")
set(CMAKE_SHARED_LINKER_FLAGS_INIT "-Wl,-rpath-link,${KM_AARCH64_LIB}")
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64-static -L /usr/aarch64-linux-gnu
    -E "LD_LIBRARY_PATH=${KM_AARCH64_LIB}:${KM_AARCH64_LIB}/openblas-pthread:/usr/aarch64-linux-gnu/lib")
