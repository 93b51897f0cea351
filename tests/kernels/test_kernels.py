"""The CPU kernels, called directly: every ISA gives the bits of the scalar one, which gives the bits of torch."""

from __future__ import annotations

import itertools
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mi_kernels import _cpu

from ..support.bits import (
    BF16,
    F16,
    F32,
    FORMATS,
    Bits,
    Format,
    random_bits,
    special_pairs,
    to_bits,
    to_torch,
    torch_lerp,
)

Stores = _cpu.Stores

SIZES = (0, 1, 2, 3, 5, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 97)
HALF = np.float32(0.5)
# Both forms of the formula and the seam between them; a double that rounds to the seam; a subnormal weight, which
# still moves a zero; extrapolation on both sides.
LAMS = (
    0.3,
    0.5,
    0.8,
    float(np.nextafter(HALF, np.float32(0))),
    float(np.nextafter(HALF, np.float32(1))),
    0.5 - 1e-12,
    1e-40,
    -0.3,
    1.7,
)
# torch.lerp chooses its form by |w| < 0.5.
FAR_BELOW = (-0.5, -0.7, -3.0)
ALL_LAMS = [*LAMS, *FAR_BELOW]

by_format = pytest.mark.parametrize("fmt", FORMATS, ids=[f.name for f in FORMATS])
by_stores = pytest.mark.parametrize("stores", [Stores.CACHED, Stores.STREAMING], ids=["cached", "streaming"])

GUARD, POISON = 256, 0xA5


def placed(nbytes: int, shift: int) -> tuple[np.ndarray, int]:
    """A poisoned byte buffer with guards, and the offset in it that lies `shift` bytes past a multiple of 64."""
    buffer = np.full(nbytes + 2 * GUARD + 128, POISON, np.uint8)
    return buffer, GUARD + (-(buffer.ctypes.data + GUARD)) % 64 + shift


def run(
    isa: str,
    formats: tuple[Format, Format, Format],
    a: Bits,
    b: Bits,
    lam: float,
    stores: Any = Stores.AUTO,
    threads: int = 1,
    shifts: tuple[int, int, int] = (0, 0, 0),
) -> Bits:
    """The kernel's output bits, for out, a and b of these formats, each so many bytes off a multiple of 64.

    The output is poisoned before; the bytes around it and both inputs must come back untouched.
    """
    out_fmt, a_fmt, b_fmt = formats
    out, at_out = placed(a.size * np.dtype(out_fmt.uint).itemsize, shifts[0])
    sides = []
    for bits, shift in ((a, shifts[1]), (b, shifts[2])):
        buffer, at = placed(bits.nbytes, shift)
        buffer[at : at + bits.nbytes] = bits.view(np.uint8)
        sides.append((buffer, at, buffer.copy()))
    (in_a, at_a, saved_a), (in_b, at_b, saved_b) = sides
    span = (out, at_out, in_a, at_a, in_b, at_b, a.size, lam, out_fmt.code, a_fmt.code, b_fmt.code)
    _cpu.lerp_spans([span], isa, threads, stores)
    end = at_out + a.size * np.dtype(out_fmt.uint).itemsize
    assert (out[:at_out] == POISON).all(), "written before the output"
    assert (out[end:] == POISON).all(), "written beyond the output"
    assert (in_a == saved_a).all(), "input a changed"
    assert (in_b == saved_b).all(), "input b changed"
    return out[at_out:end].copy().view(out_fmt.uint)


def assert_same(got: Bits, want: Bits, a: Bits, b: Bits, lam: float) -> None:
    """Bit for bit; a failure names the first elements that differ."""
    differ = np.flatnonzero(got != want)
    if differ.size:
        i = differ[0]
        pytest.fail(
            f"lam {lam!r}: {differ.size} of {got.size} differ, first at {i}: a {a[i]:#x}, b {b[i]:#x}, "
            f"got {got[i]:#x}, want {want[i]:#x}"
        )


