#!/bin/sh
# Builds the kernels with AddressSanitizer and UndefinedBehaviorSanitizer and runs their tests under both:
#
#     tests/native/sanitize.sh                    the kernels' tests without the longest, a minute or two
#     tests/native/sanitize.sh tests/test_ops.py  other tests
#
# The package and its tests are copied into a folder of their own, so that no other build is touched. Linux, GCC.
# Leaks are not looked for: the interpreter leaves much behind on purpose.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

cd "$root"
MI_KERNELS_SANITIZE=address,undefined "$python" setup.py -q build_ext --build-lib "$build/lib" --build-temp "$build/objects"
cp -r mi_kernels tests pyproject.toml "$build"
rm -f "$build"/mi_kernels/*.so
mv "$build"/lib/mi_kernels/*.so "$build/mi_kernels"

[ $# -gt 0 ] || set -- tests/test_guard_pages.py tests/test_spans.py tests/test_sweep_kernel.py tests/test_kernels.py \
    tests/test_combine_kernels.py tests/test_fp8.py tests/test_checksums.py -k "not any_value and not transformers"
cd "$build"
# The sanitizer comes first among the libraries, and with the C++ library, whose exceptions it follows.
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so)" \
    ASAN_OPTIONS=detect_leaks=0:alloc_dealloc_mismatch=0 UBSAN_OPTIONS=print_stacktrace=1 \
    PYTHONPATH="$build" PYTHONDONTWRITEBYTECODE=1 PYTHONMALLOC=malloc \
    "$python" -m pytest -q -m "not slow" -p no:cacheprovider "$@"
