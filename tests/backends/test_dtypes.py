"""The table of dtypes against torch, NumPy and safetensors themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from mi_kernels import dtypes
from mi_kernels.dtypes import TABLE, DType


@pytest.mark.parametrize("dtype", [d for d in TABLE if hasattr(torch, d.torch)], ids=lambda d: d.name)
def test_names_and_sizes_are_those_of_torch_and_safetensors(dtype: DType) -> None:
    tensor = torch.zeros(3, dtype=getattr(torch, dtype.torch))
    assert tensor.itemsize == dtype.size == dtypes.item_size(dtype.name)
    if dtype.name == "F8_E8M0":  # the library's writer does not know it yet
        return
    content = save({"x": tensor})
    assert f'"dtype":"{dtype.name}"'.encode() in content
    assert load(content)["x"].dtype == tensor.dtype


def test_the_kernels_compute_with_three() -> None:
    assert dtypes.CODES == {"BF16": 0, "F16": 1, "F32": 2}  # csrc/cpu/kernels.h
    assert dtypes.CODE_SIZES == (2, 2, 4, 1)
    assert dtypes.CODE_TORCH == ("bfloat16", "float16", "float32")
    assert [dtypes.code_of(name) for name in ("F64", "I8", "F4")] == [dtypes.BYTES] * 3


def test_numpys_names_are_its_own() -> None:
    for name, dtype in dtypes.FROM_NUMPY.items():
        if name != "bfloat16":  # ml_dtypes'
            assert np.dtype(name).itemsize == dtypes.item_size(dtype)