@by_format
@pytest.mark.parametrize("lam", ALL_LAMS)
def test_scalar_equals_torch_on_special_and_random_values(fmt: Format, lam: float) -> None:
    special_a, special_b = special_pairs(fmt, fmt)
    a = np.concatenate([special_a, random_bits(fmt, 100_000, 1)])
    b = np.concatenate([special_b, random_bits(fmt, 100_000, 2)])
    assert_same(run("scalar", (fmt, fmt, fmt), a, b, lam), torch_lerp(fmt, fmt, a, fmt, b, lam), a, b, lam)


@by_format
@by_stores
@pytest.mark.parametrize("lam", [*LAMS, *FAR_BELOW])
def test_every_isa_equals_scalar_on_special_and_random_values(isa: str, fmt: Format, stores: Any, lam: float) -> None:
    special_a, special_b = special_pairs(fmt, fmt)
    a = np.concatenate([special_a, random_bits(fmt, 100_000, 1)])
    b = np.concatenate([special_b, random_bits(fmt, 100_000, 2)])
    formats = (fmt, fmt, fmt)
    assert_same(run(isa, formats, a, b, lam, stores), run("scalar", formats, a, b, lam), a, b, lam)


@by_format
def test_special_values_were_reached(fmt: Format) -> None:
    """The values above reach all special cases: NaN from NaN and from inf - inf, overflow, subnormals, -0, ties."""
    a, b = special_pairs(fmt, fmt)
    wide_a, wide_b = to_torch(fmt, a).float(), to_torch(fmt, b).float()
    exact = torch.lerp(wide_a.double(), wide_b.double(), 1.7)
    result = to_torch(fmt, torch_lerp(fmt, fmt, a, fmt, b, 1.7)).float()
    assert (result.isnan() & ~wide_a.isnan() & ~wide_b.isnan()).any()
    assert (result.isinf() & exact.isfinite()).any()
    assert ((result == 0) & torch.signbit(result)).any()
    tiny = torch.finfo(fmt.dtype).tiny
    assert ((result != 0) & (result.abs() < tiny)).any()
    if fmt is not F32:
        dropped = 16 if fmt is BF16 else 13
        wide = torch.lerp(wide_a, wide_b, 0.5).view(torch.int32)
        ties = wide[(wide & ((1 << dropped) - 1)) == 1 << (dropped - 1)]
        assert set(((ties >> dropped) & 1).tolist()) == {0, 1}, "ties that go down, and ties that go up"


@by_format
@by_stores
def test_sizes_and_unaligned_slices(isa: str, fmt: Format, stores: Any) -> None:
    item = np.dtype(fmt.uint).itemsize
    pool_a, pool_b = random_bits(fmt, max(SIZES), 3), random_bits(fmt, max(SIZES), 4)
    # 0 to 3 elements off, one register short of alignment, and addresses that split elements.
    shifts = [(k * item, (3 - k) * item, (k ^ 1) * item) for k in range(4)]
    shifts += [(64 - item, 32, 0), (1, 3, 5), (7, 0, 0), (0, 1, 0)]
    for lam in (0.3, 0.8):
        want = torch_lerp(fmt, fmt, pool_a, fmt, pool_b, lam)
        for n, shift in itertools.product(SIZES, shifts):
            a, b = pool_a[:n], pool_b[:n]
            got = run(isa, (fmt, fmt, fmt), a, b, lam, stores, shifts=shift)
            assert_same(got, want[:n], a, b, lam)


# Threads start at 2^20 elements; the last task is then three elements long.
@by_format
@by_stores
@pytest.mark.parametrize(("n", "threads"), [(1_000_003, 1), (1_000_003, 3), ((1 << 20) + 3, 3)])
def test_a_million_elements(isa: str, fmt: Format, stores: Any, n: int, threads: int) -> None:
    a, b = random_bits(fmt, n, 5), random_bits(fmt, n, 6)
    item = np.dtype(fmt.uint).itemsize
    for lam in (0.3, 0.8):
        got = run(isa, (fmt, fmt, fmt), a, b, lam, stores, threads, (item, 2 * item, 0))
        assert_same(got, torch_lerp(fmt, fmt, a, fmt, b, lam), a, b, lam)


