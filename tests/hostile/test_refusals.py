"""Broken checkpoints are rejected in at most three lines, as INSTRUCT and as THINKING, and no file changes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ..support.checks import PROGRAM, World, assert_message, assert_refused, run_cli, snapshot, watched
from ..support.models import INDEX, SINGLE, save, tiny, write_in_order, write_index, write_raw

Break = Callable[[Path], None]

# (name, function that breaks a model folder of two shards, words that the message must contain)
BROKEN: list[tuple[str, Break, tuple[str, ...]]] = []


def broken(*words: str) -> Callable[[Break], Break]:
    def register(function: Break) -> Break:
        BROKEN.append((function.__name__, function, words))
        return function

    return register


def single(content: Callable[[Path], object]) -> Break:
    """Returns a break that leaves a single file, which `content` writes."""

    def change(folder: Path) -> None:
        for path in folder.glob("model*"):
            path.unlink()
        content(folder / SINGLE)

    return change


def entry(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


BAD_FILES: dict[str, Callable[[Path], object]] = {
    "empty_file": lambda p: p.write_bytes(b""),
    "seven_bytes": lambda p: p.write_bytes(b"\x02\0\0\0\0\0\0"),
    "length_only": lambda p: p.write_bytes(b"\x02\0\0\0\0\0\0\0"),
    "length_zero": lambda p: p.write_bytes(bytes(64)),
    "length_of_2_to_the_63": lambda p: write_raw(p, {}, length=1 << 63),
    "length_of_2_to_the_64_less_1": lambda p: write_raw(p, {}, length=(1 << 64) - 1),
    "length_beyond_the_file": lambda p: write_raw(p, {}, length=1000),
    "length_beyond_the_limit": lambda p: write_raw(p, {}, length=200_000_000),
    "length_cuts_the_json": lambda p: write_raw(p, {"w": entry()}, bytes(4), length=10),
    "not_json": lambda p: write_raw(p, b"{nonsense}"),
    "not_utf8": lambda p: write_raw(p, b'{"\xff\xfe": 1}'),
    "a_list": lambda p: write_raw(p, []),
    "a_number": lambda p: write_raw(p, 5),
    "text_behind_the_json": lambda p: write_raw(p, b"{} {}"),
    "deeply_nested": lambda p: write_raw(p, b'{"w": ' + b"[" * 100_000),
    "entry_is_null": lambda p: write_raw(p, {"w": None}),
    "no_dtype": lambda p: write_raw(p, {"w": {"shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "no_shape": lambda p: write_raw(p, {"w": {"dtype": "F32", "data_offsets": [0, 4]}}, bytes(4)),
    "no_offsets": lambda p: write_raw(p, {"w": {"dtype": "F32", "shape": [1]}}, bytes(4)),
    "unknown_dtype": lambda p: write_raw(p, {"w": entry(dtype="BF17")}, bytes(4)),
    "dtype_is_a_number": lambda p: write_raw(p, {"w": entry(dtype=4)}, bytes(4)),
    "negative_shape": lambda p: write_raw(p, {"w": entry(shape=[-1])}, bytes(4)),
    "shape_is_no_list": lambda p: write_raw(p, {"w": entry(shape=1)}, bytes(4)),
    "fractional_shape": lambda p: write_raw(p, {"w": entry(shape=[1.5])}, bytes(4)),
    "shape_overflows": lambda p: write_raw(p, {"w": entry(shape=[1 << 33, 1 << 33])}, bytes(4)),
    "shape_larger_than_bytes": lambda p: write_raw(p, {"w": entry(shape=[2])}, bytes(4)),
    "shape_smaller_than_bytes": lambda p: write_raw(p, {"w": entry(offsets=[0, 8])}, bytes(8)),
    "dtype_of_another_size": lambda p: write_raw(p, {"w": entry(dtype="BF16")}, bytes(4)),
    "offsets_reversed": lambda p: write_raw(p, {"w": entry(offsets=[4, 0])}, bytes(4)),
    "offsets_negative": lambda p: write_raw(p, {"w": entry(offsets=[-4, 0])}, bytes(4)),
    "three_offsets": lambda p: write_raw(p, {"w": entry(offsets=[0, 4, 8])}, bytes(8)),
    "offsets_beyond_the_file": lambda p: write_raw(p, {"w": entry(shape=[100], offsets=[0, 400])}, bytes(4)),
    "data_cut_short": lambda p: write_raw(p, {"w": entry()}, bytes(3)),
    "data_too_long": lambda p: write_raw(p, {"w": entry()}, bytes(5)),
    "overlap": lambda p: write_raw(p, {"v": entry(), "w": entry(offsets=[2, 6])}, bytes(6)),
    "the_same_bytes_twice": lambda p: write_raw(p, {"v": entry(), "w": entry()}, bytes(4)),
    "gap": lambda p: write_raw(p, {"v": entry(), "w": entry(offsets=[8, 12])}, bytes(12)),
    "gap_at_the_start": lambda p: write_raw(p, {"w": entry(offsets=[4, 8])}, bytes(8)),
    "metadata_is_no_text": lambda p: write_raw(p, {"__metadata__": {"n": 1}, "w": entry()}, bytes(4)),
    "git_lfs_pointer": lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
    "a_pickle_in_disguise": lambda p: torch.save({"w": torch.ones(1)}, p),
}
BROKEN += [(name, single(content), (SINGLE, "is not a valid")) for name, content in BAD_FILES.items()]


@broken(SINGLE, "has the name w twice")
def name_twice(folder: Path) -> None:
    text = b'"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
    single(lambda p: write_raw(p, b"{" + text + b", " + text + b"}", bytes(4)))(folder)


@broken("no tensors in")
def no_tensors(folder: Path) -> None:
    single(lambda p: write_raw(p, {"__metadata__": {"format": "pt"}}))(folder)


@broken(SINGLE, "not a regular file")
def shard_is_a_folder(folder: Path) -> None:
    single(lambda p: p.mkdir())(folder)


@broken("model-00002-of-00002.safetensors: missing", "Download")
def shard_missing(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").unlink()


@broken("model-00002-of-00002.safetensors: missing", "link")
def shard_is_a_dangling_link(folder: Path) -> None:
    shard = folder / "model-00002-of-00002.safetensors"
    shard.unlink()
    shard.symlink_to("../../blobs/none")


@broken("model-00002-of-00002.safetensors", "cannot be read")
def shard_is_a_loop_of_links(folder: Path) -> None:
    shard = folder / "model-00002-of-00002.safetensors"
    shard.unlink()
    shard.symlink_to(shard.name)


@broken("model-00001-of-00002.safetensors", "is not a valid")
def shard_download_was_cut(folder: Path) -> None:
    shard = folder / "model-00001-of-00002.safetensors"
    os.truncate(shard, shard.stat().st_size - 1)


@broken("has model-00001-of-00002.safetensors, but model-00002-of-00002.safetensors is missing", "Download all shards")
def index_and_shard_missing(folder: Path) -> None:
    (folder / INDEX).unlink()
    (folder / "model-00002-of-00002.safetensors").unlink()


@broken("has 0.safetensors, 1.safetensors", INDEX)
def index_missing_beside_files_without_numbers(folder: Path) -> None:
    (folder / INDEX).unlink()
    for i, path in enumerate(sorted(folder.glob("model-*"))):
        path.rename(folder / f"{i}.safetensors")


@broken("lm_head.weight is in model-00001-of-00002.safetensors, model-00002-of-00002.safetensors", "Add", INDEX)
def index_missing_beside_shards_that_share_a_tensor(folder: Path) -> None:
    (folder / INDEX).unlink()
    share_the_head(folder)


def share_the_head(folder: Path) -> None:
    for path in sorted(folder.glob("model-*")):
        write_in_order(path, {**load_file(path), "lm_head.weight": torch.ones(50, 16, dtype=torch.bfloat16)})


@broken(INDEX, "regular file")
def index_is_a_folder(folder: Path) -> None:
    (folder / INDEX).unlink()
    (folder / INDEX).mkdir()


@broken(INDEX, "not valid JSON")
def index_not_json(folder: Path) -> None:
    (folder / INDEX).write_text('{"weight_map": {')


@broken(INDEX, "not valid JSON")
def index_deeply_nested(folder: Path) -> None:
    (folder / INDEX).write_text("[" * 200_000)


@broken(INDEX, "not a JSON object")
def index_is_a_list(folder: Path) -> None:
    (folder / INDEX).write_text("[]")


def with_index(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    change(weight_map)
    write_index(folder, weight_map)


@broken(INDEX, "no weight_map")
def index_without_map(folder: Path) -> None:
    (folder / INDEX).write_text("{}")


@broken(INDEX, "no weight_map")
def index_with_a_list_for_map(folder: Path) -> None:
    write_index(folder, ["a"])


@broken(INDEX, "no weight_map")
def index_with_an_empty_map(folder: Path) -> None:
    write_index(folder, {})


ESCAPES = ["../thinking/model.safetensors", "..", ".", "", "/etc/passwd", "sub/model.safetensors", "a\\b", "a\0b", "a/"]
for place in [*ESCAPES, 5, None, ["model.safetensors"]]:
    BROKEN.append(
        (
            f"index_to_{place!r}",
            lambda folder, place=place: with_index(folder, lambda m: m.update({"lm_head.weight": place})),  # type: ignore[misc]
            (INDEX, "lm_head.weight", "not the name of a safetensors file"),
        )
    )


@broken("lm_head.weight is in model-00001-of-00002.safetensors, model-00002-of-00002.safetensors", "does not list it")
def index_does_not_list_a_tensor_that_two_shards_share(folder: Path) -> None:
    share_the_head(folder)
    with_index(folder, lambda m: m.pop("lm_head.weight"))


@broken("model-00003-of-00003.safetensors: missing", "Download")
def index_lists_a_shard_more(folder: Path) -> None:
    """The complete set beside it is in the index too, so the index is not a stale one."""
    with_index(folder, lambda m: m.update({"model.absent.weight": "model-00003-of-00003.safetensors"}))


@broken(SINGLE, INDEX, "both")
def both_a_single_file_and_an_index(folder: Path) -> None:
    write_in_order(folder / SINGLE, {"w": torch.ones(1)})


@broken("several indexes")
def several_indexes(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / f"{name}.safetensors.index.json").write_bytes((folder / INDEX).read_bytes())
    (folder / INDEX).unlink()


@broken("no safetensors weights")
def no_weights(folder: Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()


@broken("config.json", "not valid JSON")
def config_not_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


@broken("config.json", "not valid JSON")
def config_not_utf8(folder: Path) -> None:
    (folder / "config.json").write_bytes(b'{"a": "\xff"}')


@broken("config.json", "not a JSON object")
def config_is_a_list(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


@broken("config.json", "regular file")
def config_is_a_folder(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()


@pytest.mark.parametrize("side", ["instruct", "thinking", "inspect"])
@pytest.mark.parametrize(("change", "words"), [pytest.param(c, w, id=n) for n, c, w in BROKEN])
def test_broken_checkpoints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Break, words: tuple[str, ...], side: str
) -> None:
    world = World(tmp_path)
    folder = world.thinking if side == "thinking" else world.instruct
    change(folder)
    assert_refused(capsys, tmp_path, ["inspect", str(folder)] if side == "inspect" else world.argv(), *words)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "x.pth", "x.ckpt", "x.pkl"])
def test_a_pickle_is_never_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    world = World(tmp_path)
    no_weights(world.thinking)
    torch.save(tiny(2), world.thinking / name)
    with watched(world.thinking) as events:
        status = run_cli(world.argv())
    assert status == 2
    assert_message(capsys.readouterr().err, name, "pickle", "never opened")
    assert name not in events.opened


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_an_index_that_names_a_pickle(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """The name is checked before the file is opened, even if its content is valid safetensors."""
    world = World(tmp_path)
    second = "model-00002-of-00002.safetensors"
    (world.thinking / second).rename(world.thinking / name)
    with_index(world.thinking, lambda m: m.update({k: name for k, shard in m.items() if shard == second}))
    with watched(world.thinking) as events:
        status = run_cli(world.argv())
    assert status == 2
    assert_message(capsys.readouterr().err, INDEX, name)
    assert name not in events.opened


@pytest.mark.parametrize("name", [SINGLE, "config.json", INDEX])
def test_a_fifo_does_not_hang(tmp_path: Path, name: str) -> None:
    """Runs in its own process with a time limit, because opening a FIFO blocks until there is a writer."""
    folder = save(tmp_path / "m", tiny(1))
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    before = snapshot(tmp_path)
    done = subprocess.run([*PROGRAM, "inspect", str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert_message(done.stderr, name, "not a regular file")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", ["config.json", INDEX, "model.gguf"])
def test_a_source_that_is_a_file_without_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    world = World(tmp_path)
    file = world.thinking / name
    file.touch()
    argv = ["lerp", str(world.instruct), str(file), "-o", str(world.out), "--lam", "0.5"]
    assert_refused(capsys, tmp_path, argv, str(file), "is a file")


def test_a_missing_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(tmp_path)
    argv = ["lerp", str(world.instruct), str(tmp_path / "none"), "-o", str(world.out), "--lam", "0.5"]
    assert_refused(capsys, tmp_path, argv, "none: no such folder", "Hub id")


def test_one_shard_of_several_is_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both models lack the same shard, so only the name of the remaining shard shows that one is missing."""
    world = World(tmp_path)
    for folder in (world.instruct, world.thinking):
        (folder / INDEX).unlink()
        (folder / "model-00002-of-00002.safetensors").unlink()
    assert_refused(capsys, tmp_path, world.argv(), "model-00001-of-00002.safetensors")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_small_file_that_is_a_dangling_link(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """An interrupted download leaves such a link. Without the check, the file would be missing in the output."""
    world = World(tmp_path, shards=1)
    (world.thinking / name).unlink(missing_ok=True)
    (world.thinking / name).symlink_to("../../blobs/none")
    assert_refused(capsys, tmp_path, world.argv(), name)
