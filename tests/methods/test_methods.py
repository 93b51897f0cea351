"""Every method's output equals the reference bit for bit, whatever the layout, the buffers and the threads."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mi_kernels import ArgumentError, MismatchError, lerp_checkpoint, merge_checkpoint
from mi_kernels.backends.reference import methods as reference
from mi_kernels.methods import statistics
from mi_kernels.methods.registry import METHODS
from mi_kernels.methods.thinning import stream_key

from ..support.checks import snapshot
from ..support.methods import BY_MODEL, Case, drawn_cases
from ..support.methods import merged as merged_by_reference
from ..support.methods import recipe as recipe_of
from ..support.models import FLOATS, Tensors, assert_same_tensors, bits, load, merge_reference, random_bits, save, tiny

PAGE = 4096
NAN = {dtype: torch.tensor(float("nan"), dtype=dtype) for dtype in FLOATS}

Formula = Callable[[str, list[np.ndarray]], np.ndarray]


def moderate(shape: Sequence[int], dtype: torch.dtype, seed: int) -> torch.Tensor:
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)).to(dtype)


def model(seed: int, dtype: torch.dtype = torch.bfloat16) -> Tensors:
    """A tiny Qwen3; scalars, empty tensors, one of several chunks, and integers that are the same in every model."""
    tensors = {name: moderate(t.shape, dtype, seed * 100 + i) for i, (name, t) in enumerate(tiny(0).items())}
    tensors["model.layers.0.mlp.long"] = moderate((5001,), torch.float16, seed)
    tensors["model.layers.1.mlp.single"] = moderate((77, 31), torch.float32, seed)
    tensors["model.layers.1.mlp.scalar"] = moderate((), dtype, seed)
    tensors["model.layers.1.mlp.empty"] = torch.empty(0, 8, dtype=dtype)
    tensors["model.rotary.position_ids"] = torch.arange(701)
    return tensors


def expected(models: Sequence[Tensors], formula: Formula, dtype: torch.dtype | None = None) -> Tensors:
    """`formula` of the tensors in float32, rounded once to the first model's dtype; NaN is the canonical one."""
    found: Tensors = {}
    for name, first in models[0].items():
        if first.dtype not in FLOATS:
            found[name] = first
            continue
        result = formula(name, [m[name].float().numpy().reshape(-1) for m in models])
        rounded = torch.from_numpy(np.array(result, np.float32)).to(dtype or first.dtype).reshape(first.shape)
        found[name] = torch.where(rounded.isnan(), NAN[rounded.dtype], rounded)
    return found


# (the method, whether with a base, how many models, parameters): the cases with names of their own, and drawn ones.
CASES: dict[str, Case] = {
    "average": ("average", False, 3, {}),
    "average_of_2": ("average", False, 2, {}),
    "linear": ("linear", False, 4, {"weight": 0.4}),
    "linear_sum": ("linear", False, 2, {"weight": 0.4, "normalize": False}),
    "task_arithmetic": ("task_arithmetic", True, 2, {"scale": 0.7}),
    "task_arithmetic_normalized": ("task_arithmetic", True, 2, {"scale": 0.7, "normalize": True, "weight": 3}),
    "task_arithmetic_of_1": ("task_arithmetic", True, 1, {"scale": -1}),
    "ties": ("ties", True, 2, {"density": 0.2, "scale": 0.5}),
    "ties_of_4": ("ties", True, 4, {"density": 0.4, "weight": 0.3}),
    "ties_sum": ("ties", True, 3, {"density": 0.5, "normalize": False}),
    "ties_density_1": ("ties", True, 2, {"density": 1}),
    "ties_density_tiny": ("ties", True, 2, {"density": 1e-9}),
    "dare_ties": ("dare_ties", True, 2, {"density": 0.3, "seed": 7}),
    "dare_ties_density_1": ("dare_ties", True, 2, {}),
    "slerp": ("slerp", False, 2, {"lam": 0.3}),
    "model_stock": ("model_stock", True, 2, {}),
    "model_stock_of_3": ("model_stock", True, 3, {}),
}
DRAWN = drawn_cases()
ONE_OF_EACH = {name: case for name, case in DRAWN.items() if name.endswith("drawn 1")}