def test_stores_are_chosen_by_size_and_agree(isa: str) -> None:
    """8 MiB of output is where AUTO starts to stream."""
    n = (1 << 22) + 5
    a, b = random_bits(BF16, n, 7), random_bits(BF16, n, 8)
    formats = (BF16, BF16, BF16)
    got = run(isa, formats, a, b, 0.8, Stores.AUTO, 2, (2, 0, 0))
    assert_same(got, run(isa, formats, a, b, 0.8, Stores.CACHED), a, b, 0.8)


@by_format
@pytest.mark.parametrize("lam", [0.0, -0.0, 1.0, 1e-60, 1 - 1e-12])
def test_weights_that_round_to_0_and_1_copy_bytes(isa: str, fmt: Format, lam: float) -> None:
    """NaN payloads and -0 survive; inf on the other side does not matter."""
    a, b = special_pairs(fmt, fmt)
    assert_same(run(isa, (fmt, fmt, fmt), a, b, lam), b if lam > 0.5 else a, a, b, lam)


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_bytes_are_copied(isa: str, lam: float) -> None:
    a, b = random_bits(F32, 1000, 9).view(np.uint8), random_bits(F32, 1000, 10).view(np.uint8)
    out = np.zeros(4003, np.uint8)
    _cpu.lerp_spans([(out, 3, a, 0, b, 0, 4000, lam, 3, 3, 3)], isa)
    assert not out[:3].any()
    np.testing.assert_array_equal(out[3:], b if lam else a)


@pytest.mark.parametrize(
    "formats", list(itertools.product(FORMATS, repeat=3)), ids=lambda t: "-".join(f.name for f in t)
)
@pytest.mark.parametrize("lam", [0.0, 0.3, 0.8, 1.0, 1.7])
def test_mixed_dtypes(isa: str, formats: tuple[Format, Format, Format], lam: float) -> None:
    out_fmt, a_fmt, b_fmt = formats
    special_a, special_b = special_pairs(a_fmt, b_fmt)
    # 2,500 more than two blocks of the conversion buffer, so that blocks, tails and offsets all take part.
    a = np.concatenate([special_a, random_bits(a_fmt, 2500, 11)])
    b = np.concatenate([special_b, random_bits(b_fmt, 2500, 12)])
    got = run(isa, formats, a, b, lam, shifts=(1, 2, 3))
    source, bits = (b_fmt, b) if lam else (a_fmt, a)
    if lam not in (0, 1):
        want = torch_lerp(out_fmt, a_fmt, a, b_fmt, b, lam)
    elif source is out_fmt:
        want = bits
    else:
        want = to_bits(to_torch(source, bits).to(out_fmt.dtype), out_fmt)
    assert_same(got, want, a, b, lam)


def test_mixed_dtypes_with_threads(isa: str) -> None:
    n = (1 << 20) + 3
    a, b = random_bits(BF16, n, 13), random_bits(F32, n, 14)
    got = run(isa, (F16, BF16, F32), a, b, 0.8, threads=3)
    assert_same(got, torch_lerp(F16, BF16, a, F32, b, 0.8), a, b, 0.8)


@by_format
@pytest.mark.parametrize("into", ["a", "b"])
@pytest.mark.parametrize("lam", [0.0, 0.3, 0.8, 1.0])
def test_in_place(isa: str, fmt: Format, into: str, lam: float) -> None:
    n = (1 << 20) + 3
    a, b = random_bits(fmt, n, 15), random_bits(fmt, n, 16)
    want = (b if lam else a).copy() if lam in (0, 1) else torch_lerp(fmt, fmt, a, fmt, b, lam)
    x, y = a.copy(), b.copy()
    out = x if into == "a" else y
    _cpu.lerp_spans([(out, 0, x, 0, y, 0, n, lam, fmt.code, fmt.code, fmt.code)], isa, 2)
    assert_same(out, want, a, b, lam)


