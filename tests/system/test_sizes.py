"""Numbers for people: three digits and a unit, thousands separators, and nouns that agree with their number."""

from __future__ import annotations

import pytest

from mi_kernels.errors import counted
from mi_kernels.system.sizes import show_bytes, show_count


@pytest.mark.parametrize(
    ("count", "text"),
    [
        *((0, "0 B"), (1, "1 B"), (999, "999 B"), (1000, "1 kB"), (65_536, "65.5 kB"), (19_822_848, "19.8 MB")),
        *((999_499, "999 kB"), (999_500, "1 MB"), (999_950_000, "1 GB"), (8_045_591_552, "8.05 GB")),
        *((1.6e12, "1.6 TB"), (999.4e12, "999 TB"), (1.5e15, "1,500 TB")),
    ],
)
def test_bytes(count: float, text: str) -> None:
    assert show_bytes(count) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (999, "999"), (826_368, "826 k"), (4.02e9, "4.02 B"), (1.04e12, "1.04 T")]
)
def test_counts(count: float, text: str) -> None:
    assert show_count(count) == text


def test_nouns() -> None:
    assert [counted(n, "shard") for n in (0, 1, 2, 18_867)] == ["0 shards", "1 shard", "2 shards", "18,867 shards"]
    assert [counted(n, "tensor is", "tensors are") for n in (1, 2)] == ["1 tensor is", "2 tensors are"]
