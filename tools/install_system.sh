#!/bin/sh
# Install the system packages km is built with, when they are missing (Debian and its relatives).
# With the argument "tests" also what only the tests need. Prints what it is about to do; works as
# root or through sudo; says what is missing otherwise.
set -eu

PYTHON="${PYTHON:-python3}"
missing=""

need() { # package, test command...
    package="$1"
    shift
    "$@" >/dev/null 2>&1 || missing="$missing $package"
}

header() { # name: the C preprocessor finds it
    printf '#include <%s>\n' "$1" | cc -E -x c - >/dev/null 2>&1
}

python_header() {
    "$PYTHON" -c 'import os, sysconfig, sys
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))'
}

if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "km: needs Python 3.11 or newer as '$PYTHON'; set PYTHON=/path/to/python3 to name another" >&2
    exit 1
fi

command -v pkg-config >/dev/null 2>&1 || missing="$missing pkg-config"
header stdio.h || missing="$missing libc6-dev"
header cblas.h || pkg-config --exists openblas || missing="$missing libopenblas-dev"
header sqlite3.h || missing="$missing libsqlite3-dev"
pkg-config --exists libcgraph libgvc 2>/dev/null || missing="$missing libgraphviz-dev"
header jansson.h || missing="$missing libjansson-dev"
printf '#include <stdarg.h>\n#include <stddef.h>\n#include <stdint.h>\n#include <setjmp.h>\n#include <cmocka.h>\n' |
    cc -E -x c - >/dev/null 2>&1 || missing="$missing libcmocka-dev"
need graphviz command -v dot
need fonts-dejavu-core test -d /usr/share/fonts/truetype/dejavu
need python3-dev python_header
need python3-venv "$PYTHON" -c 'import venv, ensurepip'
if [ "${1:-}" = tests ] && command -v apt-get >/dev/null 2>&1; then
    need chromium test -x /usr/bin/chromium # tests of reports; they are skipped without it
fi

if [ -z "$missing" ]; then
    echo "km: all system libraries are present"
    exit 0
fi

echo "km: missing system packages:$missing"
if ! command -v apt-get >/dev/null 2>&1; then
    echo "km: no apt-get here; install the equivalents of:$missing" >&2
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    as_root=""
elif command -v sudo >/dev/null 2>&1; then
    as_root="sudo"
else
    echo "km: neither root nor sudo; ask an administrator to run: apt-get install$missing" >&2
    exit 1
fi

echo "km: installing them with apt-get"
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update -qq
# shellcheck disable=SC2086
$as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
echo "km: system packages installed"