def test_in_place_with_another_dtype_of_the_same_size(isa: str) -> None:
    a, b = random_bits(F16, 5000, 17), random_bits(BF16, 5000, 18)
    want = torch_lerp(BF16, F16, a, BF16, b, 0.8)
    x = a.copy()
    _cpu.lerp_spans([(x, 0, x, 0, b, 0, x.size, 0.8, BF16.code, F16.code, BF16.code)], isa)
    assert_same(x, want, a, b, 0.8)


def test_many_spans_shared_among_threads(isa: str) -> None:
    """Empty, tiny and large tensors of all dtypes and weights in one call."""
    sizes = [0, 1, 3, 700_000, 0, 17, 600_001, 5, 1 << 18, (1 << 18) + 1]
    spans, checks = [], []
    for i, n in enumerate(sizes * 3):
        fmt, lam = FORMATS[i % 3], (0.3, 0.8, 0.0, 1.7)[i % 4]
        a, b = random_bits(fmt, n, 100 + i), random_bits(fmt, n, 200 + i)
        out = np.full(n, POISON, fmt.uint)
        spans.append((out, 0, a, 0, b, 0, n, lam, fmt.code, fmt.code, fmt.code))
        checks.append((out, a if lam == 0 else torch_lerp(fmt, fmt, a, fmt, b, lam), a, b, lam))
    _cpu.lerp_spans(spans, isa, 3)
    for check in checks:
        assert_same(*check)


@by_format
@pytest.mark.parametrize("threads", [1, 3])
def test_flush_to_zero_of_the_caller_changes_nothing_and_is_kept(
    isa: str, fmt: Format, threads: int, request: pytest.FixtureRequest
) -> None:
    n = (1 << 20) + 3
    special_a, special_b = special_pairs(fmt, fmt)
    # Halved exponents: many results are subnormal, which flushing would turn into zeros.
    small = fmt.uint(fmt.nan >> 2)
    a = np.concatenate([special_a, random_bits(fmt, n, 19) % small])
    b = np.concatenate([special_b, random_bits(fmt, n, 20) % small])
    want = {lam: torch_lerp(fmt, fmt, a, fmt, b, lam) for lam in (0.3, 0.8)}
    request.getfixturevalue("flush_denormals")
    got = {lam: run(isa, (fmt, fmt, fmt), a, b, lam, threads=threads) for lam in want}
    assert (torch.tensor([1e-40]) * torch.ones(1)).item() == 0, "the caller's setting was lost"
    for lam, expected in want.items():
        assert_same(got[lam], expected, a, b, lam)


@pytest.mark.usefixtures("flush_denormals")
def test_flush_to_zero_of_the_caller_keeps_a_subnormal_weight(isa: str) -> None:
    """1e-40 * 3e38 is 0.03, far from nothing."""
    a, b = np.zeros(40, np.uint32), np.full(40, np.float32(3e38).view(np.uint32))
    got = run(isa, (F32, F32, F32), a, b, 1e-40).view(np.float32)
    assert (got > 0.0299).all()


# Within 4 the results are seldom all inf. The last range is everything else.
@pytest.mark.parametrize(
    ("low", "high"),
    [
        (float(np.nextafter(-HALF, np.float32(0))), 4.0),
        (-4.0, -0.5),
        (4.0, float(np.finfo(np.float32).max)),
    ],
    ids=["near", "below", "above"],
)
@given(data=st.data())
def test_any_values_any_weight_any_offset(isa: str, low: float, high: float, data: st.DataObject) -> None:
    """Every ISA equals torch on inputs and weights that hypothesis picks, and shrinks where they fail."""
    fmt = data.draw(st.sampled_from(FORMATS))
    lam = data.draw(st.floats(low, high, width=32).filter(lambda w: w not in (0, 1)))
    n = data.draw(st.integers(1, 70))
    element = st.integers(0, (1 << (8 * np.dtype(fmt.uint).itemsize)) - 1)
    a = np.array(data.draw(st.lists(element, min_size=n, max_size=n)), fmt.uint)
    b = np.array(data.draw(st.lists(element, min_size=n, max_size=n)), fmt.uint)
    shifts = data.draw(st.tuples(*[st.integers(0, 63)] * 3))
    stores = data.draw(st.sampled_from([Stores.CACHED, Stores.STREAMING]))
    got = run(isa, (fmt, fmt, fmt), a, b, lam, stores, shifts=shifts)
    assert_same(got, torch_lerp(fmt, fmt, a, fmt, b, lam), a, b, lam)


