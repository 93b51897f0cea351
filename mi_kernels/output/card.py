"""The model card: what the Hub reads about a merge, and what people do.

What both models' cards say alike (licence, language, task) is carried over. Where licences differ, or one model states
none, nobody can say in one word what holds for the merge: the card says `other`, and what each of them said.
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

_MAX_FRONT = 128 << 10  # of a card's characters; front matter has a few kB, and YAML is slow to read
_MAX_LICENCE = 1 << 20
_FRONT = re.compile(r"\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", re.DOTALL)
_LICENCE = ("license", "license_name", "license_link")


class Facts(NamedTuple):
    """What the card says of a merge: two sentences for people, the version that made it; and where they are known, the
    command line and the distance of the two models."""

    summary: str
    numerics: str
    version: str
    command: str | None = None
    sigma: float | None = None


def model_card(models: Sequence[Checkpoint], facts: Facts, name: str) -> bytes:
    """README.md of the merge of `models`; `name` is the output's."""
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
    """The metadata of the card in the folder `root`; nothing where there is no card, or none that can be read."""
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
    """The front matter's line for `key`, where all cards have the same value."""
    values = [_plain(card.get(key)) for card in cards]
    return [f"{key}: {json.dumps(values[0])}"] if values[0] and all(v == values[0] for v in values) else []


def _plain(value: Any) -> str | list[str] | None:
    """A word or a list of words; anything else counts as not said. YAML reads the language `no` as false."""
    value = "no" if value is False else value
    if isinstance(value, str) and 0 < len(value) <= 200:
        return value
    if isinstance(value, list) and 0 < len(value) <= 200:
        words = ["no" if word is False else word for word in value]
        return words if all(isinstance(word, str) and 0 < len(word) <= 200 for word in words) else None
    return None


def _licence(ids: Sequence[str], roots: Sequence[str], cards: Sequence[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """The front matter's lines and the paragraphs about licences."""
    stated = [{key: _plain(card.get(key)) for key in _LICENCE} for card in cards]
    texts = {_licence_file(root) for root in roots} - {None}
    note = " Their LICENSE files are not the same; the one here came with the config." if len(texts) > 1 else ""
    if all(s["license"] and s == stated[0] for s in stated):
        lines = [f"{key}: {json.dumps(value)}" for key, value in stated[0].items() if value]
        return lines, [note[1:]] if note else []
    said = "; ".join(f"{_text(i)}: {_shown(s)}" for i, s in zip(ids, stated))
    if not any(s["license"] for s in stated):
        return [], [f"The models' cards state no licence.{note}"]
    return ["license: other"], [
        f"The models' licences differ ({said}): what holds for the merge is yours to find.{note}"
    ]


def _shown(stated: dict[str, Any]) -> str:
    words = [stated["license"], stated["license_name"]]
    flat = [", ".join(w) if isinstance(w, list) else w for w in words if w]
    return _text(" ".join(flat)) if flat else "none stated"


def _licence_file(root: str) -> bytes | None:
    for name in sorted(os.listdir(root)):
        path = os.path.join(root, name)
        if name.upper().startswith("LICENSE") and os.path.isfile(path) and os.path.getsize(path) <= _MAX_LICENCE:
            with open(path, "rb") as file:
                return file.read()
    return None


def _sigma(sigma: float) -> str:
    return f"Distance of the two models' weights: sigma = {sigma:.4g}, that is sum |a - b| / (sum |a| + sum |b|)."


def _command(command: str) -> str:
    line = printable(command)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence}sh\n{line}\n{fence}"


def _text(name: str) -> str:
    """A name as Markdown that shows just that: folders may be called anything."""
    return re.sub(r"[\\`<>\[\]&|]", r"\\\g<0>", printable(name))
