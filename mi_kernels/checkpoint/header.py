"""The header of one shard. The safetensors library judges it; this module adds what the library does not tell.

That is: whether a name stands there twice, and the byte range of every tensor, which memory mapping needs.
"""

from __future__ import annotations

import json
import os
import stat
import struct
from typing import NamedTuple

from ..errors import CheckpointError
from .files import DuplicateName, refuse_duplicates
from .tensor import TensorInfo

MAX_TENSORS = 300_000  # twice as many as the largest mixtures of experts in FP8 have, scales included


class Header(NamedTuple):
    metadata: dict[str, str]
    tensors: list[TensorInfo]
    size: int  # bytes of the whole file


def read_header(path: str, shard: int) -> Header:
    """Validates the file at `path` and lists its tensors, with absolute byte ranges, in file order.

    Raises:
        CheckpointError: not a regular file, unreadable, or not valid safetensors.
    """
    size = _regular_file_size(path)
    _validate(path)
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            entries = json.loads(file.read(length), object_pairs_hook=refuse_duplicates)
    except DuplicateName as duplicate:
        raise CheckpointError(
            f"{path}: the header names {duplicate} twice",
            "Which of the two is meant cannot be known: write the file again with safetensors.",
        ) from None
    except (ValueError, RecursionError) as error:  # the library does not read what it has no use for
        raise CheckpointError(
            f"{path}: is not a valid safetensors file: {error}", "Write it again with the safetensors library."
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}", "Check the disk.") from error
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
    return Header(metadata, tensors, size)


def _regular_file_size(path: str) -> int:
    # Asked before anything opens the file: opening a FIFO would wait forever, a device could do anything.
    try:
        status = os.stat(path)
    except ValueError:  # the index may give a name that no file can have
        raise CheckpointError(f"{path}: missing", "Download the model again.") from None
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise CheckpointError(
            f"{path}: {'missing' if missing else f'cannot be read: {error.strerror}'}",
            "Download the model again, or mend the link." if missing else "Check the file and its links.",
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path}: is not a regular file", "A shard must be a file, or a link to one.")
    return status.st_size


def _validate(path: str) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            count = len(file.keys())
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: is not a valid safetensors file: {error}",
            "Download it again, or write it again with the safetensors library.",
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}", "Check the file.") from error
    refuse_too_many(count, path)


def refuse_too_many(count: int, where: str) -> None:
    """Memory grows with the number of tensors, and no model has this many.

    Raises:
        CheckpointError: `count` is beyond MAX_TENSORS.
    """
    if count > MAX_TENSORS:
        raise CheckpointError(
            f"{where}: holds {count:,} tensors, and {MAX_TENSORS:,} are the most that are read", "That is no model."
        )
