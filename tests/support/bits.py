"""Bit patterns of the three dtypes, and torch's result for them, which every kernel must match."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

Bits = npt.NDArray[np.unsignedinteger]


class Format(NamedTuple):
    """A dtype: its code in `_cpu`, the integers that hold its bits, torch's dtype, the canonical NaN's bits, and
    the magnitudes where rounding and special cases lie (`specials` adds their negatives)."""

    name: str
    code: int
    uint: type
    dtype: torch.dtype
    nan: int
    magnitudes: tuple[int, ...]


# Zero, the smallest and largest subnormals, the smallest normals; around 1 (half-way cases arise between neighbours);
# the largest finite, inf; NaN signalling (first two) and quiet, with payloads.
BF16 = Format(
    "bf16", 0, np.uint16, torch.bfloat16, 0x7FC0,
    (0, 1, 2, 0x7F, 0x80, 0x81, 0x3F7F, 0x3F80, 0x3F81, 0x3F82, 0x4049, 0x7F7E, 0x7F7F, 0x7F80, 0x7F81, 0x7FBF,
     0x7FC0, 0x7FFF),
)  # fmt: skip
F16 = Format(
    "fp16", 1, np.uint16, torch.float16, 0x7E00,
    (0, 1, 2, 0x3FF, 0x400, 0x401, 0x3BFF, 0x3C00, 0x3C01, 0x3C02, 0x4248, 0x7BFE, 0x7BFF, 0x7C00, 0x7C01, 0x7DFF,
     0x7E00, 0x7FFF),
)  # fmt: skip
# The second line: half-way between neighbours of bf16 and of float16, where float16 overflows and underflows.
F32 = Format(
    "fp32", 2, np.uint32, torch.float32, 0x7FC00000,
    (0, 1, 2, 0x7FFFFF, 0x800000, 0x800001, 0x3F7FFFFF, 0x3F800000, 0x3F800001, 0x3F800002, 0x40490FDB, 0x7F7FFFFE,
     0x3F808000, 0x3F818000, 0x3F801000, 0x3F803000, 0x477FE000, 0x477FEFFF, 0x477FF000, 0x33000000, 0x33000001,
     0x7F7F8000, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FBFFFFF, 0x7FC00000, 0x7FFFFFFF),
)  # fmt: skip
FORMATS = (BF16, F16, F32)


def specials(fmt: Format) -> Bits:
    """Returns the special values of `fmt` with both signs."""
    magnitudes = np.array(fmt.magnitudes, fmt.uint)
    sign = fmt.uint(1 << (8 * magnitudes.itemsize - 1))
    return np.concatenate([magnitudes, magnitudes | sign])


def special_pairs(a: Format, b: Format) -> tuple[Bits, Bits]:
    """Returns all pairs of special values of `a` and `b`."""
    x, y = np.meshgrid(specials(a), specials(b))
    return np.ascontiguousarray(x.ravel()), np.ascontiguousarray(y.ravel())


def random_bits(fmt: Format, n: int, seed: int) -> Bits:
    """Returns n uniformly random bit patterns: all exponents, some NaN and inf."""
    return np.random.default_rng(seed).integers(0, 1 << (8 * np.dtype(fmt.uint).itemsize), n, dtype=fmt.uint)


def to_torch(fmt: Format, bits: Bits) -> torch.Tensor:
    """Returns a copy of `bits` as a tensor of the dtype."""
    signed = bits.astype(bits.dtype, copy=True).view(f"i{bits.itemsize}")
    return torch.from_numpy(signed).view(fmt.dtype)


def to_bits(tensor: torch.Tensor, fmt: Format) -> Bits:
    """Returns the bits of `tensor` with canonical NaN, because the NaN payload of torch depends on its vector path."""
    values = tensor.contiguous()
    bits = values.view(torch.int32 if fmt is F32 else torch.int16).numpy().view(fmt.uint).copy()
    bits[values.isnan().numpy()] = fmt.nan
    return bits


def torch_lerp(out: Format, a: Format, a_bits: Bits, b: Format, b_bits: Bits, lam: float) -> Bits:
    """Returns torch.lerp(a.float(), b.float(), lam).to(dtype), as in the numerics contract.

    torch fuses multiplication and addition if the processor supports FMA. On x86 without FMA (or with
    ATEN_CPU_CAPABILITY=default) it rounds twice and cannot be used as an oracle.
    """
    return to_bits(torch.lerp(to_torch(a, a_bits).float(), to_torch(b, b_bits).float(), lam).to(out.dtype), out)
