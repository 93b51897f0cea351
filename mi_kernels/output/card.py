"""Writes the model card (README.md) of a merge, with metadata for the Hub and text for readers.

Licence, language and task are copied if the cards of all models agree. If licences differ, or if a model states none,
no single licence is correct for the merge: the card has licence `other` and lists the licence of each model.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..checkpoint.record import Checkpoint
from ..checksums.record import NAME as CHECKSUMS
from ..errors import printable
from ..recipe.yaml_writer import yaml_value
from .sidefiles import RECORD, hub_id, origin_id

NAME = "README.md"
_DIGEST = b"\0" * 64  # no text of a card can contain it
_HUB_ID = re.compile(r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?(?:/[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)?", re.ASCII)
_MAX_ID = 96  # characters
_MAX_FRONT = 128 << 10  # characters; front matter has a few kB, and parsing YAML is slow
_MAX_LICENCE = 1 << 20
_FRONT = re.compile(r"\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", re.DOTALL)
_LICENCE = ("license", "license_name", "license_link")


class Facts(NamedTuple):
    """What the card says about the merge.

    Attributes:
        summary: one sentence on the method, its parameters and the masks, in Markdown.
        numerics: one sentence on the precision, in Markdown.
        version: the version of mi_kernels.
        method: the name of the method, what it computes and its paper, in Markdown.
        recipe: the recipe as YAML, which `mi-kernels merge` reads.
        inputs: (role, name) of each model, the base first. The names are those to merge or verify again with.
        dtypes: those of the output's tensors, by torch's names.
        max_shard_size: in bytes; None if the output has the shards of the first model.
        merged, copied: the numbers of computed and of copied tensors.
        command: the shell command of the merge, if it is known.
        sigma: the distance of the two models, if it is known.
        repo: the Hub id that the output is uploaded to, if it is.
        origin: where the recipe comes from, such as a search: a paragraph in Markdown.
    """

    summary: str
    numerics: str
    version: str
    method: str
    recipe: str
    inputs: Sequence[tuple[str, str]]
    dtypes: Sequence[str]
    max_shard_size: int | None
    merged: int
    copied: int
    command: str | None = None
    sigma: float | None = None
    repo: str | None = None
    origin: str | None = None


def model_card(models: Sequence[Checkpoint], facts: Facts, name: str, files: Mapping[str, bytes]) -> bytes:
    """Returns the README.md for the merge of `models`. `completed` adds the digest of the weights later.

    Args:
        name: the name of the output.
        files: the other small files of the output, by name. They decide how the model is loaded.
    """
    ids = [[printable(i) for i in (hub_id(m), *([origin_id(*m.adapter)] if m.adapter else []))] for m in models]
    roots = [root for m in models for root in (m.root, *([m.adapter.root] if m.adapter else []))]
    flat = [i for parts in ids for i in parts]
    cards = [front_matter(root) for root in roots]
    # The Hub rejects a card with a base_model that cannot be an id, such as a name with spaces.
    bases = [i for i in dict.fromkeys(flat) if _can_be_id(i)]
    front = ["base_model:", *(f"- {json.dumps(i)}" for i in bases)] if bases else []
    front += ["base_model_relation: merge", "library_name: transformers", "tags:", "- merge", "- mi_kernels"]
    for key in ("pipeline_tag", "language"):
        front += _common(cards, key)
    licence_front, licence_text = _licence(flat, roots, cards)
    named = [code("+".join(parts)) for parts in ids]
    here = facts.repo or name
    paragraphs = [
        f"# {_text(name)}",
        f"A merge of {', '.join(named[:-1])} and {named[-1]}: {facts.summary}",
        *_loading(here, files),
        *_recipe(facts, name),
        *_making(facts),
        *_verifying(facts, name),
        "## Licence",
        *licence_text,
    ]
    head = "\n".join(["---", *front, *licence_front, "---"])
    return "\n\n".join([head, *paragraphs, ""]).rstrip("\n").encode(errors="replace") + b"\n"


def _can_be_id(name: str) -> bool:
    """Returns whether a name follows the rules of the Hub for ids."""
    allowed = _HUB_ID.fullmatch(name) and len(name) <= _MAX_ID and not name.endswith(".git")
    return bool(allowed) and "--" not in name and ".." not in name


def completed(files: Mapping[str, bytes], digest: str) -> dict[str, bytes]:
    """Returns the small files with the digest of the weights in the card. It is known when all shards are written.

    Args:
        digest: 64 characters, see `checksums.record.weights_digest`. So the card keeps its size.
    """
    return {
        name: content.replace(_DIGEST, digest.encode(), 1) if name == NAME else content
        for name, content in files.items()
    }


def _loading(here: str, files: Mapping[str, bytes]) -> list[str]:
    """Returns the section on how to load the model. `here`: its Hub id, or the name of its folder."""
    try:
        config = json.loads(files.get("config.json", b"null"))
    except ValueError:
        config = None
    names = config.get("architectures") if isinstance(config, dict) else None
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        return []  # nobody could say how to load it
    first = names[0]
    remote = "auto_map" in config
    auto = {"ForCausalLM": "AutoModelForCausalLM", "ForConditionalGeneration": "AutoModelForImageTextToText"}
    kind = next((auto[suffix] for suffix in auto if first.endswith(suffix)), "AutoModel")
    if "vision_config" not in config and kind == "AutoModelForImageTextToText":
        kind = "AutoModel"
    processor = "AutoProcessor" if "preprocessor_config.json" in files else "AutoTokenizer"
    tokenizer = any(name.startswith(("tokenizer", "vocab", "preprocessor_config")) for name in files)
    trust = ", trust_remote_code=True" if remote else ""
    quoted = _python(here)
    lines = [
        f"from transformers import {kind}{f', {processor}' if tokenizer else ''}",
        "",
        f'model = {kind}.from_pretrained({quoted}, dtype="auto"{trust})',
        *([f"tokenizer = {processor}.from_pretrained({quoted}{trust})"] if tokenizer else []),
    ]
    if processor == "AutoProcessor":
        lines = [line.replace("tokenizer = ", "processor = ") for line in lines]
    served = f"vllm serve {_shell(here)}{' --trust-remote-code' if remote else ''}"
    return ["## Use", "With transformers:", _fence("\n".join(lines), "python"), "With vLLM:", _fence(served, "sh")]


def _recipe(facts: Facts, name: str) -> list[str]:
    size = "" if facts.max_shard_size is None else f" --max-shard-size {facts.max_shard_size}B"
    return [
        "## Recipe",
        "Save this as `recipe.yml`. The command below it makes the same bytes again.",
        _fence(facts.recipe, "yaml"),
        _fence(f"mi-kernels merge recipe.yml -o {_shell(name)}{size}", "sh"),
    ]


def _making(facts: Facts) -> list[str]:
    points = [
        f"Method: {facts.method}",
        *(f"Model {role}: {code(printable(name))}" for role, name in facts.inputs),
        f"Tensors: {facts.merged:,} merged, {facts.copied:,} copied",
        f"Dtypes: {', '.join(map(code, facts.dtypes)) or 'none'}",
        *([_sigma(facts.sigma)] if facts.sigma is not None else []),
        f"Precision: {facts.numerics}",
        f"Version: mi_kernels {facts.version}. `{RECORD}` has all details.",
    ]
    command = [] if facts.command is None else ["The command:", _fence(printable(facts.command), "sh")]
    origin = [] if facts.origin is None else [printable(facts.origin)]
    return ["## How it was made", *origin, "\n".join(f"- {point}" for point in points), *command]


def _verifying(facts: Facts, name: str) -> list[str]:
    folder = _shell(name)
    inputs = " ".join(_shell(given) for _, given in facts.inputs)
    lines = [
        *([] if facts.repo is None else [f"hf download {facts.repo} --local-dir {folder}"]),
        f"mi-kernels verify {folder}",
        f"mi-kernels verify {folder} --recompute {inputs}",
    ]
    return [
        "## Verify",
        "`verify` compares every byte with the checksums. With `--recompute`, it also merges again in memory, and "
        "compares every bit.",
        _fence("\n".join(lines), "sh"),
        f"`{CHECKSUMS}` has CRC-32C checksums of every file and tensor. `mi-kernels inspect` shows the digest of the "
        "weights:",
        _fence(_DIGEST.decode(), "text"),
    ]


def front_matter(root: str) -> dict[str, Any]:
    """Returns the metadata of the model card in the folder `root`; empty if there is no readable card."""
    path = os.path.join(root, "README.md")
    if not os.path.isfile(path):
        return {}
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            match = _FRONT.match(file.read(_MAX_FRONT))
    except OSError:
        return {}
    if match is None:
        return {}
    import yaml

    from ..recipe.yaml_loader import Loader

    try:
        content = yaml.load(match[1], Loader)
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _common(cards: Sequence[dict[str, Any]], key: str) -> list[str]:
    """Returns the line of the front matter for `key` if all cards have the same value."""
    values = [_plain(card.get(key)) for card in cards]
    return [f"{key}: {yaml_value(values[0])}"] if values[0] and all(v == values[0] for v in values) else []


def _plain(value: Any) -> str | list[str] | None:
    """Returns a word or a list of words; None for other values. YAML parses the language `no` as false."""
    value = "no" if value is False else value
    if isinstance(value, str) and 0 < len(value) <= 200:
        return value
    if isinstance(value, list) and 0 < len(value) <= 200:
        words = ["no" if word is False else word for word in value]
        return words if all(isinstance(word, str) and 0 < len(word) <= 200 for word in words) else None
    return None


def _licence(ids: Sequence[str], roots: Sequence[str], cards: Sequence[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Returns the lines of the front matter and the paragraphs about licences."""
    stated = [{key: _plain(card.get(key)) for key in _LICENCE} for card in cards]
    texts = {_licence_file(root) for root in roots} - {None}
    note = " The LICENSE files of the models differ; this one came with config.json." if len(texts) > 1 else ""
    if all(s["license"] and s == stated[0] for s in stated):
        lines = [f"{key}: {yaml_value(value)}" for key, value in stated[0].items() if value]
        return lines, [f"{_shown(stated[0])}, as the cards of all models state.{note}"]
    said = "; ".join(f"{_text(i)}: {_shown(s)}" for i, s in zip(ids, stated))
    if not any(s["license"] for s in stated):
        return [], [f"The cards of the models state no licence.{note}"]
    return ["license: other"], [
        f"The licences of the models differ ({said}). Check which terms apply to the merge.{note}"
    ]


