"""Interpolate on a GPU with Triton: one program handles one chunk of the chunk table (`chunk_table.py`).

The arithmetic follows the numerics contract (`ops.linear`), and does not depend on the compiler or the interpreter:

- The kernel is compiled without contraction (`OPTIONS`), and its only fused operation is an explicit `tl.fma`.
  libdevice's `fma_rn` is not an alternative, because Triton builds libdevice with flushing of subnormals.
- float32 -> bf16 is rounded with integer operations, because the cast of Triton's interpreter truncates.
- float32 <-> float16 use the hardware's conversions (`cvt.rn.f16.f32`: to nearest even, subnormals kept, overflow to
  inf), and NumPy's in the interpreter. Both agree on everything except NaN.
- A NaN result is replaced by the NaN of the contract, as bits.
- The interpreter's `tl.fma` rounds the product (before Triton 3.9). In the interpreter, and only there, `EMULATE_FMA`
  computes in float64.
- The interpreter of Triton 3.6 converts a bound of `range` in a way that NumPy 2.5 rejects; see `_bound`.

Addresses are 64-bit integers until they are used. Tensors are read and written as integers of their width, so a copy
copies bytes.
"""

# mypy: ignore-errors
# The functions below are in Triton's language, which a type checker for Python does not support.
from __future__ import annotations

import triton
import triton.language as tl

BF16 = tl.constexpr(0)
F16 = tl.constexpr(1)
F32 = tl.constexpr(2)

# 128 threads, each with 8 elements: 16 bytes of bf16 or float16, twice 16 of float32.
WARPS = 4
STEP = 1024
# Elements per step where 16-byte accesses are not possible. It differs from STEP because Triton gives accesses of one
# size one layout, and the layout of the wide accesses spreads single elements badly.
REST = 512

# Compile options, for a launch and ahead of time. No loop feeds a matrix unit, so there is nothing to pipeline.
OPTIONS = {"num_warps": WARPS, "num_stages": 1, "enable_fp_fusion": False}


@triton.jit
def _pointer(address, DTYPE: tl.constexpr):
    """Converts an address to a pointer to integers of the dtype's width."""
    if DTYPE == F32:
        return address.to(tl.pointer_type(tl.uint32))
    else:
        return address.to(tl.pointer_type(tl.uint16))


@triton.jit
def _size(DTYPE: tl.constexpr):
    return 4 if DTYPE == F32 else 2


