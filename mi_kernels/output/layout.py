"""Plans the shards, headers and index of the output before the first byte is written."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable
from typing import NamedTuple

from ..checkpoint.header import MAX_HEADER
from ..checkpoint.record import INDEX, SINGLE, Checkpoint
from ..checkpoint.tensor import TensorInfo
from ..checksums.accumulator import Extent, Layout
from ..dtypes import code_of, is_known, item_size
from ..errors import CheckpointError

# The data starts on a page boundary, so that in a memory map a tensor is as aligned as its offset in the data.
_DATA_ALIGNMENT = 4096


class OutputTensor(NamedTuple):
    """A tensor to write. `nbytes`: its size. `shard`: the number of the shard of the input that holds it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    shard: int


class OutputShard(NamedTuple):
    """A shard to write: file name, encoded header (length prefix included), tensors in file order, size in bytes."""

    name: str
    header: bytes
    tensors: list[TensorInfo]
    size: int


def plan_shards(
    tensors: Iterable[OutputTensor], like: Checkpoint, max_shard_size: int | None = None
) -> tuple[list[OutputShard], dict[str, object] | None]:
    """Plans shards like those of the checkpoint `like`, or new ones with at most `max_shard_size` bytes of data each.

    A single tensor larger than `max_shard_size` gets its own shard.

    Returns:
        The shards, and the content of the index (None if the output is the single file model.safetensors).

    Raises:
        CheckpointError: a header would be larger than the safetensors library allows.
    """
    groups = _by_size(tensors, max_shard_size) if max_shard_size else _like(tensors, like)
    names = (
        shard_names(len(groups))
        if max_shard_size or len(like.shards) == 1
        else [os.path.basename(path) for path in like.shards]
    )
    metadata = {"format": "pt", **like.metadata}  # transformers rejects files without a format
    shards = [_shard(name, group, number, metadata) for number, (name, group) in enumerate(zip(names, groups))]
    if names == [SINGLE]:
        return shards, None
    total = sum(t.nbytes for s in shards for t in s.tensors)
    weight_map = {t.name: s.name for s in shards for t in s.tensors}
    return shards, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}


def checksum_layout(shard: OutputShard) -> Layout:
    """Returns the layout of `shard` for its checksums and for the check for NaN and inf."""
    tensors = [Extent(t.name, t.begin, t.end, code_of(t.dtype)) for t in shard.tensors]
    return Layout(shard.name, shard.size, len(shard.header), tensors)


def encode_index(index: dict[str, object] | None) -> dict[str, bytes]:
    """Returns the index as a file to write, by name; empty if `index` is None."""
    if index is None:
        return {}
    return {INDEX: (json.dumps(index, indent=2) + "\n").encode()}


def _like(tensors: Iterable[OutputTensor], like: Checkpoint) -> list[list[OutputTensor]]:
    groups: list[list[OutputTensor]] = [[] for _ in like.shards]
    for tensor in tensors:
        groups[tensor.shard].append(tensor)
    return groups


def _by_size(tensors: Iterable[OutputTensor], limit: int) -> list[list[OutputTensor]]:
    groups: list[list[OutputTensor]] = [[]]
    used = 0
    for tensor in tensors:
        if groups[-1] and used + tensor.nbytes > limit:
            groups.append([])
            used = 0
        groups[-1].append(tensor)
        used += tensor.nbytes
    return groups


def shard_names(count: int) -> list[str]:
    """Returns the standard names of `count` shards."""
    if count == 1:
        return [SINGLE]
    return [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]


def _shard(name: str, tensors: list[OutputTensor], number: int, metadata: dict[str, str]) -> OutputShard:
    # Widest dtypes first, as the safetensors library does, so that every tensor is aligned to its element size.
    tensors = sorted(tensors, key=lambda t: -(item_size(t.dtype) if is_known(t.dtype) else 0))
    entries: dict[str, object] = {"__metadata__": metadata}
    offset = 0
    for t in tensors:
        entries[t.name] = {"dtype": t.dtype, "shape": t.shape, "data_offsets": [offset, offset + t.nbytes]}
        offset += t.nbytes
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % _DATA_ALIGNMENT)  # the format allows trailing spaces
    if len(text) > MAX_HEADER:
        raise CheckpointError(
            f"{name}: the header would have {len(text):,} bytes, more than the limit of {MAX_HEADER:,}",
            "Use a smaller --max-shard-size, or models with shorter tensor names and metadata.",
        )
    start = 8 + len(text)
    placed = []
    position = start
    for t in tensors:
        placed.append(TensorInfo(t.name, t.dtype, t.shape, number, position, position + t.nbytes))
        position += t.nbytes
    return OutputShard(name, struct.pack("<Q", len(text)) + text, placed, start + offset)
