"""The model card of every kind of merge: its recipe merges again to the same bytes, and its commands work."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mi_kernels import Rule, lerp_checkpoint, merge_checkpoint, sweep_checkpoint
from mi_kernels.checksums.record import NAME as CHECKSUMS
from mi_kernels.checksums.record import Record, weights_digest

from ..support import adapters
from ..support.checks import World, run_cli
from ..support.fp8_models import fp8_model, quantised
from ..support.methods import drawn_cases, recipe
from ..support.models import CONFIG, Tensors, as_hub_cache, save, tiny

ODD = "a `x` ``y`` ---\n# <b>*mod_el*<b> | $z$ [l](u) 😀"


def finite(seed: int) -> Tensors:
    """A model without NaN and inf, between which there would be no angle."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(t.shape, generator=generator).bfloat16() for name, t in tiny(0).items()}


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three models in the current folder, named without their path, as in a command line."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("base", "instruct", "thinking")):
        save(tmp_path / name, finite(seed), 2)
    return ["base", "instruct", "thinking"]


def read(folder: str | Path) -> tuple[dict[str, Any], str]:
    """Returns the front matter and the text of the card."""
    from huggingface_hub import ModelCard

    content = (Path(folder) / "README.md").read_text(encoding="utf-8")
    front = ModelCard(content, ignore_metadata_errors=False).data.to_dict()
    return front, content.split("\n---\n", 1)[1]


def blocks(text: str, language: str) -> list[str]:
    """The blocks of code of a language, as Markdown delimits them: by a fence of at least as many backticks."""
    return [found[2] for found in re.finditer(rf"^(`{{3,}}){language}\n(.*?)\n\1$", text, re.DOTALL | re.MULTILINE)]


def again(out: str, text: str) -> None:
    """Merges again from the recipe in the card, by its command, and compares all files that hold no path."""
    (content,) = blocks(text, "yaml")
    Path("recipe.yml").write_text(content, encoding="utf-8", errors="surrogateescape")
    command = next(line for line in "\n".join(blocks(text, "sh")).splitlines() if " merge recipe.yml " in line)
    words = shlex.split(command)
    assert words[:4] == ["mi-kernels", "merge", "recipe.yml", "-o"]
    assert run_cli([*words[1:4], "again", *words[5:], "-q"]) == 0
    names = {path.name for path in Path(out).iterdir()}
    assert names == {path.name for path in Path("again").iterdir()}
    for name in names - {"README.md", "mi_kernels.json", CHECKSUMS}:
        assert (Path(out) / name).read_bytes() == (Path("again") / name).read_bytes(), name


CASES = drawn_cases(2)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_recipe_of_every_method_makes_the_same_bytes(three: list[str], case: Any) -> None:
    method, with_base, models, parameters = case
    for number in range(3, models + with_base):
        save(Path(f"m{number}"), finite(number), 2)
        three.append(f"m{number}")
    content = recipe(case, three)
    merge_checkpoint({**content, "layers": "1:", "modules": ["ffn", "attn"]}, "out", progress=False)
    _, text = read("out")
    for key, value in parameters.items():
        for number in value if isinstance(value, list) else [value]:
            assert json.dumps(number) in blocks(text, "yaml")[0], key
    assert "layers 1:, modules ffn,attn" in text.split("## ")[0]
    assert f"`{method}`" in text.split("## ")[0]
    again("out", text)


def test_the_recipe_of_an_interpolation_makes_the_same_bytes(three: list[str]) -> None:
    rules = [{"lam": [0, 1.25], "pattern": r"mlp\.\w+_proj"}, {"lam": 1e-05, "modules": "norm"}]
    content = {"method": "lerp", "models": three[:2], "lam": -0.3, "extrapolate": True, "modules": "ffn,attn"}
    merge_checkpoint(
        {**content, "rules": rules, "dtype": "float32", "copy_from": "instruct"},
        "out",
        max_shard_size=20_000,
        progress=False,
    )
    again("out", read("out")[1])


def test_the_recipe_of_a_sweep_has_the_lam_of_its_output(three: list[str]) -> None:
    sweep_checkpoint(*three[:2], "mi-{lam}", [0.25, 0.123456789], layers=[0], progress=False)
    assert "lam = 0.123456789, layers 0." in read("mi-0.123457")[1]
    again("mi-0.25", read("mi-0.25")[1])


