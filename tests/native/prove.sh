#!/bin/sh
# Builds prove.cpp with the kernels, with setup.py's flags, and runs it:
#
#     tests/native/prove.sh                 every ISA of this machine
#     tests/native/prove.sh aarch64         NEON, cross-compiled and emulated; on Debian and Ubuntu this needs
#                                           apt-get install g++-aarch64-linux-gnu qemu-user
#     tests/native/prove.sh native 1000     with 1,000 random values of b for each 16-bit dtype instead of 100
#
# CXX and CXXFLAGS are honoured (CXXFLAGS=-fsanitize=address,undefined, for the native one). Equal digests mean equal bits.
set -eu

target=${1:-native}
case $target in
native) compiler=${CXX:-g++} machine=$(uname -m) emulator= link= ;;
aarch64) compiler=aarch64-linux-gnu-g++ machine=aarch64 emulator=qemu-aarch64 link=-static ;;
*) echo "usage: $0 [native|aarch64] [count]" >&2 && exit 2 ;;
esac

here=$(cd "$(dirname "$0")" && pwd)
source=$here/../../csrc/cpu
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

avx2= avx512= sse42= vpclmul= crc=
case $machine in
x86_64 | amd64)
    avx2="-mavx2 -mfma -mf16c"
    avx512="$avx2 -mavx512f -mavx512bw -Wno-maybe-uninitialized -Wno-uninitialized"
    sse42=-msse4.2
    vpclmul="-msse4.2 -mpclmul -mavx512f -mvpclmulqdq -Wno-maybe-uninitialized -Wno-uninitialized"
    ;;
aarch64) crc=-march=armv8-a+crc ;;
esac

compile() { # source file, then flags of its own
    file=$1 && shift
    # shellcheck disable=SC2086
    "$compiler" -std=c++17 -O3 -Wall -Wextra -ffp-contract=off -fno-fast-math ${CXXFLAGS:-} "$@" -c "$file" \
        -o "$build/$(basename "$file").o"
}

for name in isa run scalar neon crc32c; do compile "$source/$name.cpp"; done
# shellcheck disable=SC2086
compile "$source/avx2.cpp" $avx2
# shellcheck disable=SC2086
compile "$source/avx512.cpp" $avx512
# shellcheck disable=SC2086
compile "$source/crc32c_sse42.cpp" $sse42
# shellcheck disable=SC2086
compile "$source/crc32c_vpclmul.cpp" $vpclmul
# shellcheck disable=SC2086
compile "$source/crc32c_arm.cpp" $crc
compile "$here/prove.cpp"
# shellcheck disable=SC2086
"$compiler" ${CXXFLAGS:-} $link "$build"/*.o -pthread -o "$build/prove"
$emulator "$build/prove" "${2:-100}"
