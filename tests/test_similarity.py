"""Weight similarity against the same formulas over exact sums, and what must not change a bit of it."""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

import mi_kernels
from mi_kernels import compare
from mi_kernels.backends import cpu
from mi_kernels.cli import main
from mi_kernels.compare import Measure, Similarity, similarity
from mi_kernels.names import places
from mi_kernels.synthetic import qwen3_shapes

Array = npt.NDArray[Any]
BF16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = {BF16: "BF16", **{np.dtype(t): name for t, name in ((np.float16, "F16"), (np.float32, "F32"))}}
DTYPES |= {np.dtype(t): name for t, name in ((np.int64, "I64"), (np.uint8, "U8"))}

EMBED, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


def write(folder: Path, tensors: Mapping[str, Array], **config: Any) -> Path:
    """One safetensors file with the tensors in the order given, at whatever offset that puts them."""
    folder.mkdir()
    header, offset = {}, 0
    for name, array in tensors.items():
        end = offset + array.nbytes
        header[name] = {"dtype": DTYPES[array.dtype], "shape": list(array.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text)) + text + b"".join(array.tobytes() for array in tensors.values())
    (folder / "model.safetensors").write_bytes(content)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def normal(shape: tuple[int, ...], seed: int, dtype: Any = BF16) -> Array:
    return (np.random.default_rng(seed).standard_normal(shape, np.float32) * np.float32(0.02)).astype(dtype)


def small_model(seed: int, dtype: Any = BF16) -> dict[str, Array]:
    """Three layers of Qwen3; the embedding is longer than a piece, and no multiple of one."""
    shapes = qwen3_shapes(hidden=32, layers=3, ffn=48, heads=2, kv_heads=1, head_dim=16, vocab=35_001)
    assert math.prod(shapes[EMBED]) > compare.PIECE
    return {name: normal(shape, seed + i, dtype) for i, (name, shape) in enumerate(shapes.items())}


def exact(pairs: Sequence[tuple[Array, Array]]) -> Measure:
    """The formulas over all elements of `pairs`, each sum rounded once."""
    a, b = (np.concatenate([np.ravel(pair[i]).astype(np.float64) for pair in pairs]) for i in (0, 1))
    difference = np.abs(a - b)
    squares = math.fsum(a * a) * math.fsum(b * b)
    scale = math.fsum(np.abs(a)) + math.fsum(np.abs(b))
    return Measure(
        tensors=len(pairs),
        elements=a.size,
        sigma=math.fsum(difference) / scale if scale else 0.0,
        cosine=math.fsum(a * b) / math.sqrt(squares) if squares else None,
        max_difference=float(difference.max(initial=0.0)),
        identical=float(np.mean(a == b)) if a.size else 1.0,
    )


# A term of a sum is rounded at most once (a difference; products are exact). It passes through at most 64 additions of
# its accumulator, and 16 for each of the 1024 blocks of a piece (csrc/cpu/stats.h), each within 2^-53 of the sum so
# far; then fsum of the tensor and of the group, and the formula's own operations, 8 in all. Numerator and denominator
# both err.
BOUND = 2 * (1 + 64 + 16 * (compare.PIECE // 1024) + 8) * 2.0**-53


def assert_close(found: Measure, expected: Measure) -> None:
    """Sums within their rounding error; counts and the maximum exactly.

    The cosine's error is absolute: that of sum a b is relative to sum |a b| <= sqrt(sum a^2 sum b^2), the denominator.
    """
    assert found.sigma == pytest.approx(expected.sigma, rel=BOUND, abs=0)
    assert found.cosine == pytest.approx(expected.cosine, rel=0, abs=BOUND)
    for name in ("tensors", "elements", "max_difference", "identical"):
        assert getattr(found, name) == getattr(expected, name), name


def assert_all_close(found: Similarity, a: Mapping[str, Array], b: Mapping[str, Array]) -> None:
    """Every figure of `found`: overall, each module, layer, cell and tensor."""
    at = places(a)
    assert list(found.tensors) == list(a)
    assert_close(found.overall, exact([(a[n], b[n]) for n in a]))
    for name, measure in found.tensors.items():
        assert_close(measure, exact([(a[name], b[name])]))

    def check(groups: Mapping[Any, Measure], key: Callable[[str], Any]) -> None:
        assert set(groups) == {key(name) for name in a}
        for group, measure in groups.items():
            assert_close(measure, exact([(a[n], b[n]) for n in a if key(n) == group]))

    check(found.modules, lambda name: at[name].module)
    check(found.layers, lambda name: at[name].layer)
    check(found.cells, lambda name: (at[name].layer, at[name].module))


def figures(found: Similarity) -> str:
    """Every figure, digit by digit: equal texts are equal bits."""
    told = found.as_dict()
    for key in ("instruct", "thinking", "seconds", "threads", "isa"):
        del told[key]
    return json.dumps(told, allow_nan=False)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    a = small_model(1)
    b = {
        n: (x.astype(np.float32) + normal(x.shape, 99 + i, np.float32) / 9).astype(BF16)
        for i, (n, x) in enumerate(a.items())
    }
    return write(tmp_path / "a", a), write(tmp_path / "b", b)


def read(folder: Path) -> dict[str, Array]:
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name).float().numpy() for name in file.offset_keys()}


