"""Tensors for the kernels over several models: one arena of bytes for each place, and the CPU kernels' answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from mi_kernels import _cpu
from mi_kernels.backends.combine_table import CombineTask

from ..bits import FORMATS, Format
from ..formulas import inputs
from . import Bytes, aligned


class Combined(NamedTuple):
    """Tensors of which each is combined from others, with bytes that belong to nobody between them.

    Attributes:
        formats: of out, then of the models, for each tensor.
        arenas: out, then the models; their starts are multiples of 64.
        offsets: where each tensor starts in each arena, in bytes.
        counts, firsts, formulas: of each tensor.
    """

    formats: list[tuple[Format, ...]]
    arenas: list[Bytes]
    offsets: list[list[int]]
    counts: list[int]
    firsts: list[int]
    formulas: list[Any]

    def tasks(self, wrap: Any = lambda tensor: tensor) -> list[CombineTask]:
        """What to compute, as torch tensors over the arenas; `wrap` is applied to each."""
        made = []
        for formats, offsets, n, first, formula in self._rows():
            tensors = [
                wrap(torch.from_numpy(arena[at : at + n * _size(fmt)]).view(fmt.dtype))
                for arena, at, fmt in zip(self.arenas, offsets, formats)
            ]
            made.append(CombineTask(tensors[0], tensors[1:], first, formula))
        return made

    def expected(self) -> Bytes:
        """The bytes of the output arena after the CPU's scalar kernels."""
        out = aligned(self.arenas[0].nbytes)
        out[:] = self.arenas[0]
        arenas = [out if arena is self.arenas[0] else arena for arena in self.arenas]
        spans = []
        for formats, offsets, n, first, formula in self._rows():
            operands = [(arena, at, fmt.code) for arena, at, fmt in zip(arenas[1:], offsets[1:], formats[1:])]
            spans.append((out, offsets[0], formats[0].code, operands, n, first, formula))
        _cpu.combine_spans(spans, "scalar")
        return out

    def _rows(self) -> Any:
        return zip(self.formats, self.offsets, self.counts, self.firsts, self.formulas)


def make_combined(
    formulas: Sequence[Any],
    formats: Sequence[tuple[Format, ...]],
    counts: Sequence[int],
    seed: int,
    skews: Sequence[Sequence[int]] | None = None,
    in_place: int | None = None,
) -> Combined:
    """Tensors of special values, random bits and moderate values.

    Args:
        formulas, formats, counts: of each tensor; all have the same number of models.
        skews: elements by which each tensor of each row lies off a multiple of 16 bytes; random if not given.
        in_place: the place of the model that is the output, from 1.
    """
    rng = np.random.default_rng(seed)
    places = len(formats[0])
    offsets, ends = [], [0] * places
    for i, (row, n) in enumerate(zip(formats, counts)):
        at = []
        for k, fmt in enumerate(row):
            skew = skews[i][k] if skews else int(rng.integers(0, 16))
            at.append(-(-ends[k] // 16) * 16 + skew * _size(fmt) + 16)
            ends[k] = at[k] + n * _size(fmt)
        offsets.append(at)
    arenas = [aligned(end + 16) for end in ends]
    for arena in arenas:
        arena[:] = rng.integers(0, 256, arena.nbytes, np.uint8)
    for i, (row, n) in enumerate(zip(formats, counts)):
        for k, bits in enumerate(inputs(row[1:], n, seed + 100 * i), 1):
            order = np.random.default_rng(seed + i).permutation(
                n
            )  # vectors and single elements meet every kind of value
            arenas[k][offsets[i][k] : offsets[i][k] + n * _size(row[k])] = bits[order].view(np.uint8)
    if in_place is not None:
        assert all(row[0] is row[in_place] for row in formats)
        arenas[0] = arenas[in_place]
        offsets = [[at[in_place], *at[1:]] for at in offsets]
    firsts = [int(first) for first in rng.integers(0, 1 << 40, len(counts))]
    return Combined(list(formats), arenas, offsets, list(counts), firsts, list(formulas))


def mixes(models: int, count: int, seed: int) -> list[tuple[Format, ...]]:
    """`count` draws of formats of an output and of `models` models."""
    rng = np.random.default_rng(seed)
    return [tuple(FORMATS[i] for i in rng.integers(0, 3, models + 1)) for _ in range(count)]


def _size(fmt: Format) -> int:
    return np.dtype(fmt.uint).itemsize
