"""CRC-32C on every ISA, joined from pieces; and the record that holds the checksums of a model."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mi_kernels import _cpu
from mi_kernels.checksums.accumulator import Accumulator, Extent, Layout
from mi_kernels.checksums.crc import combine, crc32c, flipped_bit
from mi_kernels.checksums.record import BLOCK, FileSum, Record, ShardSum, TensorSum, last_line, mended
from mi_kernels.errors import CheckpointError

# RFC 3720, B.4; the last one is the check value of every catalogue of CRCs.
VECTORS = [
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
    (
        bytes.fromhex(
            "01c00000 00000000 00000000 00000000 14000000 0000040000000014 00000018 28000000 00000000 02000000 00000000"
        ),
        0xD9963A56,
    ),
    (b"123456789", 0xE3069283),
    (b"", 0),
]


@pytest.mark.parametrize(("message", "expected"), VECTORS)
def test_published_values(isa: str, message: bytes, expected: int) -> None:
    assert _cpu.crc32c(message, 0, len(message), isa) == expected


def test_every_isa_gives_the_serial_one_at_any_size_and_offset(isa: str) -> None:
    data = random.Random(1).randbytes(60_000)
    # Around the steps of 8, 64 and 256 bytes, and of three times 8 KiB.
    sizes = [*range(70), 127, 128, 255, 256, 257, 319, 320, 321, 511, 513, 24_575, 24_576, 24_577, 24_593, 50_001]
    for size in sizes:
        for offset in (0, 1, 7, 8, 63):
            start = (size * 2_654_435_761 + offset) % 2**32
            assert _cpu.crc32c(data, offset, size, isa, start) == _cpu.crc32c(data, offset, size, "scalar", start)


def test_ranges_outside_the_buffer_and_unknown_isas_are_refused(isa: str) -> None:
    for call in (
        lambda: _cpu.crc32c(b"1234", 3, 2, isa),
        lambda: _cpu.crc32c(b"1234", 5, 0, isa),
        lambda: _cpu.crc32c_pieces(b"1234", [2, 3], [], isa),
        lambda: _cpu.crc32c_pieces(b"1234", [2, 2**64 - 1], [], isa),
        lambda: _cpu.crc32c(b"1234", 0, 4, "mmx"),
    ):
        with pytest.raises(ValueError, match=r"beyond the buffer|no ISA"):
            call()


@pytest.mark.parametrize("place", [0, 8191, 8192, 16_383, 16_384, 20_000])
def test_a_value_that_is_not_finite_is_found_in_any_block_of_a_piece(isa: str, place: int) -> None:
    """Pieces are looked at in blocks of 16 KiB."""
    data = np.zeros(20_005, np.uint16)
    data[4 + place] = 0x7F80  # inf in bf16
    lengths = [8, 2 * 20_001]
    assert _cpu.crc32c_pieces(data, lengths, [0, 0], isa)[1] == [False, True]
    data[4 + place] = 0x7F7F
    crcs, nonfinite = _cpu.crc32c_pieces(data, lengths, [0, 0], isa)
    assert nonfinite == [False, False]
    assert crcs == [crc32c(data[:4].tobytes()), crc32c(data[4:].tobytes())]


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_the_crc_of_a_whole_follows_from_its_parts(first: bytes, second: bytes) -> None:
    assert combine(crc32c(first), crc32c(second), len(second)) == crc32c(first + second)
    assert crc32c(second, crc32c(first)) == crc32c(first + second)


def test_x_has_the_order_that_makes_positions_unique() -> None:
    """2^31 - 1 is prime: a power of x that is 1 there is 1 nowhere before."""
    order = 2**31 - 1
    assert combine(0x12345678, 0, order) == 0x12345678
    assert combine(0x12345678, 0, 2 * order + 3) == combine(0x12345678, 0, 3)


@pytest.mark.parametrize("length", [1, 2, 5, 4096, 70_001, 1 << 20])
def test_a_flipped_bit_is_found(length: int) -> None:
    data = bytearray(random.Random(length).randbytes(length))
    before = crc32c(data)
    for place in {0, 7, 8 * length - 1, *(random.Random(2).randrange(8 * length) for _ in range(20))}:
        byte, bit = divmod(place, 8)
        data[byte] ^= 1 << bit
        assert flipped_bit(crc32c(data) ^ before, length) == (byte, bit)
        data[byte] ^= 1 << bit


def test_the_last_and_the_first_bit_of_a_block_are_found_and_two_bits_are_not() -> None:
    first, last = combine(crc32c(b"\1") ^ crc32c(b"\0"), 0, BLOCK - 1), crc32c(b"\x80") ^ crc32c(b"\0")
    assert flipped_bit(first, BLOCK) == (0, 0)
    assert flipped_bit(last, BLOCK) == (BLOCK - 1, 7)
    assert flipped_bit(first ^ last, BLOCK) is None  # an even number of bits is never one bit: x + 1 divides P
    assert flipped_bit(first, BLOCK - 1) is None
    assert flipped_bit(0, BLOCK) is None


class File:
    """A shard of a header, four tensors (one of them empty, one of several blocks) and the CRCs that slicing gives."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        ends = [100 + seed]
        for size in (rng.randrange(1, 5000), 0, 2 * BLOCK + rng.randrange(1, BLOCK), rng.randrange(1, 9)):
            ends.append(ends[-1] + size)
        self.data = rng.randbytes(ends[-1])
        tensors = [Extent(f"t{i}", b, e) for i, (b, e) in enumerate(pairwise(ends))]
        self.layout = Layout(f"{seed}.safetensors", ends[-1], ends[0], tensors)

    def sums(self) -> ShardSum:
        layout, data = self.layout, memoryview(self.data)
        tensors = {
            name: TensorSum(
                begin, end - begin, tuple(crc32c(data[b : min(b + BLOCK, end)]) for b in range(begin, end, BLOCK))
            )
            for name, begin, end, _ in layout.tensors
        }
        return ShardSum(layout.size, crc32c(data), FileSum(layout.header, crc32c(data[: layout.header])), tensors)


