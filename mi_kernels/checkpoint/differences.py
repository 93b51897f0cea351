"""What two models say differently beside their weights: told before a merge, as the output can follow only one of them.

Serious is what makes weights mean other things on the two sides: token ids, and settings that the layers compute with.
The rest (chat template, sampling) differs between an Instruct and a Thinking model as a rule, and is told for the
choice of `copy_from`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import CheckpointError, StrictError, shortened
from .files import parse_json, read_file
from .record import Checkpoint

# Keys of config.json, those of a text_config preferred.
_COMPUTING = (
    "model_type",
    "hidden_act",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "num_experts_per_tok",
    "norm_topk_prob",
    "rms_norm_eps",
    "layer_norm_eps",
    "partial_rotary_factor",
    "rope_theta",
    "rope_scaling",
    "sliding_window",
)
_SETTINGS = ("max_position_embeddings", "vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
_TIED = "tie_word_embeddings"
_SPLITTING = (
    "normalizer",
    "pre_tokenizer",
)  # of tokenizer.json: what the ids of a text depend on besides the vocabulary
_OLD_TOKENIZERS = ("tokenizer.model", "vocab.json", "merges.txt")
_BOOKKEEPING = ("transformers_version", "_from_model_config")
_MOST = 64 << 20  # bytes of a file that is compared; a tokenizer of 250,000 words is 20 MB
_ABSENT = object()


class Difference(NamedTuple):
    text: str
    serious: bool = False


def between(models: Sequence[Checkpoint], origin: Checkpoint, untied: bool) -> list[Difference]:
    """What differs between `origin`, whose small files the output gets, and each other model.

    Args:
        untied: the merge unties the embeddings, and says so elsewhere.
    """
    found: list[Difference] = []
    for model in models:
        if model is not origin:
            for compare in (_architectures, _configs, _tokenizers, _templates, _generation):
                try:
                    found += compare(origin, model)
                except (CheckpointError, OSError) as error:  # of a file that no merge needs: no reason to stop
                    found.append(Difference(f"{getattr(error, 'problem', error)}; not compared"))
    return [d for d in found if not (untied and d.text.startswith(f"config: {_TIED} "))]


def refuse(out: str, found: Sequence[Difference]) -> None:
    """For strict merges.

    Raises:
        StrictError: there is a serious difference.
    """
    serious = [d.text for d in found if d.serious]
    if serious:
        more = f" (and {len(serious) - 1} more such differences)" if len(serious) > 1 else ""
        raise StrictError(
            f"{out}: {serious[0]}{more}",
            "Use models that fit together, or leave --strict out to merge all the same.",
        )


def vocabulary_remedy(first: Checkpoint, other: Checkpoint, rows: tuple[int, int]) -> str:
    """What to do where embeddings have different numbers of rows: is it padding, or are there other tokens?"""
    resize = f"transformers' resize_token_embeddings({max(rows)})"
    tokens = [count for count in map(_token_count, (first, other)) if count is not None]
    if tokens and max(tokens) <= min(rows):
        return (
            f"Rows from {max(tokens)} on are padding, as the tokenizer has no more tokens: give both models "
            f"{max(rows)} rows with {resize}."
        )
    configured = [m.config.get("vocab_size") for m in (first, other)]
    if not tokens and any(c != r for c, r in zip(configured, rows)) and min(rows) in configured:
        return (
            f"config.json says {' and '.join(map(str, configured))}: where the rows behind are padding, give both "
            f"models {max(rows)} rows with {resize}."
        )
    return f"The vocabularies differ: give both models the same one first ({resize})."


def _shown(value: object) -> str:
    if value is _ABSENT:
        return "absent"
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _differ(what: str, a: object, b: object, origin: Checkpoint, other: Checkpoint) -> str:
    return f"{what} is {_shown(a)} in {origin.source}, {_shown(b)} in {other.source}"


def _architectures(origin: Checkpoint, other: Checkpoint) -> Iterator[Difference]:
    a, b = (m.config.get("architectures") for m in (origin, other))
    if origin.config and other.config and a != b:
        yield Difference(_differ("config: architectures", a, b, origin, other) + "; its tensors fit", serious=True)


def _configs(origin: Checkpoint, other: Checkpoint) -> Iterator[Difference]:
    if not origin.config or not other.config:
        return
    one, two = _settings(origin.config), _settings(other.config)
    for key in (*_COMPUTING, *_SETTINGS, _TIED):
        a, b = one.get(key, _ABSENT), two.get(key, _ABSENT)
        if a != b:
            text = _differ(f"config: {key}", a, b, origin, other)
            yield Difference(f"{text}; the output has {_shown(a)}", serious=key in _COMPUTING)


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that are compared, as they are meant, whatever version of transformers wrote them."""
    text = config.get("text_config")
    merged = {**config, **text} if isinstance(text, dict) else dict(config)
    if isinstance(rope := merged.get("rope_parameters"), dict):  # transformers 5
        rope = dict(rope)
        merged.setdefault("rope_theta", rope.pop("rope_theta", None))
        merged.setdefault("rope_scaling", rope)
    if isinstance(rope := merged.get("rope_scaling"), dict):
        kind = rope.get("rope_type", rope.get("type"))
        rest = {k: v for k, v in rope.items() if k not in ("rope_type", "type", "rope_theta")}
        merged["rope_scaling"] = None if kind in (None, "default") and not rest else {"rope_type": kind, **rest}
    if merged.get("use_sliding_window") is False:
        merged["sliding_window"] = None
    return {key: value for key, value in merged.items() if value is not None}


