"""The examples in the docstrings of public names run, in a folder with the checkpoints `instruct` and `thinking`."""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import mi_kernels

# Public names without an example. Shorten this list: a test fails if a name on it has one.
WITHOUT_EXAMPLE = {
    *("ArgumentError", "BackendError", "CheckpointError", "DTypeError", "MismatchError"),
    *("OutputError", "StrictError", "MergeRecipe"),
}

# Names that users import from their modules.
MORE = [
    "mi_kernels.merge.options.Options",
    "mi_kernels.verify.verify.record_checksums",
    *(f"mi_kernels.live.{name}" for name in ("attach", "unwrapped", "Knob", "InterpolatedModel")),
    "mi_kernels.live.resident.Resident",
    "mi_kernels.integrations.vllm",
    "mi_kernels.integrations.vllm.options.LoaderOptions",
]

NAMES = [f"mi_kernels.{name}" for name in mi_kernels.__all__ if not name.startswith("__")] + MORE


def found(name: str) -> object:
    """The object with a dotted name, a module included."""
    parent, _, last = name.rpartition(".")
    module = importlib.import_module(parent)
    return getattr(module, last) if hasattr(module, last) else importlib.import_module(name)


def examples(name: str) -> Iterator[doctest.DocTest]:
    """The docstring of `name`, and those of its methods if it is a class."""
    thing = found(name)
    finder = doctest.DocTestFinder(exclude_empty=True, recurse=inspect.isclass(thing))
    names = dict(vars(inspect.getmodule(thing) or mi_kernels))  # as doctest runs them: with the names of their module
    yield from (test for test in finder.find(thing, name, globs=names) if test.examples)


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
@pytest.mark.parametrize("name", NAMES)
def test_examples_run(name: str) -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for test in examples(name):
        runner.run(test, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)


def test_every_public_name_has_an_example() -> None:
    without = {name for name in NAMES if not any(True for _ in examples(name))}
    expected = {f"mi_kernels.{name}" for name in WITHOUT_EXAMPLE}
    assert without - expected == set(), "add an example to the docstring"
    assert expected - without == set(), "these names have an example: take them off WITHOUT_EXAMPLE"