@pytest.fixture(scope="module")
def files() -> list[File]:
    return [File(1), File(2)]


def in_order(cuts: list[tuple[int, int, int]]) -> None:
    pass


def shuffled(cuts: list[tuple[int, int, int]]) -> None:
    random.Random(3).shuffle(cuts)


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("arrange", [in_order, shuffled])
@pytest.mark.parametrize("step", [4 << 20, 999_983])
def test_pieces_in_any_order_from_any_thread(
    files: list[File], step: int, arrange: Callable[[list[tuple[int, int, int]]], None], workers: int
) -> None:
    sums = Accumulator([file.layout for file in files])
    cuts = [
        (i, begin, min(begin + step, len(file.data)))
        for i, file in enumerate(files)
        for begin in range(0, len(file.data), step)
    ]
    arrange(cuts)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda c: sums.add(c[0], c[1], memoryview(files[c[0]].data)[c[1] : c[2]]), cuts))
    assert [sums.shard(i) for i in range(len(files))] == [file.sums() for file in files]


def test_bytes_that_are_missing_or_given_twice_are_no_checksum(files: list[File]) -> None:
    data = files[0].data
    sums = Accumulator([files[0].layout])
    sums.add(0, 0, memoryview(data)[:-1])
    with pytest.raises(ValueError, match="1 bytes have not been given"):
        sums.shard(0)
    with pytest.raises(ValueError, match="given twice or not at all"):
        sums.add(0, len(data) - 2, memoryview(data)[-2:-1])
    shifted = Accumulator([files[0].layout])  # as many bytes as there are, one byte too far on
    with pytest.raises(ValueError, match="bytes 0 to 1 were given twice or not at all"):
        shifted.add(0, 1, data)


RECORD = Record(
    {
        "model-00001-of-00002.safetensors": ShardSum(
            BLOCK * 2 + 4096, 0xDEADBEEF, FileSum(4096, 7),
            {'say "ü"\n': TensorSum(4096, BLOCK * 2, (1, 2)), "none": TensorSum(BLOCK * 2 + 4096, 0, ())},
        ),
        "model-00002-of-00002.safetensors": ShardSum(10, 1, FileSum(10, 2), {}),
    },
    {"config.json": FileSum(3, 0x0000FFFF), "a\udcff": FileSum(0, 0)},
)  # fmt: skip


def test_a_record_is_read_as_it_was_written() -> None:
    text = RECORD.encode()
    assert Record.decode(text, "x") == RECORD
    assert text == Record.decode(text, "x").encode()
    assert mended(text) is None


def test_every_flipped_bit_of_a_record_is_found() -> None:
    text = RECORD.encode()
    for byte in range(len(text)):
        for bit in range(8):
            damaged = bytearray(text)
            damaged[byte] ^= 1 << bit
            assert mended(bytes(damaged)) == (text, byte, bit)


def test_more_damage_to_a_record_is_not_mended() -> None:
    text = RECORD.encode()
    twice = bytearray(text)
    twice[3] ^= 1
    twice[300] ^= 4
    for damaged in (text[:-1], text[: len(text) // 2], b"", bytes(twice), text + b"\n"):
        found = mended(damaged)
        assert found is not None
        assert found.content is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"version": 1', b'"version": 2'),
        (b'"block": 16777216', b'"block": 65536'),
        (b'"deadbeef"', b'"DEADBEEF"'),
        (b'["00000001", "00000002"]', b'["00000001"]'),
        (b'"begin": 4096', b'"begin": 4095'),
        (b'"size": 10,', b'"size": -1,'),
        (b'"files"', b'"flies"'),
    ],
)
def test_what_is_not_a_record_is_refused(old: bytes, new: bytes) -> None:
    body = RECORD.encode()[: -len(last_line(0))]
    assert body.count(old) >= 1
    body = body.replace(old, new, 1)
    text = body + last_line(crc32c(body))
    assert mended(text) is None
    with pytest.raises(CheckpointError, match=r"OUT/record: is not a record of checksums"):
        Record.decode(text, "OUT/record")
