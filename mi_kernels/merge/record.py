"""mi_kernels.json: how a merged model was made, as a file beside its shards. This module writes it and reads it.

A record holds enough to make the same folder again: the method and its parameters, what the output asked for, and the
identity of every input. Schema 1 is every file of version 0.1; files without a `schema` are of that schema too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._version import __version__
from ..checkpoint.files import read_json
from ..checkpoint.record import Checkpoint
from ..errors import CheckpointError
from ..output.sidefiles import RECORD
from ..recipe.interpolation import Recipe, plain
from .options import Options
from .plan import Source

if TYPE_CHECKING:
    from ..recipe.models import MergeRecipe

SCHEMA = 1
LERP = "lerp"
_LERP_NUMERICS = "Bit-identical to torch.lerp(a.float(), b.float(), lam).to(dtype); lam 0 and 1 copy bytes."
_NUMERICS = "Computed in float32 in a fixed order and rounded once: see mi_kernels.methods."
_MOST_BYTES = 4 << 20  # of a file that is read; ours have a few kB
_PARAMETERS = {LERP: ("lam", "layers", "modules", "rules")}
_OTHER_PARAMETERS = ("settings", "defaults", "slices", "layers", "modules")

Identity = dict[str, Any]  # what `Checkpoint.identity` gives


@dataclass(frozen=True)
class MergeRecord:
    """How one output was made.

    Attributes:
        method: "lerp", or one of `mi_kernels.methods`.
        summary: a sentence for people.
        numerics: what the bits are, a sentence for people.
        parameters: of the method, as plain values: lam, masks and rules of "lerp"; settings, defaults, slices and masks
            of the others.
        dtype: of the output, by safetensors' name; None where it keeps the first model's.
        copy_from: whose small files the output has: "thinking", "instruct" or "base".
        max_shard_size: bytes; None where the output keeps the first model's shards.
        base: the identity of the base of task vectors; None where the method has none.
        models: the identities of the other models, in order.
        tensors_interpolated, tensors_copied: their counts.
        version: of the mi_kernels that made it.
        schema: of the file.
    """

    method: str
    summary: str
    numerics: str
    parameters: Mapping[str, Any]
    dtype: str | None
    copy_from: str
    max_shard_size: int | None
    base: Identity | None
    models: Sequence[Identity]
    tensors_interpolated: int
    tensors_copied: int
    version: str
    schema: int = SCHEMA

    @classmethod
    def of_lerp(
        cls, recipe: Recipe, models: Sequence[Checkpoint], options: Options, sources: Mapping[str, Source], output: int
    ) -> MergeRecord:
        """The record of output number `output` of an interpolation."""
        content = recipe.to_dict()
        masks = {"layers": content.get("layers"), "modules": content.get("modules")}
        shown = "".join(f", {key} {value}" for key, value in masks.items() if value is not None)
        if recipe.rules:
            shown += f", and {len(recipe.rules)} rule{'s' if len(recipe.rules) != 1 else ''}"
        copied = sum(s.weights[output] in (0, 1) for s in sources.values())
        return cls(
            method=LERP,
            summary=f"`merged = (1 - lam) * INSTRUCT + lam * THINKING` with lam = {_shown(recipe.lam)}{shown}.",
            numerics=_LERP_NUMERICS,
            parameters={"lam": content["lam"], **masks, "rules": [dict(rule) for rule in content.get("rules", [])]},
            dtype=options.out_dtype,
            copy_from=options.copy_from,
            max_shard_size=options.max_shard_size,
            base=None,
            models=[model.identity() for model in models],
            tensors_interpolated=len(sources) - copied,
            tensors_copied=copied,
            version=__version__,
        )

    @classmethod
    def of_recipe(
        cls, recipe: MergeRecipe, models: Sequence[Checkpoint], options: Options, sources: Mapping[str, Source]
    ) -> MergeRecord:
        """The record of a merge by any other method; `models` with the base first, where there is one."""
        copied = sum(s.copied for s in sources.values())
        shown = "".join(f", {key} {_shown(value)}" for key, value in recipe.settings.items())
        first = 0 if recipe.base is None else 1
        return cls(
            method=recipe.method,
            summary=f"Merged by {recipe.method}{shown}.",
            numerics=_NUMERICS,
            parameters={
                "settings": dict(recipe.settings),
                "defaults": dict(recipe.defaults),
                "slices": [
                    {"layers": [part.start, part.stop], "by_model": [dict(m) for m in part.by_model], **part.settings}
                    for part in recipe.slices
                ],
                "layers": plain(recipe.layers),
                "modules": plain(recipe.modules),
            },
            dtype=options.out_dtype,
            copy_from=options.copy_from,
            max_shard_size=options.max_shard_size,
            base=None if recipe.base is None else models[0].identity(),
            models=[model.identity() for model in models[first:]],
            tensors_interpolated=len(sources) - copied,
            tensors_copied=copied,
            version=__version__,
        )

    @property
    def inputs(self) -> list[Identity]:
        """The identities of all inputs in the order in which they are given: the base first."""
        return [*([] if self.base is None else [self.base]), *self.models]

    def asked(self) -> dict[str, Any]:
        """What decides the bytes of the output, besides the inputs; a merge is resumed only where this is the same."""
        return {
            "mi_kernels": self.version,
            "method": self.method,
            **self.parameters,
            "dtype": self.dtype,
            "copy_from": self.copy_from,
            "max_shard_size": self.max_shard_size,
        }

    def to_dict(self) -> dict[str, Any]:
        """The content of mi_kernels.json."""
        if self.method == LERP:
            instruct, thinking = self.models
            models: dict[str, Any] = {"instruct": instruct, "thinking": thinking}
        else:
            models = {"base": self.base, "models": list(self.models)}
        asked = self.asked()
        return {
            "mi_kernels": asked.pop("mi_kernels"),
            "schema": self.schema,
            "role": "merged",
            "method": asked.pop("method"),
            "summary": self.summary,
            **asked,
            **models,
            "tensors_interpolated": self.tensors_interpolated,
            "tensors_copied": self.tensors_copied,
            "numerics": self.numerics,
        }

    def encode(self) -> bytes:
        """mi_kernels.json as bytes."""
        return (json.dumps(self.to_dict(), indent=2) + "\n").encode()

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], path: str) -> MergeRecord:
        """The record that mi_kernels.json holds; `path` is where it was read, for messages.

        Raises:
            CheckpointError: a key is missing or of the wrong kind, the method is unknown, or a newer mi_kernels wrote
            the file.
        """
        try:
            schema = content.get("schema", 1)
            if not isinstance(schema, int) or schema > SCHEMA:
                raise CheckpointError(
                    f"{path}: has schema {schema!r}, and this version of mi_kernels reads schema {SCHEMA}",
                    "Install the version of mi_kernels that wrote it, or a newer one.",
                )
            method = content["method"]
            pair = method == LERP
            if not pair:
                from ..methods.registry import METHODS

                if method not in METHODS:
                    raise CheckpointError(
                        f"{path}: unknown method {method!r}",
                        f"This version of mi_kernels knows {LERP}, {', '.join(METHODS)}.",
                    )
            models = [content["instruct"], content["thinking"]] if pair else list(content["models"])
            base = None if pair else content["base"]
            for identity in [*models, *([base] if base is not None else [])]:
                given(identity)
            return cls(
                method=method,
                summary=content["summary"],
                numerics=content["numerics"],
                parameters={key: content[key] for key in _PARAMETERS.get(method, _OTHER_PARAMETERS)},
                dtype=content["dtype"],
                copy_from=content["copy_from"],
                max_shard_size=content.get("max_shard_size"),  # early files do not have it
                base=base,
                models=models,
                tensors_interpolated=content["tensors_interpolated"],
                tensors_copied=content["tensors_copied"],
                version=content["mi_kernels"],
                schema=schema,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise incomplete(path, error) from error


def incomplete(path: str, error: Exception) -> CheckpointError:
    """The refusal of a record that does not say how the merge was made."""
    return CheckpointError(
        f"{path}: does not say how the merge was made ({error!r})",
        "This version of mi_kernels did not write it: merge again.",
    )


def read_content(root: str) -> dict[str, Any] | None:
    """What mi_kernels.json in the folder `root` holds, unchecked; None where there is none.

    Raises:
        CheckpointError: it cannot be read, or is not a JSON object.
    """
    path = os.path.join(root, RECORD)
    return read_json(path, limit=_MOST_BYTES) if os.path.lexists(path) else None


def read_record(root: str) -> MergeRecord | None:
    """The record of the model folder `root`; None where it has none.

    Raises:
        CheckpointError: as `read_content` and `MergeRecord.from_dict`.
    """
    content = read_content(root)
    return None if content is None else MergeRecord.from_dict(content, os.path.join(root, RECORD))


def given(identity: Identity) -> str:
    """How an input was given: a folder or a Hub id, with its revision and its adapter."""
    parts = [identity, identity["adapter"]] if "adapter" in identity else [identity]
    return "+".join(
        p["source"] if p["revision"] is None else f"{p['source'].split('@')[0]}@{p['revision']}" for p in parts
    )


def difference(recorded: Identity, model: Checkpoint) -> str | None:
    """Why `model` cannot be the recorded one, in a sentence: it holds other tensors, or is another commit."""
    now = model.identity()
    for key, what in (("tensors", "tensors"), ("bytes", "bytes"), ("headers", "SHA-256 of the headers")):
        if key in recorded and recorded[key] != now[key]:
            return (
                f"{model.source} is not the recorded {recorded['source']}: {what} {now[key]}, recorded {recorded[key]}"
            )
    if None not in (recorded["revision"], now["revision"]) and recorded["revision"] != now["revision"]:
        return f"{model.source} is at {now['revision']}, recorded is {recorded['revision']}"
    return None


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
