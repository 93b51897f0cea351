"""Finds differences between the configs, tokenizers, templates and sampling settings of the models of a merge.

The output can have only one of the two versions, so a merge reports every difference before it starts. A difference is
serious if it changes the meaning of the weights: token ids, and settings that the layers use in their computation.
Other differences (chat template, sampling) are normal between an Instruct and a Thinking model. They are reported so
that the user can choose `copy_from`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ..errors import CheckpointError, StrictError, shortened
from .config import declared_tied
from .files import parse_json, read_file
from .record import Checkpoint
from .subfolders import TEMPLATES, files_in

# Keys of config.json. A key in text_config takes precedence.
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
# Parts of tokenizer.json that, besides the vocabulary, decide the token ids of a text.
_SPLITTING = ("normalizer", "pre_tokenizer")
_TOKENIZER = "tokenizer.json"
_OLD_TOKENIZERS = ("tokenizer.model", "vocab.json", "merges.txt")
_ADDED = "added_tokens.json"
_TOKENIZER_FILES = (_TOKENIZER, *_OLD_TOKENIZERS, "tekken.json", "vocab.txt", "qwen.tiktoken", "tiktoken.model", _ADDED)
_UNKNOWN_FORMAT = (KeyError, TypeError, ValueError, AttributeError)  # what `_ids` raises
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
_TEMPLATE = "chat_template.jinja"
_BOOKKEEPING = ("transformers_version", "_from_model_config")
_MOST_PIECES = 8 << 20  # maximum size of a SentencePiece file whose pieces are counted; real ones have 0.5 to 5 MB
_MOST = 64 << 20  # maximum size of a compared file in bytes; a tokenizer with 250,000 tokens has 20 MB
_ABSENT = object()
_Compare = Callable[[Checkpoint, Checkpoint], "Iterator[Difference]"]


class Difference(NamedTuple):
    """One difference: a line for the user, and whether strict merges reject it."""

    text: str
    serious: bool = False


def between(
    models: Sequence[Checkpoint], origin: Checkpoint, settled: Collection[str] = (), config_of: Checkpoint | None = None
) -> list[Difference]:
    """Returns the differences between `origin`, whose small files the output gets, and each other model.

    Args:
        config_of: the model whose config.json the output gets, if it is not `origin`.
        settled: keys of config.json that the merge sets and reports itself, so that differences in them are left out.
    """
    found = [Difference(risk, serious=True) for model in models for risk in model.risks]
    by_source: tuple[tuple[Checkpoint, tuple[_Compare, ...]], ...] = (
        (config_of or origin, (_architectures, _configs)),
        (origin, (_tokenizers, _templates, _generation)),
    )
    for model in models:
        comparisons = [
            (compare, _of_base(source), _of_base(model))
            for source, compares in by_source
            if model is not source
            for compare in compares
        ]
        for compare, output, other in [*comparisons, (_adapters, _of_base(origin), model)]:
            try:
                found += compare(output, other)
            except (CheckpointError, OSError) as error:  # the merge does not need this file
                found.append(Difference(f"{getattr(error, 'problem', error)}; not compared"))
    return [d for d in found if not any(d.text.startswith(f"config: {key} ") for key in settled)]


def refuse(out: str, found: Sequence[Difference]) -> None:
    """Rejects a strict merge to `out` that has a serious difference.

    Raises:
        StrictError: the first serious difference.
    """
    serious = [d.text for d in found if d.serious]
    if serious:
        more = f" (and {len(serious) - 1} more serious differences)" if len(serious) > 1 else ""
        raise StrictError(
            f"{out}: {serious[0]}{more}",
            "Use models without such differences, or merge without `strict=True`.",
        )


def only_padding_differs(first: Checkpoint, other: Checkpoint, rows: int) -> bool:
    """Returns whether two models have the same tokens, and all of them are among the first `rows` token ids."""
    try:
        one, two = _vocabulary(first), _vocabulary(other)
    except (CheckpointError, OSError, *_UNKNOWN_FORMAT):
        return False
    return one is not None and one == two and one.size <= rows


class _Vocabulary(NamedTuple):
    """The tokens of a model. `content`: something that is equal for equal tokens. `size`: the largest id plus one."""

    content: object
    size: int


def _vocabulary(model: Checkpoint) -> _Vocabulary | None:
    """Returns the tokens from tokenizer.json, vocab.json or a SentencePiece file; None if there is none of them."""
    if not model.root:  # not a checkpoint on a disk
        return None
    added = _optional_json(model, _ADDED)
    for name in (_TOKENIZER, "vocab.json", "tokenizer.model"):
        if os.path.lexists(os.path.join(model.root, name)):
            if name == "tokenizer.model":
                content = _content(model, name)
                return _Vocabulary((content, added), max([_sentence_pieces(content), *(i + 1 for i in added.values())]))
            ids = _ids(_json(model, name)) if name == _TOKENIZER else {**_json(model, name), **added}
            return _Vocabulary(ids, max(ids.values()) + 1)
    return None


def _sentence_pieces(content: bytes) -> int:
    """Returns the number of pieces in a SentencePiece model: the entries with number 1 of its protocol buffer.

    Raises:
        ValueError: it is not such a file.
    """

    if len(content) > _MOST_PIECES:
        raise ValueError("too large to count")

    def varint(at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            if at >= len(content) or shift > 63:
                raise ValueError("not a protocol buffer")
            value |= (content[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if content[at - 1] < 0x80:
                return value, at

    pieces = at = 0
    while at < len(content):
        key, at = varint(at)
        kind = key & 7
        if kind == 0:
            _, at = varint(at)
        elif kind == 2:
            length, at = varint(at)
            at += length
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError("not a protocol buffer")
        pieces += key == 10  # entry 1, of known length
    if at > len(content):
        raise ValueError("the file is cut off")
    return pieces


def vocabulary_remedy(first: Checkpoint, other: Checkpoint, rows: tuple[int, int]) -> str:
    """Returns what to do if the embeddings have different numbers of rows: padding, or different tokens."""
    resize = f"transformers' resize_token_embeddings({max(rows)})"
    tokens = [count for count in map(_token_count, (first, other)) if count is not None]
    if tokens and max(tokens) <= min(rows):
        return (
            f"The tokenizer has {max(tokens)} tokens, so the rows after them are padding: give both models {max(rows)} "
            f"rows with {resize}."
        )
    configured = [m.config.get("vocab_size") for m in (first, other)]
    if not tokens and any(c != r for c, r in zip(configured, rows)) and min(rows) in configured:
        return (
            f"vocab_size in config.json is {' and '.join(map(str, configured))}: if the rows after it are padding, "
            f"give both models {max(rows)} rows with {resize}."
        )
    return f"The vocabularies differ: give both models the same one first, see {resize}."


def has_tokenizer(model: Checkpoint) -> bool:
    """Returns True if the folder of the model has files of a tokenizer."""
    return bool(_tokenizer_files(model))


def different_tokens(origin: Checkpoint, other: Checkpoint) -> str | None:
    """Returns the first difference between the token ids of two models, or None if all ids are equal.

    A model without a tokenizer has no ids of its own, so it has no difference.

    Raises:
        CheckpointError: a tokenizer cannot be read.
    """
    one, two = _tokenizer_files(origin), _tokenizer_files(other)
    if not two:
        return None
    if _TOKENIZER in one and _TOKENIZER in two:
        if _same_content(origin, other, _TOKENIZER):
            return None
        try:
            return _different_ids(_ids(_json(origin, _TOKENIZER)), _ids(_json(other, _TOKENIZER)), origin, other)
        except _UNKNOWN_FORMAT:
            return f"{_TOKENIZER} of {origin.source} or of {other.source} has an unknown format"
    if one != two:
        return (
            f"the tokenizers cannot be compared: {origin.source} has {shortened(one)}, {other.source} {shortened(two)}"
        )
    different = [name for name in one if not _same_content(origin, other, name)]
    return f"tokenizers differ: {different[0]} of {origin.source} and of {other.source}" if different else None


def clashing_tokens(origin: Checkpoint, other: Checkpoint) -> str | None:
    """Returns the first token of `origin` whose row of the embeddings holds another token in `other`, or None.

    Tokens that only one of the models has do not clash, if the other has no token with that id. Tokenizers without
    tokenizer.json, or with an unknown format, are not compared.

    Raises:
        CheckpointError: a tokenizer cannot be read.
    """
    if not all(_TOKENIZER in _tokenizer_files(m) for m in (origin, other)) or _same_content(origin, other, _TOKENIZER):
        return None
    try:
        one, two = _ids(_json(origin, _TOKENIZER)), _ids(_json(other, _TOKENIZER))
        held = {i: token for token, i in two.items()}
        for token, i in sorted(one.items(), key=lambda item: item[1]):
            if two.get(token, i) != i:
                return _differ(f"the id of {_shown(token)}", i, two[token], origin, other)
            if token not in two and i in held:
                return _differ(f"the token with id {i}", token, held[i], origin, other)
    except _UNKNOWN_FORMAT:
        pass
    return None


def lacking_tokens(model: Checkpoint, tokens: Sequence[str]) -> str | None:
    """Returns a clause about the first of `tokens` that the tokenizer of `model` lacks, or None.

    Raises:
        CheckpointError: the tokenizer cannot be read.
    """
    files = _tokenizer_files(model)
    if not files:
        return None
    if _TOKENIZER not in files:
        return f"{model.source} has no {_TOKENIZER} to look for {_shown(tokens[0])}"
    try:
        ids = _ids(_json(model, _TOKENIZER))
    except _UNKNOWN_FORMAT:
        return f"{_TOKENIZER} of {model.source} has an unknown format"
    lacking = next((token for token in tokens if token not in ids), None)
    return None if lacking is None else f"{_shown(lacking)} is not in the tokenizer of {model.source}"


def chat_template(model: Checkpoint) -> str | None:
    """Returns the default chat template without white space around it, or None if the model has none.

    Raises:
        CheckpointError: the template cannot be read.
    """
    template = _template(model).get("default")
    return (template or None) if isinstance(template, str) else None


def _tokenizer_files(model: Checkpoint) -> list[str]:
    names = [name for name in _TOKENIZER_FILES if os.path.lexists(os.path.join(model.root, name))]
    return names if any(name != _ADDED for name in names) else []


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
        yield Difference(_differ("config: architectures", a, b, origin, other) + "; the tensors match", serious=True)


def _configs(origin: Checkpoint, other: Checkpoint) -> Iterator[Difference]:
    if not origin.config or not other.config:
        return
    one, two = _settings(origin.config), _settings(other.config)
    for key in (*_COMPUTING, *_SETTINGS, _TIED):
        a, b = one.get(key, _ABSENT), two.get(key, _ABSENT)
        if key == _TIED:
            a, b = declared_tied(origin.config), declared_tied(other.config)
        if a != b:
            text = _differ(f"config: {key}", a, b, origin, other)
            yield Difference(f"{text}; the output has {_shown(a)}", serious=key in _COMPUTING)


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keys to compare, in one form for all versions of transformers."""
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
    name = _TOKENIZER
    present = [m for m in (origin, other) if os.path.exists(os.path.join(m.root, name))]
    if len(present) == 1:
        yield Difference(f"only {present[0].source} has {name}; tokenizers are not compared")
    elif present and not _same_content(origin, other, name):
        one, two = (_json(m, name) for m in present)
        try:
            yield from _parsed_tokenizers(one, two, origin, other)
        except _UNKNOWN_FORMAT:
            text = f"tokenizers differ: {name} of {origin.source} and {other.source} has an unknown format"
            yield Difference(text, serious=True)
    elif not present:
        for old in _OLD_TOKENIZERS:
            held = all(os.path.exists(os.path.join(m.root, old)) for m in (origin, other))
            if held and not _same_content(origin, other, old):
                yield Difference(f"tokenizers differ: {old} of {origin.source} and of {other.source}", True)


