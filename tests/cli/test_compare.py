"""The compare command: its tables, JSON, errors and plots."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

import mi_kernels
from mi_kernels.cli import main
from mi_kernels.compare.similarity import similarity
from mi_kernels.output.synthetic import qwen3_shapes
from mi_kernels.system.sizes import show_bytes

from ..support.adapters import make_pair
from ..support.models import save
from ..support.pictures import captured, text_problems

EMBED, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


def normal(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return (0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).to(dtype)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two models like Qwen3 with three layers."""
    shapes = qwen3_shapes(hidden=32, layers=3, ffn=48, heads=2, kv_heads=1, head_dim=16, vocab=50)
    a, b = ({n: normal(s, seed + i) for i, (n, s) in enumerate(shapes.items())} for seed in (1, 900))
    return save(tmp_path / "a", a), save(tmp_path / "b", b)


def test_matplotlib_and_torch_are_not_loaded(pair: tuple[Path, Path]) -> None:
    code = (
        "import sys; from mi_kernels.cli import main; main(sys.argv[1:]); "
        "sys.exit(any(m in sys.modules for m in ('matplotlib', 'torch')))"
    )
    command = [sys.executable, "-c", code, "compare", *map(str, pair)]
    assert subprocess.run(command, stdout=subprocess.PIPE).returncode == 0


def test_the_text_says_what_was_found(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *map(str, pair)]) == 0
    out, err = capsys.readouterr()
    found = similarity(*pair)
    assert err == f"mi-kernels: reads {show_bytes(found.bytes_read)}\n"
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line}
    assert rows["all"][1] == f"{found.overall.sigma:.5f}"
    assert rows["all"][-2:] == [str(found.overall.tensors), f"{found.overall.elements:,}"]
    assert rows["layer"][-3:] == ["attn", "ffn", "norm"]
    for layer in range(3):
        cells = [found.cells[layer, module].sigma for module in ("attn", "ffn", "norm")]
        assert rows[str(layer)][-3:] == [f"{sigma:.5f}" for sigma in cells]


def test_the_text_shows_100_percent_only_if_exact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = torch.ones(100_000, 2)
    b = a.clone()
    b[0, 0] = 1.001
    one, two = save(tmp_path / "a", {EMBED: a}), save(tmp_path / "b", {EMBED: b})
    for folder, cosine, identical in ((two, "0.999999", "99.99%"), (one, "1.000000", "100.00%")):
        assert main(["compare", str(one), str(folder)]) == 0
        row = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("all"))
        assert (row[2], row[4]) == (cosine, identical)


