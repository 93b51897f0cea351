"""Opens checkpoints: all valid layouts, Hub ids, and irregularities that are handled."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from mi_kernels import ArgumentError, CheckpointError, open_checkpoint
from mi_kernels.checkpoint.names import layer_count
from mi_kernels.checkpoint.record import Checkpoint
from mi_kernels.output.synthetic import qwen3_shapes

from ..support.checks import watched
from ..support.models import (
    INDEX,
    SAFETENSORS_DTYPES,
    SINGLE,
    Tensors,
    as_hub_cache,
    bits,
    random_bits,
    save,
    tiny,
    write_in_order,
    write_index,
    write_raw,
)


def assert_describes(model: Checkpoint, tensors: Tensors) -> None:
    """Asserts that the model lists every tensor with its dtype, its shape and the byte range of its data."""
    assert sorted(model.tensors) == sorted(tensors)
    files = [Path(path).read_bytes() for path in model.shards]
    for name, tensor in tensors.items():
        info = model.tensors[name]
        assert (info.name, info.dtype, info.shape) == (name, SAFETENSORS_DTYPES[tensor.dtype], tuple(tensor.shape))
        assert files[info.shard][info.begin : info.end] == bits(tensor)


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_layouts(tmp_path: Path, shards: int) -> None:
    tensors = tiny(1)
    model = open_checkpoint(save(tmp_path / "m", tensors, shards))
    assert len(model.shards) == shards
    assert model.shards == sorted(model.shards)
    assert_describes(model, tensors)
    assert model.nbytes == sum(len(bits(t)) for t in tensors.values())
    assert model.metadata == {"format": "pt"}
    assert model.config["model_type"] == "qwen3"
    assert (model.revision, model.notes) == (None, [])


def test_tensors_are_listed_in_file_order(tmp_path: Path) -> None:
    tensors = {name: torch.zeros(3) for name in ("z", "a", "m")}
    write_in_order(tmp_path / SINGLE, tensors)
    assert list(open_checkpoint(tmp_path).tensors) == ["z", "a", "m"]


def test_a_single_file_of_another_name(tmp_path: Path) -> None:
    tensors = tiny(1)
    save(tmp_path / "m", tensors)
    (tmp_path / "m" / SINGLE).rename(tmp_path / "m" / "consolidated.safetensors")
    assert_describes(open_checkpoint(tmp_path / "m"), tensors)


def test_an_index_of_one_shard(tmp_path: Path) -> None:
    tensors = tiny(1)
    save(tmp_path / "m", tensors)
    write_index(tmp_path / "m", dict.fromkeys(tensors, SINGLE))
    assert_describes(open_checkpoint(tmp_path / "m"), tensors)


def test_no_config(tmp_path: Path) -> None:
    assert open_checkpoint(save(tmp_path / "m", tiny(1), config=None)).config == {}


@pytest.mark.parametrize(
    ("config", "tied"),
    [
        ({}, False),
        ({"tie_word_embeddings": True}, True),
        ({"tie_word_embeddings": False, "text_config": {"tie_word_embeddings": True}}, False),
        ({"text_config": {"tie_word_embeddings": True}}, True),
        ({"text_config": None}, False),
    ],
)
def test_tied(tmp_path: Path, config: dict[str, Any], tied: bool) -> None:
    assert open_checkpoint(save(tmp_path / "m", tiny(1), config=config)).tied is tied


@pytest.mark.parametrize("shards", [1, 3])
def test_a_snapshot_of_links_as_the_hub_cache_lays_it_out(tmp_path: Path, shards: int) -> None:
    tensors = tiny(1)
    folder = as_hub_cache(save(tmp_path / "m", tensors, shards), tmp_path / "hub")
    assert all(path.is_symlink() for path in folder.iterdir())
    assert_describes(open_checkpoint(folder), tensors)


def test_scalars_empty_tensors_and_odd_sizes(tmp_path: Path) -> None:
    tensors = {
        "scalar": torch.tensor(3.5),
        "none": torch.empty(0, dtype=torch.bfloat16),
        "no_rows": torch.empty(0, 7, dtype=torch.float16),
        "one": random_bits((1,), torch.bfloat16, 1),
        "odd": random_bits((7, 13), torch.bfloat16, 2),
        "flag": torch.tensor([True, False, True]),
        "ids": torch.arange(5),
        "small": random_bits((3,), torch.float8_e4m3fn, 3),
    }
    for order in (tensors, dict(reversed(tensors.items()))):
        folder = tmp_path / next(iter(order))
        write_in_order(folder / SINGLE, order, lead=3)
        assert_describes(open_checkpoint(folder), tensors)


def test_an_empty_tensor_between_two_others(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(2), "b": torch.empty(0), "c": torch.ones(3)}
    write_in_order(tmp_path / SINGLE, tensors)
    assert_describes(open_checkpoint(tmp_path), tensors)


def test_names_may_hold_anything(tmp_path: Path) -> None:
    names = ["weiß", "a b", "tab\there", "\u0000", "../up", "模型", '"quoted"', "x" * 5000]
    tensors = {name: torch.full((1,), float(i)) for i, name in enumerate(names)}
    write_in_order(tmp_path / SINGLE, tensors)
    assert_describes(open_checkpoint(tmp_path), tensors)


def test_a_name_in_two_shards_is_read_where_the_index_says(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(2), "b": torch.ones(3)}
    write_in_order(tmp_path / "s1.safetensors", tensors)
    write_in_order(tmp_path / "s2.safetensors", {"b": torch.zeros(3), "c": torch.ones(1)})
    write_index(tmp_path, {"a": "s1.safetensors", "b": "s2.safetensors", "c": "s2.safetensors"})
    model = open_checkpoint(tmp_path)
    assert_describes(model, {"a": torch.ones(2), "b": torch.zeros(3), "c": torch.ones(1)})
    assert len(model.notes) == 1
    assert "s1.safetensors" in model.notes[0]


def test_files_that_the_index_does_not_list_are_not_opened(tmp_path: Path) -> None:
    tensors = tiny(1)
    folder = save(tmp_path / "m", tensors, 2)
    (folder / "consolidated.safetensors").write_bytes(b"anything")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with watched(folder) as events:
        assert_describes(open_checkpoint(folder), tensors)
    assert "config.json" in events.opened
    assert not events.opened & {"consolidated.safetensors", "pytorch_model.bin"}


def test_eighteen_thousand_tensors(tmp_path: Path) -> None:
    """The names of a mixture of 128 experts with 48 layers. Each tensor has one element."""
    shapes = qwen3_shapes(
        hidden=1, layers=48, ffn=1, heads=1, kv_heads=1, head_dim=1, vocab=1, tied=False, experts=128, expert_ffn=1
    )
    assert len(shapes) > 18_000
    groups: list[dict[str, list[int]]] = [{} for _ in range(4)]
    for i, name in enumerate(shapes):
        groups[i % 4][name] = [1, 1]
    weight_map = {}
    for number, group in enumerate(groups):
        header = {
            name: {"dtype": "BF16", "shape": shape, "data_offsets": [2 * i, 2 * i + 2]}
            for i, (name, shape) in enumerate(group.items())
        }
        write_raw(tmp_path / f"{number}.safetensors", header, bytes(2 * len(group)))
        weight_map.update(dict.fromkeys(group, f"{number}.safetensors"))
    write_index(tmp_path, weight_map)
    model = open_checkpoint(tmp_path)
    assert len(model.tensors) == len(shapes)
    assert layer_count(model.tensors) == 48


def test_an_index_of_another_name(tmp_path: Path) -> None:
    folder = save(tmp_path / "m", tiny(1), 2)
    (folder / INDEX).rename(folder / "weights.safetensors.index.json")
    assert_describes(open_checkpoint(folder), tiny(1))


def test_opening_changes_nothing(tmp_path: Path) -> None:
    folder = save(tmp_path / "m", tiny(1), 2)
    with watched(folder) as events:
        open_checkpoint(folder)
    assert events.opened
    assert not events.written


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    import huggingface_hub

    def no_download(*_: object, **__: object) -> str:
        raise AssertionError("nothing may be downloaded in this test")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_download)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # the variable is read at import
    return huggingface_hub


@pytest.mark.parametrize(
    ("source", "repo", "revision"),
    [
        ("Org/Name-4B.x", "Org/Name-4B.x", None),
        ("Org/Name@main", "Org/Name", "main"),
        ("Org/Name@refs/pr/3", "Org/Name", "refs/pr/3"),
    ],
)
def test_a_hub_id(
    tmp_path: Path, hub: ModuleType, monkeypatch: pytest.MonkeyPatch, source: str, repo: str, revision: str | None
) -> None:
    folder = as_hub_cache(save(tmp_path / "m", tiny(1), 2), tmp_path / "hub", repo, "c0ffee")
    asked: list[tuple[str, dict[str, Any]]] = []

    def download(repo_id: str, **options: Any) -> str:
        asked.append((repo_id, options))
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", download)
    model = open_checkpoint(source)
    assert_describes(model, tiny(1))
    assert (model.source, model.root, model.revision) == (source, str(folder), "c0ffee")
    [(asked_repo, options)] = asked
    assert (asked_repo, options["revision"]) == (repo, revision)


def test_a_folder_comes_before_a_hub_id(tmp_path: Path, hub: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "org" / "name", tiny(1))
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint("org/name").revision is None


def test_the_offline_error_has_two_lines(hub: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> str:
        raise hub.errors.LocalEntryNotFoundError("Cannot find the snapshot\non the disk\nand outgoing traffic is off")

    monkeypatch.setattr(hub, "snapshot_download", download)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # otherwise the message need not say why
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint("org/name")
    assert "org/name" in caught.value.problem
    assert "Cannot find the snapshot" in caught.value.problem
    assert len(str(caught.value).splitlines()) == 2


def test_an_empty_name_is_a_wrong_argument(hub: ModuleType) -> None:
    with pytest.raises(ArgumentError, match="source is empty"):
        open_checkpoint("")


@pytest.mark.parametrize("text", ["name", "a/b/c", "org/na me", "/no/such", "org/name@", "\0"])
def test_neither_a_folder_nor_a_hub_id(hub: ModuleType, text: str) -> None:
    with pytest.raises(CheckpointError, match="no such folder") as caught:
        open_checkpoint(text)
    assert caught.value.remedy


def test_messages_escape_control_characters_in_names(tmp_path: Path) -> None:
    name = "bad\nTraceback\x1b[31m\u2028name"
    text = json.dumps(name) + ': {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
    write_raw(tmp_path / SINGLE, f"{{{text}, {text}}}".encode(), bytes(4))
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path)
    assert r"bad\nTraceback\x1b[31m\u2028name" in caught.value.problem
    assert len(str(caught.value).splitlines()) == 2
