"""The lists of tensors that are measured, and the memory of one merge of such a list."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from mi_kernels.backends.reference import torch_lerp

from ..models import MODELS

# Tensors start at multiples of 256 bytes of float16 and bf16, a little less than what torch's allocator gives.
ALIGNMENT = 128  # elements
PIECE = 1 << 26  # elements: of random numbers drawn, and of bits compared, at a time
EXPERTS = 18_867  # the tensors of Qwen3-30B-A3B
LISTS = ("4B", "30B-A3B", "64KiB", "4KiB")
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32}


class WrongBitsError(RuntimeError):
    """A result differs from the contract, so that nothing may be timed."""


class TensorList(NamedTuple):
    """The sizes of some tensors.

    Attributes:
        name: of a model, or how many tensors of which size.
        counts: the elements of each.
        shrink: the divisor that made them fit; 1 if none did.
    """

    name: str
    counts: list[int]
    shrink: float

    @property
    def elements(self) -> int:
        return sum(self.counts)


def tensor_list(name: str, budget: int, limit: int | None = None) -> TensorList:
    """A list of LISTS, with the elements of each tensor divided so that a `Set` of bf16 takes at most `budget` bytes.

    Args:
        limit: use only the first tensors.
    """
    if name in MODELS:
        title = f"Qwen3-{name}"
        sizes = [math.prod(shape) for shape in MODELS[name]().values()][:limit]
    else:
        sizes = [int(name.removesuffix("KiB")) * 1024 // 2] * EXPERTS
        title, sizes = f"{EXPERTS:,} of {name}", sizes[:limit]
    shrink = max(1.0, 3 * 2 * sum(sizes) / budget)
    return TensorList(title, [max(1, int(n / shrink)) for n in sizes], round(shrink, 2))


class Set:
    """Two inputs and an output for each tensor of a list, as slices of three flat tensors.

    Inputs are random: normal numbers with the deviation of real weights, since constant data compresses. Outputs, and
    the gaps between the tensors, are NaN.

    Args:
        dtypes: of a, b and the outputs.
        offset: elements by which every tensor is moved off its alignment.
    """

    def __init__(
        self,
        counts: Sequence[int],
        device: Any,
        seed: int,
        dtypes: tuple[Any, Any, Any] = (torch.bfloat16,) * 3,
        offset: int = 0,
    ) -> None:
        self.counts = list(counts)
        self.starts = []
        at = offset
        for n in counts:
            self.starts.append(at)
            at += -(-n // ALIGNMENT) * ALIGNMENT
        generator = torch.Generator(device).manual_seed(seed)
        self.flat = [torch.full((at,), float("nan"), dtype=dtype, device=device) for dtype in dtypes]
        self.a, self.b, self.outs = (
            [flat[start : start + n] for start, n in zip(self.starts, counts)] for flat in self.flat
        )
        for flat in self.flat[:2]:
            fill(flat, generator)
        for start, n, end in zip(self.starts, counts, [*self.starts[1:], at]):
            if start + n < end:  # a copy of thousands of slices is slow, so only where there is a gap
                for flat in self.flat[:2]:
                    flat[start + n : end] = float("nan")
        for flat in self.flat[:2]:
            flat[:offset] = float("nan")

    @property
    def elements(self) -> int:
        return sum(self.counts)

    @property
    def moved(self) -> int:
        """Bytes that a merge must move: two reads and a write of each element."""
        return self.elements * sum(flat.itemsize for flat in self.flat)

    def clear(self) -> None:
        """Fills the outputs and the gaps with NaN again."""
        self.flat[2].fill_(float("nan"))

    def check(self, name: str, lam: float) -> None:
        """Compares the outputs with the torch reference on the same device, and the gaps with what they held.

        Raises:
            WrongBitsError: names the contestant and the tensor.
        """
        a, b, out = self.flat
        for begin in range(0, out.numel(), PIECE):
            part = slice(begin, begin + PIECE)
            wanted = torch.empty_like(out[part])
            torch_lerp.multi_lerp([wanted], [a[part]], [b[part]], [lam])
            found, wanted = (x.view(_BITS[x.itemsize]) for x in (out[part], wanted))
            if not torch.equal(found, wanted):
                at = begin + int((found != wanted).nonzero()[0])
                i = next(i for i in reversed(range(len(self.starts))) if self.starts[i] <= at or i == 0)
                where = "" if 0 <= at - self.starts[i] < self.counts[i] else ", in the gap beside it"
                raise WrongBitsError(
                    f"{name}: tensor {i} of {self.counts[i]:,} elements differs from the contract{where}"
                )


def fill(flat: Any, generator: Any) -> None:
    """Fills a tensor with normal numbers of deviation 0.02, a piece at a time."""
    for part in flat.split(PIECE):
        noise = torch.randn(part.numel(), device=flat.device, generator=generator, dtype=torch.float32)
        part.copy_(noise.mul_(0.02))