# The figures.


def test_every_figure_equals_the_formula(pair: tuple[Path, Path]) -> None:
    found = similarity(*pair)
    assert_all_close(found, read(pair[0]), read(pair[1]))
    assert list(found.modules) == ["attn", "ffn", "norm", "embed"]
    assert list(found.layers) == [0, 1, 2, None]
    assert list(found.cells)[:3] == [(0, "attn"), (0, "ffn"), (0, "norm")]
    assert not found.left_out


def test_where_every_sum_is_exact_so_is_the_result(tmp_path: Path) -> None:
    """Multiples of 1/128 below 2: no sum of theirs, or of their products, needs more than 53 bits."""
    rng = np.random.default_rng(5)
    a, b = ({EMBED: (rng.integers(-255, 256, (1_200_000, 2)) / 128).astype(BF16)} for _ in range(2))
    assert similarity(write(tmp_path / "a", a), write(tmp_path / "b", b)).overall == exact([(a[EMBED], b[EMBED])])


@pytest.mark.parametrize(
    ("first", "second"), [(BF16, np.float32), (np.float32, np.float16), (np.float16, BF16), (np.float32, np.float32)]
)
def test_dtypes_may_differ(tmp_path: Path, first: Any, second: Any) -> None:
    a, b = small_model(1, first), small_model(2, second)
    assert_all_close(similarity(write(tmp_path / "a", a), write(tmp_path / "b", b)), a, b)


@pytest.mark.parametrize("dtype", [BF16, np.float16, np.float32])
def test_every_magnitude(tmp_path: Path, dtype: Any) -> None:
    """All exponents, subnormals and zeros of both signs among them."""
    dtype = np.dtype(dtype)
    rng = np.random.default_rng(7)
    a, b = (rng.integers(0, 1 << 8 * dtype.itemsize, 5_003, f"u{dtype.itemsize}").view(dtype) for _ in range(2))
    with np.errstate(invalid="ignore"):  # signalling NaN among them
        a, b = (np.where(np.isfinite(x), x, dtype.type(0)) for x in (a, b))
    a[:3], b[:3] = dtype.type(0), dtype.type(-0.0)
    found = similarity(write(tmp_path / "a", {NORM: a}), write(tmp_path / "b", {NORM: b}))
    assert_close(found.overall, exact([(a, b)]))


def test_equal_models_are_equal(pair: tuple[Path, Path]) -> None:
    found = similarity(pair[0], pair[0])
    for measure in (found.overall, *found.modules.values(), *found.cells.values(), *found.tensors.values()):
        assert (measure.sigma, measure.cosine, measure.max_difference, measure.identical) == (0, 1, 0, 1)