def _shown(stated: dict[str, Any]) -> str:
    words = [stated["license"], stated["license_name"]]
    flat = [", ".join(w) if isinstance(w, list) else w for w in words if w]
    return _text(" ".join(flat)) if flat else "none stated"


def _licence_file(root: str) -> bytes | None:
    if not os.path.isdir(root):  # one file without a folder of its own
        return None
    for name in sorted(os.listdir(root)):
        path = os.path.join(root, name)
        if name.upper().startswith("LICENSE") and os.path.isfile(path) and os.path.getsize(path) <= _MAX_LICENCE:
            with open(path, "rb") as file:
                return file.read()
    return None


def _sigma(sigma: float) -> str:
    return f"Distance of the two models: sigma = {sigma:.4g}, where sigma is `sum |a - b| / (sum |a| + sum |b|)`"


def _fence(text: str, language: str) -> str:
    """Returns a block of code. No line of `text` can end it."""
    fence = "`" * max(3, 1 + _longest_run(text))
    return f"{fence}{language}\n{text}\n{fence}"


def code(text: str) -> str:
    """Returns `text` as code within a line."""
    ticks = "`" * (1 + _longest_run(text))
    space = " " if text.startswith(("`", " ")) or text.endswith(("`", " ")) else ""
    return f"{ticks}{space}{text}{space}{ticks}"


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _shell(word: str) -> str:
    return printable(shlex.quote(word))


def _python(text: str) -> str:
    return f'"{text}"' if text.isprintable() and not {*text} & {*'"\\'} else ascii(text)


def _text(name: str) -> str:
    """Escapes a name for Markdown. The name of a folder can contain any character."""
    return re.sub(r"[\\`<>\[\]&|*~$]|(?<!\w)_|_(?!\w)", r"\\\g<0>", printable(name))
