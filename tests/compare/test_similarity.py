"""Weight similarity compared with the formulas over exact sums; and inputs and options that must not change a bit."""

from __future__ import annotations

import json
import math
import os
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

import mi_kernels
from mi_kernels.backends import cpu
from mi_kernels.checkpoint.names import places
from mi_kernels.compare import similarity as compare
from mi_kernels.compare.similarity import Measure, Similarity, similarity
from mi_kernels.methods import statistics
from mi_kernels.output.synthetic import qwen3_shapes

Array = npt.NDArray[Any]
BF16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = {BF16: "BF16", **{np.dtype(t): name for t, name in ((np.float16, "F16"), (np.float32, "F32"))}}
DTYPES |= {np.dtype(t): name for t, name in ((np.int64, "I64"), (np.uint8, "U8"))}

EMBED, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


def write(folder: Path, tensors: Mapping[str, Array], **config: Any) -> Path:
    """Writes one safetensors file with the tensors in the given order, and therefore at any offset."""
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
    """Three layers of Qwen3. The embedding is longer than a piece, and not a multiple of its size."""
    shapes = qwen3_shapes(hidden=32, layers=3, ffn=48, heads=2, kv_heads=1, head_dim=16, vocab=35_001)
    assert math.prod(shapes[EMBED]) > statistics.PIECE
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
BOUND = 2 * (1 + 64 + 16 * (statistics.PIECE // 1024) + 8) * 2.0**-53


def assert_close(found: Measure, expected: Measure) -> None:
    """Checks sums within their rounding error, and counts and the maximum exactly.

    The cosine's error is absolute: that of sum a b is relative to sum |a b| <= sqrt(sum a^2 sum b^2), the denominator.
    """
    assert found.sigma == pytest.approx(expected.sigma, rel=BOUND, abs=0)
    assert found.cosine == pytest.approx(expected.cosine, rel=0, abs=BOUND)
    for name in ("tensors", "elements", "max_difference", "identical"):
        assert getattr(found, name) == getattr(expected, name), name


def assert_all_close(found: Similarity, a: Mapping[str, Array], b: Mapping[str, Array]) -> None:
    """Yields every measure of `found`: overall, and each module, layer, cell and tensor."""
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
    """Returns every number as a text: equal texts are equal bits."""
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


@pytest.fixture
def rounded_pair(tmp_path: Path) -> tuple[Path, Path]:
    """Models in float32, whose sums are rounded at every step, so their order matters. (Most bf16 sums are exact.)"""
    a, b = small_model(1, np.float32), dict(reversed(small_model(2, np.float32).items()))
    return write(tmp_path / "a", a), write(tmp_path / "b", b)


def read(folder: Path) -> dict[str, Array]:
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name).float().numpy() for name in file.offset_keys()}


# The measures.


def test_every_measure_equals_the_formula(pair: tuple[Path, Path]) -> None:
    found = similarity(*pair)
    assert_all_close(found, read(pair[0]), read(pair[1]))
    assert list(found.modules) == ["attn", "ffn", "norm", "embed"]
    assert list(found.layers) == [0, 1, 2, None]
    assert list(found.cells)[:3] == [(0, "attn"), (0, "ffn"), (0, "norm")]
    assert not found.left_out


def test_results_are_exact_if_all_sums_are(tmp_path: Path) -> None:
    """With multiples of 1/128 below 2, no sum of values or of products needs more than 53 bits."""
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
    """Covers all exponents, including subnormals and zeros of both signs."""
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
    name = NORM if a else "model.norm.empty"  # an empty weight would be refused as one of ZeRO-3
    folders = [write(tmp_path / n, {name: np.array(x, np.float32)}) for n, x in (("a", a), ("b", b))]
    measure = similarity(*folders).overall
    assert (measure.sigma, measure.cosine, measure.identical) == (sigma, cosine, identical)


# What must not change a bit.


@pytest.mark.parametrize("threads", [2, 3, 16])
def test_threads_change_no_bit(rounded_pair: tuple[Path, Path], threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "PIECE", 999)  # many more pieces than may be in flight
    assert figures(similarity(*rounded_pair, threads=threads)) == figures(similarity(*rounded_pair, threads=1))


def test_every_isa_gives_the_same_bits(
    rounded_pair: tuple[Path, Path], isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cpu.ISA_VARIABLE, "scalar")
    expected = similarity(*rounded_pair)
    monkeypatch.setenv(cpu.ISA_VARIABLE, isa)
    found = similarity(*rounded_pair)
    assert found.isa == isa
    assert figures(found) == figures(expected)


