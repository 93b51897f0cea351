"""Each difference besides the weights is reported in one line with both values and the one that the output has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mi_kernels import MismatchError, StrictError, lerp_checkpoint
from mi_kernels.cli import program as cli

from ..support.adapters import write_adapter
from ..support.checks import World, assert_refused, handled
from ..support.models import CONFIG, tiny

TOKENIZER: dict[str, Any] = {
    "version": "1.0",
    "added_tokens": [{"id": 3, "content": "<think>", "special": False}],
    "pre_tokenizer": {"type": "ByteLevel"},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
}


def world(root: Path, a: dict[str, Any] | None = None, b: dict[str, Any] | None = None) -> World:
    """Two models. `a` and `b`: small files by name, as text or JSON. Entries for config.json are added to CONFIG."""
    made = World(root)
    for side, files in ((made.instruct, a or {}), (made.thinking, b or {})):
        for name, content in files.items():
            if name == "config.json":
                content = {**CONFIG, **content}
            (side / name).parent.mkdir(exist_ok=True)
            (side / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return made


def changed(**parts: Any) -> dict[str, Any]:
    return {**TOKENIZER, **parts}


def model(**parts: Any) -> dict[str, Any]:
    return changed(model={**TOKENIZER["model"], **parts})


THINK = {"id": 4, "content": "<think>", "special": False}
OLD_ROPE = {"rope_theta": 1e6, "rope_scaling": {"type": "yarn", "factor": 4.0}}
NEW_ROPE = {"rope_parameters": {"rope_theta": 1000000, "rope_type": "yarn", "factor": 4.0}}

# Files of INSTRUCT, files of THINKING, words of the only note (none: no note), and whether a strict merge is rejected.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...], bool]] = {
    "nothing": ({"tokenizer.json": TOKENIZER}, {"tokenizer.json": json.dumps(TOKENIZER)}, (), False),
    "tokenizer written anew": (
        {"tokenizer.json": TOKENIZER},
        {"tokenizer.json": json.dumps(model(merges=[["a", "b"]]), indent=2)}, (), False,
    ),
    "a token's id": (
        {"tokenizer.json": TOKENIZER}, {"tokenizer.json": changed(added_tokens=[THINK])},
        ("1 token has different ids", '"<think>" is 4 in T, 3 in I'), True,
    ),
    "a token on one side": (
        {"tokenizer.json": TOKENIZER}, {"tokenizer.json": changed(added_tokens=[])},
        ("1 token has", '"<think>" is absent in T, 3 in I'), True,
    ),
    "a token's flags": (
        {"tokenizer.json": TOKENIZER}, {"tokenizer.json": changed(added_tokens=[{**THINK, "id": 3, "special": True}])},
        ("flags of added tokens", "those of T"), False,
    ),
    "merges": ({"tokenizer.json": TOKENIZER}, {"tokenizer.json": model(merges=[])}, ("different merges",), True),
    "how text is split": (
        {"tokenizer.json": TOKENIZER}, {"tokenizer.json": changed(pre_tokenizer=None)},
        ("differ in pre_tokenizer",), True,
    ),
    "a tokenizer's rest": (
        {"tokenizer.json": TOKENIZER}, {"tokenizer.json": changed(decoder=None)}, ("differ in decoder",), False,
    ),
    "unigram": (
        {"tokenizer.json": model(vocab=[["a", -1.0], ["b", -2.0]], merges=None)},
        {"tokenizer.json": model(vocab=[["b", -1.0], ["a", -2.0]], merges=None)}, ("2 tokens have different",), True,
    ),
    "a tokenizer nobody knows": (
        {"tokenizer.json": {"model": 1}}, {"tokenizer.json": {"model": 2}}, ("unknown format",), True,
    ),
    "a broken tokenizer": (
        {"tokenizer.json": "{"}, {"tokenizer.json": TOKENIZER}, ("not valid JSON", "not compared"), False,
    ),
    "a tokenizer on one side": ({"tokenizer.json": TOKENIZER}, {}, ("only I has tokenizer.json",), False),
    "old tokenizers": ({"vocab.json": {"a": 0}}, {"vocab.json": {"b": 0}}, ("vocab.json of T and of I",), True),
    "a further template": (
        {"additional_chat_templates/rag.jinja": "x", "chat_template.jinja": "y"},
        {"tokenizer_config.json": {"chat_template": [{"name": "default", "template": "y"}]}},
        ("chat templates differ; the output has that of T, not of I",), False,
    ),
    "two templates in two forms": (
        {"additional_chat_templates/rag.jinja": "x", "chat_template.jinja": "y"},
        {"tokenizer_config.json": {
            "chat_template": [{"name": "rag", "template": "x"}, {"name": "default", "template": "y"}]
        }}, (), False,
    ),
    "templates": (
        {"chat_template.jinja": "{{x}}"}, {"tokenizer_config.json": {"chat_template": "{{y}}"}},
        ("chat templates differ; the output has that of T, not of I",), False,
    ),
    "one template in two places": (
        {"chat_template.jinja": "{{x}}\n"}, {"tokenizer_config.json": {"chat_template": "{{x}}"}}, (), False,
    ),
    "a template on one side": (
        {"chat_template.jinja": "x"}, {}, ("only I has a chat template; the output has none",), False,
    ),
    "generation": (
        {"generation_config.json": {"temperature": 0.7, "top_k": 20, "transformers_version": "4"}},
        {"generation_config.json": {"temperature": 0.6, "top_k": 20, "transformers_version": "5"}},
        ("(T / I): temperature 0.6 / 0.7; the output has those of T",), False,
    ),
    "rope": (
        {"config.json": {"rope_theta": 1e6}}, {"config.json": {"rope_theta": 5e6}},
        ("rope_theta is 5000000.0 in T, 1000000.0 in I; the output has 5000000.0",), True,
    ),
    "rope, by two versions of transformers": ({"config.json": OLD_ROPE}, {"config.json": NEW_ROPE}, (), False),
    "rope of none and by default": (
        {"config.json": {"rope_scaling": None}}, {"config.json": {"rope_scaling": {"rope_type": "default"}}}, (), False,
    ),
    "a window that is not used": (
        {"config.json": {"sliding_window": 4096, "use_sliding_window": False}},
        {"config.json": {"sliding_window": None, "use_sliding_window": False}}, (), False,
    ),
    "a window": (
        {"config.json": {"sliding_window": 4096}}, {"config.json": {"text_config": {"sliding_window": 1024}}},
        ("sliding_window is 1024 in T, 4096 in I",), True,
    ),
    "epsilon": (
        {"config.json": {"rms_norm_eps": 1e-6}}, {"config.json": {"rms_norm_eps": 1e-5}}, ("rms_norm_eps",), True,
    ),
    "positions": (
        {"config.json": {"max_position_embeddings": 4096}}, {"config.json": {}},
        ("max_position_embeddings is absent in T, 4096 in I; the output has absent",), False,
    ),
    "ends": (
        {"config.json": {"eos_token_id": 2}}, {"config.json": {"eos_token_id": [2, 3]}},
        ("eos_token_id is [2, 3]",), False,
    ),
    "architecture": (
        {"config.json": {"architectures": ["Qwen2ForCausalLM"]}}, {},
        ('architectures is ["Qwen3ForCausalLM"] in T, ["Qwen2ForCausalLM"] in I; the tensors match',), True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_differences(tmp_path: Path, case: str) -> None:
    a, b, words, serious = CASES[case]
    made = world(tmp_path, a, b)
    paths = (made.instruct, made.thinking)
    notes = handled(lerp_checkpoint(*paths, made.out, 0.0, progress=False).notes)
    short = [n.replace(str(made.instruct), "I").replace(str(made.thinking), "T") for n in notes]
    assert len(short) == bool(words), short
    for word in words:
        assert word in short[0]
    if serious:
        with pytest.raises(StrictError):
            lerp_checkpoint(*paths, tmp_path / "strict", 0.0, strict=True, progress=False)
        assert not (tmp_path / "strict").exists()
    else:
        assert cli.main(made.argv("--strict", "--dry-run", "--overwrite")) == 0


# Files of the base, files of the adapter, words of the notes in their order, and whether a strict merge is rejected.
ADAPTERS: dict[str, tuple[dict[str, Any], dict[str, Any], list[str], bool]] = {
    "nothing": ({"tokenizer.json": TOKENIZER, "chat_template.jinja": "x"}, {}, [], False),
    "equal": (
        {"tokenizer.json": TOKENIZER, "chat_template.jinja": "x", "tokenizer_config.json": {"eos_token": "e"}},
        {
            "tokenizer.json": json.dumps(TOKENIZER, indent=1), "chat_template.jinja": "x\n",
            "tokenizer_config.json": {"eos_token": {"content": "e"}},
        }, [], False,
    ),
    "added tokens": (
        {"tokenizer.json": TOKENIZER},
        {"tokenizer.json": changed(added_tokens=[*TOKENIZER["added_tokens"], {"id": 4, "content": "<a>"}])},
        ['1 token has different ids: the id of "<a>" is absent in B, 4 in A; the output has those of B, because'], True,
    ),
    "the padding of training": (
        {"tokenizer.json": TOKENIZER}, {"tokenizer.json": changed(padding={"pad_id": 1})},
        ["tokenizers differ in padding; the output has those of B, because files of an adapter are not"], False,
    ),
    "a template": (
        {"chat_template.jinja": "x"}, {"chat_template.jinja": "y"},
        ["chat templates differ; the output has that of B, not of A, because files of an adapter are"], False,
    ),
    "a template of the adapter only": (
        {}, {"tokenizer_config.json": {"chat_template": "y"}},
        ["only A has a chat template; the output has none, because files of an adapter are not copied"], False,
    ),
    "a template of the base only": ({"chat_template.jinja": "x"}, {"tokenizer_config.json": {}}, [], False),
    "special tokens": (
        {"tokenizer_config.json": {"eos_token": "a", "pad_token": "a"}},
        {"tokenizer_config.json": {"eos_token": {"content": "b"}, "pad_token": "a"}},
        ['tokenizers differ: eos_token is "a" in B, "b" in A; the output has those of B, because'], False,
    ),
    "an old tokenizer": (
        {"tokenizer.model": "x", "tokenizer.json": TOKENIZER},
        {"tokenizer.model": "y", "added_tokens.json": {"<a>": 4}},
        ["tokenizer.model of B and of A; the output has those of B", "only A has added_tokens.json"], True,
    ),
    "all of it": (
        {"tokenizer.json": TOKENIZER, "chat_template.jinja": "x"},
        {"tokenizer.json": changed(added_tokens=[]), "chat_template.jinja": "y"}, ["1 token", "chat templates"], True,
    ),
    "a broken tokenizer": (
        {"tokenizer.json": TOKENIZER}, {"tokenizer.json": "{"}, ["not valid JSON"], False,
    ),
}  # fmt: skip


def adapted(root: Path, base: dict[str, Any], adapter: dict[str, Any], other: dict[str, Any]) -> tuple[str, str, Path]:
    """Returns BASE+ADAPTER, another model, and the folder of the adapter."""
    made = world(root, other, base)
    q = "model.layers.0.self_attn.q_proj"
    pair = {f"{q}.lora_{side}.weight": torch.ones(shape) for side, shape in (("A", (4, 16)), ("B", (16, 4)))}
    folder = write_adapter(root / "adapter", pair)
    for name, content in adapter.items():
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return f"{made.thinking}+{folder}", str(made.instruct), folder


@pytest.mark.parametrize("case", ADAPTERS)
def test_the_tokenizer_and_the_template_of_an_adapter(tmp_path: Path, case: str) -> None:
    base, adapter, words, serious = ADAPTERS[case]
    model, other, folder = adapted(tmp_path, base, adapter, base)  # the other model is no different from the base
    notes = handled(lerp_checkpoint(other, model, tmp_path / "out", 0.0, progress=False).notes)
    short = [n.replace(str(folder), "A").replace(str(tmp_path / "thinking"), "B") for n in notes if "LoRA on" not in n]
    assert len(short) == len(words), short
    for note, word in zip(short, words):
        assert word in note
    for name, content in adapter.items():
        out = tmp_path / "out" / name
        assert not out.exists() or out.read_text() != content or base.get(name) == content
    argv = ["lerp", other, model, "-o", str(tmp_path / "strict"), "--lam", "0.5", "--strict", "--dry-run"]
    assert cli.main(argv) == (2 if serious else 0)


def test_an_adapter_is_compared_with_the_model_of_the_small_files(tmp_path: Path) -> None:
    """The output has the template of the other model, which is that of the adapter, then another one."""
    files = {"chat_template.jinja": "x"}, {"chat_template.jinja": "y"}
    for number, (other, expected) in enumerate((("y", []), ("z", ["B", "A"]))):
        root = tmp_path / str(number)
        model, third, folder = adapted(root, *files, {"chat_template.jinja": other})
        notes = handled(lerp_checkpoint(model, third, root / "out", 0.5, progress=False).notes)
        templates = [note for note in notes if "chat templates differ; the output has that of" in note]
        short = [n.replace(str(folder), "A").replace(str(root / "thinking"), "B") for n in templates]
        assert all(f"has that of {third}, not of" in note for note in short)
        named = [note.split("not of ")[1][0] for note in short]
        assert named == (expected or ["B"])


def test_notes_name_the_model_of_copy_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = world(tmp_path, {"chat_template.jinja": "x"}, {"chat_template.jinja": "y"})
    assert cli.main(made.argv("--copy-from", "instruct", "--dry-run")) == 0
    assert f"the output has that of {made.instruct}, not of {made.thinking}" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["lerp", "sweep", "merge", "dry-run"])
def test_every_command_reports_each_difference_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    made = World(tmp_path, tiny(1, dtype=torch.float16), tiny(2, tied=True))
    (made.thinking / "config.json").write_text(json.dumps({**CONFIG, "tie_word_embeddings": True, "rope_theta": 7}))
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(json.dumps({"method": "average", "models": [str(made.instruct), str(made.thinking)]}))
    pair = [str(made.instruct), str(made.thinking)]
    argv = {
        "lerp": made.argv(),
        "sweep": ["sweep", *pair, "-o", f"{tmp_path}/m-{{lam}}", "--lam", "0.5,0.7"],
        "merge": ["merge", str(recipe), "-o", str(made.out)],
        "dry-run": made.argv("--dry-run"),
    }
    assert cli.main(argv[command]) == 0
    out = capsys.readouterr().out
    for word in ("rope_theta is 7", "different dtypes", "so its model.embed_tokens.weight is used"):
        assert sum(line.startswith("note: ") and word in line for line in out.splitlines()) == 1, word
    assert "config: tie_word_embeddings" not in out


@pytest.mark.parametrize(
    ("files", "configs", "words"),
    [
        (({}, {"tokenizer.json": TOKENIZER}), ({}, {}), ("4 tokens, so the rows after them are padding", "(64)")),
        (
            ({}, {}),
            ({"vocab_size": 50}, {"vocab_size": 50}),
            ("vocab_size in config.json is 50 and 50", "padding", "(64)"),
        ),
        (({}, {}), ({"vocab_size": 50}, {"vocab_size": 64}), ("The vocabularies differ", "(64)")),
        (({"tokenizer.json": model(vocab={"a": 55})},) * 2, ({}, {}), ("The vocabularies differ",)),
    ],
)
def test_padded_vocabularies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: Any, configs: Any, words: tuple[str, ...]
) -> None:
    made = World(tmp_path)
    b = {n: torch.cat([t, t[:14]]) if t.shape[0] == 50 else t for n, t in made.b.items()}
    other = World(tmp_path / "other", made.a, b)
    for side, given, config in zip((other.instruct, other.thinking), files, configs):
        (side / "config.json").write_text(json.dumps({**CONFIG, **config}))
        for name, content in given.items():
            (side / name).write_text(json.dumps(content))
    assert_refused(capsys, tmp_path, other.argv(), "[50, 16]", "[64, 16]", *words)
    with pytest.raises(MismatchError):
        lerp_checkpoint(other.instruct, other.thinking, other.out, 0.5)
