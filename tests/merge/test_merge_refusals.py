"""Errors of a merge: models that do not fit together, arguments, outputs. Each is two lines and changes no file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mi_kernels.output.folder import OutputFolder

from ..support.checks import World, assert_refused, run_cli
from ..support.models import Tensors, save, tiny

K = "model.layers.0.self_attn.k_proj.weight"
IDS = "model.layers.0.mlp.table"


def without(tensors: Tensors, *names: str) -> Tensors:
    return {name: t for name, t in tensors.items() if name not in names}


MISMATCHES: dict[str, tuple[Callable[[], tuple[Tensors, Tensors]], tuple[str, ...]]] = {
    "only_in_instruct": (lambda: (tiny(1), without(tiny(2), K)), ("instruct has", K, "thinking lacks")),
    "only_in_thinking": (lambda: (without(tiny(1), K), tiny(2)), ("thinking has", K, "instruct lacks")),
    "many_on_one_side": (
        lambda: (tiny(1), {n: t for n, t in tiny(2).items() if "norm" not in n}),
        ("norm", " more, which"),
    ),
    "lm_head_on_one_side_untied": (
        lambda: (tiny(1), tiny(2, tied=True)),
        ("lm_head.weight", "thinking lacks"),
    ),
    "shape": (lambda: (tiny(1), {**tiny(2), K: torch.zeros(4, 16)}), (K, "[8, 16]", "[4, 16]")),
    "transposed": (lambda: (tiny(1), {**tiny(2), K: torch.zeros(16, 8)}), (K, "[8, 16]", "[16, 8]")),
    "rank": (lambda: (tiny(1), {**tiny(2), K: torch.zeros(8 * 16)}), (K, "[8, 16]", "[128]")),
    "vocabulary": (
        lambda: (
            tiny(1),
            {**tiny(2), **{n: torch.zeros(60, 16) for n in ("model.embed_tokens.weight", "lm_head.weight")}},
        ),
        ("[50, 16]", "[60, 16]", "vocabularies"),
    ),
    "layers": (lambda: (tiny(1, layers=2), tiny(2, layers=3)), ("2 layers", "3")),
    "integer_weights": (
        lambda: ({**tiny(1), K: torch.ones(8, 16, dtype=torch.uint8)}, {**tiny(2), K: torch.zeros(8, 16).byte()}),
        (K, "U8", "differ"),
    ),
    "last_of_many_bytes": (
        lambda: (
            {**tiny(1), IDS: torch.zeros(1 << 18, dtype=torch.int64)},
            {**tiny(2), IDS: torch.zeros(1 << 18, dtype=torch.int64).index_fill(0, torch.tensor([(1 << 18) - 1]), 1)},
        ),
        (IDS, "I64", "differ"),
    ),
    "float8": (
        lambda: (
            {**tiny(1), K: torch.ones(8, 16).to(torch.float8_e4m3fn)},
            {**tiny(2), K: torch.zeros(8, 16).to(torch.float8_e4m3fn)},
        ),
        (K, "F8_E4M3", "differ"),
    ),
    "float64": (
        lambda: ({**tiny(1), K: torch.ones(8, 16).double()}, {**tiny(2), K: torch.zeros(8, 16).double()}),
        (K, "F64", "differ"),
    ),
    "float_and_integer": (
        lambda: (tiny(1), {**tiny(2), K: torch.ones(8, 16, dtype=torch.uint8)}),
        (K, "BF16", "U8"),
    ),
    "two_integer_types": (
        lambda: ({**tiny(1), IDS: torch.ones(3).long()}, {**tiny(2), IDS: torch.ones(3).int()}),
        (IDS, "I64", "I32"),
    ),
}


@pytest.mark.parametrize("case", MISMATCHES)
def test_models_that_do_not_match(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    make, words = MISMATCHES[case]
    world = World(tmp_path, *make())
    assert_refused(capsys, tmp_path, world.argv(), *words)


def test_a_head_on_one_side_and_no_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(tmp_path)
    shutil.rmtree(world.thinking)
    save(world.thinking, tiny(2, tied=True), config=None)
    assert_refused(capsys, tmp_path, world.argv(), "lm_head.weight", "config.json")


ARGUMENTS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "lam_nan": (["--lam", "nan"], ("lam is nan", "not finite")),
    "lam_inf": (["--lam", "inf"], ("lam is inf", "not finite")),
    "lam_minus_inf": (["--lam=-inf"], ("lam is -inf", "not finite")),
    "lam_beyond_float32": (["--lam", "1e39", "--extrapolate"], ("not finite",)),
    "lam_nan_extrapolated": (["--lam", "nan", "--extrapolate"], ("not finite",)),
    "lam_text": (["--lam", "abc"], ("'abc'", "not a number")),
    "lam_nothing": (["--lam", ""], ("''", "not a number")),
    "lam_comma": (["--lam", "0,8"], ("--lam 0,8: lerp takes one lam", "sweep")),
    "lam_above": (["--lam", "1.7"], ("lam is 1.7", "--extrapolate")),
    "lam_barely_above": (["--lam", "1.0000001"], ("--extrapolate",)),
    "lam_below": (["--lam", "-0.1"], ("lam is -0.1", "--extrapolate")),
    "layers_beyond": (["--layers", "0:3"], ("3", "2 layers")),
    "layers_no_such": (["--layers", "2"], ("no layer 2", "0 to 1")),
    "layers_negative_beyond": (["--layers=-3:"], ("-3", "2 layers")),
    "layers_empty_range": (["--layers", "1:1"], ("1:1", "empty")),
    "layers_reversed": (["--layers", "1:0"], ("1:0", "empty")),
    "layers_text": (["--layers", "all"], ("'all'", "not a range")),
    "layers_nothing": (["--layers", ""], ("''", "not a range")),
    "layers_trailing_comma": (["--layers", "0:1,"], ("''", "not a range")),
    "layers_step": (["--layers", "0:2:1"], ("'0:2:1'", "not a range")),
    "modules_unknown": (["--modules", "ffn,mlp"], ("--modules: mlp unknown", "Did you mean ffn?", "attn, ffn")),
    "modules_nothing": (["--modules", ""], ("modules", "unknown")),
    "modules_absent": (["--modules", "router"], ("no router", "ffn")),
    "modules_other": (["--modules", "other"], ("other", "unknown")),
    "masks_select_nothing": (["--layers", "0", "--modules", "embed"], ("select no tensor",)),
    "dtype": (["--dtype", "int8"], ("dtype 'int8'", "bfloat16")),
    "threads_zero": (["--threads", "0"], ("threads is 0", "1 to 1024")),
    "threads_negative": (["--threads", "-1"], ("threads is -1", "1 to 1024")),
    "threads_many": (["--threads", "1025"], ("1025", "1 to 1024")),
    "threads_text": (["--threads", "two"], ("--threads", "'two'", "not an integer")),
    "memory_text": (["--max-memory", "lots"], ("--max-memory", "'lots'", "size")),
    "memory_small": (["--max-memory", "4095B"], ("--max-memory is 4095", "4096")),
    "memory_zero": (["--max-memory", "0"], ("--max-memory", "'0'")),
    "shard_size_negative": (["--max-shard-size=-5GB"], ("--max-shard-size", "'-5GB'")),
    "shard_size_nothing": (["--max-shard-size", "0.1"], ("--max-shard-size '0.1'", "Did you mean 0.1GB?")),
    "io": (["--io", "fast"], ("io 'fast'", "buffered")),
    "copy_from": (["--copy-from", "both"], ("--copy-from 'both'", "instruct")),
    "device": (["--device", "cuda"], ("--device 'cuda'", "Use --device cpu")),
    "backend_unknown": (["--backend", "cudnn"], ("backend 'cudnn'", "cpu")),
    "backend_that_does_not_stream": (["--backend", "reference"], ("--backend 'reference'", "Use cpu, cuda or triton")),
    "unknown_option": (["--fast"], ("--fast", "--help")),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    extra, words = ARGUMENTS[case]
    assert_refused(capsys, tmp_path, World(tmp_path).argv(*extra), *words)


def test_an_isa_this_machine_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MI_KERNELS_CPU_ISA", "mmx")
    assert_refused(capsys, tmp_path, World(tmp_path).argv(), "MI_KERNELS_CPU_ISA=mmx", "scalar")


def test_a_layer_mask_for_a_model_without_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(tmp_path, {"w": torch.ones(2)}, {"w": torch.zeros(2)}, shards=1)
    assert_refused(capsys, tmp_path, world.argv("--layers", "0"), "layers")


@pytest.mark.parametrize("argv", [["merge"], ["lerp"], ["lerp", "a", "b", "-o", "c"], ["inspect"]])
def test_incomplete_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    assert_refused(capsys, tmp_path, argv, "--help")


Outputs = Callable[[World], Path]


def folder(path: Path, **files: str) -> Path:
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name.replace("_json", ".json").replace("_txt", ".txt")).write_text(content)
    return path


def link(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


def shards_are_links_into_the_output(world: World) -> Path:
    """The input is a folder of links to another model. Overwriting that model would destroy the input."""
    world.instruct.rename(world.out)
    world.instruct.mkdir()
    for path in world.out.iterdir():
        (world.instruct / path.name).symlink_to(path)
    return world.out


def one_shard_is_the_output(world: World) -> Path:
    shard = next(world.instruct.glob("*.safetensors"))
    shard.rename(world.out)
    shard.symlink_to(world.out)
    return world.out


def input_through_a_link(world: World) -> Path:
    world.instruct.rename(world.out)
    return link(world.instruct, world.out).with_name("out")


OUTPUTS: dict[str, tuple[Outputs, tuple[str, ...]]] = {
    "is_instruct": (lambda w: w.instruct, ("is the input",)),
    "is_thinking": (lambda w: w.thinking, ("is the input",)),
    "is_an_input_by_another_spelling": (lambda w: w.root / "x" / ".." / "instruct" / ".", ("is the input",)),
    "is_a_link_to_an_input": (lambda w: link(w.out, w.instruct), ("is the input",)),
    "an_input_is_a_link_to_it": (input_through_a_link, ("is the input",)),
    "inside_an_input": (lambda w: w.instruct / "merged", ("is inside the input",)),
    "deep_inside_an_input": (lambda w: w.thinking / "a" / "b", ("is inside the input",)),
    "inside_an_input_through_a_link": (lambda w: link(w.root / "l", w.instruct) / "m", ("is inside the input",)),
    "around_the_inputs": (lambda w: w.root, ("contains the input",)),
    "shards_are_links_into_it": (shards_are_links_into_the_output, ("contains the input", "exists and is not empty")),
    "one_shard_is_it": (one_shard_is_the_output, ("exists and is not a folder",)),
    "a_file": (lambda w: folder(w.root / "f", a_txt="") / "a.txt", ("exists and is not a folder",)),
    "below_a_file": (lambda w: folder(w.root / "f", a_txt="") / "a.txt" / "out", ("cannot be created",)),
    "a_dangling_link": (lambda w: link(w.out, w.root / "nowhere"), ("is a broken link",)),
    "a_loop_of_links": (lambda w: link(w.out, w.out), ("is a broken link",)),
    "a_lone_surrogate": (lambda w: w.root / "\ud800", ("is not a valid path",)),
    "too_long_a_name": (lambda w: w.root / ("x" * 250), ("cannot be created",)),
}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("case", OUTPUTS)
def test_outputs(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str, overwrite: bool) -> None:
    make, words = OUTPUTS[case]
    world = World(tmp_path)
    out = make(world)
    if case == "shards_are_links_into_it":  # without --overwrite there is a simpler reason
        words = words[:1] if overwrite else words[1:]
    assert_refused(capsys, tmp_path, world.argv("-o", out, *(["--overwrite"] if overwrite else [])), *words)


@pytest.mark.parametrize("case", OUTPUTS)
def test_outputs_of_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    """A merge with a recipe protects its inputs in the same way as `lerp`."""
    make, words = OUTPUTS[case]
    world = World(tmp_path)
    out = make(world)
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(json.dumps({"method": "linear", "models": [str(world.instruct), str(world.thinking)]}))
    argv = ["merge", str(recipe), "-o", str(out), "--overwrite"]
    assert_refused(capsys, tmp_path, argv, words[0])


@pytest.mark.parametrize("name", ["instruct-merged", "instr"])
def test_an_output_whose_name_starts_with_the_name_of_an_input(tmp_path: Path, name: str) -> None:
    """`instruct-merged` is not inside `instruct`, and `instruct` is not inside `instr`."""
    assert run_cli(World(tmp_path).argv("-q", "-o", tmp_path / name)) == 0


@pytest.mark.parametrize("name", ["\0", "a\ud800"], ids=["NUL", "lone surrogate"])
def test_an_input_that_is_not_a_valid_path(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    world = World(tmp_path)
    argv = ["lerp", str(world.instruct), name, "-o", str(world.out), "--lam", "0.5"]
    assert_refused(capsys, tmp_path, argv, "no such folder")


def test_another_model_without_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(tmp_path)
    save(world.out, tiny(3))
    assert_refused(capsys, tmp_path, world.argv(), "not empty", "--overwrite")


@pytest.mark.parametrize(
    "names", [["notes.txt"], ["a.py", "data.bin", ".git"], ["tokenizer.json"], ["pytorch_model.bin"]]
)
def test_overwrite_replaces_models_only(tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str]) -> None:
    world = World(tmp_path)
    world.out.mkdir()
    for name in names:
        (world.out / name).write_text("precious")
    assert_refused(capsys, tmp_path, world.argv("--overwrite"), "does not look like a model")


def test_an_empty_output_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from `-o "$UNSET"`."""
    world = World(tmp_path / "models")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert_refused(capsys, tmp_path, world.argv("--out="), "out")


