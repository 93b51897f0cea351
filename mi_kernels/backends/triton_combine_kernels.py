"""Combine several tensors into one with Triton: one program handles one chunk of the table (`combine_table.py`).

The formulas are those of csrc/combine.h, in their order. `triton_kernels.py` says why the bits depend on neither
the compiler nor the interpreter.
"""

# mypy: ignore-errors
# The functions below are in Triton's language, which a type checker for Python does not support.
from __future__ import annotations

import triton
import triton.language as tl

from .._cpu import Formula
from .triton_kernels import INTERPRETED, OPTIONS, STEP, _fma, _narrow, _pointer, _size, _widen

__all__ = ["INTERPRETED", "OPTIONS", "STEP", "combine_chunks"]

_AFFINE = tl.constexpr(int(Formula.AFFINE))
_SUM = tl.constexpr(int(Formula.SUM))


@triton.jit
def _operand(row, K: tl.constexpr, start, at, inside, TYPES: tl.constexpr, WIDE: tl.constexpr):
    """Elements `at` of model K of a chunk, as float32. TYPES: the dtype codes, two bits each, the output's lowest."""
    DTYPE: tl.constexpr = (TYPES >> (2 * K + 2)) & 3
    pointer = _pointer(tl.load(row + 1 + K) + start * _size(DTYPE), DTYPE) + at
    if WIDE:  # noqa: SIM108 - a branch of the compiler
        bits = tl.load(tl.multiple_of(pointer, 16))
    else:
        bits = tl.load(pointer, mask=inside)
    return _widen(bits, DTYPE)


@triton.jit
def _weight(numbers, K: tl.constexpr, shape: tl.constexpr):
    return tl.broadcast_to(tl.load(numbers + K), shape)


@triton.jit
def _combined(row, numbers, start, at, inside, FORMULA: tl.constexpr, MODELS: tl.constexpr, LARGEST: tl.constexpr,
              TYPES: tl.constexpr, WIDE: tl.constexpr, EMULATE: tl.constexpr):  # fmt: skip
    if FORMULA == _AFFINE:
        largest = _operand(row, LARGEST, start, at, inside, TYPES, WIDE)
        r = largest
        for k in tl.static_range(MODELS):
            if k < LARGEST:
                d = largest - _operand(row, k, start, at, inside, TYPES, WIDE)
                r = _fma(_weight(numbers, k, at.shape), d, r, EMULATE)
            elif k > LARGEST:
                d = _operand(row, k, start, at, inside, TYPES, WIDE) - largest
                r = _fma(_weight(numbers, k, at.shape), d, r, EMULATE)
        return r
    elif FORMULA == _SUM:
        r = _weight(numbers, 0, at.shape) * _operand(row, 0, start, at, inside, TYPES, WIDE)
        for k in tl.static_range(1, MODELS):
            r = _fma(_weight(numbers, k, at.shape), _operand(row, k, start, at, inside, TYPES, WIDE), r, EMULATE)
        return r
    else:
        base = _operand(row, 0, start, at, inside, TYPES, WIDE)
        t = _weight(numbers, 1, at.shape) * (_operand(row, 1, start, at, inside, TYPES, WIDE) - base)
        for k in tl.static_range(2, MODELS):
            d = _operand(row, k, start, at, inside, TYPES, WIDE) - base
            t = _fma(_weight(numbers, k, at.shape), d, t, EMULATE)
        return _fma(_weight(numbers, MODELS, at.shape), t, base, EMULATE)


@triton.jit
def combine_chunks(tensors, numbers, chunk_tensor, chunk_start, FORMULA: tl.constexpr, MODELS: tl.constexpr,
                   LARGEST: tl.constexpr, TYPES: tl.constexpr, CHUNK: tl.constexpr, STEP: tl.constexpr,
                   EMULATE_FMA: tl.constexpr):  # fmt: skip
    """Handles chunk i in program i. The first four arguments point to the rows of `combine_table`, to MODELS weights
    and the scale of each tensor, and to the chunks. LARGEST is the place of the largest weight; in AFFINE, the
    weights before it are negated."""
    chunk = tl.program_id(0)
    tensor = tl.load(chunk_tensor + chunk).to(tl.int64)
    start = tl.load(chunk_start + chunk)
    row = tensors + tensor * (MODELS + 4)
    given = numbers + tensor * (MODELS + 1)
    count = tl.minimum(tl.load(row + MODELS + 1) - start, CHUNK).to(tl.int32)
    OUT: tl.constexpr = TYPES & 3
    out = _pointer(tl.load(row) + start * _size(OUT), OUT)
    # CHUNK is a multiple of 16, so the chunks of a tensor are aligned if it is.
    every = tl.load(row)
    for k in tl.static_range(MODELS):
        every = every | tl.load(row + 1 + k)
    whole = tl.where(every % 16 == 0, count // STEP * STEP, 0)
    for begin in range(0, whole, STEP):
        at = begin + tl.arange(0, STEP)
        r = _combined(row, given, start, at, at < count, FORMULA, MODELS, LARGEST, TYPES, True, EMULATE_FMA)
        tl.store(tl.multiple_of(out + at, 16), _narrow(r, OUT))
    for begin in range(whole, count, STEP):
        at = begin + tl.arange(0, STEP)
        inside = at < count
        r = _combined(row, given, start, at, inside, FORMULA, MODELS, LARGEST, TYPES, False, EMULATE_FMA)
        tl.store(out + at, _narrow(r, OUT), mask=inside)