def unfenced(listing: str) -> list[str]:
    """The non-temporal stores in a disassembly from which a return can be reached without an sfence."""
    found = re.findall(r"^ *([0-9a-f]+):\t(?:(?:bnd|notrack|repz) )*(\w+)(?: +(.*))?$", listing, re.MULTILINE)
    places = [int(address, 16) for address, _, _ in found]
    following = dict(itertools.pairwise(places))
    code = {place: (name, operands) for place, (_, name, operands) in zip(places, found)}

    def escapes(start: int) -> bool:
        waiting, seen = [start], {start}
        while waiting:
            place = waiting.pop()
            name, operands = code[place]
            if name == "sfence":
                continue
            target = re.match(r"[0-9a-f]+\b", operands) if name.startswith("j") else None
            if name.startswith("ret") or (name == "jmp" and target is None):
                return True
            successors = [int(target[0], 16)] if target else []
            if name != "jmp":
                successors.append(following[place])
            waiting += [p for p in successors if p not in seen]
            seen.update(successors)
        return False

    stores = [place for place, (name, _) in code.items() if "movnt" in name and name.removeprefix("v") != "movntdqa"]
    assert stores
    return [f"{place:x}" for place in stores if escapes(place)]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other machines have no such stores")
@pytest.mark.skipif(shutil.which("objdump") is None, reason="no objdump, which comes with gcc's assembler")
def test_streaming_stores_are_fenced_before_a_kernel_returns() -> None:
    """Such a store is not ordered with later ones: a thread that waits for the work could read old bytes.

    Running the kernels shows this rarely, and only on some processors.
    """
    if re.search(rb"__[at]san_", Path(_cpu.__file__).read_bytes()):
        pytest.skip("a sanitizer's checks lie between the stores and the fence, and may end the process there")
    command = ["objdump", "--disassemble", "--no-show-raw-insn", _cpu.__file__]
    assert unfenced(subprocess.run(command, check=True, capture_output=True, text=True).stdout) == []


def test_a_missing_fence_is_detected() -> None:
    """On one of two ways out of a loop, and behind a jump."""
    fenced = [" 10:\tvmovntps %zmm0,(%rdi)", " 16:\tjne    10 <f>", " 18:\tjmp    20 <f+0x10>", " 1a:\tbnd ret"]
    fenced += [" 20:\tsfence", " 23:\tret"]
    assert unfenced("\n".join(fenced)) == []
    for way_out in ("je     1a <f+0xa>", "jmp    *%rax"):
        assert unfenced("\n".join([fenced[0], f" 16:\t{way_out}", *fenced[2:]])) == ["10"]


@by_stores
def test_touch_reads_both_and_writes_one(isa: str, stores: Any) -> None:
    a, b = random_bits(BF16, 1003, 21), random_bits(BF16, 1003, 22)
    out = np.full(1003, POISON, np.uint16)
    _cpu.touch(out, a, b, isa, 1, stores)
    np.testing.assert_array_equal(out, a | b)


def test_isas_are_listed_best_first_and_end_with_the_oracle() -> None:
    known = ["avx512", "avx2", "neon", "scalar"]
    found = _cpu.isas()
    assert found == [name for name in known if name in found]
    assert found[-1] == "scalar"