def test_the_recipe_names_the_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pair, other = adapters.make_pair(tmp_path, 1), adapters.make_pair(tmp_path, 2)
    lerp_checkpoint(pair.name, other.folder, "out", 0.5, progress=False)
    _, text = read("out")
    assert "`base1+adapter1`" in text
    assert yaml.safe_load(blocks(text, "yaml")[0])["models"] == [pair.name, str(other.folder)]
    again("out", text)


MERGEKIT: dict[str, dict[str, Any]] = {
    "slices": {
        "merge_method": "slerp",
        "base_model": "instruct",
        "slices": [
            {
                "sources": [{"model": m, "layer_range": [i, i + 1]} for m in ("instruct", "thinking")],
                "parameters": {"t": [{"filter": "mlp", "value": 0.1 * (i + 1)}]},
            }
            for i in (0, 1)
        ],
        "parameters": {"t": 0.7},
    },
    "weights by slice": {
        "merge_method": "linear",
        "slices": [
            {
                "sources": [
                    {"model": "instruct", "layer_range": [0, 1], "parameters": {"weight": 0.25}},
                    {"model": "thinking", "layer_range": [0, 1], "parameters": {"weight": [0.5, 1]}},
                ]
            },
            {
                "sources": [
                    {"model": "instruct", "layer_range": [1, 2], "parameters": {"weight": 2}},
                    {"model": "thinking", "layer_range": [1, 2], "parameters": {"weight": 3}},
                ]
            },
        ],
        "dtype": "float16",
    },
    "one slice with parameters": {
        "merge_method": "ties",
        "base_model": "base",
        "slices": [
            {
                "sources": [{"model": m, "layer_range": [0, 2]} for m in ("instruct", "thinking")],
                "parameters": {"density": [0.2, 0.9]},
            }
        ],
        "parameters": {"weight": 1, "lambda": 0.5},
    },
    "mergekit's defaults": {
        "merge_method": "dare_ties",
        "base_model": "base",
        "models": [
            {"model": "instruct", "parameters": {"weight": 0.5, "density": [{"filter": "mlp", "value": 0.5}]}},
            {"model": "thinking", "parameters": {"weight": "0.75"}},
        ],
        "parameters": {"normalize": [{"filter": "self_attn", "value": True}]},
        "tokenizer_source": "base",
    },
}


@pytest.mark.parametrize("name", MERGEKIT)
def test_the_recipe_of_a_mergekit_configuration_makes_the_same_bytes(three: list[str], name: str) -> None:
    Path("config.yml").write_text(yaml.safe_dump(MERGEKIT[name]))
    for model in three:
        (Path(model) / "tokenizer_config.json").write_text(json.dumps({"model": model}))
        (Path(model) / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}}))
    merge_checkpoint("config.yml", "out", progress=False)
    _, text = read("out")
    again("out", text)


def test_no_name_breaks_the_card(three: list[str]) -> None:
    """Names with everything that Markdown, YAML and a shell read as something else."""
    Path("instruct").rename(ODD)
    out = f"out {ODD}"
    lerp_checkpoint(ODD, "thinking", out, 0.5, progress=False)
    front, text = read(out)
    assert front["base_model"] == ["thinking"]
    assert yaml.safe_load(blocks(text, "yaml")[0])["models"] == [ODD, "thinking"]
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"^(`{3,})\w+\n.*?\n\1$", "", text, flags=re.DOTALL | re.MULTILINE), re.M
    )
    assert [h for h in headings if not h.startswith("out ")] == [
        "Use",
        "Recipe",
        "How it was made",
        "Verify",
        "Licence",
    ]
    assert r"\<b\>\*mod_el\*\<b\>" in text
    again(out, text)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ([Rule(0, modules="attn")], "lam = 0.8; lam = 0 for modules attn."),
        ([Rule(1, layers="1:", modules="ffn,norm")], "; lam = 1 for layers 1: and modules ffn,norm."),
        ([Rule([0, 0.5], layers=slice(0, 1))], "; lam = [0, 0.5] for layers 0:1."),
        ([Rule(0.25, pattern=r"\.up_proj\.|`o")], r"; lam = 0.25 for tensors that match ``\.up_proj\.|`o``."),
        ([Rule(0, modules="attn", pattern="q_proj")], "; lam = 0 for modules attn that match `q_proj`."),
        ([Rule(0.1)], "; lam = 0.1 for all tensors."),
        ([Rule(0.1)] * 10, "; lam = 0.1 for all tensors; and 2 more rules."),
    ],
)  # fmt: skip
def test_rules_are_in_the_summary_in_words(three: list[str], rules: list[Rule], words: str) -> None:
    lerp_checkpoint(three[0], three[1], "out", 0.8, rules=rules, progress=False)
    summary = json.loads(Path("out", "mi_kernels.json").read_text())["summary"]
    assert summary.endswith(words)
    assert summary.count("lam = 0.1 for") <= 8
    assert summary in Path("out", "README.md").read_text()


