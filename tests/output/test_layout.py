"""Shards, headers and index of the output, validated by the safetensors library."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from mi_kernels.checkpoint.record import Checkpoint
from mi_kernels.errors import CheckpointError
from mi_kernels.output.layout import OutputShard, OutputTensor, encode_index, plan_file, plan_shards, shard_names

SIZES = {"F64": 8, "F32": 4, "BF16": 2, "U8": 1}


def like(*names: str, metadata: dict[str, str] | None = None, mistral: bool = False) -> Checkpoint:
    return Checkpoint("m", "/m", [f"/m/{name}" for name in names], {}, metadata or {}, {}, mistral=mistral)


def tensor(name: str, count: int = 1, dtype: str = "BF16", shard: int = 0) -> OutputTensor:
    return OutputTensor(name, dtype, (count,), count * SIZES[dtype], shard)


def written(folder: Path, shard: OutputShard) -> Path:
    """Writes the shard to a file with zeros as data."""
    path = folder / shard.name
    path.write_bytes(shard.header + bytes(shard.size - len(shard.header)))
    return path


def names(shards: list[OutputShard]) -> list[list[str]]:
    return [[t.name for t in shard.tensors] for shard in shards]


def test_the_layout_of_another_model() -> None:
    model = like("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    shards, index = plan_shards([tensor("a", 3), tensor("b", 2, shard=1), tensor("c", shard=0)], model)
    assert [s.name for s in shards] == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert names(shards) == [["a", "c"], ["b"]]
    assert index == {
        "metadata": {"total_size": 12},
        "weight_map": {
            "a": "model-00001-of-00002.safetensors",
            "b": "model-00002-of-00002.safetensors",
            "c": "model-00001-of-00002.safetensors",
        },
    }


@pytest.mark.parametrize("name", ["model.safetensors", "consolidated.safetensors", "model-00001-of-00001.safetensors"])
def test_a_single_file_gets_the_name_that_loaders_look_for(name: str) -> None:
    shards, index = plan_shards([tensor("a")], like(name))
    assert [s.name for s in shards] == ["model.safetensors"]
    assert index is None
    assert encode_index(index) == {}


def test_mistrals_names_are_replaced_where_nothing_would_load_them() -> None:
    two = ["consolidated-00001-of-00002.safetensors", "consolidated-00002-of-00002.safetensors"]
    single, no_index = plan_shards([tensor("a")], like("consolidated.safetensors", mistral=True), mistral=False)
    assert ([s.name for s in single], no_index) == (["model.safetensors"], None)
    shards, index = plan_shards([tensor("a"), tensor("b", shard=1)], like(*two, mistral=True), mistral=False)
    assert [s.name for s in shards] == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert list(encode_index(index)) == ["model.safetensors.index.json"]


def test_mistrals_format_keeps_its_names() -> None:
    tensors = [tensor("a"), tensor("b", shard=1)]
    single, no_index = plan_shards([tensor("a")], like("consolidated.safetensors", mistral=True))
    assert ([s.name for s in single], no_index) == (["consolidated.safetensors"], None)
    two = ["consolidated-00001-of-00002.safetensors", "consolidated-00002-of-00002.safetensors"]
    for kept, limit in ((two, None), (["consolidated.safetensors"], 2)):
        shards, index = plan_shards(
            [t._replace(shard=t.shard % len(kept)) for t in tensors], like(*kept, mistral=True), limit
        )
        assert [s.name for s in shards] == two
        [(name, content)] = encode_index(index, mistral=True).items()
        assert name == "consolidated.safetensors.index.json"
        assert json.loads(content)["weight_map"] == dict(zip("ab", two))


def test_a_shard_without_tensors_is_left_out() -> None:
    shards, index = plan_shards([tensor("a", shard=1)], like("x.safetensors", "y.safetensors"))
    assert [s.name for s in shards] == ["y.safetensors"]
    assert index is not None
    assert index["weight_map"] == {"a": "y.safetensors"}


def test_each_output_that_is_a_file_has_metadata_of_its_own(tmp_path: Path) -> None:
    before = like("x.safetensors", "y.safetensors", metadata={"format": "mlx", "mi_kernels.lam": "0.1"})
    texts = ["", "x" * 5000, "模型"]
    [shard] = plan_file([tensor("a", 3), tensor("b", 2, shard=1)], before, [{"mi_kernels.it": t} for t in texts])
    assert names([shard]) == [["a", "b"]]
    for output, text in enumerate(texts):
        header = shard.header_of(output)
        assert len(header) == len(shard.header)
        with safe_open(written(tmp_path, shard._replace(header=header)), framework="numpy") as file:
            assert file.metadata() == {"format": "mlx", "mi_kernels.it": text}
    [alone] = plan_file([tensor("a")], before, [{}])
    assert alone.header_of(0) == alone.header


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (1, [["a"], ["b"], ["c"], ["d"]]),
        (5, [["a"], ["b"], ["c"], ["d"]]),
        (6, [["a", "b"], ["c"], ["d"]]),
        (8, [["a", "b"], ["c", "d"]]),
        (12, [["a", "b", "c"], ["d"]]),
        (14, [["a", "b", "c", "d"]]),
    ],
)
def test_a_limit_on_the_size_of_shards(limit: int, expected: list[list[str]]) -> None:
    """The sizes are 4, 2, 6 and 2 bytes. A tensor larger than the limit gets its own shard."""
    tensors = [tensor("a", 2), tensor("b", 1), tensor("c", 3), tensor("d", 1)]
    shards, index = plan_shards(tensors, like("x.safetensors", "y.safetensors"), limit)
    assert names(shards) == expected
    assert [s.name for s in shards] == shard_names(len(expected))
    assert (index is None) == (len(expected) == 1)


def test_names_of_shards() -> None:
    assert shard_names(1) == ["model.safetensors"]
    assert shard_names(1, mistral=True) == ["consolidated.safetensors"]
    assert shard_names(3)[::2] == ["model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"]


def test_metadata_is_kept_and_says_the_format(tmp_path: Path) -> None:
    """transformers rejects a file without a format in its metadata."""
    for given_metadata, expected in (
        ({}, {"format": "pt"}),
        ({"format": "mlx", "note": "x"}, {"format": "mlx", "note": "x"}),
    ):
        [shard], _ = plan_shards([tensor("a")], like("m.safetensors", metadata=given_metadata))
        with safe_open(written(tmp_path, shard), framework="numpy") as file:
            assert file.metadata() == expected


def test_wide_elements_come_first_so_that_all_are_aligned() -> None:
    tensors = [tensor("a", 3, "U8"), tensor("b", 3), tensor("c", 3, "F64"), tensor("d", 3, "F32")]
    [shard], _ = plan_shards(tensors, like("m.safetensors"))
    assert names([shard]) == [["c", "d", "b", "a"]]
    assert len(shard.header) % 4096 == 0
    assert all(t.begin % SIZES[t.dtype] == 0 for t in shard.tensors)


def test_the_index_is_sorted_json() -> None:
    _, index = plan_shards([tensor("b"), tensor("a")], like("m.safetensors"), 2)
    [(name, content)] = encode_index(index).items()
    assert name == "model.safetensors.index.json"
    assert list(json.loads(content)["weight_map"]) == ["a", "b"]
    assert content.endswith(b"\n")


def test_a_header_above_the_limit_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mi_kernels.output.layout.MAX_HEADER", 8192)
    plan_shards([tensor("n" * 8000)], like("m.safetensors"))
    with pytest.raises(CheckpointError, match=r"header would have 12,280 bytes, more than the limit of 8,192"):
        plan_shards([tensor("n" * 8192)], like("m.safetensors"))


LAYOUTS = st.lists(
    st.tuples(st.text(max_size=8), st.integers(0, 40), st.sampled_from(sorted(SIZES)), st.integers(0, 2)),
    min_size=1,
    max_size=12,
    unique_by=lambda t: t[0],
).filter(lambda tensors: all(t[0] != "__metadata__" for t in tensors))


@given(layout=LAYOUTS, limit=st.none() | st.integers(1, 400))
def test_any_layout_is_valid(
    tmp_path_factory: pytest.TempPathFactory, layout: list[tuple[str, int, str, int]], limit: int | None
) -> None:
    """The library accepts every shard and reads each tensor at the planned position."""
    folder = tmp_path_factory.mktemp("layout")
    tensors = [tensor(name, count, dtype, shard) for name, count, dtype, shard in layout]
    shards, index = plan_shards(tensors, like("x.safetensors", "y.safetensors", "z.safetensors"), limit)
    found = {}
    for number, shard in enumerate(shards):
        path = written(folder, shard)
        assert path.stat().st_size == shard.size
        with safe_open(path, framework="numpy") as file:
            assert sorted(file.keys()) == sorted(t.name for t in shard.tensors)
            for t in shard.tensors:
                found[t.name] = (t.dtype, t.shape, t.nbytes, number)
                assert file.get_slice(t.name).get_dtype() == t.dtype
        if limit is not None and len(shard.tensors) > 1:
            assert sum(t.nbytes for t in shard.tensors) <= limit
    assert {name: value[:3] for name, value in found.items()} == {t.name: t[1:4] for t in tensors}
    weight_map = {} if index is None else index["weight_map"]
    assert weight_map == ({} if index is None else {name: shards[at[3]].name for name, at in found.items()})
