"""Reads and validates the header of one shard.

The safetensors library validates it. This module adds two things that the library does not offer: it rejects duplicate
names, and it returns the byte range of every tensor, which memory mapping needs.
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

MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library
MAX_TENSORS = 300_000  # twice the number of the largest FP8 mixtures of experts, scales included
_SHARED = "Put the inputs on storage that all nodes share, under the same path on each node."


class Header(NamedTuple):
    """The header of one shard.

    Attributes:
        metadata: the `__metadata__` of the file.
        tensors: all tensors in file order.
        stamp: the state of the file before the header was read.
        digest: SHA-256 of the length prefix and the JSON, in hexadecimal.
    """

    metadata: dict[str, str]
    tensors: list[TensorInfo]
    stamp: Stamp
    digest: str


def read_header(path: str, shard: int) -> Header:
    """Validates the safetensors file at `path` and lists its tensors in file order, with byte ranges from file start.

    Args:
        shard: the number of the file in its checkpoint; becomes `TensorInfo.shard`.

    Raises:
        CheckpointError: the file is not a regular file, not readable, or not valid safetensors.

    Example:
        >>> import numpy, tempfile
        >>> from mi_kernels.checkpoint.header import read_header
        >>> from safetensors.numpy import save_file
        >>> path = tempfile.mkdtemp() + "/model.safetensors"
        >>> save_file({"norm.weight": numpy.ones(3, numpy.float32)}, path)
        >>> [(t.name, t.dtype, t.shape, t.nbytes) for t in read_header(path, 0).tensors]
        [('norm.weight', 'F32', (3,), 12)]
    """
    stamp = _stamp_of_regular_file(path)
    text = _read(path)
    _validate(path, text, stamp.size)
    try:
        metadata, tensors = _parse(path, text, shard)
    except DuplicateName as duplicate:
        raise CheckpointError(
            f"{path}: the header has the name {duplicate} twice",
            "Save the model again with the safetensors library.",
        ) from None
    except (ValueError, RecursionError) as error:  # the library skips values that it does not use
        raise CheckpointError(
            f"{path}: is not a valid safetensors file: {error}", "Save the model again with the safetensors library."
        ) from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, struct.error) as error:
        # The library, which read the file a moment later, accepted it: the file has changed in between.
        raise CheckpointError(
            f"{path}: was written while its header was read", "Wait until the write is finished, then try again."
        ) from error
    return Header(metadata, tensors, stamp, _digest(text))


def check_same_content(seen: Content, where: str) -> None:
    """Checks on a node of a cluster that a file is the one that the driver opened.

    Args:
        seen: the content that the driver found. It has no inode and device numbers, which differ between nodes.
        where: the name of this node, for messages.

    Raises:
        CheckpointError: the file is missing here, or it is a different file.
    """
    try:
        stamp = _stamp_of_regular_file(seen.path)
        here = Content(seen.path, stamp.size, stamp.mtime_ns, _digest(_read(seen.path)))
    except CheckpointError as error:
        raise CheckpointError(f"{error.problem} on {where}", _SHARED) from error
    change = seen.difference(here)
    if change is not None:
        raise CheckpointError(f"{seen.path}: is a different file on {where}: {change}", _SHARED)


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _read(path: str) -> bytes:
    """Reads the length prefix and the header, or less if the file is shorter."""
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
        if not isinstance(e, dict):  # the library accepts a list of the three values, the format does not
            raise CheckpointError(
                f"{path}: is not a valid safetensors file: the entry of {name} is not an object",
                "Save the model again with the safetensors library.",
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
    # Checked before anything opens the file: opening a FIFO blocks, opening a device can have side effects.
    try:
        status = os.stat(path)
    except ValueError:  # the index may contain a name that is not a valid path
        raise CheckpointError(f"{path}: missing", "Download the model again.") from None
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise CheckpointError(
            f"{path}: {'missing' if missing else f'cannot be read: {error.strerror}'}",
            "Download the model again, or fix the link." if missing else remedy(error, reading=True),
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path}: is not a regular file", "Replace it with a file or a link to a file.")
    return Stamp.of(status)


def _validate(path: str, text: bytes, size: int) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with _unchanging(path, text, size) as readable, safe_open(readable, framework="numpy") as file:
            count = len(file.keys())
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: is not a valid safetensors file: {error}",
            "Download it again, or save the model again with the safetensors library.",
        ) from error
    except OSError as error:
        raise reading_failed(error, path) from error
    except MemoryError as error:  # the library raises it if mmap fails
        raise reading_failed(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), path) from error
    refuse_too_many(count, path)


@contextmanager
def _unchanging(path: str, text: bytes, size: int) -> Iterator[str]:
    """Context: yields the path of a file in memory with the header `text` and `size` bytes for the library to read.

    The library maps the file that it validates. If a mapped file shrinks or its disk fails, the process gets SIGBUS.
    Yields `path` itself on systems without memfd.
    """
    with ExitStack() as stack:
        file = path
        if sys.platform == "linux":
            with suppress(OSError):
                fd = os.memfd_create("header")
                stack.callback(os.close, fd)
                with open(fd, "wb", closefd=False) as copy:
                    copy.write(text)
                os.ftruncate(fd, size)  # a hole: needs no memory
                os.stat(f"/proc/self/fd/{fd}")
                file = f"/proc/self/fd/{fd}"
        yield file


def refuse_too_many(count: int, where: str) -> None:
    """Limits the number of tensors, and with it the memory that a malicious file can make us use.

    Raises:
        CheckpointError: `count` is larger than MAX_TENSORS.
    """
    if count > MAX_TENSORS:
        raise CheckpointError(
            f"{where}: has {count:,} tensors, more than the limit of {MAX_TENSORS:,}",
            "Use another model: no published one has this many tensors.",
        )