def formula_of(case: Case) -> Formula:
    method, with_base, _, parameters = case
    return lambda name, x: merged_by_reference(method, name, x, with_base, parameters)


class Models:
    """Five models on disk, each in shards of its own."""

    def __init__(self, root: Path, tensors: Sequence[Tensors]) -> None:
        self.tensors = tensors
        self.paths = [str(save(root / f"m{i}", t, 1 + i % 3)) for i, t in enumerate(tensors)]

    def recipe(self, case: Case) -> tuple[dict[str, Any], list[Tensors]]:
        """The recipe of a case with its models named, and their tensors, the base first."""
        _, with_base, count, _ = case
        spread = {key: [v] * count if key in BY_MODEL and not isinstance(v, list) else v for key, v in case[3].items()}
        return recipe_of((*case[:3], spread), self.paths), list(self.tensors[: with_base + count])

    def content(self, content: dict[str, Any], base: bool, count: int) -> dict[str, Any]:
        """Any content with models named, for refusals."""
        named: dict[str, Any] = {**content, "models": self.paths[base : base + count]}
        return {**named, "base": self.paths[0]} if base else named


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("five"), [model(seed) for seed in range(5)])


def merged(recipe: Any, out: Path, **options: Any) -> Tensors:
    merge_checkpoint(recipe, out, progress=False, **{"threads": 2, **options})
    return load(out)


@pytest.mark.parametrize("case", CASES | DRAWN)
def test_every_method_equals_the_reference(five: Models, tmp_path: Path, case: str) -> None:
    given = (CASES | DRAWN)[case]
    recipe, tensors = five.recipe(given)
    assert_same_tensors(merged(recipe, tmp_path / "out"), expected(tensors, formula_of(given)))


@pytest.mark.parametrize("case", ONE_OF_EACH)
@pytest.mark.parametrize(
    ("max_memory", "threads", "max_shard_size", "io"),
    [(PAGE, 1, None, "direct"), (3 * PAGE, 3, 6000, "buffered"), (1 << 20, 2, 20_000, "auto"), (None, 5, None, "auto")],
)
def test_any_buffers_threads_and_shards(
    five: Models, tmp_path: Path, case: str, max_memory: int | None, threads: int, max_shard_size: int | None, io: str
) -> None:
    given = (CASES | DRAWN)[case]
    formula = formula_of(given)
    recipe, tensors = five.recipe(given)
    options = {"max_memory": max_memory, "threads": threads, "max_shard_size": max_shard_size, "io": io}
    assert_same_tensors(merged(recipe, tmp_path / "out", **options), expected(tensors, formula))