def test_tables_of_large_models_fit_100_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model of 94 layers with all modules, except for one layer without a router."""
    names = ("self_attn.q_proj", "mlp.experts.0.up_proj", "mlp.gate", "input_layernorm", "unheard_of")
    tensors = {f"model.layers.{i}.{name}.weight": normal((2, 2), i) for i in range(94) for name in names}
    del tensors["model.layers.7.mlp.gate.weight"]
    folder = save(tmp_path / "a", tensors | {EMBED: normal((9, 2), 1), HEAD: normal((9, 2), 2)})
    assert main(["compare", str(folder), str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    assert max(map(len, lines)) <= 100
    start = next(i for i, line in enumerate(lines) if line.startswith("layer"))
    assert [int(line.split()[0]) for line in lines[start + 1 :]] == list(range(94))
    assert [line.split()[-3] for line in lines[start + 7 : start + 10]] == ["0.00000", "-", "0.00000"]


def test_tensors_not_compared_and_notes_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = {"steps": torch.tensor([3])}
    one = save(tmp_path / "a", {NORM: normal((8,), 1)} | steps)
    two = save(tmp_path / "b", {NORM: normal((8,), 2, torch.float16)} | steps)
    assert main(["compare", str(one), str(two)]) == 0
    out = capsys.readouterr().out
    assert "not compared: steps (I64 is not a floating-point dtype)" in out
    assert f"note: 1 tensor has different dtypes ({NORM}: BF16 and F16)" in out


def test_json_holds_everything(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *map(str, pair), "--json", "--threads", "1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told) == [
        "mi_kernels", "formulas", "instruct", "thinking", "overall", "modules", "layers", "tensors", "left_out",
        "notes", "bytes_read", "seconds", "isa", "threads",
    ]  # fmt: skip
    measure = ["tensors", "elements", "sigma", "cosine", "max_difference", "identical"]
    assert list(told["overall"]) == measure
    assert set(told["formulas"]) == set(measure[2:])
    assert [layer["layer"] for layer in told["layers"]] == [0, 1, 2, None]
    assert list(told["layers"][0]) == ["layer", *measure, "modules"]
    assert list(told["layers"][0]["modules"]) == ["attn", "ffn", "norm"]
    assert list(told["layers"][-1]["modules"]) == ["norm", "embed"]
    assert list(told["tensors"][0]) == ["name", "module", "layer", *measure]
    assert (told["tensors"][0]["name"], told["threads"]) == (EMBED, 1)
    assert told["instruct"]["source"] == str(pair[0])


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Returns the error message of the command, after checking: two lines on stderr, status 2, nothing on stdout."""
    assert main(["compare", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 2
    return err


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = save(tmp_path / "a", {EMBED: normal((9, 2), 1), NORM: normal((2,), 1)})
    wide = save(tmp_path / "wide", {EMBED: normal((10, 2), 1), NORM: normal((2,), 1)})
    more = save(tmp_path / "more", {EMBED: normal((9, 2), 1), NORM: normal((2,), 1), HEAD: normal((9, 2), 1)})
    one = save(tmp_path / "one", {NORM: normal((2,), 1), "steps": torch.tensor([1])})
    two = save(tmp_path / "two", {NORM: normal((2,), 1), "steps": torch.tensor([2])})
    assert "no such folder" in refusal(capsys, str(a), str(tmp_path / "none"))
    assert f"{EMBED}: shape [9, 2]" in refusal(capsys, str(a), str(wide))
    assert HEAD in refusal(capsys, str(a), str(more))
    assert "steps: the I64 values differ" in refusal(capsys, str(one), str(two))
    assert "threads is 0" in refusal(capsys, str(a), str(a), "--threads", "0")
    assert "'many' is not an integer" in refusal(capsys, str(a), str(a), "--threads", "many")


def test_both_models_say_how_they_were_made(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    out = pair[0].parent / "out"
    mi_kernels.merge_checkpoint({"method": "slerp", "models": [*map(str, pair)], "lam": 0.25}, out, progress=False)
    line = f"merged by mi_kernels {mi_kernels.__version__} from {pair[0]}, {pair[1]}: `slerp` with lam 0.25."
    assert main(["compare", str(pair[0]), str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[:3] == [f"a: {pair[0]}", f"b: {out}", f"   {line}"]
    assert main(["compare", str(pair[0]), str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["instruct"]["made"], told["thinking"]["made"]) == (None, line)


def test_adapters_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair, other = make_pair(tmp_path, 1), make_pair(tmp_path, 2)
    assert main(["compare", pair.name, str(other.folder)]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [f"a: {pair.name}", f"b: {other.folder}"]
    found = similarity(pair.name, other.folder, progress=False)
    assert found.names == (pair.name, str(other.folder))
    assert found.as_dict()["instruct"]["adapter"]["source"] == str(pair.adapter_folder)


# The plot.


def test_plots_that_cannot_be_written_are_rejected_before_the_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither model exists, so the error must be about the plot."""
    assert "sigma.jpg: unknown image format" in refusal(capsys, "a", "b", "--plot", "sigma.jpg")
    pytest.importorskip("matplotlib")
    assert "cannot be written" in refusal(capsys, "a", "b", "--plot", str(tmp_path / "none" / "sigma.png"))
    (tmp_path / "folder.png").mkdir()
    assert "cannot be written" in refusal(capsys, "a", "b", "--plot", str(tmp_path / "folder.png"))


def test_without_matplotlib_the_refusal_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [m for m in sys.modules if m == "matplotlib" or m.startswith("matplotlib.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # makes the import fail
    told = refusal(capsys, "a", "b", "--plot", str(tmp_path / "sigma.png"))
    assert "needs matplotlib" in told
    assert "python -m pip install 'matplotlib>=3.8'" in told


@pytest.fixture
def uneven(tmp_path: Path) -> tuple[Path, Path]:
    """A model in which only the second layer has a router."""
    folders = []
    for seed in (1, 2):
        tensors = {f"model.layers.{i}.self_attn.q_proj.weight": normal((4, 4), seed + i) for i in range(3)}
        tensors |= {"model.layers.1.mlp.gate.weight": normal((4, 4), seed), EMBED: normal((9, 4), seed)}
        folders.append(save(tmp_path / f"{seed} $x_1$", tensors))
    return folders[0], folders[1]


def test_png(uneven: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    image = pytest.importorskip("matplotlib.image")
    settings = dict(matplotlib.rcParams)
    path = tmp_path / "sigma.PNG"
    path.write_bytes(b"an older picture")
    assert main(["compare", *map(str, uneven), "--plot", str(path)]) == 0
    assert capsys.readouterr().out.endswith(f"\nheat map: {path}\n")
    pixels = image.imread(path, format="png")
    height, width = pixels.shape[:2]
    assert width > height > 200
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 50  # a colour bar, not an empty page
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == [path.name]
    assert dict(matplotlib.rcParams) == settings


def test_svg_contains_text_and_is_reproducible(uneven: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from mi_kernels.compare import plots

    found = similarity(*uneven)
    for name in ("one.svg", "two.svg"):
        plots.heat_map(found, tmp_path / name)
    words = [e.text for e in ElementTree.parse(tmp_path / "one.svg").iter("{http://www.w3.org/2000/svg}text")]
    for word in (
        "all",
        "attn",
        "router",
        "embed",
        "model",
        "decoder layer",
        "0",
        "1",
        "2",
        "sigma of 1 $x_1$ and 2 $x_1$",
    ):
        assert word in words
    assert f"{found.overall.sigma:#.3g}" in words
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_models_without_layers_or_differences_can_be_drawn(uneven: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from mi_kernels.compare import plots

    flat = save(tmp_path / "flat", {EMBED: normal((9, 4), 1)})
    for number, folder in enumerate((flat, uneven[0])):
        plots.heat_map(similarity(folder, folder), tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").read_bytes().startswith(b"\x89PNG")


def test_a_failed_write_keeps_the_old_plot(
    uneven: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    from mi_kernels.compare import plots

    path = tmp_path / "sigma.png"
    path.write_bytes(b"an older picture")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plots.os, "replace", full)
    with pytest.raises(mi_kernels.OutputError, match="No space left"):
        plots.heat_map(similarity(*uneven), path)
    assert path.read_bytes() == b"an older picture"
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == [path.name]


LONG = "Qwen3-235B-A22B-Instruct-2507-with-a-very-long-suffix-that-is-read-to-its-end"
MODULES_OF = {
    "all": ("self_attn.q_proj", "mlp.experts.0.up_proj", "mlp.gate", "input_layernorm", "unheard_of"),
    "one": ("self_attn.q_proj",),
}


@pytest.mark.parametrize(
    ("name", "layers", "modules"),
    [
        *((name, layers, "all") for name in ("m", LONG, "W" * 90) for layers in (0, 1, 3, 60)),
        ("m", 94, "all"),
        ("m", 1000, "one"),
        *((name, 36, "one") for name in ("m", LONG)),
    ],
    ids=lambda value: str(value)[:12],
)
def test_texts_of_the_heat_map_are_inside_and_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, layers: int, modules: str
) -> None:
    """With long names, many layers and one, and missing cells."""
    pytest.importorskip("matplotlib")
    from mi_kernels.compare import plots

    folders = []
    for seed in (1, 2):
        tensors = {
            f"model.layers.{i}.{part}.weight": normal((4, 4), 1000 * seed + i)
            for i in range(layers)
            for part in MODULES_OF[modules]
            if (i % 7, part) != (2, "mlp.gate")
        }
        outside = {EMBED: normal((9, 4), seed), NORM: normal((4,), seed)} if modules == "all" else {}
        folders.append(save(tmp_path / f"{name}-{seed}", tensors | outside))
    figures = captured(monkeypatch)
    plots.heat_map(similarity(*folders, progress=False), tmp_path / "x.png")
    (figure,) = figures
    assert text_problems(figure) == []
    title = figure.get_suptitle()
    assert title.endswith("-2")
    assert "-1" in title  # names differ at their ends


def test_the_title_of_the_heat_map_names_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    from mi_kernels.compare import plots

    pair, other = make_pair(tmp_path, 1), make_pair(tmp_path, 2)
    figures = captured(monkeypatch)
    plots.heat_map(similarity(pair.name, other.folder, progress=False), tmp_path / "x.png")
    assert figures[0].get_suptitle() == "sigma of base1+adapter1 and base2"