@triton.jit
def _widen(bits, DTYPE: tl.constexpr):
    """Converts the bits of a dtype to float32, exactly."""
    if DTYPE == BF16:
        return (bits.to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    elif DTYPE == F16:
        return bits.to(tl.float16, bitcast=True).to(tl.float32)
    else:
        return bits.to(tl.float32, bitcast=True)


@triton.jit
def _narrow(r, DTYPE: tl.constexpr):
    """Converts float32 to the bits of a dtype, to nearest even. Every NaN becomes the canonical one.

    bf16 is rounded as in csrc/bf16.h: adding 0x7FFF, plus one if the last kept bit is odd, carries into the kept bits
    exactly when the value must be rounded up.
    """
    bits = r.to(tl.uint32, bitcast=True)
    if DTYPE == BF16:
        rounded = (bits + ((bits >> 16) & 1) + 0x7FFF) >> 16
        return tl.where(r != r, 0x7FC0, rounded).to(tl.uint16)
    elif DTYPE == F16:
        half = r.to(tl.float16).to(tl.uint16, bitcast=True)
        return tl.where(r != r, 0x7E00, half.to(tl.uint32)).to(tl.uint16)
    else:
        return tl.where(r != r, 0x7FC00000, bits).to(tl.uint32)


@triton.jit
def _fma(x, y, z, EMULATE: tl.constexpr):
    """Computes x * y + z, rounded once. With EMULATE, uses float64 rounded to odd, as `reference.lerp.fma` explains."""
    if EMULATE:
        p = x.to(tl.float64) * y.to(tl.float64)
        q = z.to(tl.float64)
        s = p + q
        t = s - p
        error = (p - (s - t)) + (q - t)
        bits = s.to(tl.int64, bitcast=True)
        # The error of an infinite or NaN sum is NaN.
        inexact = (error == error) & (error != 0.0) & ((bits & 1) == 0)
        step = tl.where((error > 0.0) == (s > 0.0), 1, -1)
        return tl.where(inexact, bits + step, bits).to(tl.float64, bitcast=True).to(tl.float32)
    else:
        return tl.fma(x, y, z)


@triton.jit
def _lerp(a, b, w, EMULATE: tl.constexpr):
    """d = b - a;  |w| < 0.5 ? fma(w, d, a) : fma(w - 1, d, b)."""
    d = b - a
    from_a = tl.abs(w) < 0.5
    coefficient = tl.where(from_a, w, w - 1.0)
    return _fma(tl.broadcast_to(coefficient, d.shape), d, tl.where(from_a, a, b), EMULATE)


@triton.jit
def _bound(n, INTERPRETED: tl.constexpr):
    """Returns a scalar as a bound of `range`. The interpreter holds it as an array of one element, and Triton 3.6 asks
    NumPy for its int, which NumPy 2.5 gives only for arrays without dimensions. The compiler skips that branch."""
    if INTERPRETED:
        return n.handle.data.item()
    else:
        return n


# The operation of a program on its chunk.
_COPY_A = tl.constexpr(0)
_COPY_B = tl.constexpr(1)
_LERP = tl.constexpr(2)


@triton.jit
def _elements(a_bits, b_bits, w, MODE: tl.constexpr, OUT: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
              EMULATE: tl.constexpr):  # fmt: skip
    if MODE == _LERP:
        return _narrow(_lerp(_widen(a_bits, A), _widen(b_bits, B), w, EMULATE), OUT)
    elif MODE == _COPY_A:
        return a_bits if A == OUT else _narrow(_widen(a_bits, A), OUT)
    else:
        return b_bits if B == OUT else _narrow(_widen(b_bits, B), OUT)


@triton.jit
def _chunk(out, a, b, count, w, MODE: tl.constexpr, OUT: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
           STEP: tl.constexpr, REST: tl.constexpr, EMULATE: tl.constexpr):  # fmt: skip
    """Handles `count` elements at the addresses out, a and b: whole steps with 16-byte accesses, then single elements.

    If an address is not a multiple of 16, all accesses are to single elements.
    """
    whole = tl.where((out | a | b) % 16 == 0, count // STEP * STEP, 0)
    out, a, b = _pointer(out, OUT), _pointer(a, A), _pointer(b, B)
    whole, count = _bound(whole, EMULATE), _bound(count, EMULATE)
    # This loop runs only if the addresses are multiples of 16. `multiple_of` on its pointers makes its accesses wide.
    # (On `out`, `a` and `b` themselves the hint would be wrong for the second loop, and Triton 3.6 would ignore it.)
    for begin in range(0, whole, STEP):
        at = begin + tl.arange(0, STEP)
        a_bits = tl.load(tl.multiple_of(a + at, 16)) if MODE != _COPY_B else 0
        b_bits = tl.load(tl.multiple_of(b + at, 16)) if MODE != _COPY_A else 0
        tl.store(tl.multiple_of(out + at, 16), _elements(a_bits, b_bits, w, MODE, OUT, A, B, EMULATE))
    for begin in range(whole, count, REST):
        at = begin + tl.arange(0, REST)
        inside = at < count
        a_bits = tl.load(a + at, mask=inside) if MODE != _COPY_B else 0
        b_bits = tl.load(b + at, mask=inside) if MODE != _COPY_A else 0
        tl.store(out + at, _elements(a_bits, b_bits, w, MODE, OUT, A, B, EMULATE), mask=inside)


@triton.jit
def lerp_chunks(tensors, weights, chunk_tensor, chunk_start, OUT: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
                CHUNK: tl.constexpr, STEP: tl.constexpr, REST: tl.constexpr,
                EMULATE_FMA: tl.constexpr):  # fmt: skip
    """Handles chunk i in program i. The first four arguments point to the sections of a ChunkTable; OUT, A and B are
    dtype codes."""
    chunk = tl.program_id(0)
    tensor = tl.load(chunk_tensor + chunk)
    start = tl.load(chunk_start + chunk)
    row = tensors + tensor.to(tl.int64) * 4
    out = tl.load(row) + start * _size(OUT)
    a = tl.load(row + 1) + start * _size(A)
    b = tl.load(row + 2) + start * _size(B)
    count = tl.minimum(tl.load(row + 3) - start, CHUNK).to(tl.int32)
    w = tl.load(weights + tensor)
    if w == 0.0:
        _chunk(out, a, b, count, w, _COPY_A, OUT, A, B, STEP, REST, EMULATE_FMA)
    elif w == 1.0:
        _chunk(out, a, b, count, w, _COPY_B, OUT, A, B, STEP, REST, EMULATE_FMA)
    elif w == w:  # NaN skips the tensor
        _chunk(out, a, b, count, w, _LERP, OUT, A, B, STEP, REST, EMULATE_FMA)


# With TRITON_INTERPRET=1, `@triton.jit` does not return a JITFunction.
INTERPRETED = not isinstance(lerp_chunks, triton.runtime.JITFunction)