@pytest.mark.parametrize(
    "extra",
    [
        ["-q"], ["--quiet"], ["--json"], ["--threads", "1"], ["--threads=1"], ["--io", "buffered", "--overwrite"],
        ["--max-memory", "64MiB", "--backend", "cpu", "--device=cpu"], ["--restart"],
    ],
)  # fmt: skip
def test_options_that_do_not_change_the_output_do_not_change_the_card(three: list[str], extra: list[str]) -> None:
    argv = ["lerp", *three[:2], "--lam", "0.5"]
    assert run_cli([*argv, "-o", "out"]) == 0
    plain = Path("out", "README.md").read_bytes()
    assert b"mi-kernels lerp " in plain
    shutil.rmtree("out")
    assert run_cli([*argv[:3], *extra, *argv[3:], "-o", "out"]) == 0
    assert Path("out", "README.md").read_bytes() == plain


def test_options_that_change_the_output_are_in_the_card(three: list[str]) -> None:
    argv = [
        "lerp",
        *three[:2],
        "--lam",
        "0.5",
        "-o",
        "out",
        "--dtype",
        "float32",
        "--copy-from",
        "instruct",
        "--strict",
    ]
    run_cli([*argv[:-1], "--threads", "1"])
    assert f"mi-kernels {shlex.join(argv[:-1])}\n" in Path("out", "README.md").read_text()


