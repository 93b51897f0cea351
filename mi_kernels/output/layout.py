"""Which tensor goes where in the output: shards, headers and the index, all known before the first byte is written."""

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

# Data starts on a page, so that every tensor of a later memory map is as aligned as its offset is.
_DATA_ALIGNMENT = 4096


class OutputTensor(NamedTuple):
    """A tensor to be written: `shard` is the input shard whose place in the layout it takes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    shard: int


class OutputShard(NamedTuple):
    """One file: its name, its encoded header (length prefix included), its tensors in file order, its size."""

    name: str
    header: bytes
    tensors: list[TensorInfo]
    size: int


def plan_shards(
    tensors: Iterable[OutputTensor], like: Checkpoint, max_shard_size: int | None = None
) -> tuple[list[OutputShard], dict[str, object] | None]:
    """Lays `tensors` out as `like` does, or anew in shards of at most `max_shard_size` bytes of data.

    A single tensor larger than `max_shard_size` gets a shard of its own.

    Returns:
        The shards, and the content of the index (None when there is one file and `like` had no index either).
    """
    groups = _by_size(tensors, max_shard_size) if max_shard_size else _like(tensors, like)
    names = (
        shard_names(len(groups))
        if max_shard_size or len(like.shards) == 1
        else [os.path.basename(path) for path in like.shards]
    )
    metadata = {"format": "pt", **like.metadata}  # transformers refuses a file that does not say its format
    shards = [_shard(name, group, number, metadata) for number, (name, group) in enumerate(zip(names, groups))]
    if names == [SINGLE]:
        return shards, None
    total = sum(t.nbytes for s in shards for t in s.tensors)
    weight_map = {t.name: s.name for s in shards for t in s.tensors}
    return shards, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}


def stretches(shard: OutputShard) -> Layout:
    """What is summed of `shard`, and where values are looked at."""
    tensors = [Extent(t.name, t.begin, t.end, code_of(t.dtype)) for t in shard.tensors]
    return Layout(shard.name, shard.size, len(shard.header), tensors)


def encode_index(index: dict[str, object] | None) -> dict[str, bytes]:
    """The index as a file to write: none where there is no index."""
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
    """The usual names of `count` shards."""
    if count == 1:
        return [SINGLE]
    return [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]


def _shard(name: str, tensors: list[OutputTensor], number: int, metadata: dict[str, str]) -> OutputShard:
    # Widest elements first, as safetensors itself writes: every tensor is then aligned to its element.
    tensors = sorted(tensors, key=lambda t: -(item_size(t.dtype) if is_known(t.dtype) else 0))
    entries: dict[str, object] = {"__metadata__": metadata}
    offset = 0
    for t in tensors:
        entries[t.name] = {"dtype": t.dtype, "shape": t.shape, "data_offsets": [offset, offset + t.nbytes]}
        offset += t.nbytes
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % _DATA_ALIGNMENT)  # the format allows spaces behind the JSON
    if len(text) > MAX_HEADER:
        raise CheckpointError(
            f"{name}: its header would have {len(text):,} bytes, and readers take at most {MAX_HEADER:,}",
            "Give a smaller --max-shard-size; names and metadata of this length are no model's.",
        )
    start = 8 + len(text)
    placed = []
    position = start
    for t in tensors:
        placed.append(TensorInfo(t.name, t.dtype, t.shape, number, position, position + t.nbytes))
        position += t.nbytes
    return OutputShard(name, struct.pack("<Q", len(text)) + text, placed, start + offset)