def _tokenizers(origin: Checkpoint, other: Checkpoint) -> Iterator[Difference]:
    name = "tokenizer.json"
    present = [m for m in (origin, other) if os.path.exists(os.path.join(m.root, name))]
    if len(present) == 1:
        yield Difference(f"only {present[0].source} has a {name}, so tokenizers are not compared")
    elif present and not _same_content(origin, other, name):
        one, two = (_json(m, name) for m in present)
        try:
            yield from _parsed_tokenizers(one, two, origin, other)
        except (KeyError, TypeError, ValueError, AttributeError):
            yield Difference(f"{name} differs between {origin.source} and {other.source}, in an unknown form", True)
    elif not present:
        for old in _OLD_TOKENIZERS:
            held = all(os.path.exists(os.path.join(m.root, old)) for m in (origin, other))
            if held and not _same_content(origin, other, old):
                yield Difference(f"tokenizers differ: {old} of {origin.source} and of {other.source}", True)


def _parsed_tokenizers(
    one: dict[str, Any], two: dict[str, Any], origin: Checkpoint, other: Checkpoint
) -> Iterator[Difference]:
    a, b = _ids(one), _ids(two)
    wrong = [token for token in {**a, **b} if a.get(token) != b.get(token)]
    if wrong:
        token = min(wrong, key=lambda t: (min(i for i in (a.get(t), b.get(t)) if i is not None), t))
        example = _differ(f"the id of {_shown(token)}", a.get(token, _ABSENT), b.get(token, _ABSENT), origin, other)
        count = f"{len(wrong):,} tokens have" if len(wrong) > 1 else "1 token has"
        yield Difference(f"tokenizers differ: {count} other ids or none: {example}", serious=True)
    elif a and one.get("added_tokens") != two.get("added_tokens"):
        yield Difference(f"tokenizers differ in the flags of added tokens; the output has {origin.source}'s")
    if _merges(one) != _merges(two):
        yield Difference(f"tokenizers differ: other merges in {origin.source} and {other.source}", serious=True)
    rest = sorted(key for key in {*one, *two} - {"model", "added_tokens", "version"} if one.get(key) != two.get(key))
    if rest:
        serious = any(key in _SPLITTING for key in rest)
        yield Difference(f"tokenizers differ in {shortened(rest)}; the output has {origin.source}'s", serious)


def _ids(tokenizer: dict[str, Any]) -> dict[str, int]:
    vocabulary = tokenizer["model"]["vocab"]
    if isinstance(vocabulary, list):  # Unigram: pairs of token and score
        vocabulary = {token: i for i, (token, _) in enumerate(vocabulary)}
    return {**vocabulary, **{t["content"]: t["id"] for t in tokenizer.get("added_tokens") or ()}}


def _merges(tokenizer: dict[str, Any]) -> list[str]:
    """Newer versions write pairs for "a b"."""
    return [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"].get("merges") or ()]


def _token_count(model: Checkpoint) -> int | None:
    try:
        return max(_ids(_json(model, "tokenizer.json")).values()) + 1
    except (CheckpointError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _templates(origin: Checkpoint, other: Checkpoint) -> Iterator[Difference]:
    a, b = _template(origin), _template(other)
    if a == b:
        return
    if a is None or b is None:
        has = other if a is None else origin
        yield Difference(f"only {has.source} has a chat template; the output has {'none' if a is None else 'it'}")
    else:
        yield Difference(f"chat templates differ; the output has that of {origin.source}, not of {other.source}")


def _template(model: Checkpoint) -> object:
    """The chat template: a file of its own, or part of the tokenizer's settings."""
    name = "chat_template.jinja"
    if os.path.lexists(os.path.join(model.root, name)):
        return _content(model, name).decode(errors="replace").strip()
    template = _optional_json(model, "tokenizer_config.json").get("chat_template")
    return template.strip() if isinstance(template, str) else template


def _generation(origin: Checkpoint, other: Checkpoint) -> Iterator[Difference]:
    one, two = (_optional_json(m, "generation_config.json") for m in (origin, other))
    keys = [k for k in {**one, **two} if k not in _BOOKKEEPING and one.get(k, _ABSENT) != two.get(k, _ABSENT)]
    if keys:
        shown = ", ".join(f"{k} {_shown(one.get(k, _ABSENT))} / {_shown(two.get(k, _ABSENT))}" for k in keys[:6])
        more = f" and {len(keys) - 6} more" if len(keys) > 6 else ""
        yield Difference(
            f"generation settings differ ({origin.source} / {other.source}): {shown}{more}; the output has the first"
        )


def _content(model: Checkpoint, name: str) -> bytes:
    """Of a file that may come from anybody: a regular one, and no link out of the model's folder."""
    return read_file(os.path.join(model.root, name), _MOST, model.root)


def _json(model: Checkpoint, name: str) -> dict[str, Any]:
    return parse_json(_content(model, name), os.path.join(model.root, name))


def _optional_json(model: Checkpoint, name: str) -> dict[str, Any]:
    return _json(model, name) if os.path.lexists(os.path.join(model.root, name)) else {}


def _same_content(one: Checkpoint, two: Checkpoint, name: str) -> bool:
    return _content(one, name) == _content(two, name)