def test_the_commands_of_the_card_verify_the_folder(three: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    merge_checkpoint({"method": "ties", "base": "base", "models": three[1:], "density": 0.3}, "out 1", progress=False)
    commands = [line for block in blocks(read("out 1")[1], "sh") for line in block.splitlines() if " verify " in line]
    assert commands == [
        "mi-kernels verify 'out 1'",
        "mi-kernels verify 'out 1' --recompute base instruct thinking",
    ]
    for command in commands:
        assert run_cli(shlex.split(command)[1:]) == 0
    assert "bit-identical" in capsys.readouterr().out


def test_hub_models_are_named_with_their_commit(three: list[str], tmp_path: Path) -> None:
    cached = as_hub_cache(tmp_path / "instruct", tmp_path / "hub", "Org/A", "c0ffee")
    lerp_checkpoint(cached, "thinking", "out", 0.5, progress=False)
    front, text = read("out")
    assert front["base_model"] == ["Org/A", "thinking"]
    assert yaml.safe_load(blocks(text, "yaml")[0])["models"] == ["Org/A@c0ffee", "thinking"]
    assert "mi-kernels verify out --recompute Org/A@c0ffee thinking" in text


def test_the_dtypes_are_those_of_the_output(tmp_path: Path) -> None:
    """FP8 models hold another dtype than what is merged and written."""
    names = [str(quantised(tmp_path / name, fp8_model(seed))) for seed, name in enumerate("ab")]
    for dtype, shown in ((None, "`bfloat16`"), ("float16", "`float16`")):
        out = tmp_path / f"out-{dtype}"
        lerp_checkpoint(*names, out, 0.5, dtype=dtype, progress=False)
        assert f"- Dtypes: {shown}\n" in (out / "README.md").read_text()


def test_the_digest_is_of_the_weights(three: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    lerp_checkpoint(*three[:2], "out", 0.5, progress=False)
    lerp_checkpoint(*three[:2], "sharded", 0.5, max_shard_size=20_000, progress=False)
    lerp_checkpoint(*three[:2], "other", 0.75, progress=False)
    found = {}
    for folder in ("out", "sharded", "other"):
        (found[folder],) = blocks(read(folder)[1], "text")
        record = Record.decode((Path(folder) / CHECKSUMS).read_bytes(), "")
        assert found[folder] == record.weights_digest
        turned = [s._replace(tensors=dict(reversed(s.tensors.items()))) for s in reversed(record.shards.values())]
        assert found[folder] == weights_digest(turned)  # whatever the order in the files
        assert run_cli(["inspect", folder]) == 0
        assert f"recorded digest of the weights: {found[folder]}\n" in capsys.readouterr().out
        assert run_cli(["verify", folder, "-q"]) == 0  # the digest is in the card before its checksum is computed
    assert found["out"] == found["sharded"] != found["other"]
    assert re.fullmatch("[0-9a-f]{64}", weights_digest([]))


def test_how_to_load_follows_the_output(tmp_path: Path) -> None:
    world = World(tmp_path)
    lerp_checkpoint(world.instruct, world.thinking, tmp_path / "plain", 0.5, progress=False)
    (code,) = blocks(read(tmp_path / "plain")[1], "python")
    assert code.splitlines() == [
        "from transformers import AutoModelForCausalLM",
        "",
        'model = AutoModelForCausalLM.from_pretrained("plain", dtype="auto")',
    ]
    config = {**CONFIG, "auto_map": {"AutoModelForCausalLM": "modeling_x.X"}}
    (world.thinking / "config.json").write_text(json.dumps(config))
    (world.thinking / "tokenizer_config.json").write_text("{}")
    (world.thinking / "modeling_x.py").write_text("")
    lerp_checkpoint(world.instruct, world.thinking, tmp_path / "own", 0.5, progress=False)
    _, text = read(tmp_path / "own")
    assert 'tokenizer = AutoTokenizer.from_pretrained("own", trust_remote_code=True)' in text
    assert "vllm serve own --trust-remote-code" in text
    (world.thinking / "config.json").write_text("{}")
    lerp_checkpoint(world.instruct, world.thinking, tmp_path / "unknown", 0.5, progress=False)
    assert "## Use" not in read(tmp_path / "unknown")[1]


def test_the_snippet_loads_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ..support.models import qwen3_model

    for seed, name in enumerate("ab"):
        qwen3_model(seed, tied=True).save_pretrained(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    lerp_checkpoint("a", "b", "out", 0.5, progress=False)
    names: dict[str, Any] = {}
    exec(blocks(read("out")[1], "python")[0], names)
    assert type(names["model"]).__name__ == "Qwen3ForCausalLM"


def test_a_pushed_card_has_the_id(three: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from mi_kernels.output import upload

    monkeypatch.setattr(upload, "check_access", lambda repo: None)
    monkeypatch.setattr(upload, "push", lambda folder, repo, private: repo)
    words = ["sweep", "base", "instruct", "-o", "mi-{lam}", "--lam", "0.25,0.5", "--push", "Org/mi-{lam}", "-q"]
    assert run_cli(words) == 0
    _, text = read("mi-0.25")
    assert 'from_pretrained("Org/mi-0.25"' in text
    assert "vllm serve Org/mi-0.25" in text
    assert "hf download Org/mi-0.25 --local-dir mi-0.25" in text
    assert shlex.join(["mi-kernels", *words[:-1]]) in text


@pytest.mark.parametrize(
    ("name", "can_be"),
    [
        *((name, True) for name in ("a", "Qwen3-4B_x.y", "a" * 96, "1")),
        *(
            (name, False)
            for name in ("a b", "a--b", "a..b", "-a", "a-", ".a", "a.", "a" * 97, "a.git", "é", "a+b", "_")
        ),
    ],
)
def test_base_models_are_ids_of_the_hub(three: list[str], name: str, can_be: bool) -> None:
    from huggingface_hub.utils import validate_repo_id

    Path("instruct").rename(name)
    lerp_checkpoint(f"./{name}", "thinking", "out", 0.5, progress=False)
    found = read("out")[0]["base_model"]
    assert found == ([name, "thinking"] if can_be else ["thinking"])
    for each in found:
        validate_repo_id(each)


def test_numbers_of_numpy(three: list[str]) -> None:
    import numpy as np

    sweep_checkpoint(*three[:2], "mi-{lam}", list(np.arange(0.1, 0.3, 0.1)), progress=False)
    again("mi-0.2", read("mi-0.2")[1])
    content = {"method": "linear", "models": three[:2], "weight": np.float64(0.1), "normalize": False}
    merge_checkpoint(content, "out", progress=False)
    assert "weight: 0.1\n" in read("out")[1]
