"""Tokenizers and chat templates: a setting runs where mergekit would change nothing, otherwise it is refused, and what
the refusal says to do works."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from mi_kernels import ArgumentError, CheckpointError, merge_checkpoint
from mi_kernels.cli import program as cli
from mi_kernels.live.resident import Resident
from mi_kernels.merge.api import plan_merge
from mi_kernels.merge.job import Job
from mi_kernels.recipe import conditions
from mi_kernels.recipe.load import load

from ..support.models import CONFIG, Tensors, assert_same_tensors, merge_reference, save
from ..support.models import load as tensors_of

ROWS = 16
NAMES = "abc"


def tensors(seed: int, rows: int = ROWS) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"model.embed_tokens.weight": (rows, 8), "lm_head.weight": (rows, 8), "model.norm.weight": (8,)}
    shapes["model.layers.0.mlp.up_proj.weight"] = (24, 8)
    return {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()}


def tokenizer(ids: dict[str, int]) -> dict[str, Any]:
    """A tokenizer.json: the last token is an added one."""
    last = max(ids, key=lambda token: ids[token])
    return {
        "version": "1.0",
        "added_tokens": [{"id": ids[last], "content": last, "special": True}],
        "model": {"type": "BPE", "vocab": {t: i for t, i in ids.items() if t != last}, "merges": []},
    }


IDS = {token: i for i, token in enumerate("abcdefgh")}


class Scene:
    """Models a, b and c with these small files, and configurations of them."""

    def __init__(self, root: Path, files: dict[str, dict[str, Any]], rows: dict[str, int] | None = None) -> None:
        self.root = root
        for seed, name in enumerate(NAMES):
            text = {key: v if isinstance(v, (str, bytes)) else json.dumps(v) for key, v in files.get(name, {}).items()}
            save(root / name, tensors(seed, (rows or {}).get(name, ROWS)), files=text)

    def config(self, settings: dict[str, Any], base: str | None = "a") -> Path:
        models = [{"model": str(self.root / name), "parameters": {"weight": 1}} for name in NAMES]
        content = {"merge_method": "linear", "models": models, **settings}
        if base is not None:
            content["base_model"] = str(self.root / base)
        path = self.root / "c.yml"
        path.write_text(yaml.safe_dump(content))
        return path

    def plan(self, settings: dict[str, Any], base: str | None = "a", **options: Any) -> Job:
        return plan_merge(self.config(settings, base), self.root / "out", **options)

    def name(self, text: str) -> str:
        """Paths in `text` as the names of the models."""
        return text.replace(f"{self.root}/", "")

    def refused(self, settings: dict[str, Any], *words: str, base: str | None = "a") -> str:
        """The remedy, with names in place of paths."""
        with pytest.raises(ArgumentError) as error:
            self.plan(settings, base)
        assert error.value.problem.startswith(f"{self.root}/c.yml: ")
        assert len(str(error.value).splitlines()) == 2
        for word in words:
            assert word in self.name(str(error.value)), self.name(str(error.value))
        return self.name(error.value.remedy)

    def follow(self, remedy: str, settings: dict[str, Any]) -> dict[str, Any]:
        """`settings` changed as the remedy says: the setting in backticks, or else without what is to be removed."""
        written = re.search("`(.+?)`", remedy)
        if written:
            new = yaml.safe_load(written[1])
            for value in (new, new.get("tokenizer", {})):
                for key in ("tokenizer_source", "source"):
                    if value.get(key, "base") != "base":
                        value[key] = str(self.root / value[key])
            if "tokenizer" in new and isinstance(settings.get("tokenizer"), dict):
                new["tokenizer"] = {**settings["tokenizer"], **new["tokenizer"]}
            return {**settings, **new}
        removed = re.match(r"Remove (?:the )?(\w+)", remedy)
        assert removed, remedy
        kept = {key: value for key, value in settings.items() if not key.startswith(removed[1])}
        assert kept != settings, remedy
        return kept


def both(source: Any) -> list[dict[str, Any]]:
    """The old and the new spelling."""
    return [{"tokenizer_source": source}, {"tokenizer": {"source": source}}]


def drawn_ids(rng: np.random.Generator) -> dict[str, dict[str, int]]:
    """Tokenizers of three models: mostly equal, sometimes with a token more or less, another one, or others' ids."""
    found = {}
    for name in NAMES:
        ids = dict(IDS)
        for change in rng.permutation(4)[: int(rng.integers(0, 3)) // 2]:
            if change == 0:
                ids[f"<{rng.integers(3)}>"] = len(IDS)
            elif change == 1:
                del ids[str(rng.choice([*"gh"]))]
            elif change == 2:
                ids["new"] = ids.pop(str(rng.choice([*"abc"])))
            else:
                x, y = (str(t) for t in rng.choice([*"abcd"], 2, replace=False))
                ids[x], ids[y] = ids[y], ids[x]
        found[name] = ids
    return found


def unmoved(ids: dict[str, dict[str, int]], origin: str) -> bool:
    """Whether every row of every model stays where it is, if rows are arranged as the tokens of `origin`: mergekit's
    permutation (tokenizer/build.py) takes each token's row to where the token is in `origin`."""
    for other in ids.values():
        row = {i: token for token, i in other.items()}
        for token, i in ids[origin].items():
            moved = other.get(token, i) != i
            overwritten = token not in other and i in row
            if moved or overwritten:
                return False
    return True


@pytest.mark.parametrize("seed", range(40))
def test_unions_and_sources_run_where_no_row_moves(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = drawn_ids(rng)
    scene = Scene(tmp_path, {name: {"tokenizer.json": tokenizer(ids[name])} for name in NAMES})
    base = str(rng.choice([*NAMES]))
    equal = all(ids[name] == ids[base] for name in NAMES)
    for settings in both("union"):
        if equal:
            job = scene.plan(settings, base)
            assert job.notes() == []
            assert job._origin().source == str(tmp_path / base)
            continue
        remedy = scene.refused(settings, "union of tokenizers is not supported", "different ids", base=base)
        assert ("`" in remedy) == unmoved(ids, base)
        if unmoved(ids, base):
            assert f"`{'tokenizer: {source: base}' if 'tokenizer' in settings else 'tokenizer_source: base'}`" in remedy
            scene.plan(scene.follow(remedy, settings), base)
    for name in NAMES:
        for settings in both(str(tmp_path / name)):
            if unmoved(ids, name):
                job = scene.plan(settings, base)
                assert job._origin().source == str(tmp_path / name)
            else:
                remedy = scene.refused(settings, "mergekit would move rows", base=base)
                scene.plan(scene.follow(remedy, settings), base)


def test_the_draws_above_have_cases_of_every_kind() -> None:
    found = Counter()
    for seed in range(40):
        ids = drawn_ids(np.random.default_rng(seed))
        for name in NAMES:
            equal = all(other == ids[name] for other in ids.values())
            found["equal" if equal else "unmoved" if unmoved(ids, name) else "moved"] += 1
    assert min(found[kind] for kind in ("equal", "unmoved", "moved")) >= 15, found


def test_the_first_difference_is_named(tmp_path: Path) -> None:
    other = {**IDS, "b": 2, "c": 1}
    files = {n: {"tokenizer.json": tokenizer(other if n == "c" else IDS)} for n in NAMES}
    scene = Scene(tmp_path, files)
    remedy = scene.refused({"tokenizer_source": "union"}, "2 tokens have", 'the id of "b" is 1 in a, 2 in c')
    assert remedy == "Run this configuration with mergekit: it moves the rows of the embeddings."
    scene.refused({"tokenizer_source": "base"}, 'the id of "b" is 1 in a, 2 in c')
    renamed = {**IDS, "new": 7}
    del renamed["h"]
    (tmp_path / "c/tokenizer.json").write_text(json.dumps(tokenizer(renamed)))
    scene.refused({"tokenizer_source": "base"}, 'the token with id 7 is "h" in a, "new" in c')


def test_the_rows_must_agree_for_the_remedy(tmp_path: Path) -> None:
    more = {**IDS, "new": 8}
    scene = Scene(tmp_path, {n: {"tokenizer.json": tokenizer(more if n == "b" else IDS)} for n in NAMES}, {"b": 17})
    remedy = scene.refused({"tokenizer_source": "union"}, '"new" is absent in a, 8 in b')
    assert remedy == "Give all models one vocabulary first, or run this configuration with mergekit."


@pytest.mark.parametrize("settings", [*both("union"), {"tokenizer": {}}, {"tokenizer": {"source": None}}])
@pytest.mark.parametrize("base", ["a", None])
def test_models_without_a_tokenizer_are_taken_to_have_the_others(
    tmp_path: Path, settings: dict[str, Any], base: str | None
) -> None:
    """As by mergekit, which needs that of the base, or here of the first model."""
    scene = Scene(tmp_path, {"a": {"tokenizer.json": tokenizer(IDS)}})
    notes = scene.plan(settings, base).notes()
    assert [scene.name(note) for note in notes] == ["only a has tokenizer.json; tokenizers are not compared"] * 2
    (tmp_path / "a/tokenizer.json").unlink()
    remedy = scene.refused(settings, "is to be a union, but a has no tokenizer", base=base)
    (tmp_path / "a/tokenizer.json").write_text(json.dumps(tokenizer(IDS)))
    assert remedy == "Add its tokenizer files, or remove this setting."
    scene.plan(settings, base)


@pytest.mark.parametrize(
    ("one", "two", "words"),
    [
        ({"vocab.json": IDS, "merges.txt": "a b"}, {"vocab.json": IDS, "merges.txt": "a b"}, ()),
        ({"vocab.json": IDS}, {"vocab.json": {**IDS, "a": 9}}, ("tokenizers differ: vocab.json of a and of b",)),
        ({"tokenizer.model": "x"}, {"tokenizer.model": "x"}, ()),
        (
            {"tokenizer.model": "x"}, {"tokenizer.model": "x", "added_tokens.json": {"t": 1}},
            ("cannot be compared: a has tokenizer.model, b tokenizer.model, added_tokens.json",),
        ),
        ({"tokenizer.json": tokenizer(IDS)}, {"tokenizer.model": "x"}, ("cannot be compared",)),
        ({"tokenizer.json": {"model": 1}}, {"tokenizer.json": {"model": 1}}, ()),
        ({"tokenizer.json": {"model": 1}}, {"tokenizer.json": {"model": 2}}, ("unknown format",)),
        ({"tokenizer.json": tokenizer(IDS)}, {"added_tokens.json": {}}, ()),
    ],
)  # fmt: skip
def test_other_kinds_of_tokenizers(
    tmp_path: Path, one: dict[str, Any], two: dict[str, Any], words: tuple[str, ...]
) -> None:
    scene = Scene(tmp_path, {"a": one, "b": two, "c": one})
    settings = {"tokenizer_source": "union"}
    if not words:
        scene.plan(settings)
    else:
        scene.plan(scene.follow(scene.refused(settings, *words), settings))


def test_a_tokenizer_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    scene = Scene(tmp_path, {"a": {"tokenizer.json": tokenizer(IDS)}, "b": {"tokenizer.json": "{"}})
    for settings in ({"tokenizer_source": "union"}, {"tokenizer_source": "base"}):
        with pytest.raises(CheckpointError, match=r"b/tokenizer\.json: is not valid JSON"):
            scene.plan(settings)


def test_tokens_that_all_models_have(tmp_path: Path) -> None:
    """mergekit gives a token's configured embedding only to models that lack it, unless it is forced."""
    less = {token: i for token, i in IDS.items() if token != "h"}
    scene = Scene(tmp_path, {n: {"tokenizer.json": tokenizer(less if n == "c" else IDS)} for n in NAMES})
    tokens = {"a": {"source": str(tmp_path / "b")}, "g": {"source": {"kind": "zero"}, "force": False}}
    for given in (None, {}, tokens):
        settings = {"tokenizer": {"source": "base", "tokens": given}}
        assert scene.plan(settings).recipe_notes == ()
    for token, model in (("h", "c"), ("<new>", "a")):
        settings = {"tokenizer": {"source": "base", "tokens": {**tokens, token: {"source": str(tmp_path / "a")}}}}
        remedy = scene.refused(settings, f'tokenizer: tokens: "{token}" is not in the tokenizer of {model}')
        assert remedy.startswith("Remove the token")
    (tmp_path / "a/tokenizer.json").rename(tmp_path / "a/tokenizer.model")
    scene.refused({"tokenizer": {"source": "base", "tokens": tokens}}, 'a has no tokenizer.json to look for "a"')


@pytest.mark.parametrize("rows", [16, 24, 17, 32])
@pytest.mark.parametrize("multiple", [None, 0, 1, 2, 8, 16, 64])
def test_padding_that_the_rows_have(tmp_path: Path, rows: int, multiple: int | None) -> None:
    files = {name: {"tokenizer.json": tokenizer(IDS)} for name in NAMES}
    scene = Scene(tmp_path, files, dict.fromkeys(NAMES, rows))
    settings = {"tokenizer": {"source": "base", "pad_to_multiple_of": multiple}}
    if not multiple or rows % multiple == 0:
        assert scene.plan(settings).notes() == []
    else:
        problem = f"pad_to_multiple_of {multiple}: lm_head.weight has {rows} rows"
        remedy = scene.refused(settings, problem)
        assert remedy.startswith("Remove pad_to_multiple_of, ")
        scene.plan({"tokenizer": {"source": "base"}})


def test_padding_of_no_known_embedding(tmp_path: Path) -> None:
    for seed, name in enumerate(NAMES):
        save(tmp_path / name, {"thing": torch.full((4,), float(seed))}, files={"tokenizer.json": "{}"})
    scene = object.__new__(Scene)
    scene.root = tmp_path
    scene.refused({"tokenizer": {"source": "base", "pad_to_multiple_of": 4}}, "no tensor is known to be an embedding")


TEMPLATES = (None, "{{ messages }} one template", "{{ messages }} another template", "{{ messages }} a third template")


def template_files(template: str | None, form: int) -> dict[str, Any]:
    """A chat template as transformers and mergekit find it."""
    if template is None:
        return ({}, {"tokenizer_config.json": {}}, {"tokenizer_config.json": {"chat_template": None}})[form % 3]
    return (
        {"chat_template.jinja": template + "\n"},
        {"tokenizer_config.json": {"chat_template": f"\n{template}"}},
        {
            "tokenizer_config.json": {
                "chat_template": [{"name": "tool", "template": "t"}, {"name": "default", "template": template}]
            }
        },
    )[form % 3]


@pytest.mark.parametrize("seed", range(60))
def test_auto_is_the_most_frequent_template(tmp_path: Path, seed: int) -> None:
    """mergekit counts the models' templates (merge.py). Of several that are equally frequent it takes any."""
    rng = np.random.default_rng(seed)
    given = {name: TEMPLATES[int(rng.integers(2 + seed % 3))] for name in NAMES}
    files = {
        name: {"tokenizer.json": tokenizer(IDS), **template_files(given[name], int(rng.integers(3)))} for name in NAMES
    }
    scene = Scene(tmp_path, files)
    origin = str(rng.choice([*NAMES]))
    counted = Counter(template for template in given.values() if template)
    best = [template for template in counted if counted[template] == max(counted.values())]
    for settings in ({"chat_template": "auto"}, {"chat_template": "auto", "tokenizer": {"source": "union"}}):
        if not best or best == [given[origin]]:
            scene.plan(settings, origin)
            continue
        remedy = scene.refused(settings, "chat_template auto is the template of", base=origin)
        has = f"that of {origin}" if given[origin] else "none"
        assert remedy.startswith(f"Remove chat_template to keep {has}")
        scene.plan({key: value for key, value in settings.items() if key != "chat_template"}, origin)
        assert ("`" in remedy) == (len(best) == 1)
        if len(best) == 1:
            job = scene.plan(scene.follow(remedy, settings), origin)
            assert given[Path(job._origin().source).name] == best[0]


@pytest.mark.parametrize("form", range(3))
@pytest.mark.parametrize("name", conditions.TEMPLATES)
def test_a_named_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, form: int) -> None:
    """The templates themselves are mergekit's: here stands another one for each, by its digest."""
    text = f"{{{{ messages }}}} as in {name}"
    monkeypatch.setitem(conditions.TEMPLATES, name, hashlib.sha256(text.encode()).hexdigest())
    scene = Scene(tmp_path, {"a": template_files(text, form), "b": template_files(TEMPLATES[1], form)})
    assert scene.plan({"chat_template": name}).recipe_notes == ()
    settings = {"chat_template": name}
    for base, has in (("b", "another one"), ("c", "none")):
        remedy = scene.refused(
            settings, f"is mergekit's {name}, but {base}, whose small files the output gets, has {has}", base=base
        )
        scene.plan(scene.follow(remedy, settings), base)


@pytest.mark.parametrize("form", range(3))
def test_a_literal_template(tmp_path: Path, form: int) -> None:
    text = str(TEMPLATES[1])
    scene = Scene(tmp_path, {"a": template_files(text, form), "b": template_files(TEMPLATES[2], form)})
    for given in (text, f"{text}\n"):
        assert scene.plan({"chat_template": given}).recipe_notes == ()
    settings = {"chat_template": text}
    for base, has in (("b", "another one"), ("c", "none")):
        remedy = scene.refused(settings, f"is a template, but {base}, whose", f"has {has}", base=base)
        scene.plan(scene.follow(remedy, settings), base)


def test_the_option_copy_from_decides_whose_files_are_compared(tmp_path: Path) -> None:
    scene = Scene(tmp_path, {name: template_files(TEMPLATES[1 + (name != "c")], 0) for name in NAMES})
    scene.plan({"chat_template": "auto"})
    with pytest.raises(ArgumentError, match="chat_template auto"):
        scene.plan({"chat_template": "auto"}, copy_from="thinking")
    for number, same in (("1", True), ("2", True), ("3", False)):
        settings = {"chat_template": str(TEMPLATES[2])}
        if same:
            scene.plan(settings, copy_from=number)
        else:
            with pytest.raises(ArgumentError, match="has another one"):
                scene.plan(settings, copy_from=number)
    with pytest.raises(ArgumentError, match="copy_from is '4', but the recipe has 3 models"):
        scene.plan({}, copy_from="4")


def test_refusals_write_nothing_and_come_before_the_tensors_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = Scene(tmp_path, {"a": {"tokenizer.json": tokenizer(IDS)}, "b": {"tokenizer.json": tokenizer({"z": 0})}})
    before = sorted(tmp_path.rglob("*"))
    path = scene.config({"tokenizer_source": "union"})
    assert cli.main(["merge", str(path), "-o", str(tmp_path / "out")]) == 2
    assert "union" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == sorted([*before, path])


def test_merges_in_memory_check_the_same(tmp_path: Path) -> None:
    files = {name: {"tokenizer.json": tokenizer(IDS), "chat_template.jinja": "x"} for name in NAMES}
    scene = Scene(tmp_path, files)
    path = scene.config({"tokenizer_source": "union", "chat_template": "auto"})
    merge_checkpoint(path, tmp_path / "out", progress=False)
    resident = Resident([tmp_path / name for name in NAMES])
    assert_same_tensors(dict(resident.merge(load(path))), tensors_of(tmp_path / "out"))
    (tmp_path / "b/tokenizer.json").write_text(json.dumps(tokenizer({"z": 0})))
    with pytest.raises(ArgumentError, match="a union of tokenizers"):
        resident.merge(load(path))
    resident.close()


def test_a_merge_with_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in published configurations: the bits are those of torch.lerp, the small files those of the named model."""
    (a, b), weights = (tensors(0), tensors(1)), (0.25, 0.75)
    for name, content in (("a", a), ("b", b)):
        files = {
            "tokenizer.json": json.dumps(tokenizer(IDS)), "chat_template.jinja": "{{ messages }}", "who.json": name,
        }  # fmt: skip
        save(tmp_path / name, content, files=files, config={**CONFIG, "vocab_size": ROWS})
    config = {
        "name": "wild",
        "merge_method": "linear",
        "base_model": str(tmp_path / "a"),
        "models": [
            {"model": str(tmp_path / name), "parameters": {"weight": w, "density": 0.5, "lambda": 2}}
            for name, w in zip("ab", weights)
        ],
        "parameters": {"int8_mask": True, "rescale": True, "normalize": True, "t": [0, 1]},
        "dtype": "bfloat16",
        "tokenizer": {"source": "union", "tokens": {"a": {"source": str(tmp_path / "b")}}, "pad_to_multiple_of": 8},
        "chat_template": "auto",
    }
    note = (
        f"{tmp_path}/c.yml: ignored, as in mergekit: name (unknown to mergekit); "
        "density, lambda, int8_mask, rescale, t (no effect under linear)"
    )
    path = tmp_path / "c.yml"
    path.write_text(yaml.safe_dump(config))
    assert cli.main(["merge", str(path), "-o", str(tmp_path / "out"), "--dry-run"]) == 0
    assert f"note: {note}\n" in capsys.readouterr().out
    assert cli.main(["merge", str(path), "-o", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["notes"] == [note]
    assert_same_tensors(tensors_of(tmp_path / "out"), merge_reference(a, b, weights[1]))
    assert (tmp_path / "out/who.json").read_text() == "a"
    # Nothing of it is part of what was merged: the record is that of the plain configuration.
    for key in ("name", "tokenizer", "chat_template", "parameters"):
        del config[key]
    for entry in config["models"]:
        del entry["parameters"]["density"], entry["parameters"]["lambda"]
    path.write_text(yaml.safe_dump({**config, "parameters": {"normalize": True}}))
    report = merge_checkpoint(path, tmp_path / "plain", progress=False)
    assert report.notes == []
    names = ("mi_kernels.json", "mi_kernels.checksums.json")
    assert all((tmp_path / "plain" / n).read_bytes() == (tmp_path / "out" / n).read_bytes() for n in names[:1])


def test_the_small_files_of_a_model_in_the_middle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {name: {"tokenizer.json": tokenizer(IDS), "who.json": name} for name in NAMES}
    scene = Scene(tmp_path, files)
    path = scene.config({"tokenizer": {"source": str(tmp_path / "b")}})
    out = tmp_path / "out"
    merge_checkpoint(path, out, progress=False)
    assert (out / "who.json").read_text() == "b"
    assert json.loads((out / "mi_kernels.json").read_text())["copy_from"] == "2"
    assert cli.main(["verify", str(out), "--recompute"]) == 0
    recipe = {"method": "linear", "models": [str(tmp_path / name) for name in NAMES], "copy_from": "2"}
    merge_checkpoint(recipe, tmp_path / "ours", progress=False)
    assert (tmp_path / "ours/who.json").read_text() == "b"
    assert_same_tensors(tensors_of(tmp_path / "ours"), tensors_of(out))


def test_a_lone_file_has_no_small_files(tmp_path: Path) -> None:
    """The conditions are those of the model whose files are copied."""
    scene = Scene(tmp_path, {name: {"chat_template.jinja": "{{ messages }}"} for name in NAMES})
    weights = next((tmp_path / "a").glob("*.safetensors"))
    for name in ("lone", "other"):
        (tmp_path / "loose").mkdir(exist_ok=True)
        (tmp_path / "loose" / f"{name}.safetensors").write_bytes(weights.read_bytes())
    models = [str(tmp_path / "loose" / "lone.safetensors"), str(tmp_path / "b")]
    path = tmp_path / "config.yml"
    path.write_text(
        yaml.safe_dump(
            {"merge_method": "linear", "models": [{"model": m, "parameters": {"weight": 1}} for m in models]}
        )
        + "chat_template: auto\n"
    )
    job = plan_merge(path, tmp_path / "out")
    assert job._origin().source == models[1]
    assert len(list(Resident(models).merge(load(path)))) == len(tensors(0))
    assert scene.root == tmp_path