def _parsed_tokenizers(
    one: dict[str, Any], two: dict[str, Any], origin: Checkpoint, other: Checkpoint
) -> Iterator[Difference]:
    a, b = _ids(one), _ids(two)
    wrong = _different_ids(a, b, origin, other)
    if wrong is not None:
        yield Difference(wrong, serious=True)
    elif a and one.get("added_tokens") != two.get("added_tokens"):
        yield Difference(f"tokenizers differ in the flags of added tokens; the output has those of {origin.source}")
    if _merges(one) != _merges(two):
        yield Difference(f"tokenizers differ: {origin.source} and {other.source} have different merges", serious=True)
    rest = sorted(key for key in {*one, *two} - {"model", "added_tokens", "version"} if one.get(key) != two.get(key))
    if rest:
        serious = any(key in _SPLITTING for key in rest)
        yield Difference(f"tokenizers differ in {shortened(rest)}; the output has those of {origin.source}", serious)


def _different_ids(a: dict[str, int], b: dict[str, int], origin: Checkpoint, other: Checkpoint) -> str | None:
    wrong = [token for token in {**a, **b} if a.get(token) != b.get(token)]
    if not wrong:
        return None
    token = min(wrong, key=lambda t: (min(i for i in (a.get(t), b.get(t)) if i is not None), t))
    example = _differ(f"the id of {_shown(token)}", a.get(token, _ABSENT), b.get(token, _ABSENT), origin, other)
    count = f"{len(wrong):,} tokens have" if len(wrong) > 1 else "1 token has"
    return f"tokenizers differ: {count} different ids: {example}"


