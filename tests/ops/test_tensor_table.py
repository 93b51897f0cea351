"""What is read of tensors in bulk is what torch says of each, with DLPack's exchange table and without."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mi_kernels.ops import tensor_table

MIXED = [
    torch.zeros(3, 4, dtype=torch.bfloat16),
    torch.zeros((), dtype=torch.float16),
    torch.zeros(0, 7),
    torch.zeros(2, 3, 4)[1],
    torch.zeros(5, 1, 2).as_strided((5, 1, 2), (2, 99, 1)),
    torch.nn.Parameter(torch.zeros(4), requires_grad=False),
]
ODD: dict[str, Any] = {
    "transposed": torch.zeros(4, 3).t(),
    "strided": torch.zeros(8)[::2],
    "expanded": torch.zeros(1).expand(4),
    "double": torch.zeros(4, dtype=torch.float64),
    "integers": torch.zeros(4, dtype=torch.int32),
    "sparse": torch.zeros(4).to_sparse(),
    "meta": torch.zeros(4, device="meta"),
    "negative": torch.zeros(4, dtype=torch.complex64).conj().imag,
    "grad": torch.zeros(4, requires_grad=True),
    "array": np.zeros(4, np.float32),
    "nothing": None,
}


@pytest.fixture(params=["exchange", "slow"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "slow":
        monkeypatch.setattr(tensor_table, "_exchange", lambda: None)
    elif tensor_table._exchange() is None:
        pytest.skip("torch before 2.10 has no exchange table")
    return request.param


@pytest.mark.usefixtures("way")
def test_every_property_is_what_torch_says() -> None:
    others = [torch.ones(x.shape, dtype=torch.float16) for x in MIXED]
    found = tensor_table.read(MIXED, others)
    assert found is not None
    assert found.device == "cpu"
    dtypes = (torch.bfloat16, torch.float16, torch.float32)
    for i, row in enumerate(zip(MIXED, others)):
        assert found.elements[i] == row[0].numel()
        for k, x in enumerate(row):
            assert found.addresses[i, k] == x.data_ptr()
            assert dtypes[found.codes[i, k]] == x.dtype
            assert found.sizes[i, k] == x.nbytes


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("case", ODD)
def test_what_the_kernels_cannot_take_has_no_table(case: str) -> None:
    plain = torch.zeros(ODD[case].shape) if case not in ("nothing", "grad") else torch.zeros(4)
    assert tensor_table.read([torch.zeros(4), plain], [torch.zeros(4), ODD[case]]) is None


@pytest.mark.usefixtures("way")
def test_rows_of_different_shapes_have_no_table() -> None:
    for other in (torch.zeros(6), torch.zeros(3, 2), torch.zeros(2, 3, 1)):
        assert tensor_table.read([torch.zeros(2, 3)], [other]) is None
    assert tensor_table.read([], []) is None


def test_an_unknown_version_of_the_exchange_table_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_table, "_exchange", lambda: object())
    found = tensor_table.read(MIXED)
    assert found is not None
    assert found.addresses[0, 0] == MIXED[0].data_ptr()
