"""What the real mergekit 0.1.5 ignores, and which tokenizer and template settings change nothing there."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from mi_kernels import merge_checkpoint
from mi_kernels.methods.method import Method
from mi_kernels.recipe.conditions import TEMPLATES
from mi_kernels.recipe.mergekit_names import FORMER_PARAMETERS, KEYS, PARAMETERS

from ...support.models import assert_same_tensors, load
from .compare import LAYERS, THEIRS, VARIABLE, make_models, mergekit

pytestmark = pytest.mark.skipif(mergekit() is None, reason=f"{VARIABLE} names no environment with mergekit")

EXACT = [name for name, method in THEIRS.items() if all(p.name != "seed" for p in method.parameters)]

ASK = """
import hashlib, importlib.resources, json
from mergekit._data import chat_templates
from mergekit.config import MergeConfiguration
from mergekit.merge_methods import registered_methods
from mergekit.tokenizer.config import TokenizerConfig
files = importlib.resources.files(chat_templates).iterdir()
print(json.dumps({
    "keys": list(MergeConfiguration.model_fields),
    "tokenizer": {name: field.default for name, field in TokenizerConfig.model_fields.items()},
    "methods": {m.spec.name: {p.name: p.scope.value for p in m.spec.parameters} for m in registered_methods()},
    "templates": {f.name.removesuffix(".jinja"): f.read_text() for f in files if f.name.endswith(".jinja")},
}))
"""
# All merges in one process: to import mergekit takes longer than to merge.
RUN = """
import json, sys
from mergekit.scripts.run_yaml import main
for config, out in json.load(open(sys.argv[1])):
    main(args=[config, out, "--quiet"], standalone_mode=False)