def _adapters(output: Checkpoint, model: Checkpoint) -> Iterator[Difference]:
    """Compares the tokenizer and the chat template in the folder of an adapter, which are never copied.

    Files that are equal to those of the base are left out, because the base is compared anyway.
    """
    if model.adapter is None:
        return
    own, base = replace(model, source=model.adapter.source, root=model.adapter.root, adapter=None), _of_base(model)
    for compare in (_own_tokenizer, _special_tokens, _own_template):
        found = list(compare(base, own))
        if found and output.root != base.root:
            found = list(compare(output, own))
        for text, serious in found:
            has = "" if "; the output has " in text else f"; the output has those of {output.source}"
            yield Difference(f"{text}{has}, because files of an adapter are not copied", serious)


def _of_base(model: Checkpoint) -> Checkpoint:
    """Returns the model under the name of the folder that its config, tokenizer and template are from."""
    return replace(model, source=model.base, adapter=None)


def _own_tokenizer(output: Checkpoint, own: Checkpoint) -> Iterator[Difference]:
    if os.path.lexists(os.path.join(own.root, "tokenizer.json")):
        yield from _tokenizers(output, own)
        return
    for old in (*_OLD_TOKENIZERS, "added_tokens.json"):
        held = [os.path.lexists(os.path.join(m.root, old)) for m in (output, own)]
        if held[1] and not held[0]:
            yield Difference(f"only {own.source} has {old}; tokenizers are not compared")
        elif held[1] and not _same_content(output, own, old):
            yield Difference(f"tokenizers differ: {old} of {output.source} and of {own.source}", True)


