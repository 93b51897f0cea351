"""mi_kernels.checksums.json: the checksums of a model folder, as a file in it. docs/verify.md specifies it.

The last line holds the CRC of everything above it, twice: so a damaged bit of the record itself is told from damage to
the model, and found, wherever it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import CheckpointError
from .crc import crc32c, flipped_bit

NAME = "mi_kernels.checksums.json"
BLOCK = 16 << 20  # bytes of a tensor under one CRC
_VERSION = 1
_HEAD = {"format": "mi_kernels.checksums", "version": _VERSION, "algorithm": "CRC-32C", "block": BLOCK}
_LAST_LINE = re.compile(rb'"self": \["([0-9a-f]{8})", "\1"\]\n}\n')


class FileSum(NamedTuple):
    """A file, or a range of bytes: its size and its CRC-32C."""

    size: int
    crc: int


class TensorSum(NamedTuple):
    """A tensor: its first byte in the shard, its bytes, and a CRC for each block of 16 MiB of them.

    Blocks count from the tensor's own first byte; the last one is what is left.
    """

    begin: int
    size: int
    crcs: tuple[int, ...]


class ShardSum(NamedTuple):
    """A shard: its size, the CRC of all of it, its header (length prefix included), its tensors in file order."""

    size: int
    crc: int
    header: FileSum
    tensors: Mapping[str, TensorSum]


@dataclass(frozen=True)
class Record:
    """The checksums of a model folder: of its shards, and of the other files in it, by name."""

    shards: Mapping[str, ShardSum]
    files: Mapping[str, FileSum]

    def encode(self) -> bytes:
        """The content of the file: equal records give equal bytes."""
        head = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in _HEAD.items())
        shards = ",\n".join(f"{json.dumps(name)}: {_shard_text(shard)}" for name, shard in self.shards.items())
        files = ",\n".join(f"{json.dumps(name)}: {{{_sum_text(file)}}}" for name, file in sorted(self.files.items()))
        body = f'{{\n{head},\n"shards": {{\n{shards}\n}},\n"files": {{\n{files}\n}},\n'.encode()
        return body + last_line(crc32c(body))

    @classmethod
    def decode(cls, content: bytes, path: str) -> Record:
        """The record in `content`, whose own checksum must be right: see `mended`.

        Raises:
            CheckpointError: it is not such a record, or of another version.
        """
        try:
            values = json.loads(content)
            if not isinstance(values, dict) or {key: values.get(key) for key in _HEAD} != _HEAD:
                raise ValueError("its first lines")
            shards = {name: _shard_of(shard) for name, shard in values["shards"].items()}
            return cls(shards, {name: _sum_of(file) for name, file in values["files"].items()})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(
                f"{path}: is not a record of checksums of version {_VERSION}", "Was it made by a newer mi_kernels?"
            ) from error


def last_line(crc: int) -> bytes:
    """The end of a record: the CRC of what is above, twice."""
    return f'"self": ["{crc:08x}", "{crc:08x}"]\n}}\n'.encode()


class Mended(NamedTuple):
    """A record whose own checksum was wrong.

    Attributes:
        content: as it was before one bit flipped; None where more is damaged than that.
        byte, bit: which one.
    """

    content: bytes | None
    byte: int = 0
    bit: int = 0


def mended(content: bytes) -> Mended | None:
    """What is wrong with a record by its own checksum; None where nothing is."""
    length = len(last_line(0))
    body, end = content[:-length], content[-length:]
    true = crc32c(body)
    right = last_line(true)
    if end == right:
        return None
    if match := _LAST_LINE.fullmatch(end):
        place = flipped_bit(int(match[1], 16) ^ true, len(body))
    else:  # the damage is in the last line, and the rest is right
        place = _only_difference(end, right)
        place = place and (len(body) + place[0], place[1])
    if place is None:
        return Mended(None)
    byte, bit = place
    return Mended(content[:byte] + bytes([content[byte] ^ 1 << bit]) + content[byte + 1 :], byte, bit)


def _only_difference(found: bytes, right: bytes) -> tuple[int, int] | None:
    changes = [(i, x ^ y) for i, (x, y) in enumerate(zip(found, right)) if x != y]
    if len(found) != len(right) or len(changes) != 1 or changes[0][1].bit_count() != 1:
        return None
    return changes[0][0], changes[0][1].bit_length() - 1


def _sum_text(file: FileSum) -> str:
    return f'"size": {file.size}, "crc": "{file.crc:08x}"'


def _shard_text(shard: ShardSum) -> str:
    tensors = ",\n".join(f"{json.dumps(name)}: {_tensor_text(t)}" for name, t in shard.tensors.items())
    whole = _sum_text(FileSum(shard.size, shard.crc))
    return f'{{{whole}, "header": {{{_sum_text(shard.header)}}}, "tensors": {{\n{tensors}\n}}}}'


def _tensor_text(tensor: TensorSum) -> str:
    crcs = ", ".join(f'"{crc:08x}"' for crc in tensor.crcs)
    return f'{{"begin": {tensor.begin}, "size": {tensor.size}, "crc": [{crcs}]}}'


def _shard_of(content: Any) -> ShardSum:
    size, crc = _sum_of(content)
    header = _sum_of(content["header"])
    tensors, end = {}, header.size
    for name, tensor in content["tensors"].items():
        tensors[name] = _tensor_of(tensor, end, size)
        end = tensors[name].begin + tensors[name].size
    if end > size:
        raise ValueError("a header is larger than its shard")
    return ShardSum(size, crc, header, tensors)


def _tensor_of(content: Any, least: int, shard: int) -> TensorSum:
    begin, size = _count(content["begin"]), _count(content["size"])
    crcs = tuple(_crc(text) for text in content["crc"])
    if not least <= begin <= begin + size <= shard or len(crcs) != -(-size // BLOCK):
        raise ValueError("a tensor's bytes and blocks")
    return TensorSum(begin, size, crcs)


def _sum_of(content: Any) -> FileSum:
    return FileSum(_count(content["size"]), _crc(content["crc"]))


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("a size")
    return value


def _crc(text: Any) -> int:
    if not isinstance(text, str) or not re.fullmatch("[0-9a-f]{8}", text):
        raise ValueError("a CRC")
    return int(text, 16)
