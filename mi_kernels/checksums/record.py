"""Reads and writes mi_kernels.checksums.json, the checksums of a model folder. docs/verify.md specifies the format.

The last line holds the CRC of everything above it, twice. So a flipped bit in the record itself can be located, and it
is not mistaken for damage to the model.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import CheckpointError
from .crc import FlippedBit, crc32c, flipped_bit

NAME = "mi_kernels.checksums.json"
BLOCK = 16 << 20  # bytes of a tensor for each CRC
_VERSION = 1
_HEAD = {"format": "mi_kernels.checksums", "version": _VERSION, "algorithm": "CRC-32C", "block": BLOCK}
_LAST_LINE = re.compile(rb'"self": \["([0-9a-f]{8})", "\1"\]\n}\n')


class FileSum(NamedTuple):
    """The size in bytes and the CRC-32C of a file or a byte range."""

    size: int
    crc: int


class TensorSum(NamedTuple):
    """A tensor: the offset of its first byte in the shard, its size in bytes, and one CRC-32C for each 16 MiB block.

    The first block starts at the first byte of the tensor. The last block can be shorter.
    """

    begin: int
    size: int
    crcs: tuple[int, ...]


class ShardSum(NamedTuple):
    """A shard: size and CRC-32C of the file, of its header (length prefix included) and of its tensors."""

    size: int
    crc: int
    header: FileSum
    tensors: Mapping[str, TensorSum]


@dataclass(frozen=True)
class Record:
    """The checksums of a model folder: of its shards and of its other files, by path within the folder."""

    shards: Mapping[str, ShardSum]
    files: Mapping[str, FileSum]

    @property
    def subfolders(self) -> set[str]:
        """The subfolders of the model that have recorded files."""
        return {name.rpartition("/")[0] for name in (*self.shards, *self.files) if "/" in name}

    @property
    def weights_digest(self) -> str:
        """The digest of the weights: see `weights_digest`."""
        return weights_digest(self.shards.values())

    def encode(self) -> bytes:
        """Returns the content of the file. Equal records give equal bytes."""
        head = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in _HEAD.items())
        shards = ",\n".join(f"{json.dumps(name)}: {_shard_text(shard)}" for name, shard in self.shards.items())
        files = ",\n".join(f"{json.dumps(name)}: {{{_sum_text(file)}}}" for name, file in sorted(self.files.items()))
        body = f'{{\n{head},\n"shards": {{\n{shards}\n}},\n"files": {{\n{files}\n}},\n'.encode()
        return body + last_line(crc32c(body))

    @classmethod
    def decode(cls, content: bytes, path: str) -> Record:
        """Parses `content`. The caller checks the checksum of the record itself: see `repaired`.

        Args:
            path: the file that `content` was read from, for messages.

        Raises:
            CheckpointError: `content` is not a valid record, or it has another version.
        """
        try:
            values = json.loads(content)
            if not isinstance(values, dict) or {key: values.get(key) for key in _HEAD} != _HEAD:
                raise ValueError("its first lines")
            shards = {_path(name): _shard_of(shard) for name, shard in values["shards"].items()}
            return cls(shards, {_path(name): _sum_of(file) for name, file in values["files"].items()})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(
                f"{path}: is not a record of checksums of version {_VERSION}",
                "If a newer mi_kernels wrote it, upgrade. Otherwise remove it and run `mi-kernels verify --record`.",
            ) from error


def weights_digest(shards: Iterable[ShardSum]) -> str:
    """Returns a digest of the names and the bytes of all tensors, which does not depend on the shards they are in.

    SHA-256 in hexadecimal of one line for each tensor, in the order of the names as UTF-8: the name in JSON, the size
    in bytes and the CRC-32C of each 16 MiB, separated by spaces. It finds accidents, as the CRC does, not forgeries.
    """
    sums = {name: tensor for shard in shards for name, tensor in shard.tensors.items()}
    digest = hashlib.sha256()
    for name in sorted(sums, key=lambda name: name.encode(errors="surrogatepass")):
        tensor = sums[name]
        words = [json.dumps(name), str(tensor.size), *(f"{crc:08x}" for crc in tensor.crcs)]
        digest.update(f"{' '.join(words)}\n".encode())
    return digest.hexdigest()


def last_line(crc: int) -> bytes:
    """Returns the last line of a record: the CRC of everything above it, twice."""
    return f'"self": ["{crc:08x}", "{crc:08x}"]\n}}\n'.encode()


class Repaired(NamedTuple):
    """The result of `repaired` for a record whose own checksum is wrong.

    Attributes:
        content: the record before one bit flipped; None if a single bit does not explain the damage.
        byte, bit: the flipped bit; bit 0 is the least significant.
    """

    content: bytes | None
    byte: int = 0
    bit: int = 0


def repaired(content: bytes) -> Repaired | None:
    """Checks a record with its own checksum and repairs a single flipped bit. Returns None if nothing is wrong."""
    length = len(last_line(0))
    body, end = content[:-length], content[-length:]
    true = crc32c(body)
    right = last_line(true)
    if end == right:
        return None
    if match := _LAST_LINE.fullmatch(end):
        place = flipped_bit(int(match[1], 16) ^ true, len(body))
    else:  # the last line is damaged and the rest is correct
        place = _only_difference(end, right)
        place = place and place._replace(byte=len(body) + place.byte)
    if place is None:
        return Repaired(None)
    byte, bit = place
    return Repaired(content[:byte] + bytes([content[byte] ^ 1 << bit]) + content[byte + 1 :], byte, bit)


def _only_difference(found: bytes, right: bytes) -> FlippedBit | None:
    changes = [(i, x ^ y) for i, (x, y) in enumerate(zip(found, right)) if x != y]
    if len(found) != len(right) or len(changes) != 1:
        return None
    [(byte, difference)] = changes
    return FlippedBit(byte, difference.bit_length() - 1) if difference.bit_count() == 1 else None


def _sum_text(file: FileSum) -> str:
    return f'"size": {file.size}, "crc": "{file.crc:08x}"'


def _shard_text(shard: ShardSum) -> str:
    tensors = ",\n".join(f"{json.dumps(name)}: {_tensor_text(t)}" for name, t in shard.tensors.items())
    whole = _sum_text(FileSum(shard.size, shard.crc))
    return f'{{{whole}, "header": {{{_sum_text(shard.header)}}}, "tensors": {{\n{tensors}\n}}}}'


def _tensor_text(tensor: TensorSum) -> str:
    crcs = ", ".join(f'"{crc:08x}"' for crc in tensor.crcs)
    return f'{{"begin": {tensor.begin}, "size": {tensor.size}, "crc": [{crcs}]}}'


def _path(name: str) -> str:
    """Returns the path of a file if it is within the model."""
    if any(part in ("", ".", "..") for part in name.split("/")) or "\0" in name:
        raise ValueError("the path of a file")
    return name


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
