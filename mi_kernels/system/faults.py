"""What a failed system call means for the user: the file, what the system says, and what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..errors import CheckpointError, OutputError, shortened

_REMEDIES = {
    errno.ENOSPC: "The disk is full: free some space, or choose another disk.",
    errno.EDQUOT: "Your quota is used up: free some space, or choose another disk.",
    errno.EROFS: "The file system is read-only: mount it for writing, or choose another disk.",
    errno.EIO: "The disk or the network behind it fails: see the system's log, and use a sound one.",
    errno.ENXIO: "The disk is gone: see the system's log, and use a sound one.",
    errno.ENODEV: "The disk is gone: see the system's log, and use a sound one.",
    errno.ESTALE: "The file server has lost the file: mount it again, and run the same command again.",
    errno.ETIMEDOUT: "The file server does not answer: run the same command again when it does.",
    errno.EFBIG: "No file may be that large here: see `ulimit -f`, or use a smaller --max-shard-size.",
    errno.ENAMETOOLONG: "The path is too long: choose a shorter one (a hidden name beside OUT is 17 bytes longer).",
    errno.EMFILE: "Too many files are open: raise the limit with `ulimit -n 65536`.",
    errno.ENFILE: "The system has too many files open: end other programs.",
    errno.ENOMEM: "Memory is short: use a smaller --max-memory, or end other programs.",
}
_DENIED = (errno.EACCES, errno.EPERM)
_GONE = (errno.ENOENT, errno.ENOTDIR)


def remedy(error: OSError, reading: bool = False) -> str:
    """What to do about `error`, in a sentence."""
    if error.errno in _DENIED:
        return f"Get the right to {'read' if reading else 'write'} it, or choose another place."
    if error.errno in _GONE:
        return "Is it still there? Something else removed it, or a disk was unmounted."
    return _REMEDIES.get(error.errno or 0, "See what the system says of it, then run the same command again.")


def problem(error: OSError) -> str:
    """What the system says, in words."""
    return error.strerror or str(error)


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Gives errors of calls on descriptors, which do not know their file, the path."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = path
        raise


def reading_failed(error: OSError, path: str) -> CheckpointError:
    """The refusal for an input that could not be read."""
    return CheckpointError(f"{path}: cannot be read: {problem(error)}", remedy(error, reading=True))


def writing_failed(error: OSError, given: str, published: Sequence[str] = ()) -> OutputError:
    """The refusal for a write of the output `given` that failed; names the very file where it is known.

    Args:
        published: the outputs of the same merge that had been published by then.
    """
    name = error.filename
    file = f" ({os.path.basename(os.fsdecode(name))})" if isinstance(name, (str, bytes)) and name else ""
    others = f"Published and whole: {shortened(list(published))}." if published else "Nothing was published."
    return OutputError(f"{given}: writing failed{file}: {problem(error)}", f"{remedy(error)} {others}")
