"""mi_kernels.json: a record is read back unchanged, and a file that is not a record is an error that names it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mi_kernels import CheckpointError, lerp_checkpoint, merge_checkpoint
from mi_kernels.merge.record import SCHEMA, MergeRecord, read_content, read_record

from ..support.checks import World


def merged(tmp_path: Path, method: str) -> Path:
    world = World(tmp_path)
    if method == "lerp":
        lerp_checkpoint(world.instruct, world.thinking, world.out, 0.3, modules=["ffn"], dtype="fp16", progress=False)
        return world.out
    models = [str(world.instruct), str(world.thinking)]
    recipe: dict[str, Any] = {"method": method, "models": models[1:], "base": models[0], "density": 0.5}
    merge_checkpoint(recipe, world.out, progress=False)
    return world.out


@pytest.mark.parametrize("method", ["lerp", "ties"])
def test_a_record_is_read_back_unchanged(tmp_path: Path, method: str) -> None:
    out = merged(tmp_path, method)
    written = (out / "mi_kernels.json").read_bytes()
    record = read_record(str(out))
    assert record is not None
    assert record.encode() == written
    assert json.loads(written)["schema"] == SCHEMA
    assert [Path(identity["source"]).name for identity in record.inputs] == ["instruct", "thinking"]
    assert (record.base is None) == (method == "lerp")


def test_a_folder_without_a_record(tmp_path: Path) -> None:
    assert read_record(str(tmp_path)) is None
    assert read_content(str(tmp_path)) is None


def test_a_file_without_a_schema_has_schema_1(tmp_path: Path) -> None:
    out = merged(tmp_path, "lerp")
    content = json.loads((out / "mi_kernels.json").read_text())
    del content["schema"], content["max_shard_size"]
    record = MergeRecord.from_dict(content, "mi_kernels.json")
    assert (record.schema, record.max_shard_size) == (1, None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": SCHEMA + 1}, f"has schema {SCHEMA + 1}"),
        ({"schema": "one"}, "has schema 'one'"),
        ({"schema": 0}, "has schema 0"),
        ({"schema": True}, "has schema True"),
        ({"schema": None}, "has schema None"),
        ({"method": "magic"}, "unknown method 'magic'"),
        ({"instruct": None}, "does not say how the merge was made"),
        ({"instruct": {"source": "x"}}, "does not say how the merge was made"),
        ({"lam": ...}, "does not say how the merge was made"),
    ],
)
def test_invalid_records_are_errors(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    out = merged(tmp_path, "lerp")
    content = {**json.loads((out / "mi_kernels.json").read_text()), **change}
    content = {key: value for key, value in content.items() if value is not ...}
    with pytest.raises(CheckpointError) as caught:
        MergeRecord.from_dict(content, "folder/mi_kernels.json")
    assert caught.value.problem.startswith("folder/mi_kernels.json: ")
    assert said in caught.value.problem


def test_a_resumed_merge_compares_everything_that_decides_the_bytes(tmp_path: Path) -> None:
    record = read_record(str(merged(tmp_path, "lerp")))
    assert record is not None
    assert set(record.asked()) == {
        *("mi_kernels", "method", "lam", "layers", "modules", "rules"),
        *("dtype", "copy_from", "max_shard_size"),
    }