"""


def python(*words: object) -> str:
    program = mergekit()
    assert program is not None
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    command = [str(program.with_name("python")), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def known() -> Any:
    return json.loads(python("-c", ASK))


def test_names(known: Any) -> None:
    assert sorted(known["keys"]) == sorted(KEYS)
    assert sorted({name for names in known["methods"].values() for name in names}) == sorted(PARAMETERS)
    assert not set(FORMER_PARAMETERS) & set(PARAMETERS)
    assert known["tokenizer"] == {"source": "union", "tokens": None, "pad_to_multiple_of": None}


@pytest.mark.parametrize("name", THEIRS)
def test_each_method_declares_its_parameters_and_where_they_are_read(known: Any, name: str) -> None:
    method = THEIRS[name]
    assert method.mergekit is not None
    base_counts = method.mergekit.base == "model"
    ours = {p.mergekit: p.by_model for p in method.parameters if p.mergekit is not None}
    scopes = {key: ("input" if base_counts else "non_base") if ours[key] else "shared" for key in ours}
    theirs = known["methods"][method.mergekit.name]
    assert {key: theirs[key] for key in ours} == scopes
    assert set(theirs) - set(ours) == set(method.mergekit.ignored)
    fixed = [key for key, only in method.mergekit.ignored.items() if only is not None]
    assert all(theirs[key] == "shared" for key in fixed)


def test_templates(known: Any) -> None:
    found = {name: hashlib.sha256(text.strip().encode()).hexdigest() for name, text in known["templates"].items()}
    assert found == TEMPLATES


def plain(method: Method, models: dict[str, Path]) -> dict[str, Any]:
    """A configuration in slices, which has a place for parameters at every level."""
    spelling = method.mergekit
    assert spelling is not None
    names = ["base", "a"] if spelling.base == "first" else ["base", "a", "b"] if method.base != "none" else ["a", "b"]
    needed = {p.mergekit: 0.4 for p in method.parameters if p.mergekit in ("weight", "t")}
    return {
        "merge_method": spelling.name,
        **({"base_model": str(models["base"])} if "base" in names else {}),
        "slices": [{"sources": [{"model": str(models[n]), "layer_range": [0, LAYERS]} for n in names]}],
        "parameters": needed,
        "dtype": "float32",
        "out_dtype": "bfloat16",
    }


def wild(method: Method, models: dict[str, Path]) -> dict[str, Any]:
    """The same with everything that mergekit ignores under this method."""
    config = plain(method, models)
    assert method.mergekit is not None
    used = {p.mergekit: p for p in method.parameters if p.mergekit is not None}
    names = [*PARAMETERS, *FORMER_PARAMETERS]
    unused = [n for n in names if n not in used and method.mergekit.ignored.get(n) is None]
    by_one = [n for n in names if n not in used or not used[n].by_model]
    # What it reads without an effect must have a type that it accepts.
    config["parameters"].update({n: True if n in method.mergekit.ignored else 0.3 for n in unused})
    part = config["slices"][0]
    part["parameters"] = {n: False if n in method.mergekit.ignored else [0.1, 0.9] for n in unused}
    for source in part["sources"]:
        everything = "base_model" in config and source["model"] == config["base_model"]
        source["parameters"] = dict.fromkeys(names if everything and method.mergekit.base != "model" else by_one, 0.7)
    more = {"name": "x", "random_seed": 3, "adaptive_merge_parameters": {"task_weights": 1}}
    return {**config, **dict.fromkeys(unused, 0.2), **more}


TOKENIZERS: dict[str, dict[str, Any]] = {
    "union": {"tokenizer_source": "union"},
    "union in a block": {"tokenizer": {}},
    "base": {"tokenizer": {"source": "base"}, "chat_template": "auto"},
    "padded": {"tokenizer": {"source": "@b", "pad_to_multiple_of": 64, "tokens": {}}},
    "tokens": {"tokenizer": {"source": "base", "tokens": {"!": {"source": "@a"}, "A": {"source": {"kind": "zero"}}}}},
    "template": {"chat_template": "{{ messages }}, which all models have"},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    found = make_models(tmp_path_factory.mktemp("models"))
    ids = {chr(33 + i): i for i in range(255)} | {"<unk>": 255}
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(ids, unk_token="<unk>")), unk_token="<unk>")
    made.chat_template = TOKENIZERS["template"]["chat_template"]
    for path in found.values():
        made.save_pretrained(path)
    return found


@pytest.fixture(scope="module")
def merges(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The merges by mergekit, each in a folder with its config.yml."""
    root = tmp_path_factory.mktemp("merges")
    configs = {f"{kind.__name__}-{name}": kind(THEIRS[name], models) for name in EXACT for kind in (plain, wild)}
    for name, settings in TOKENIZERS.items():
        configs[name] = {**plain(THEIRS[EXACT[0]], models), "base_model": str(models["a"]), **settings}
    jobs = []
    for name, config in configs.items():
        (root / name).mkdir()
        text = yaml.safe_dump(config, width=1000)
        for model in "ab":
            text = text.replace(f"'@{model}'", str(models[model]))
        (root / name / "config.yml").write_text(text)
        jobs.append([str(root / name / "config.yml"), str(root / name / "theirs")])
    (root / "jobs.json").write_text(json.dumps(jobs))
    python("-c", RUN, root / "jobs.json")
    return root


@pytest.mark.parametrize("name", EXACT)
def test_mergekit_ignores_what_is_ignored_here(merges: Path, tmp_path: Path, name: str) -> None:
    assert_same_tensors(load(merges / f"wild-{name}/theirs"), load(merges / f"plain-{name}/theirs"))
    reports = {kind: merge_checkpoint(merges / f"{kind}-{name}/config.yml", tmp_path / kind, progress=False)
               for kind in ("plain", "wild")}  # fmt: skip
    assert_same_tensors(load(tmp_path / "wild"), load(tmp_path / "plain"))
    assert len(reports["wild"].notes) == len(reports["plain"].notes) + 1
    assert "ignored, as in mergekit" in reports["wild"].notes[0]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizer_settings_that_run_change_nothing_in_mergekit(merges: Path, tmp_path: Path, name: str) -> None:
    from transformers import AutoTokenizer

    merge_checkpoint(merges / name / "config.yml", tmp_path / "ours", progress=False)
    theirs, ours = (AutoTokenizer.from_pretrained(path) for path in (merges / name / "theirs", tmp_path / "ours"))
    assert theirs.get_vocab() == ours.get_vocab()
    assert theirs.chat_template == ours.chat_template
    a, b = load(merges / name / "theirs"), load(tmp_path / "ours")
    assert {n: t.shape for n, t in a.items()} == {n: t.shape for n, t in b.items()}
    embedding = "model.embed_tokens.weight"
    # As far as the rounding of the two sides differs: tests/integrations/mergekit/test_mergekit.py.
    assert (a[embedding].float() - b[embedding].float()).abs().max() <= 2.0**-7 * b[embedding].float().abs().max()