@pytest.mark.parametrize(
    ("a", "b", "sigma", "cosine", "identical"),
    [
        ([1, -2], [-1, 2], 1, -1, 0),
        ([1, 0], [0, 1], 1, 0, 0),
        ([0, 0], [0, -0.0], 0, None, 1),
        ([0, 0], [0, 3], 1, None, 0.5),
        ([3, 1], [1, 1], 1 / 3, 4 / math.sqrt(20), 0.5),
        ([], [], 0, None, 1),
    ],
    ids=["opposite", "disjoint", "both zero", "one zero", "by hand", "empty"],
)
def test_by_hand(
    tmp_path: Path, a: list[float], b: list[float], sigma: float, cosine: float | None, identical: float
) -> None:
    folders = [write(tmp_path / n, {NORM: np.array(x, np.float32)}) for n, x in (("a", a), ("b", b))]
    measure = similarity(*folders).overall
    assert (measure.sigma, measure.cosine, measure.identical) == (sigma, cosine, identical)


# What must not change a bit.


@pytest.mark.parametrize("threads", [2, 3, 16])
def test_threads_change_no_bit(pair: tuple[Path, Path], threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "PIECE", 999)  # many more pieces than may be under way
    assert figures(similarity(*pair, threads=threads)) == figures(similarity(*pair, threads=1))


def test_every_isa_gives_the_same_bits(pair: tuple[Path, Path], isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cpu.ISA_VARIABLE, "scalar")
    expected = similarity(*pair)
    monkeypatch.setenv(cpu.ISA_VARIABLE, isa)
    found = similarity(*pair)
    assert found.isa == isa
    assert figures(found) == figures(expected)


def test_swapping_the_models_changes_no_bit(pair: tuple[Path, Path]) -> None:
    assert figures(similarity(*pair)) == figures(similarity(*reversed(pair)))


def test_where_a_tensor_lies_changes_no_bit(tmp_path: Path) -> None:
    """A byte before it puts every element of the second file off its natural boundary."""
    a, b = normal((700, 3), 1, np.float32), normal((700, 3), 2, np.float32)
    byte = {"flag": np.array([7], np.uint8)}
    plain = similarity(write(tmp_path / "a", {NORM: a}), write(tmp_path / "b", {NORM: b}))
    shifted = similarity(write(tmp_path / "c", {NORM: a} | byte), write(tmp_path / "d", byte | {NORM: b}))
    assert shifted.overall == plain.overall
    assert shifted.left_out == {"flag": "U8, not floating"}


# Tied heads, and what is left out.


def test_a_tied_head_is_counted_once(tmp_path: Path) -> None:
    """Stored by both, by one or by none: where both configs tie it, it is the embedding."""
    a, b = ({EMBED: normal((50, 8), i), NORM: normal((8,), i + 2)} for i in (1, 2))
    models = {
        (name, stored): write(
            tmp_path / f"{name}{stored}", x | ({HEAD: x[EMBED]} if stored else {}), tie_word_embeddings=True
        )
        for name, x in (("a", a), ("b", b))
        for stored in (False, True)
    }
    plain = similarity(models["a", False], models["b", False])
    assert not plain.left_out
    for one, two in ((False, True), (True, False), (True, True)):
        found = similarity(models["a", one], models["b", two])
        assert found.left_out == {HEAD: f"tied in both models: counted once, as {EMBED}"}
        assert (found.overall, found.modules, found.cells) == (plain.overall, plain.modules, plain.cells)


def test_a_head_that_one_model_ties_meets_its_embedding(tmp_path: Path) -> None:
    a = {EMBED: normal((50, 8), 1), HEAD: normal((50, 8), 2)}
    b = {EMBED: normal((50, 8), 3)}
    one = write(tmp_path / "a", a, tie_word_embeddings=False)
    two = write(tmp_path / "b", b, tie_word_embeddings=True)
    for found in (similarity(one, two), similarity(two, one)):
        assert_close(found.modules["head"], exact([(a[HEAD], b[EMBED])]))
        assert_close(found.modules["embed"], exact([(a[EMBED], b[EMBED])]))
        assert any("ties it" in note for note in found.notes)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_tensors_that_are_not_finite_are_left_out_and_listed(
    tmp_path: Path, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "PIECE", 64)
    a, b = normal((200, 2), 1), normal((200, 2), 2)
    bad = a.copy()
    bad[0, 0], bad[150, 0] = value, -value  # in two pieces, so that inf meets -inf in their sum
    good = similarity(write(tmp_path / "a", {NORM: a}), write(tmp_path / "b", {NORM: b}))
    for number, (x, y) in enumerate(((bad, b), (b, bad))):
        found = similarity(
            write(tmp_path / f"c{number}", {EMBED: x, NORM: a}), write(tmp_path / f"d{number}", {EMBED: y, NORM: b})
        )
        assert found.left_out == {EMBED: "holds NaN or inf"}
        assert (found.overall, list(found.tensors)) == (good.overall, [NORM])


