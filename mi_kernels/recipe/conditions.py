"""Settings of tokenizers and chat templates that run only where they change nothing.

mergekit can move the rows of embeddings between token ids, add rows, and write another chat template. Merges here do
none of that: rows are merged by their number, and the small files of one model are copied. Whether a setting would
change anything depends on the models, so it is checked after they are opened and before anything else is done.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..checkpoint.differences import chat_template, clashing_tokens, different_tokens, has_tokenizer, lacking_tokens
from ..checkpoint.names import classify
from ..checkpoint.record import Checkpoint
from ..errors import ArgumentError

# SHA-256 of mergekit's own templates (_data/chat_templates), without white space around them.
TEMPLATES = {
    "alpaca": "e18ce33cd7719e103a569a42159d2d8c70ff866e62e16237d748499cdafe7720",
    "chatml": "278bc1cf3f930a78aa2b96e108bc8012647dbc1596f17a7e974dd7bd9e938f92",
    "exaone": "5badb30b10ad0b1bf823317db441a9aced87180e342ce4c7fc31e05b3b0f2c8d",
    "llama3": "d5fb0044865c46ea22a1ba1b9a611f6a16417233b7f2b509866cc3f7c31076ce",
    "mistral": "bbc58aad99454df60138be9530c9601a0adfe3d8932cda975e1f10b2410ddc51",
}
_POSITIONS = re.compile(r"position|wpe|token_type")  # embeddings of something else than tokens
_MERGEKIT = "run this configuration with mergekit"


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What must be true of the opened models.

    Attributes:
        where: the file that asks for it, for messages.
        rows: "union": all models must have the same token ids. "one": mergekit arranges the rows as the tokens of the
            model whose small files are copied, so no row may hold another token in another model. None: no tokenizer
            is asked for.
        tokens: tokens that every tokenizer must have.
        multiple: the number of rows of the embeddings must be a multiple of it.
        template: "auto", the name of one of mergekit's templates, or a template; None keeps the copied one.
        base: the base_model, which `tokenizer_source` can call "base".
        block: the tokenizer is asked for by `tokenizer: {source: ...}` and not by `tokenizer_source: ...`.
    """

    where: str
    rows: Literal["union", "one"] | None = None
    tokens: tuple[str, ...] = ()
    multiple: int = 1
    template: str | None = None
    base: str | None = None
    block: bool = False

    def check(self, models: Sequence[Checkpoint], origin: Checkpoint) -> None:
        """Refuses models for which a setting would change something.

        Args:
            origin: the one of `models` whose small files the output gets.

        Raises:
            ArgumentError: names the setting, the first thing that it would change, and what to do.
            CheckpointError: a tokenizer or a chat template cannot be read.
        """
        if self.rows == "union":
            self._check_union(models, origin)
        elif self.rows == "one":
            self._check_rows(models, origin)
        if self.tokens:
            self._check_tokens(models)
        if self.multiple > 1:
            self._check_multiple(models)
        if self.template == "auto":
            self._check_auto(models, origin)
        elif self.template is not None:
            self._check_template(self.template, origin)

    def _check_union(self, models: Sequence[Checkpoint], origin: Checkpoint) -> None:
        if not has_tokenizer(origin):
            raise ArgumentError(
                f"{self.where}: the tokenizer is to be a union, but {origin.source} has no tokenizer",
                "Add its tokenizer files, or remove this setting.",
            )
        problem = next((p for p in (different_tokens(origin, m) for m in models if m is not origin) if p), None)
        if problem is None:
            return
        if len({frozenset(_vocabulary_rows(model).values()) for model in models}) > 1:
            remedy = f"Give all models one vocabulary first, or {_MERGEKIT}."
        elif _clash(models, origin) is None:
            remedy = f"Use the tokenizer of one model, `{self._source(origin)}`, or {_MERGEKIT}."
        else:
            remedy = f"{_MERGEKIT[0].upper()}{_MERGEKIT[1:]}: it moves the rows of the embeddings."
        raise ArgumentError(f"{self.where}: a union of tokenizers is not supported, and {problem}", remedy)

    def _check_rows(self, models: Sequence[Checkpoint], origin: Checkpoint) -> None:
        problem = _clash(models, origin)
        if problem is not None:
            raise ArgumentError(
                f"{self.where}: mergekit would move rows of the embeddings, which is not supported: {problem}",
                f"Remove the tokenizer setting to merge the rows by their number, or {_MERGEKIT}.",
            )

    def _check_tokens(self, models: Sequence[Checkpoint]) -> None:
        for model in models:
            lacking = lacking_tokens(model, self.tokens)
            if lacking is not None:
                raise ArgumentError(
                    f"{self.where}: tokenizer: tokens: {lacking}, and adding tokens is not supported",
                    f"Remove the token, or {_MERGEKIT}.",
                )

    def _check_multiple(self, models: Sequence[Checkpoint]) -> None:
        setting = f"{self.where}: tokenizer: pad_to_multiple_of {self.multiple}"
        rows = {name: count for model in models for name, count in _vocabulary_rows(model).items()}
        wrong = next(((name, count) for name, count in rows.items() if count % self.multiple), None)
        if wrong is not None or not rows:
            problem = f"{wrong[0]} has {wrong[1]} rows" if wrong else "no tensor is known to be an embedding"
            raise ArgumentError(
                f"{setting}: {problem}, and adding rows is not supported",
                "Remove pad_to_multiple_of, and pad the output with transformers' resize_token_embeddings if needed.",
            )

    def _check_auto(self, models: Sequence[Checkpoint], origin: Checkpoint) -> None:
        templates = [(model, text) for model in models if (text := chat_template(model))]
        if not templates:
            return
        ranked = Counter(text for _, text in templates).most_common()
        best = [text for text, count in ranked if count == ranked[0][1]]
        copied = chat_template(origin)
        if best == [copied]:
            return
        keep = "Remove chat_template to keep " + (f"that of {origin.source}" if copied else "none")
        if len(best) > 1:
            raise ArgumentError(
                f"{self.where}: chat_template auto is the template of most models, but {len(best)} different ones are "
                "equally frequent",
                f"{keep}, or {_MERGEKIT}, which takes any of them.",
            )
        model = next(model for model, text in templates if text == best[0])
        has = "has another one" if copied else "has none"
        other = f", or use the tokenizer of one model, `{self._source(model)}`" if _clash(models, model) is None else ""
        raise ArgumentError(
            f"{self.where}: chat_template auto is the template of {model.source}, but {origin.source}, whose small "
            f"files the output gets, {has}",
            f"{keep}{other}.",
        )

    def _check_template(self, template: str, origin: Checkpoint) -> None:
        copied = chat_template(origin) or ""
        digest = hashlib.sha256(copied.encode(errors="surrogatepass")).hexdigest()
        if (TEMPLATES[template] == digest) if template in TEMPLATES else (template.strip() == copied):
            return
        shown = f"mergekit's {template}" if template in TEMPLATES else "a template"
        has = "has another one" if copied else "has none"
        raise ArgumentError(
            f"{self.where}: chat_template is {shown}, but {origin.source}, whose small files the output gets, {has}",
            "Remove chat_template, and write the template to chat_template.jinja of the output afterwards.",
        )

    def _source(self, model: Checkpoint) -> str:
        """The setting that takes the tokenizer and the other small files from `model`."""
        name = "base" if model.source == self.base else model.source
        return f"tokenizer: {{source: {name}}}" if self.block else f"tokenizer_source: {name}"


def _vocabulary_rows(model: Checkpoint) -> dict[str, int]:
    """The number of rows of each tensor that has a row for each token."""
    return {
        name: t.shape[0]
        for name, t in model.tensors.items()
        if len(t.shape) == 2 and classify(name).module in ("embed", "head") and not _POSITIONS.search(name)
    }


def _clash(models: Sequence[Checkpoint], origin: Checkpoint) -> str | None:
    return next((p for p in (clashing_tokens(origin, m) for m in models if m is not origin) if p), None)
