#!/usr/bin/env bash
# Prints the backtraces of the cores that crashed programs left:
#
#     ulimit -c unlimited; touch began; python -m pytest; tools/core_backtraces.sh began . "${TMPDIR:-/tmp}"
#
# The first argument is a file: cores that are older are left out. The others are folders to search, with the folder that
# the system's pattern for cores names. It needs gdb. Linux only.
set -u

began=$1
shift
pattern=$(cat /proc/sys/kernel/core_pattern 2>/dev/null || echo core)
case $pattern in
'|'*) echo "cores go to a program, not to files ($pattern); look there: coredumpctl info, or apport's folder" && exit 0 ;;
/*) set -- "$@" "$(dirname "$pattern")" ;;
esac
name=$(basename "$pattern")

find "$@" -type f -name "${name%%[.%]*}*" -newer "$began" 2>/dev/null | sort -u | while read -r core; do
    readelf --file-header "$core" 2>/dev/null | grep -q 'CORE' || continue
    echo "== $core"
    if command -v gdb >/dev/null; then
        gdb -nx -batch -ex 'thread apply all backtrace 50' "$(command -v python || command -v python3)" "$core" 2>&1 |
            grep -v -e '^warning:' -e '^\[New LWP' -e '^$'
    else
        echo "install gdb to see its backtrace"
    fi
done