def _special_tokens(output: Checkpoint, own: Checkpoint) -> Iterator[Difference]:
    one, two = (_optional_json(m, "tokenizer_config.json") for m in (output, own))
    for key in _SPECIAL if one and two else ():
        a, b = (c[key].get("content") if isinstance(c.get(key), dict) else c.get(key) for c in (one, two))
        if a != b:
            yield Difference(_differ(f"tokenizers differ: {key}", a, b, output, own))


def _own_template(output: Checkpoint, own: Checkpoint) -> Iterator[Difference]:
    if _template(own):
        yield from _templates(output, own)


def _ids(tokenizer: dict[str, Any]) -> dict[str, int]:
    vocabulary = tokenizer["model"]["vocab"]
    if isinstance(vocabulary, list):  # Unigram: pairs of token and score
        vocabulary = {token: i for i, (token, _) in enumerate(vocabulary)}
    return {**vocabulary, **{t["content"]: t["id"] for t in tokenizer.get("added_tokens") or ()}}


def _merges(tokenizer: dict[str, Any]) -> list[str]:
    """Returns merges as "a b". Newer versions of tokenizers write pairs."""
    return [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"].get("merges") or ()]


def _token_count(model: Checkpoint) -> int | None:
    try:
        return max(_ids(_json(model, _TOKENIZER)).values()) + 1
    except (CheckpointError, *_UNKNOWN_FORMAT):
        return None


def _templates(origin: Checkpoint, other: Checkpoint) -> Iterator[Difference]:
    a, b = _template(origin), _template(other)
    if a == b:
        return
    if not a or not b:
        has = origin if a else other
        yield Difference(f"only {has.source} has a chat template; the output has {'it' if a else 'none'}")
    else:
        yield Difference(f"chat templates differ; the output has that of {origin.source}, not of {other.source}")


def _template(model: Checkpoint) -> dict[str, Any]:
    """Returns the chat templates by name, from *.jinja files if there are any, otherwise from tokenizer_config.json."""
    files = {"default": _TEMPLATE} if os.path.lexists(os.path.join(model.root, _TEMPLATE)) else {}
    if os.path.isdir(os.path.join(model.root, TEMPLATES)):
        names = [name for name in files_in(model.root, TEMPLATES) if name.endswith(".jinja")]
        files |= {os.path.basename(name).removesuffix(".jinja"): name for name in names}
    found: dict[str, Any] = {key: _content(model, name).decode(errors="replace") for key, name in files.items()}
    if not found:
        given = _optional_json(model, "tokenizer_config.json").get("chat_template")
        listed = given if isinstance(given, list) else [{"name": "default", "template": given}] if given else []
        found = {str(t.get("name")): t.get("template") for t in listed if isinstance(t, dict)}
    return {key: text.strip() if isinstance(text, str) else text for key, text in found.items()}


def _generation(origin: Checkpoint, other: Checkpoint) -> Iterator[Difference]:
    one, two = (_optional_json(m, "generation_config.json") for m in (origin, other))
    keys = [k for k in {**one, **two} if k not in _BOOKKEEPING and one.get(k, _ABSENT) != two.get(k, _ABSENT)]
    if keys:
        shown = ", ".join(f"{k} {_shown(one.get(k, _ABSENT))} / {_shown(two.get(k, _ABSENT))}" for k in keys[:6])
        more = f" and {len(keys) - 6} more" if len(keys) > 6 else ""
        yield Difference(
            f"generation settings differ ({origin.source} / {other.source}): {shown}{more}; "
            f"the output has those of {origin.source}"
        )


def _content(model: Checkpoint, name: str) -> bytes:
    """Reads a small file of an untrusted model; rejects links out of the folder of the model."""
    return read_file(os.path.join(model.root, name), _MOST, model.root)


def _json(model: Checkpoint, name: str) -> dict[str, Any]:
    return parse_json(_content(model, name), os.path.join(model.root, name))


def _optional_json(model: Checkpoint, name: str) -> dict[str, Any]:
    return _json(model, name) if os.path.lexists(os.path.join(model.root, name)) else {}


def _same_content(one: Checkpoint, two: Checkpoint, name: str) -> bool:
    return _content(one, name) == _content(two, name)
