"""Plans the shards, headers and index of the output before the first byte is written."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..checkpoint.header import MAX_HEADER
from ..checkpoint.record import CONSOLIDATED, INDEX, MISTRAL_INDEX, SINGLE, Checkpoint
from ..checkpoint.tensor import TensorInfo
from ..checksums.accumulator import Extent, Layout
from ..dtypes import code_of, is_known, item_size
from ..errors import CheckpointError

# The data starts on a page boundary, so that in a memory map a tensor is as aligned as its offset in the data.
_DATA_ALIGNMENT = 4096
OURS = "mi_kernels."  # how the keys begin that a merge into one file adds to the metadata


class OutputTensor(NamedTuple):
    """A tensor to write. `nbytes`: its size. `shard`: the number of the shard of the input that holds it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    shard: int


class OutputShard(NamedTuple):
    """A shard to write.

    Attributes:
        name: the file name.
        header: the encoded header, length prefix included.
        tensors: in file order.
        size: in bytes.
        headers: for each output its header, if they differ. They have the same length.
    """

    name: str
    header: bytes
    tensors: list[TensorInfo]
    size: int
    headers: Sequence[bytes] = ()

    def header_of(self, output: int) -> bytes:
        """Returns the header in output number `output`."""
        return self.headers[output] if self.headers else self.header


def plan_shards(
    tensors: Iterable[OutputTensor], like: Checkpoint, max_shard_size: int | None = None, mistral: bool | None = None
) -> tuple[list[OutputShard], dict[str, object] | None]:
    """Plans shards like those of the checkpoint `like`, or new ones with at most `max_shard_size` bytes of data each.

    A single tensor larger than `max_shard_size` gets its own shard. A single file gets the name that loaders look for.

    Args:
        mistral: use the names of Mistral's format, which loaders look for only beside params.json. False: use the usual
            names. None: the format of `like`.

    Returns:
        The shards, and the content of the index (None if the output is a single file that loaders find by its name).

    Raises:
        CheckpointError: a header would be larger than the safetensors library allows.
    """
    groups = _by_size(tensors, max_shard_size) if max_shard_size else _like(tensors, like)
    if mistral is None:
        mistral = like.mistral
    names = (
        shard_names(len(groups), mistral)
        if max_shard_size or len(like.shards) == 1 or mistral != like.mistral
        else [os.path.basename(path) for path in like.shards]
    )
    if len(groups) > 1:  # a file without tensors would be in no index
        names = [name for name, group in zip(names, groups) if group]
        groups = [group for group in groups if group]
    metadata = _metadata(like)
    shards = [_shard(name, group, number, [metadata]) for number, (name, group) in enumerate(zip(names, groups))]
    if names == shard_names(1, mistral):
        return shards, None
    total = sum(t.nbytes for s in shards for t in s.tensors)
    weight_map = {t.name: s.name for s in shards for t in s.tensors}
    return shards, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}


def plan_file(
    tensors: Iterable[OutputTensor], like: Checkpoint, metadata: Sequence[dict[str, str]]
) -> list[OutputShard]:
    """Plans an output that is one file.

    Args:
        metadata: for each output, what is added to the `__metadata__` of `like`.

    Raises:
        CheckpointError: see `plan_shards`.
    """
    return [_shard(SINGLE, list(tensors), 0, [{**_metadata(like), **added} for added in metadata])]


def _metadata(like: Checkpoint) -> dict[str, str]:
    kept = {key: value for key, value in like.metadata.items() if not key.startswith(OURS)}  # on an earlier merge
    return {"format": "pt", **kept}  # transformers rejects files without a format


def checksum_layout(shard: OutputShard) -> Layout:
    """Returns the layout of `shard` for its checksums and for the check for NaN and inf."""
    tensors = [Extent(t.name, t.begin, t.end, code_of(t.dtype)) for t in shard.tensors]
    return Layout(shard.name, shard.size, len(shard.header), tensors)


def encode_index(index: dict[str, object] | None, mistral: bool = False) -> dict[str, bytes]:
    """Returns the index as a file to write, by name; empty if `index` is None."""
    if index is None:
        return {}
    return {MISTRAL_INDEX if mistral else INDEX: (json.dumps(index, indent=2) + "\n").encode()}


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


def shard_names(count: int, mistral: bool = False) -> list[str]:
    """Returns the standard names of `count` shards, in Mistral's format or in the usual one."""
    single = CONSOLIDATED if mistral else SINGLE
    if count == 1:
        return [single]
    stem, end = os.path.splitext(single)
    return [f"{stem}-{i:05}-of-{count:05}{end}" for i in range(1, count + 1)]


def _shard(name: str, tensors: list[OutputTensor], number: int, metadata: Sequence[dict[str, str]]) -> OutputShard:
    """Returns a shard with a header for each of `metadata`."""
    # Widest dtypes first, as the safetensors library does, so that every tensor is aligned to its element size.
    tensors = sorted(tensors, key=lambda t: -(item_size(t.dtype) if is_known(t.dtype) else 0))
    entries: dict[str, object] = {}
    offset = 0
    for t in tensors:
        entries[t.name] = {"dtype": t.dtype, "shape": t.shape, "data_offsets": [offset, offset + t.nbytes]}
        offset += t.nbytes
    texts = [
        json.dumps({"__metadata__": each, **entries}, separators=(",", ":"), ensure_ascii=False).encode()
        for each in metadata
    ]
    length = max(map(len, texts))
    length += -(8 + length) % _DATA_ALIGNMENT
    if length > MAX_HEADER:
        raise CheckpointError(
            f"{name}: the header would have {length:,} bytes, more than the limit of {MAX_HEADER:,}",
            "Use a smaller `max_shard_size`, or models with shorter tensor names and metadata.",
        )
    start = 8 + length
    placed = []
    position = start
    for t in tensors:
        placed.append(TensorInfo(t.name, t.dtype, t.shape, number, position, position + t.nbytes))
        position += t.nbytes
    # The format allows trailing spaces.
    headers = [struct.pack("<Q", length) + text.ljust(length) for text in texts]
    return OutputShard(name, headers[0], placed, start + offset, headers if len(headers) > 1 else ())
