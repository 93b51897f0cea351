"""Writes the model card (README.md) of a merge, with metadata for the Hub and text for readers.

Licence, language and task are copied if the cards of all models agree. If licences differ, or if a model states none,
no single licence is correct for the merge: the card has licence `other` and lists the licence of each model.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..checkpoint.record import Checkpoint
from ..errors import printable
from .sidefiles import RECORD, hub_id, origin_id

_MAX_FRONT = 128 << 10  # characters; front matter has a few kB, and parsing YAML is slow
_MAX_LICENCE = 1 << 20
_FRONT = re.compile(r"\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", re.DOTALL)
_LICENCE = ("license", "license_name", "license_link")


class Facts(NamedTuple):
    """The contents of the card.

    Attributes:
        summary: one sentence on the method.
        numerics: one sentence on the precision.
        version: the version of mi_kernels.
        command: the shell command of the merge, if it is known.
        sigma: the distance of the two models, if it is known.
    """

    summary: str
    numerics: str
    version: str
    command: str | None = None
    sigma: float | None = None


def model_card(models: Sequence[Checkpoint], facts: Facts, name: str) -> bytes:
    """Returns the README.md for the merge of `models`. `name`: the name of the output."""
    ids = [[printable(i) for i in (hub_id(m), *([origin_id(*m.adapter)] if m.adapter else []))] for m in models]
    roots = [root for m in models for root in (m.root, *([m.adapter.root] if m.adapter else []))]
    flat = [i for parts in ids for i in parts]
    cards = [front_matter(root) for root in roots]
    front = ["base_model:", *(f"- {json.dumps(i)}" for i in flat), "base_model_relation: merge"]
    front += ["library_name: transformers", "tags:", "- merge", "- mi_kernels"]
    for key in ("pipeline_tag", "language"):
        front += _common(cards, key)
    licence_front, licence_text = _licence(flat, roots, cards)
    paragraphs = [
        f"# {_text(name)}",
        f"{facts.summary} Models: {_text(', '.join(map('+'.join, ids)))}.",
        *([_sigma(facts.sigma)] if facts.sigma is not None else []),
        *([_command(facts.command)] if facts.command is not None else []),
        f"{facts.numerics} Made with mi_kernels {facts.version}; `{RECORD}` holds the details.",
        *licence_text,
    ]
    head = "\n".join(["---", *front, *licence_front, "---"])
    return "\n\n".join([head, *paragraphs, ""]).rstrip("\n").encode(errors="replace") + b"\n"


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
    return [f"{key}: {json.dumps(values[0])}"] if values[0] and all(v == values[0] for v in values) else []


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
        lines = [f"{key}: {json.dumps(value)}" for key, value in stated[0].items() if value]
        return lines, [note[1:]] if note else []
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
    return f"Distance of the two models: sigma = {sigma:.4g}, where sigma = sum |a - b| / (sum |a| + sum |b|)."


def _command(command: str) -> str:
    line = printable(command)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence}sh\n{line}\n{fence}"


def _text(name: str) -> str:
    """Escapes a name for Markdown. The name of a folder can contain any character."""
    return re.sub(r"[\\`<>\[\]&|]", r"\\\g<0>", printable(name))