def test_no_space_left(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    monkeypatch.setattr(OutputFolder, "free_space", lambda self: 1 << 19)
    words = (
        f"the disk of {world.root} needs 16.8 MB of free space, but has 524 kB",
        "16.3 MB are missing",
        "Free 16.3 MB",
    )
    assert_refused(capsys, tmp_path, world.argv("-o", world.root / "new" / "out"), *words)


def test_free_space_is_that_of_the_disk_of_the_output(tmp_path: Path) -> None:
    free = OutputFolder(tmp_path / "not" / "yet" / "out", []).free_space()
    here = os.statvfs(tmp_path)
    # Other processes write to this disk, so the two numbers can differ by a few per cent.
    assert abs(free - here.f_bavail * here.f_frsize) < 0.05 * here.f_blocks * here.f_frsize


def test_both_sides_may_be_one_model(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert run_cli(["lerp", str(world.instruct), str(world.instruct), "-o", str(world.out), "--lam", "0.5", "-q"]) == 0


def test_an_error_comes_before_any_folder_is_created(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The parents of OUT are not created either."""
    world = World(tmp_path, tiny(1), without(tiny(2), K))
    assert_refused(capsys, tmp_path, world.argv("-o", tmp_path / "new" / "deep" / "out"), K)


def test_config_of_the_other_side_is_checked_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(tmp_path)
    (world.instruct / "config.json").write_text("[1]")
    assert_refused(capsys, tmp_path, world.argv(), "instruct/config.json")
