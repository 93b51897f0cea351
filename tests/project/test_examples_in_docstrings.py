"""Every example in a docstring runs, in a folder with the checkpoints `instruct` and `thinking`."""

from __future__ import annotations

import doctest
import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import mi_kernels

from ..support import ROOT

# Public names without an example. Shorten this list: a test fails if a name on it has one.
WITHOUT_EXAMPLE = {
    *("ArgumentError", "BackendError", "CheckpointError", "DTypeError", "MismatchError"),
    *("OutputError", "StrictError"),
}


MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "mi_kernels").rglob("*.py")
    if ">>> " in path.read_text()
)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes tiny checkpoints of two decoder layers, and their folder the current one."""
    names = {
        "model.embed_tokens.weight": (32, 16),
        **{f"model.layers.{i}.self_attn.q_proj.weight": (16, 16) for i in range(2)},
        **{f"model.layers.{i}.mlp.up_proj.weight": (24, 16) for i in range(2)},
        **{f"model.layers.{i}.input_layernorm.weight": (16,) for i in range(2)},
        "model.norm.weight": (16,),
        "lm_head.weight": (32, 16),
    }
    config = {"architectures": ["Qwen3ForCausalLM"], "num_hidden_layers": 2, "tie_word_embeddings": False}
    for seed, model in enumerate(("instruct", "thinking")):
        generator = torch.Generator().manual_seed(seed)
        folder = tmp_path / model
        folder.mkdir()
        tensors = {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in names.items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": "bfloat16"}))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    tests = doctest.DocTestFinder().find(importlib.import_module(name))
    assert any(test.examples for test in tests)
    for test in tests:
        runner.run(test, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)


def test_every_public_name_has_an_example() -> None:
    documented = {name: getattr(mi_kernels, name) for name in mi_kernels.__all__ if not name.startswith("__")}
    without = {name for name, thing in documented.items() if ">>> " not in documentation(thing)}
    assert without - WITHOUT_EXAMPLE == set(), "add an example to the docstring"
    assert WITHOUT_EXAMPLE - without == set(), "these names have an example: take them off WITHOUT_EXAMPLE"


def documentation(thing: Any) -> str:
    """The docstring of `thing`, and those of its own methods if it is a class."""
    members = vars(thing).values() if isinstance(thing, type) else ()
    return "\n".join(part.__doc__ or "" for part in (thing, *members) if part is not None)
