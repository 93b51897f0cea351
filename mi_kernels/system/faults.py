"""Messages for failed system calls: which file, the error of the system, and what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..errors import CheckpointError, OutputError, shortened

_REMEDIES = {
    errno.ENOSPC: "The disk is full: free some space or choose another disk.",
    errno.EDQUOT: "The disk quota is used up: free some space or choose another disk.",
    errno.EROFS: "The file system is read-only: mount it read-write or choose another disk.",
    errno.EIO: "The disk or its network connection failed: check the system log (dmesg) and use another disk.",
    errno.ENXIO: "The disk is no longer available: check the system log (dmesg) and use another disk.",
    errno.ENODEV: "The disk is no longer available: check the system log (dmesg) and use another disk.",
    errno.ESTALE: "The file server no longer knows the file: mount it again, then run the same command again.",
    errno.ETIMEDOUT: "The file server does not respond: run the same command again when it does.",
    errno.EFBIG: "The file exceeds a size limit: raise `ulimit -f` or use a smaller `max_shard_size`.",
    errno.ENAMETOOLONG: "Choose a shorter path (the name of the work folder beside OUT is 17 bytes longer).",
    errno.EMFILE: "Too many files are open: raise the limit with `ulimit -n 65536`.",
    errno.ENFILE: "The system has too many open files: stop other programs.",
    errno.ENOMEM: "Not enough memory: use a smaller `max_memory` or stop other programs.",
}
_DENIED = (errno.EACCES, errno.EPERM)
_GONE = (errno.ENOENT, errno.ENOTDIR)


def remedy(error: OSError, reading: bool = False) -> str:
    """Returns one sentence that says what to do about `error`."""
    if error.errno in _DENIED:
        return f"Get permission to {'read' if reading else 'write'} it or choose another path."
    if error.errno in _GONE:
        return "Check that the path still exists: another program may have removed it, or its disk was unmounted."
    return _REMEDIES.get(
        error.errno or 0, "Check the system log (dmesg) for the cause, then run the same command again."
    )


def problem(error: OSError) -> str:
    """Returns the error text of the system."""
    return error.strerror or str(error)


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Context: adds `path` to an OSError without a file name (from a call on a descriptor)."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = path
        raise


def reading_failed(error: OSError, path: str) -> CheckpointError:
    """Returns the exception for an input file that cannot be read."""
    return CheckpointError(f"{path}: cannot be read: {problem(error)}", remedy(error, reading=True))


def writing_failed(error: OSError, given: str, published: Sequence[str] = ()) -> OutputError:
    """Returns the exception for a failed write to the output `given`. Names the file if it is known.

    Args:
        published: outputs of the same merge that were already published.
    """
    name = error.filename
    file = f" ({os.path.basename(os.fsdecode(name))})" if isinstance(name, (str, bytes)) and name else ""
    others = f"Already published and complete: {shortened(list(published))}." if published else "Nothing was published."
    return OutputError(f"{given}: writing failed{file}: {problem(error)}", f"{remedy(error)} {others}")