def test_swapping_the_models_changes_no_bit(rounded_pair: tuple[Path, Path]) -> None:
    """The order of the tensors in the file does not matter either. The result has the order of the first model."""
    one, two = similarity(*rounded_pair), similarity(*reversed(rounded_pair))
    assert list(one.tensors) == list(reversed(two.tensors))
    for name in ("overall", "modules", "layers", "cells", "tensors"):
        assert getattr(one, name) == getattr(two, name), name


def test_the_alignment_of_tensors_changes_no_bit(tmp_path: Path) -> None:
    """A byte before the tensors makes all elements of the second file unaligned."""
    a, b = normal((700, 3), 1, np.float32), normal((700, 3), 2, np.float32)
    byte = {"flag": np.array([7], np.uint8)}
    plain = similarity(write(tmp_path / "a", {NORM: a}), write(tmp_path / "b", {NORM: b}))
    shifted = similarity(write(tmp_path / "c", {NORM: a} | byte), write(tmp_path / "d", byte | {NORM: b}))
    assert shifted.overall == plain.overall
    assert shifted.left_out == {"flag": "U8 is not a floating-point dtype"}


# Tied heads, and tensors that are not compared.


def test_a_tied_head_is_counted_once(tmp_path: Path) -> None:
    """If both configs tie the head, it is the embedding, whether both, one or none of the files store it."""
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
        # A copy that only the second model stores is not a tensor of the output at all, which a note says.
        assert found.left_out == ({HEAD: f"tied in both models: counted once, as {EMBED}"} if one else {})
        assert len([note for note in found.notes if note.startswith(HEAD)]) == (one != two)
        assert (found.overall, found.modules, found.cells) == (plain.overall, plain.modules, plain.cells)


def test_a_head_is_compared_with_the_embedding_of_a_model_that_ties_it(tmp_path: Path) -> None:
    a = {EMBED: normal((50, 8), 1), HEAD: normal((50, 8), 2)}
    b = {EMBED: normal((50, 8), 3)}
    one = write(tmp_path / "a", a, tie_word_embeddings=False)
    two = write(tmp_path / "b", b, tie_word_embeddings=True)
    for found in (similarity(one, two), similarity(two, one)):
        assert_close(found.modules["head"], exact([(a[HEAD], b[EMBED])]))
        assert_close(found.modules["embed"], exact([(a[EMBED], b[EMBED])]))
        assert any("tied in" in note for note in found.notes)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_tensors_that_are_not_finite_are_left_out_and_listed(
    tmp_path: Path, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "PIECE", 64)
    a, b = normal((200, 2), 1), normal((200, 2), 2)
    bad = a.copy()
    bad[0, 0], bad[150, 0] = value, -value  # in two pieces, so that inf meets -inf in their sum
    good = similarity(write(tmp_path / "a", {NORM: a}), write(tmp_path / "b", {NORM: b}))
    for number, (x, y) in enumerate(((bad, b), (b, bad))):
        found = similarity(
            write(tmp_path / f"c{number}", {EMBED: x, NORM: a}), write(tmp_path / f"d{number}", {EMBED: y, NORM: b})
        )
        assert found.left_out == {EMBED: "contains NaN or inf"}
        assert (found.overall, list(found.tensors)) == (good.overall, [NORM])


def test_nothing_to_compare_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", {"steps": np.array([3], np.int64)})
    with pytest.raises(mi_kernels.MismatchError, match="no tensor that can be compared") as caught:
        similarity(folder, folder)
    assert "steps: I64 is not a floating-point dtype" in caught.value.remedy


# Running.


@pytest.mark.parametrize("threads", [1, 4])
def test_progress_counts_every_byte(pair: tuple[Path, Path], threads: int) -> None:
    calls: list[tuple[int, int]] = []
    found = similarity(*pair, threads=threads, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (found.bytes_read, found.bytes_read)
    assert found.bytes_read == 2 * 2 * found.overall.elements


def test_a_file_that_has_become_shorter_is_refused(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """After its header was read, and before it is mapped."""
    real = compare.align

    def shorten(models: Any) -> Any:
        aligned = real(models)
        os.truncate(models[1].shards[0], 4096)
        return aligned

    monkeypatch.setattr(compare, "align", shorten)
    with pytest.raises(mi_kernels.CheckpointError, match="has become shorter"):
        similarity(*pair)


def test_a_failure_ends_every_thread(pair: tuple[Path, Path]) -> None:
    def fail(done: int, total: int) -> None:
        raise RuntimeError("from progress")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="from progress"):
        similarity(*pair, progress=fail)
    assert threading.active_count() == before


def test_the_package_exports_the_function_not_a_module() -> None:
    """Importing a module sets its name in the package, so the module must not have the name of the function."""
    assert mi_kernels.similarity is compare.similarity
    assert mi_kernels.Similarity is compare.Similarity