@pytest.mark.parametrize("case", [name for name in ONE_OF_EACH if METHODS[DRAWN[name][0]].reads != "nothing"])
def test_pieces_of_statistics_do_not_matter(
    five: Models, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = (CASES | DRAWN)[case]
    formula = formula_of(given)
    recipe, tensors = five.recipe(given)
    monkeypatch.setattr(statistics, "PIECE", 1024)
    assert_same_tensors(merged(recipe, tmp_path / "out"), expected(tensors, formula))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("case", ONE_OF_EACH)
def test_mixed_dtypes_take_the_first_models_or_the_one_asked_for(tmp_path: Path, case: str, dtype: torch.dtype) -> None:
    given = (CASES | DRAWN)[case]
    formula = formula_of(given)
    mixed = Models(tmp_path, [model(seed, FLOATS[seed % 3]) for seed in range(4)])
    recipe, tensors = mixed.recipe(given)
    assert_same_tensors(merged(recipe, tmp_path / "kept"), expected(tensors, formula))
    name = str(dtype).removeprefix("torch.")
    assert_same_tensors(merged(recipe, tmp_path / "given", dtype=name), expected(tensors, formula, dtype))
    assert_same_tensors(merged({**recipe, "dtype": name}, tmp_path / "in_recipe"), expected(tensors, formula, dtype))


@pytest.mark.parametrize("case", ["average", "task_arithmetic", "ties"])
def test_random_bits(tmp_path: Path, case: str) -> None:
    """NaN, infinities and subnormals in every model."""
    given = (CASES | DRAWN)[case]
    formula = formula_of(given)
    models = Models(tmp_path, [tiny(seed) for seed in range(4)])
    recipe, tensors = models.recipe(given)
    assert_same_tensors(merged(recipe, tmp_path / "out"), expected(tensors, formula))


@pytest.mark.parametrize("weights", [(1, 0), (0, 1), (0.2, 0.8), (3, 1), (0, 5), (2, -0.5)])
def test_two_models_are_interpolated_by_lerp(tmp_path: Path, weights: tuple[float, float]) -> None:
    """The very bytes, copies of NaN and -0 where a weight is 0 included."""
    models = Models(tmp_path, [tiny(1), tiny(2)])
    entries = [{"model": p, "weight": w} for p, w in zip(models.paths, weights)]
    got = merged({"method": "linear", "models": entries}, tmp_path / "out")
    lam = weights[1] / sum(weights)
    assert_same_tensors(got, merge_reference(*models.tensors, float(np.float32(lam))))
    lerp_checkpoint(*models.paths, tmp_path / "lerp", lam, progress=False, extrapolate=True)
    assert_same_tensors(got, load(tmp_path / "lerp"))


def test_the_method_lerp_is_lerp(five: Models, tmp_path: Path) -> None:
    recipe = {"method": "lerp", "models": five.paths[:2], "lam": [0, 1], "layers": "0:", "modules": "ffn"}
    got = merged(recipe, tmp_path / "out")
    wanted = {"model.layers.0.mlp": 0.0, "model.layers.1.mlp": 1.0}
    for name, tensor in got.items():
        lam = next((v for prefix, v in wanted.items() if name.startswith(prefix)), 0.0)
        assert bits(tensor) == bits(five.tensors[int(lam)][name]), name


def test_parameters_by_model_depth_and_name(five: Models, tmp_path: Path) -> None:
    recipe = {
        "method": "task_arithmetic",
        "base": five.paths[0],
        "models": [{"model": five.paths[1], "weight": [0.25, 0.75]}, five.paths[2]],
        "weight": [{"filter": "self_attn", "value": 0.5}, {"value": -1}],
        "scale": [{"filter": "mlp", "value": 2}],
    }

    def formula(name: str, x: list[np.ndarray]) -> np.ndarray:
        weights = [0, 0.75 if ".layers.1." in name else 0.25, 0.5 if "self_attn" in name else -1]
        return reference.task(x, weights, 2 if "mlp" in name else 1)

    assert_same_tensors(merged(recipe, tmp_path / "out"), expected(five.tensors[:3], formula))


@pytest.mark.parametrize("case", ONE_OF_EACH)
def test_masks_keep_the_first_models_bytes_and_not_the_bases(tmp_path: Path, case: str) -> None:
    given = (CASES | DRAWN)[case]
    formula = formula_of(given)
    models = Models(tmp_path, [model(seed) for seed in range(4)])
    for k in range(4):  # NaN payloads and -0 where nothing is computed
        models.tensors[k]["model.norm.weight"] = random_bits((16,), torch.bfloat16, k)
    models = Models(tmp_path / "again", models.tensors)
    recipe, tensors = models.recipe(given)
    got = merged({**recipe, "layers": "1:", "modules": "ffn,norm"}, tmp_path / "out")
    want, first = expected(tensors, formula), tensors[given[1]]
    inside = {n for n in want if n.startswith("model.layers.1.") and ("mlp" in n or "layernorm" in n)}
    assert len(inside) == 8
    assert_same_tensors(got, {n: want[n] if n in inside else first[n] for n in want})


def test_the_folder_is_laid_out_as_the_bases(tmp_path: Path) -> None:
    tensors = [model(seed) for seed in range(3)]
    paths = [
        save(tmp_path / n, t, s, files={"vocab.txt": n}) for n, t, s in zip(("base", "a", "b"), tensors, (3, 1, 2))
    ]
    recipe = {"method": "task_arithmetic", "base": str(paths[0]), "models": [str(p) for p in paths[1:]]}
    for copy_from, origin in (("base", "base"), ("instruct", "a"), ("thinking", "b"), (None, "b")):
        out = tmp_path / f"out-{copy_from}"
        report = merge_checkpoint({**recipe, **({"copy_from": copy_from} if copy_from else {})}, out, progress=False)
        assert (out / "vocab.txt").read_text() == origin
        files = [{p.name for p in folder.glob("*.safetensors*")} for folder in (out, paths[0])]
        assert files[0] == files[1]
        assert report.shards == 3
        assert report.tensors_copied == 1  # the integers
    record = json.loads((tmp_path / "out-None" / "mi_kernels.json").read_text())
    assert (record["method"], record["base"]["source"]) == ("task_arithmetic", str(paths[0]))
    assert [m["source"] for m in record["models"]] == [str(p) for p in paths[1:]]


def test_dare_depends_on_seed_name_and_model(five: Models, tmp_path: Path) -> None:
    recipe = five.content({"method": "dare_ties", "density": 0.5}, True, 2)
    outs = [merged({**recipe, "seed": seed}, tmp_path / f"{i}") for i, seed in enumerate((1, 1, 2, 2**60, 2**60 + 1))]
    assert_same_tensors(outs[0], outs[1])
    name = "model.embed_tokens.weight"
    assert len({bits(out[name]) for out in outs}) == 4
    keys = [stream_key(s, n, k) for s in (0, 1) for n in ("x", "y") for k in (1, 2)]
    assert len(set(keys)) == 8
    assert all(0 <= key < 1 << 64 for key in keys)


def test_slerp_of_parallel_and_opposite_models_is_lerp(tmp_path: Path) -> None:
    a = model(1)
    for sign in (1, -1):
        b = {n: t * sign * 2 if t.dtype in FLOATS else t for n, t in a.items()}
        models = Models(tmp_path / str(sign), [a, b])
        got = merged({"method": "slerp", "lam": 0.25, "models": models.paths}, tmp_path / f"out{sign}")
        want = merge_reference(a, b, 0.25)
        assert_same_tensors(got, want)


def test_slerp_turns_from_one_to_the_other(tmp_path: Path) -> None:
    """Unit vectors at a right angle: half-way is 45 degrees."""
    a, b = torch.zeros(64), torch.zeros(64)
    a[0], b[1] = 1.0, 1.0
    models = Models(tmp_path, [{"w": a}, {"w": b}])
    got = merged({"method": "slerp", "lam": 0.5, "models": models.paths}, tmp_path / "out")["w"]
    assert got[:2].tolist() == pytest.approx([0.5**0.5] * 2, abs=2.0**-24)  # one rounding to float32
    assert not got[2:].any()


@pytest.mark.parametrize(("sign", "kept"), [(1, 1.0), (-1, 0.0)])
def test_model_stock_of_equal_and_of_opposite_models(tmp_path: Path, sign: int, kept: float) -> None:
    """Equal task vectors are kept whole; opposite ones say nothing, and the base comes back."""
    a = moderate((500,), torch.float32, 1)
    models = Models(tmp_path, [{"w": torch.zeros(500)}, {"w": a}, {"w": sign * a}])
    got = merged({"method": "model_stock", "base": models.paths[0], "models": models.paths[1:]}, tmp_path / "out")
    # The mean of equal vectors is exact; their cosine is 1 to a few roundings of float64, nothing in float32.
    assert torch.equal(got["w"], kept * a)


REFUSALS: dict[str, tuple[dict[str, Any], bool, int, tuple[str, ...]]] = {
    "density_of_average": ({"method": "average", "density": 0.2}, False, 2, ("average does not use density",)),
    "weight_of_average": ({"method": "average", "weight": 1}, False, 2, ("average does not use weight",)),
    "scale_of_linear": ({"method": "linear", "scale": 1}, False, 2, ("linear does not use scale",)),
    "seed_of_linear": ({"method": "linear", "seed": 1}, False, 2, ("linear does not use seed",)),
    "lam_of_linear": ({"method": "linear", "lam": 1}, False, 2, ("linear does not use lam",)),
    "density_of_task_arithmetic": (
        {"method": "task_arithmetic", "density": 1}, True, 2, ("task_arithmetic does not use density",),
    ),
    "seed_of_ties": ({"method": "ties", "seed": 1}, True, 2, ("ties does not use seed",)),
    "lam_of_dare_ties": ({"method": "dare_ties", "lam": 1}, True, 2, ("dare_ties does not use lam",)),
    "weight_of_slerp": ({"method": "slerp", "lam": 0.1, "weight": 1}, False, 2, ("slerp does not use weight",)),
    "scale_of_model_stock": ({"method": "model_stock", "scale": 1}, True, 2, ("model_stock does not use scale",)),
    "normalize_of_slerp": ({"method": "slerp", "lam": 1, "normalize": True}, False, 2, ("does not use normalize",)),
    "rules_of_ties": ({"method": "ties", "rules": []}, True, 2, ("ties does not use rules",)),
    "extrapolate_of_ties": ({"method": "ties", "extrapolate": True}, True, 2, ("ties does not use extrapolate",)),
    "average_of_one": ({"method": "average"}, False, 1, ("average takes 2 to 16 models", "1 are given")),
    "slerp_of_three": ({"method": "slerp", "lam": 0.5}, False, 3, ("slerp takes 2 models", "3 are given")),
    "model_stock_of_one": ({"method": "model_stock"}, True, 1, ("model_stock takes 2 to 15 models",)),
    "lerp_of_three": ({"method": "lerp", "lam": 0.5}, False, 3, ("lerp takes two models",)),
    "ties_without_base": ({"method": "ties"}, False, 2, ("ties needs a base model", "Add `base`")),
    "average_with_base": ({"method": "average"}, True, 2, ("average does not use a base",)),
    "slerp_without_lam": ({"method": "slerp"}, False, 2, ("slerp needs lam",)),
    "slerp_lam_outside": ({"method": "slerp", "lam": 1.5}, False, 2, ("lam is 1.5", "slerp", "from 0 to 1")),
    "lerp_without_lam": ({"method": "lerp"}, False, 2, ("lam is missing",)),
    "weights_that_sum_to_0": ({"method": "linear", "weight": 0}, False, 2, ("the weights sum to 0", "normalize")),
    "density_0_of_dare": ({"method": "dare_ties", "density": 0}, True, 2, ("density is 0", "dare_ties", "more than 0")),
    "density_above_1_of_dare": ({"method": "dare_ties", "density": 1.1}, True, 2, ("density is 1.1", "at most 1")),
    "density_in_percent": (
        {"method": "ties", "density": 20}, True, 2, ("density is 20, which ties cannot use", "at most 1. 20 % is 0.2."),
    ),
    "density_above_1_of_ties": ({"method": "ties", "density": 1.5}, True, 2, ("density is 1.5", "more than 0")),
    "density_0_of_ties": ({"method": "ties", "density": 0}, True, 2, ("density is 0", "more than 0")),
    "negative_density": ({"method": "ties", "density": -1}, True, 2, ("density is -1", "more than 0")),
    "seed_of_hundreds_of_digits": (
        {"method": "dare_ties", "seed": 10**400}, True, 2, ("seed is 1000", "from -9223372036854775808 to 18446744"),
    ),
    "weight_that_is_true": ({"method": "ties", "weight": True}, True, 2, ("weight is True, which is not a number",)),
    "mask_that_selects_nothing": (
        {"method": "average", "modules": "router"}, False, 2, ("no router",),
    ),
    "layer_beyond": ({"method": "ties", "layers": "0:9"}, True, 2, ("9", "2 layers")),
    "dtype": ({"method": "average", "dtype": "int8"}, False, 2, ("dtype 'int8'", "bfloat16")),
    "dtype_that_is_no_text": ({"method": "average", "dtype": [16]}, False, 2, ("dtype [16] is not text",)),
    "copy_from": ({"method": "average", "copy_from": "both"}, False, 2, ("copy_from 'both'",)),
    "copy_from_absent_base": ({"method": "average", "copy_from": "base"}, False, 2, ("no base", "thinking")),
    "copy_from_base_of_lerp": ({"method": "lerp", "lam": 1, "copy_from": "base"}, False, 2, ("no base",)),
    "weight_without_value": (
        {"method": "linear", "weight": [{"filter": "mlp", "value": "x"}]}, False, 2, ("'x', which is not a number",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_come_before_any_work(five: Models, tmp_path: Path, case: str) -> None:
    content, base, count, words = REFUSALS[case]
    recipe = five.content(content, base, count)
    before = snapshot(Path(five.paths[0]).parent)
    with pytest.raises(ArgumentError) as error:
        merge_checkpoint(recipe, tmp_path / "out", progress=False)
    assert len(str(error.value).splitlines()) == 2
    for word in words:
        assert word in str(error.value)
    assert not list(tmp_path.iterdir())
    assert snapshot(Path(five.paths[0]).parent) == before


@pytest.mark.parametrize("case", [name for name in ONE_OF_EACH if METHODS[DRAWN[name][0]].reads == "angles"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_has_no_angle(tmp_path: Path, case: str, value: float) -> None:
    tensors = [model(seed) for seed in range(4)]
    tensors[1]["model.norm.weight"][3] = value
    recipe, _ = Models(tmp_path, tensors).recipe(DRAWN[case])
    with pytest.raises(ArgumentError, match=r"model\.norm\.weight: holds NaN or infinity"):
        merge_checkpoint(recipe, tmp_path / "out", progress=False)
    merged({**recipe, "modules": "attn"}, tmp_path / "masked")


def test_two_vectors_at_60_degrees_by_hand(tmp_path: Path) -> None:
    """Half-way between them is 30 degrees; a third of the way is 20."""
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.75**0.5])
    models = Models(tmp_path, [{"w": torch.zeros(2)}, {"w": a}, {"w": b}])
    # sin 30 / sin 60 = 1 / sqrt 3 of each; sin 40 / sin 60 and sin 20 / sin 60, to 7 digits from a table of sines.
    for lam, weights in ((0.5, (0.5773503, 0.5773503)), (1 / 3, (0.7422272, 0.3949309))):
        got = merged({"method": "slerp", "lam": lam, "models": models.paths[1:]}, tmp_path / f"slerp{lam}")["w"]
        want = [weights[0] + weights[1] * 0.5, weights[1] * 0.8660254]
        assert got.tolist() == pytest.approx(want, abs=2e-7)  # one rounding to float32, and the table's
    # The paper's equation 2 with N = 2 and cos 60 = 1/2: t = 2 (1/2) / (1 + 1/2) = 2/3 of the mean (3/4, sqrt 3 / 4).
    got = merged({"method": "model_stock", "base": models.paths[0], "models": models.paths[1:]}, tmp_path / "stock")
    assert got["w"].tolist() == pytest.approx([0.5, 0.2886751], abs=1e-7)


def test_model_stock_of_three_at_60_degrees_by_hand(tmp_path: Path) -> None:
    """(1, 1, 0), (1, 0, 1) and (0, 1, 1): t = 3 (1/2) / (1 + 2 (1/2)) = 3/4 of the mean 2/3 is 1/2."""
    vectors = [torch.tensor(v) for v in ([1.0, 1, 0], [1.0, 0, 1], [0, 1.0, 1])]
    models = Models(tmp_path, [{"w": torch.ones(3)}, *({"w": 1 + v} for v in vectors)])
    got = merged({"method": "model_stock", "base": models.paths[0], "models": models.paths[1:]}, tmp_path / "out")
    assert got["w"].tolist() == pytest.approx([1.5] * 3, abs=2.0**-23)  # an angle in float64, then float32


def test_models_that_do_not_match(tmp_path: Path) -> None:
    tensors = [tiny(seed) for seed in range(3)]
    tensors[2]["model.norm.weight"] = torch.zeros(17, dtype=torch.bfloat16)
    models = Models(tmp_path, tensors)
    recipe = models.content({"method": "ties"}, True, 2)
    with pytest.raises(MismatchError, match=r"model\.norm\.weight"):
        merge_checkpoint(recipe, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()
