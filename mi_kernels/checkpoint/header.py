"""The header of one shard. The safetensors library judges it; this module adds what the library does not tell.

That is: whether a name stands there twice, and the byte range of every tensor, which memory mapping needs.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
from typing import Any, NamedTuple

from ..errors import CheckpointError
from .tensor import TensorInfo


class Header(NamedTuple):
    metadata: dict[str, str]
    tensors: list[TensorInfo]
    size: int  # bytes of the whole file
    digest: str  # SHA-256 of the length and the JSON


def read_header(path: str, shard: int) -> Header:
    """Validates the file at `path` and lists its tensors, with absolute byte ranges, in file order.

    Raises:
        CheckpointError: not a regular file, unreadable, or not valid safetensors.
    """
    size = _regular_file_size(path)
    _validate(path)
    try:
        with open(path, "rb") as file:
            prefix = file.read(8)
            (length,) = struct.unpack("<Q", prefix)
            text = file.read(length)
        entries = json.loads(text, object_pairs_hook=_refuse_duplicates)
    except _DuplicateName as duplicate:
        raise CheckpointError(
            f"{path}: the header names {duplicate} twice",
            "Which of the two is meant cannot be known: write the file again with safetensors.",
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    metadata = entries.pop("__metadata__", None) or {}
    start = 8 + length
    tensors = [
        TensorInfo(
            name, e["dtype"], tuple(e["shape"]), shard, start + e["data_offsets"][0], start + e["data_offsets"][1]
        )
        for name, e in entries.items()
    ]
    tensors.sort(key=lambda t: (t.begin, t.end))
    return Header(metadata, tensors, size, hashlib.sha256(prefix + text).hexdigest())


def _regular_file_size(path: str) -> int:
    # Asked before anything opens the file: opening a FIFO would wait forever, a device could do anything.
    try:
        status = os.stat(path)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise CheckpointError(
            f"{path}: {'missing' if missing else f'cannot be read: {error.strerror}'}",
            "Download the model again, or mend the link." if missing else "",
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path}: is not a regular file", "A shard must be a file, or a link to one.")
    return status.st_size


def _validate(path: str) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: is not a valid safetensors file: {error}",
            "Download it again, or write it again with the safetensors library.",
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error


class _DuplicateName(ValueError):
    pass


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _DuplicateName(name)
            seen.add(name)
    return result
