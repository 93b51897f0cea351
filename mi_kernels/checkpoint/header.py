"""The header of one shard. The safetensors library judges it; this module adds what the library does not tell.

That is: whether a name stands there twice, and the byte range of every tensor, which memory mapping needs.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple

from ..errors import CheckpointError
from ..system.faults import reading_failed, remedy
from .files import DuplicateName, refuse_duplicates
from .stamp import Content, Stamp
from .tensor import TensorInfo

MAX_HEADER = 100_000_000  # bytes: the safetensors library reads no longer one
MAX_TENSORS = 300_000  # twice as many as the largest mixtures of experts in FP8 have, scales included
_SHARED = "All nodes must share the storage of the inputs, under the same paths."


class Header(NamedTuple):
    metadata: dict[str, str]
    tensors: list[TensorInfo]
    stamp: Stamp  # of the file, from before it was read
    digest: str  # SHA-256 of the length and the JSON


def read_header(path: str, shard: int) -> Header:
    """Validates the file at `path` and lists its tensors, with absolute byte ranges, in file order.

    Raises:
        CheckpointError: not a regular file, unreadable, or not valid safetensors.
    """
    stamp = _stamp_of_regular_file(path)
    text = _read(path)
    _validate(path, text, stamp.size)
    try:
        metadata, tensors = _parse(path, text, shard)
    except DuplicateName as duplicate:
        raise CheckpointError(
            f"{path}: the header names {duplicate} twice",
            "Which of the two is meant cannot be known: write the file again with safetensors.",
        ) from None
    except (ValueError, RecursionError) as error:  # the library does not read what it has no use for
        raise CheckpointError(
            f"{path}: is not a valid safetensors file: {error}", "Write it again with the safetensors library."
        ) from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, struct.error) as error:
        # The library found it valid: it was shown the file itself, a moment later.
        raise CheckpointError(
            f"{path}: was written while its header was read", "Let whatever writes it finish, and run it again."
        ) from error
    return Header(metadata, tensors, stamp, _digest(text))


def check_same_content(seen: Content, where: str) -> None:
    """On another node of a cluster, whose numbers of files and devices may be its own.

    Args:
        seen: what the file was elsewhere. where: what this node is called.

    Raises:
        CheckpointError: the file at that path is another one here, or none.
    """
    try:
        stamp = _stamp_of_regular_file(seen.path)
        here = Content(seen.path, stamp.size, stamp.mtime_ns, _digest(_read(seen.path)))
    except CheckpointError as error:
        raise CheckpointError(f"{error.problem} on {where}", _SHARED) from error
    change = seen.difference(here)
    if change is not None:
        raise CheckpointError(f"{seen.path}: is another file on {where}: {change}", _SHARED)


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _read(path: str) -> bytes:
    """The header with the eight bytes before it, as far as there is any."""
    try:
        with open(path, "rb") as file:
            prefix = file.read(8)
            return prefix + file.read(min(int.from_bytes(prefix, "little"), MAX_HEADER))
    except OSError as error:
        raise reading_failed(error, path) from error


def _parse(path: str, text: bytes, shard: int) -> tuple[dict[str, str], list[TensorInfo]]:
    (length,) = struct.unpack_from("<Q", text)
    entries = json.loads(text[8:], object_pairs_hook=refuse_duplicates)
    metadata = entries.pop("__metadata__", None) or {}
    for name, e in entries.items():
        if not isinstance(e, dict):  # a list of the three values, which the library takes and the format does not
            raise CheckpointError(
                f"{path}: is not a valid safetensors file: {name} is no object",
                "Write it again with the safetensors library.",
            )
    start = 8 + length
    tensors = [
        TensorInfo(
            name, e["dtype"], tuple(e["shape"]), shard, start + e["data_offsets"][0], start + e["data_offsets"][1]
        )
        for name, e in entries.items()
    ]
    tensors.sort(key=lambda t: (t.begin, t.end))
    return metadata, tensors


def _stamp_of_regular_file(path: str) -> Stamp:
    # Asked before anything opens the file: opening a FIFO would wait forever, a device could do anything.
    try:
        status = os.stat(path)
    except ValueError:  # the index may give a name that no file can have
        raise CheckpointError(f"{path}: missing", "Download the model again.") from None
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise CheckpointError(
            f"{path}: {'missing' if missing else f'cannot be read: {error.strerror}'}",
            "Download the model again, or mend the link." if missing else remedy(error, reading=True),
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path}: is not a regular file", "A shard must be a file, or a link to one.")
    return Stamp.of(status)


def _validate(path: str, text: bytes, size: int) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with _unchanging(path, text, size) as readable, safe_open(readable, framework="numpy") as file:
            count = len(file.keys())
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: is not a valid safetensors file: {error}",
            "Download it again, or write it again with the safetensors library.",
        ) from error
    except OSError as error:
        raise reading_failed(error, path) from error
    except MemoryError as error:  # what the library makes of a map that is refused
        raise reading_failed(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), path) from error
    refuse_too_many(count, path)


@contextmanager
def _unchanging(path: str, text: bytes, size: int) -> Iterator[str]:
    """A file in memory that holds `text` and is as long as the one at `path`, to be judged in its place.

    The library maps what it judges, and the map of a file that shrinks, or of a disk that fails, answers with SIGBUS.
    Where the system has no such files it is `path` itself.
    """
    with ExitStack() as stack:
        file = path
        if sys.platform == "linux":
            with suppress(OSError):
                fd = os.memfd_create("header")
                stack.callback(os.close, fd)
                with open(fd, "wb", closefd=False) as copy:
                    copy.write(text)
                os.ftruncate(fd, size)  # a hole, of no memory
                os.stat(f"/proc/self/fd/{fd}")
                file = f"/proc/self/fd/{fd}"
        yield file


def refuse_too_many(count: int, where: str) -> None:
    """Memory grows with the number of tensors, and no model has this many.

    Raises:
        CheckpointError: `count` is beyond MAX_TENSORS.
    """
    if count > MAX_TENSORS:
        raise CheckpointError(
            f"{where}: holds {count:,} tensors, and {MAX_TENSORS:,} are the most that are read", "That is no model."
        )
