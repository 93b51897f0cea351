"""The one table of dtypes: how safetensors, torch and NumPy name them, their size, and the kernels' code.

The kernels compute with the dtypes that have a code of their own (`DType` in csrc/cpu/kernels.h). Every other
dtype is copied as bytes.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

FLOAT32_MAX = 3.4028234663852886e38  # lam and the parameters of methods are rounded to float32
BYTES = 3  # the kernels' code for what is copied, one byte an element


class DType(NamedTuple):
    """One dtype.

    Attributes:
        name: as a safetensors header writes it.
        size: bytes an element.
        torch: its name in torch; empty where torch has none.
        code: the kernels' code; BYTES where they only copy it.
        aliases: other names that users write for it.
        numpy: its names in NumPy, for arrays that the kernels take.
    """

    name: str
    size: int
    torch: str = ""
    code: int = BYTES
    aliases: tuple[str, ...] = ()
    numpy: tuple[str, ...] = ()


# Dtypes of less than a byte are missing on purpose: their tensors are copied whole.
TABLE = (
    DType("BF16", 2, "bfloat16", 0, ("bf16",), ("bfloat16", "uint16")),  # ml_dtypes.bfloat16, or its bits
    DType("F16", 2, "float16", 1, ("fp16",), ("float16",)),
    DType("F32", 4, "float32", 2, ("fp32",), ("float32",)),
    DType("F64", 8, "float64"),
    DType("C64", 8, "complex64"),
    DType("BOOL", 1, "bool"),
    DType("U8", 1, "uint8"),
    DType("I8", 1, "int8"),
    DType("U16", 2, "uint16"),
    DType("I16", 2, "int16"),
    DType("U32", 4, "uint32"),
    DType("I32", 4, "int32"),
    DType("U64", 8, "uint64"),
    DType("I64", 8, "int64"),
    DType("F8_E4M3", 1, "float8_e4m3fn"),
    DType("F8_E5M2", 1, "float8_e5m2"),
    DType("F8_E8M0", 1, "float8_e8m0fnu"),
    DType("F8_E4M3FNUZ", 1, "float8_e4m3fnuz"),
    DType("F8_E5M2FNUZ", 1, "float8_e5m2fnuz"),
)

_COMPUTED = tuple(dtype for dtype in TABLE if dtype.code != BYTES)

FLOATS = tuple(dtype.name for dtype in _COMPUTED)
"""The dtypes that the kernels compute with, by safetensors' names."""

CODES = {dtype.name: dtype.code for dtype in _COMPUTED}
"""The kernels' codes of FLOATS."""

CODE_SIZES = (*(dtype.size for dtype in sorted(_COMPUTED, key=lambda dtype: dtype.code)), 1)
"""Bytes an element, by the kernels' codes."""

CODE_TORCH = tuple(dtype.torch for dtype in sorted(_COMPUTED, key=lambda dtype: dtype.code))
"""torch's names, by the kernels' codes."""

TORCH_NAMES = {dtype.name: dtype.torch for dtype in TABLE if dtype.torch}
"""torch's names, by safetensors' names."""

FROM_TORCH = {f"torch.{dtype.torch}": dtype.name for dtype in _COMPUTED}
"""FLOATS, by what ``str(tensor.dtype)`` gives."""

FROM_NUMPY = {name: dtype.name for dtype in _COMPUTED for name in dtype.numpy}
"""FLOATS, by what ``array.dtype.name`` gives."""

OUTPUTS = {name: dtype.name for dtype in _COMPUTED for name in (dtype.torch, *dtype.aliases)}
"""FLOATS, by what users may write to ask for them."""

_SIZES = {dtype.name: dtype.size for dtype in TABLE}


@cache
def torch_codes() -> dict[Any, int]:
    """Returns the kernels' codes by torch's dtypes. Imports torch."""
    import torch

    return {getattr(torch, name): code for code, name in enumerate(CODE_TORCH)}


def is_known(dtype: str) -> bool:
    """Whether the table has this safetensors dtype."""
    return dtype in _SIZES


def item_size(dtype: str) -> int:
    """Bytes an element of a safetensors dtype; 1 for a dtype that is not in the table and is copied as bytes.

    >>> item_size("BF16"), item_size("F4")
    (2, 1)
    """
    return _SIZES.get(dtype, 1)


def code_of(dtype: str) -> int:
    """The kernels' code of a safetensors dtype: BYTES for all that they only copy.

    >>> code_of("F32"), code_of("I64")
    (2, 3)
    """
    return CODES.get(dtype, BYTES)