def test_nothing_to_compare_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", {"steps": np.array([3], np.int64)})
    with pytest.raises(mi_kernels.MismatchError, match="no tensor that can be compared") as caught:
        similarity(folder, folder)
    assert "steps: I64, not floating" in caught.value.remedy


# Running.


@pytest.mark.parametrize("threads", [1, 4])
def test_progress_counts_every_byte(pair: tuple[Path, Path], threads: int) -> None:
    calls: list[tuple[int, int]] = []
    found = similarity(*pair, threads=threads, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (found.bytes_read, found.bytes_read)
    assert found.bytes_read == 2 * 2 * found.overall.elements


def test_a_failure_ends_every_thread(pair: tuple[Path, Path]) -> None:
    def fail(done: int, total: int) -> None:
        raise RuntimeError("from progress")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="from progress"):
        similarity(*pair, progress=fail)
    assert threading.active_count() == before


def test_the_package_exports_the_function_not_a_module() -> None:
    """Importing a module of the package sets its name there: the module must have another name than the function."""
    assert mi_kernels.similarity is compare.similarity
    assert mi_kernels.Similarity is compare.Similarity


def test_matplotlib_and_torch_are_not_loaded(pair: tuple[Path, Path]) -> None:
    code = (
        "import sys; from mi_kernels.cli import main; main(sys.argv[1:]); "
        "sys.exit(any(m in sys.modules for m in ('matplotlib', 'torch')))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code, "compare", *map(str, pair)], stdout=subprocess.PIPE).returncode == 0
    )


# The command.


def test_the_text_says_what_was_found(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *map(str, pair)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found = similarity(*pair)
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line}
    assert rows["all"][1] == f"{found.overall.sigma:.5f}"
    assert rows["all"][-2:] == [str(found.overall.tensors), f"{found.overall.elements:,}"]
    assert rows["layer"][-3:] == ["attn", "ffn", "norm"]
    for layer in range(3):
        cells = [found.cells[layer, module].sigma for module in ("attn", "ffn", "norm")]
        assert rows[str(layer)][-3:] == [f"{sigma:.5f}" for sigma in cells]


def test_the_text_shows_one_only_where_it_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = np.ones((100_000, 2), np.float32)
    b = a.copy()
    b[0, 0] = 1.001
    one, two = write(tmp_path / "a", {EMBED: a}), write(tmp_path / "b", {EMBED: b})
    for folder, cosine, identical in ((two, "0.999999", "99.99%"), (one, "1.000000", "100.00%")):
        assert main(["compare", str(one), str(folder)]) == 0
        row = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("all"))
        assert (row[2], row[4]) == (cosine, identical)


