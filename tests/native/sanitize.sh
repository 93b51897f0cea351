#!/bin/sh
# Builds the kernels with AddressSanitizer and UndefinedBehaviorSanitizer and runs their tests under both:
#
#     tests/native/sanitize.sh                    the kernels' tests without the longest, a minute or two
#     tests/native/sanitize.sh tests/ops/test_ops.py  other tests
#     tests/native/sanitize.sh --thread           with ThreadSanitizer instead: what runs in several threads
#
# Other tests may need `-k "not handler_among"`: test_guard's processes end otherwise where a sanitizer handles signals.
# The package and its tests are copied into a folder of their own, so that no other build is touched. Linux, GCC.
# Leaks are not looked for: the interpreter leaves much behind on purpose.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
build=$(mktemp -d)
trap 'cat "$build"/report.* 2>/dev/null || true; rm -rf "$build"' EXIT

sanitizers=address,undefined
# The sanitizer comes first among the libraries, and with the C++ library, whose exceptions it follows.
preload="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so)"
run=
if [ "${1:-}" = --thread ]; then
    shift
    sanitizers=thread
    preload=$(gcc -print-file-name=libtsan.so)
    run="setarch $(uname -m) --addr-no-randomize" # GCC 12's runtime expects memory where it used to be
    # What is no finding: glibc frees the thread-local memory of a thread that ended, and how it knows of the end is hidden
    # from the sanitizer; the guard lays zeros under a reader on purpose, whose result is then thrown away.
    printf 'race:%s\n' _dl_deallocate_tls '^cover$' >"$build/suppressions"
    [ $# -gt 0 ] || set -- tests/checkpoint/test_guard.py tests/merge/test_stream.py tests/live/test_resident.py -k "not handler_among"
fi

cd "$root"
MI_KERNELS_SANITIZE=$sanitizers "$python" setup.py -q build_ext --build-lib "$build/lib" --build-temp "$build/objects"
cp -r mi_kernels tests pyproject.toml "$build"
rm -f "$build"/mi_kernels/*.so
mv "$build"/lib/mi_kernels/*.so "$build/mi_kernels"

[ $# -gt 0 ] || set -- tests/kernels/test_guard_pages.py tests/kernels/test_spans.py tests/kernels/test_sweep_kernel.py tests/kernels/test_kernels.py \
    tests/kernels/test_combine_kernels.py tests/checkpoint/test_fp8.py tests/checksums/test_checksums.py -k "not any_value and not transformers"
cd "$build"
# shellcheck disable=SC2086
ASAN_OPTIONS=detect_leaks=0:alloc_dealloc_mismatch=0 UBSAN_OPTIONS=print_stacktrace=1 \
    TSAN_OPTIONS="halt_on_error=1 log_path=$build/report suppressions=$build/suppressions" \
    PYTHONPATH="$build" PYTHONDONTWRITEBYTECODE=1 PYTHONMALLOC=malloc LD_PRELOAD="$preload" \
    $run "$python" -m pytest -q -m "not slow" -p no:cacheprovider "$@"
