"""The real mergekit 0.1.5 against `merge_checkpoint`; runs where MERGEKIT_ENV names an environment that has it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from mi_kernels.recipe.settings import evaluate

from ...support.models import load
from ...support.setting_cases import CASES, DEPTHS, NAMES
from .compare import EXACT, RANDOM, VARIABLE, compare, make_models, mergekit, run_both

pytestmark = pytest.mark.skipif(mergekit() is None, reason=f"{VARIABLE} names no environment with mergekit")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_models(tmp_path_factory.mktemp("models"))


# Both sides compute in float32 and round to bf16 once, mergekit with a rounding after each product, sum and quotient,
# ours fused. A few such roundings are 2^-21 of the largest term at most: what is 2^-12 of it then differs by 2^-9 of
# itself, less than bf16's spacing of 2^-8 to 2^-7, so that it can fall on a neighbour but no further; what is smaller
# differs by its own spacing at most, 2^-19 of the largest.
#
# It does fall on a neighbour where the exact result lies that close to half-way: one element in some thousands, except
# where the normalised weights are simple fractions, so that many results lie exactly half-way; see the next test.
SHARES = {"linear, slices": 0.97, "linear, gradients and filters": 0.99}


@pytest.mark.parametrize("name", EXACT)
def test_the_same_file_gives_the_same_model(models: dict[str, Path], tmp_path: Path, name: str) -> None:
    found = compare(name, models, tmp_path / "work")
    assert found.equal >= SHARES.get(name, 0.999)
    assert found.ulps <= 1
    assert found.near_zero <= 2.0**-19
    # Ties at the threshold are few, so that setting them aside hides nothing.
    assert found.aside <= 0.02 * found.elements


def test_what_differs_under_simple_weights_lies_half_way(models: dict[str, Path], tmp_path: Path) -> None:
    """(a + 3 b) / 4 of bf16 numbers often lies exactly between two. Ours is the even one, as rounding asks; mergekit's
    (0.1 a + 0.3 b) / 0.4 falls as its own roundings have it."""
    theirs, ours = run_both("linear, slices", models, tmp_path / "work")
    a, b = load(models["a"]), load(models["b"])
    eighths = {"layers.0.": 4, "layers.1.": 6, "layers.2.": 3, "layers.3.": 2}  # of b; outside the layers as in layer 1
    differing = 0
    for name, x in theirs.items():
        weight = next((w for layer, w in eighths.items() if layer in name), 4 if "embed" in name else 6)
        exact = ((8 - weight) * a[name].double() + weight * b[name].double()) / 8
        differ = x != ours[name]
        dropped = exact.view(torch.int64) & ((1 << 45) - 1)  # the bits of float64 that bf16 has not
        assert (dropped[differ] == 1 << 44).all(), name
        assert (ours[name].view(torch.int16)[differ] & 1 == 0).all(), name
        differing += int(differ.sum())
    assert differing, "or this test shows nothing"


@pytest.mark.parametrize("name", RANDOM)
def test_random_methods_have_the_same_statistics(models: dict[str, Path], tmp_path: Path, name: str) -> None:
    """Random numbers are each side's own, and mergekit rescales by what it kept where we divide by the density."""
    theirs, ours = run_both(name, models, tmp_path / "work")
    base = load(models["base"])
    for tensor in ("model.embed_tokens.weight", "lm_head.weight"):
        changes = [(x[tensor].float() - base[tensor].float()).flatten() for x in (theirs, ours)]
        n = changes[0].numel()
        # Six standard deviations of the difference of two means, and of two shares; standard deviations within 5 %.
        spread = max(float(c.std()) for c in changes)
        assert abs(float(changes[0].mean() - changes[1].mean())) <= 6 * spread * (2 / n) ** 0.5
        unchanged = [float((c == 0).float().mean()) for c in changes]
        assert abs(unchanged[0] - unchanged[1]) <= 6 * (0.25 * 2 / n) ** 0.5
        assert float(changes[0].std() / changes[1].std()) == pytest.approx(1, abs=0.05)
        assert not torch.equal(theirs[tensor], ours[tensor])


def test_settings_evaluate_as_they_do_there() -> None:
    """mergekit's own function on every case that its values were transcribed for."""
    program = mergekit()
    assert program is not None
    script = """
import json, sys
from pydantic import TypeAdapter
from mergekit.config import ParameterSetting, evaluate_setting
setting, number, truth = TypeAdapter(ParameterSetting), TypeAdapter(float), TypeAdapter(bool)
print(json.dumps([
    evaluate_setting(name, setting.validate_python(value), t, validate=(truth if kind else number).validate_python)
    for value, kind, name, t in json.load(sys.stdin)
]))
"""
    questions: list[Any] = [[value, kind, name, t] for value, kind in CASES for name in NAMES for t in DEPTHS]
    python = program.with_name("python")
    done = subprocess.run([str(python), "-c", script], input=json.dumps(questions), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for (value, kind, name, t), theirs in zip(questions, json.loads(done.stdout)):
        assert evaluate(value, name, t, kind) == theirs, (value, name, t)