def test_tables_of_large_models_fit_100_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """94 layers with every module a layer can have, and one layer without a router."""
    names = ("self_attn.q_proj", "mlp.experts.0.up_proj", "mlp.gate", "input_layernorm", "unheard_of")
    tensors = {f"model.layers.{i}.{name}.weight": normal((2, 2), i) for i in range(94) for name in names}
    del tensors["model.layers.7.mlp.gate.weight"]
    folder = write(tmp_path / "a", tensors | {EMBED: normal((9, 2), 1), HEAD: normal((9, 2), 2)})
    assert main(["compare", str(folder), str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    assert max(map(len, lines)) <= 100
    start = next(i for i, line in enumerate(lines) if line.startswith("layer"))
    assert [int(line.split()[0]) for line in lines[start + 1 :]] == list(range(94))
    assert [line.split()[-3] for line in lines[start + 7 : start + 10]] == ["0.00000", "-", "0.00000"]


def test_left_out_tensors_and_notes_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = {"steps": np.array([3], np.int64)}
    one = write(tmp_path / "a", {NORM: normal((8,), 1)} | steps)
    two = write(tmp_path / "b", {NORM: normal((8,), 2, np.float16)} | steps)
    assert main(["compare", str(one), str(two)]) == 0
    out = capsys.readouterr().out
    assert "left out: steps (I64, not floating)" in out
    assert f"note: 1 tensors have several dtypes ({NORM}: BF16 and F16)" in out


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
    """What the command says on stderr when it refuses: two lines, status 2, nothing on stdout."""
    assert main(["compare", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 2
    return err


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write(tmp_path / "a", {EMBED: normal((9, 2), 1), NORM: normal((2,), 1)})
    wide = write(tmp_path / "wide", {EMBED: normal((10, 2), 1), NORM: normal((2,), 1)})
    more = write(tmp_path / "more", {EMBED: normal((9, 2), 1), NORM: normal((2,), 1), HEAD: normal((9, 2), 1)})
    one = write(tmp_path / "one", {NORM: normal((2,), 1), "steps": np.array([1], np.int64)})
    two = write(tmp_path / "two", {NORM: normal((2,), 1), "steps": np.array([2], np.int64)})
    assert "no such folder" in refusal(capsys, str(a), str(tmp_path / "none"))
    assert f"{EMBED}: shape [9, 2]" in refusal(capsys, str(a), str(wide))
    assert HEAD in refusal(capsys, str(a), str(more))
    assert "steps: I64 tensors differ" in refusal(capsys, str(one), str(two))
    assert "threads is 0" in refusal(capsys, str(a), str(a), "--threads", "0")
    assert "'many' is not a whole number" in refusal(capsys, str(a), str(a), "--threads", "many")


# The picture.


def test_pictures_that_cannot_be_written_are_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither model exists: the refusal is the picture's."""
    assert "sigma.jpg: pictures are written as PNG or SVG" in refusal(capsys, "a", "b", "--plot", "sigma.jpg")
    pytest.importorskip("matplotlib")
    assert "cannot be written" in refusal(capsys, "a", "b", "--plot", str(tmp_path / "none" / "sigma.png"))
    (tmp_path / "folder.png").mkdir()
    assert "cannot be written" in refusal(capsys, "a", "b", "--plot", str(tmp_path / "folder.png"))


def test_without_matplotlib_the_refusal_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [m for m in sys.modules if m == "matplotlib" or m.startswith("matplotlib.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # what import finds for a package that is not there
    told = refusal(capsys, "a", "b", "--plot", str(tmp_path / "sigma.png"))
    assert "needs matplotlib" in told
    assert "pip install 'mi_kernels[plots]'" in told


@pytest.fixture
def uneven(tmp_path: Path) -> tuple[Path, Path]:
    """A model whose second layer alone has a router."""
    folders = []
    for seed in (1, 2):
        tensors = {f"model.layers.{i}.self_attn.q_proj.weight": normal((4, 4), seed + i) for i in range(3)}
        tensors |= {"model.layers.1.mlp.gate.weight": normal((4, 4), seed), EMBED: normal((9, 4), seed)}
        folders.append(write(tmp_path / f"{seed} $x_1$", tensors))
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


def test_svg_holds_its_words_and_has_the_same_bytes_each_time(uneven: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from mi_kernels import plots

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
    from mi_kernels import plots

    flat = write(tmp_path / "flat", {EMBED: normal((9, 4), 1)})
    for number, folder in enumerate((flat, uneven[0])):
        plots.heat_map(similarity(folder, folder), tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").read_bytes().startswith(b"\x89PNG")


def test_a_failed_write_leaves_the_older_picture(
    uneven: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    from mi_kernels import plots

    path = tmp_path / "sigma.png"
    path.write_bytes(b"an older picture")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plots.os, "replace", full)
    with pytest.raises(mi_kernels.OutputError, match="No space left"):
        plots.heat_map(similarity(*uneven), path)
    assert path.read_bytes() == b"an older picture"
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == [path.name]
