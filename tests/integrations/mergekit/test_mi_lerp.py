"""mi_lerp, and linear by our kernels, inside the real mergekit 0.1.5: the bits of our own merges."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import torch

import mi_kernels
from mi_kernels import lerp_checkpoint, merge_checkpoint
from mi_kernels.checkpoint.names import places
from mi_kernels.recipe.settings import evaluate

from ...support.models import Tensors, assert_same_tensors, lerp_reference, load
from .compare import CONFIGS, LAYERS, VARIABLE, make_models, mergekit

pytestmark = pytest.mark.skipif(mergekit() is None, reason=f"{VARIABLE} names no environment with mergekit")


HEAD = "merge_method: mi_lerp\nmodels: [{model: @a}, {model: @b}]\n"
FILTERS = "parameters: {lam: [{filter: mlp, value: [0.1, 0.9]}, {value: 0.6}]}\n"
OURS = {
    "bfloat16": HEAD + "dtype: bfloat16\nparameters: {lam: 0.3}\n",
    "float32": HEAD + "dtype: float32\nout_dtype: bfloat16\nparameters: {lam: 0.3}\n",
    "base": HEAD + "base_model: @a\ndtype: bfloat16\nparameters: {lam: 0.3}\n",
    "second as base": HEAD + "base_model: @b\ndtype: bfloat16\nparameters: {lam: 0}\n",
    "filters": HEAD + "dtype: bfloat16\n" + FILTERS,
}
LINEAR = [name for name in CONFIGS if name.startswith("linear")]
REFUSED = {
    "out of range": (HEAD + "parameters: {lam: 1.5}\n", "Give a lam from 0 to 1"),
    "no lam": (HEAD, "lam"),
    "three models": (HEAD.replace("[{", "[{model: @base}, {") + "parameters: {lam: 1}\n", "exactly 2"),
}

# One process for all of them: to import mergekit takes longer than to merge.
SCRIPT = """
import json, sys, traceback
from mi_kernels.integrations import mergekit as ours
from mergekit.scripts.run_yaml import main

answers = {}
for name, config, out, served in json.load(open(sys.argv[1])):
    if served:
        ours.serve_linear()
    try:
        main(args=[config, out, "--quiet"], standalone_mode=False)
        answers[name] = ""
    except Exception:
        answers[name] = traceback.format_exc()
json.dump(answers, open(sys.argv[1], "w"))
"""


def run(*words: object) -> subprocess.CompletedProcess[str]:
    """mergekit's own Python, with this package on its path."""
    program = mergekit()
    assert program is not None
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(mi_kernels.__file__).parents[1])}
    command = [str(program.with_name("python")), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def filled(config: str, models: dict[str, Path]) -> str:
    for name, path in models.items():
        config = re.sub(rf"@{name}\b", str(path), config)
    return config


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def merges(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder of all merges, each with its config.yml, and what each refusal said."""
    root = tmp_path_factory.mktemp("merges")
    texts = {name: filled(config, models) for name, config in OURS.items()}
    texts |= {name: filled(config, models) for name, (config, _) in REFUSED.items()}
    texts |= {name: CONFIGS[name].format(**models) for name in LINEAR}  # last: their kernels stay
    for name, text in texts.items():
        (root / name).mkdir()
        (root / name / "config.yml").write_text(text)
    jobs = [(n, str(root / n / "config.yml"), str(root / n / "merged"), n in LINEAR) for n in texts]
    (root / "jobs.json").write_text(json.dumps(jobs))
    done = run("-c", SCRIPT, root / "jobs.json")
    assert done.returncode == 0, done.stderr
    return root, json.loads((root / "jobs.json").read_text())


def merged(merges: tuple[Path, dict[str, str]], name: str) -> Tensors:
    root, answers = merges
    assert answers[name] == ""
    return load(root / name / "merged")


@pytest.mark.parametrize("name", ["bfloat16", "float32", "base"])
def test_mi_lerp_is_lerp_checkpoint(
    models: dict[str, Path], merges: tuple[Path, dict[str, str]], tmp_path: Path, name: str
) -> None:
    lerp_checkpoint(models["a"], models["b"], tmp_path / "ours", 0.3, progress=False, threads=1)
    assert_same_tensors(merged(merges, name), load(tmp_path / "ours"))


def test_the_base_is_lam_0_wherever_it_stands(models: dict[str, Path], merges: tuple[Path, dict[str, str]]) -> None:
    assert_same_tensors(merged(merges, "second as base"), load(models["b"]))


def test_gradients_and_filters_are_mergekits(models: dict[str, Path], merges: tuple[Path, dict[str, str]]) -> None:
    setting = [{"filter": "mlp", "value": [0.1, 0.9]}, {"value": 0.6}]
    a, b = load(models["a"]), load(models["b"])
    expected: dict[str, torch.Tensor] = {}
    for name, place in places(list(a)).items():
        lam = evaluate(setting, name, (place.layer or 0) / (LAYERS - 1))
        assert lam is not None
        expected[name] = lerp_reference(a[name], b[name], lam)
    assert_same_tensors(merged(merges, "filters"), expected)


@pytest.mark.parametrize("name", LINEAR)
def test_linear_served_is_merge_checkpoint(merges: tuple[Path, dict[str, str]], tmp_path: Path, name: str) -> None:
    merge_checkpoint(merges[0] / name / "config.yml", tmp_path / "ours", progress=False, threads=1)
    assert_same_tensors(merged(merges, name), load(tmp_path / "ours"))


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_merging(merges: tuple[Path, dict[str, str]], name: str) -> None:
    root, answers = merges
    assert REFUSED[name][1] in answers[name]
    assert not list((root / name).glob("merged/*.safetensors"))


def test_the_program(models: dict[str, Path], tmp_path: Path) -> None:
    config = tmp_path / "config.yml"
    config.write_text(filled(OURS["bfloat16"], models))
    done = run("-m", "mi_kernels.cli.mergekit", config, tmp_path / "merged", "--quiet", "--serve-linear")
    assert done.returncode == 0, done.stderr
    lerp_checkpoint(models["a"], models["b"], tmp_path / "ours", 0.3, progress=False, threads=1)
    assert_same_tensors(load(tmp_path / "merged"), load(tmp_path / "ours"))
