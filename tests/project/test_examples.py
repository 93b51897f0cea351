"""Every recipe and script of examples/ runs as it is, in a folder that holds ./base, ./instruct and ./thinking."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mi_kernels
from mi_kernels.checkpoint.tensor import TensorInfo
from mi_kernels.cli import main

from ..support import ROOT

EXAMPLES = ROOT / "examples"
RECIPES = sorted(path.stem for path in (EXAMPLES / "recipes").glob("*.yml"))
SCRIPTS = ["merge", "verify", "sweep", "tensors", "live"]  # in this order: verify checks what merge made


def run(script: str, folder: Path, status: int = 0) -> str:
    """What the script prints; it ends with `status`. It imports this mi_kernels, and finds the models in `folder`."""
    package = str(Path(mi_kernels.__file__).parents[1])
    paths = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, str(EXAMPLES / f"{script}.py")]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr
    return done.stdout


def values(folder: str) -> dict[str, np.ndarray]:
    """The tensors of a bf16 model, as the bits of each element."""
    model = mi_kernels.open_checkpoint(folder)
    found = {}
    for name, tensor in model.tensors.items():
        assert isinstance(tensor, TensorInfo)
        assert tensor.dtype == "BF16"
        found[name] = np.fromfile(model.shards[tensor.shard], np.uint16, tensor.elements, offset=tensor.begin)
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    run("make_models", folder)
    return folder


@pytest.fixture
def here(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(models, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe(here: Path, name: str) -> None:
    """It merges to a model that is neither input, and the merge done again has the same bytes."""
    assert main(["merge", str(EXAMPLES / "recipes" / f"{name}.yml"), "-o", "merged"]) == 0
    assert mi_kernels.verify_checkpoint("merged", recompute=[], progress=False).right
    merged = values("merged")
    for side in ("base", "instruct", "thinking"):
        assert any(not np.array_equal(merged[key], bits) for key, bits in values(side).items())


def test_what_the_rules_say(here: Path) -> None:
    """The comments in rules.yml, tensor by tensor."""
    assert main(["merge", str(EXAMPLES / "recipes" / "rules.yml"), "-o", "merged"]) == 0
    instruct, thinking, merged = values("instruct"), values("thinking"), values("merged")
    expected = {
        "model.embed_tokens.weight": 0.0,
        "model.layers.2.input_layernorm.weight": 0.5,  # a norm too, but the rule for the middle third comes later
        "model.layers.5.input_layernorm.weight": 0.0,
        "model.layers.0.mlp.up_proj.weight": 0.8,
        "model.layers.0.self_attn.q_proj.weight": 0.8,
        "model.layers.2.self_attn.q_proj.weight": 0.5,
        "model.layers.5.self_attn.q_proj.weight": 1.0,
        "model.layers.2.mlp.down_proj.weight": 0.3,
    }
    for name, lam in expected.items():
        lerped = mi_kernels.lerp(instruct[name], thinking[name], lam, backend="reference")
        assert np.array_equal(merged[name], lerped), name


def test_the_masks(here: Path) -> None:
    assert main(["merge", str(EXAMPLES / "recipes" / "masks.yml"), "-o", "merged"]) == 0
    instruct, merged = values("instruct"), values("merged")
    changed = {name for name, bits in merged.items() if not np.array_equal(bits, instruct[name])}
    assert changed == {name for name in instruct if re.search(r"layers\.[2-5]\.mlp\.\w+_proj", name)}


def test_the_scripts(here: Path) -> None:
    for name in SCRIPTS:
        if name == "live":
            pytest.importorskip("transformers")
        printed = run(name, here)
        assert printed, name
    assert sorted(path.name for path in (here / "runs").iterdir()) == ["mi-0.2", "mi-0.4", "mi-0.6", "mi-0.8"]


def test_a_damaged_model(here: Path) -> None:
    """verify.py ends with status 1, and names the file."""
    run("merge", here)
    config = here / "merged" / "config.json"
    config.write_text(config.read_text().replace("qwen3", "qwen2"))
    assert "config.json" in run("verify", here, status=1)


def test_the_list() -> None:
    """README.md lists every example, and every script runs above."""
    listed = set(re.findall(r"\]\(([\w./]+\.(?:py|yml))\)", (EXAMPLES / "README.md").read_text()))
    there = {path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*") if path.suffix in (".py", ".yml")}
    assert listed == there
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*SCRIPTS, "make_models"}
