"""mi_kernels.json, the file beside the shards that records how a model was merged. This module writes and reads it.

A record is enough to repeat the merge: it has the method with its parameters, the options that decide the output, and
the identity of every input. Version 0.1 writes schema 1. A file without `schema` has schema 1 too.
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
from ..dtypes import TORCH_NAMES
from ..errors import CheckpointError, counted, printable, shortened
from ..output.card import Facts, code
from ..output.layout import OURS
from ..output.sidefiles import RECORD, reference
from ..recipe.interpolation import Recipe, plain
from ..recipe.yaml_writer import yaml_block
from .options import Options
from .plan import Source

if TYPE_CHECKING:
    from ..recipe.models import MergeRecipe

SCHEMA = 1
LERP = "lerp"
_LERP_SOURCE = "https://arxiv.org/abs/2510.10977"
_LERP_NUMERICS = "Bit-identical to torch.lerp(a.float(), b.float(), lam).to(dtype); lam 0 and 1 copy bytes."
_NUMERICS = "Computed in float32 in a fixed order and rounded once: see mi_kernels.methods."
_MOST_RULES = 8  # that a sentence has
_MOST_PATTERN = 100  # characters of a pattern in a sentence
_MOST_INPUTS = 16  # that a line names, as many as a merge has
_MOST_BYTES = 4 << 20  # larger files are rejected; a record has a few kB
_PARAMETERS = {LERP: ("lam", "layers", "modules", "rules")}
_OTHER_PARAMETERS = ("settings", "defaults", "slices", "layers", "modules")

Identity = dict[str, Any]  # as `Checkpoint.identity` returns it


@dataclass(frozen=True)
class MergeRecord:
    """How one output was merged.

    Attributes:
        method: "lerp", or one of `mi_kernels.methods`.
        summary: one sentence that describes the merge to the user.
        numerics: one sentence that describes the bits of the result to the user.
        parameters: the parameters of the method as plain values. For "lerp": lam, masks and rules. For other methods:
            settings, defaults, slices and masks.
        dtype: the dtype of the output by its name in safetensors; None if it keeps the dtypes of the first model.
        copy_from: the model whose small files were copied: "thinking", "instruct", "base" or a number from "1".
        max_shard_size: in bytes; None if the output keeps the shards of the first model.
        base: the identity of the base of task vectors; None if the method has no base.
        models: the identities of the other models, in order.
        tensors_interpolated, tensors_copied: the numbers of computed and of copied tensors.
        version: the version of mi_kernels that merged the model.
        schema: the schema of the file.
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
        """Returns the record of output number `output` of an interpolation."""
        content = recipe.to_dict()
        masks = {"layers": content.get("layers"), "modules": content.get("modules")}
        shown = "".join(f", {mask}" for mask in _masks(masks))
        shown += "".join(f"; {rule}" for rule in _rules(content.get("rules", [])))
        copied = sum(s.copied_to(output) for s in sources.values())
        return cls(
            method=LERP,
            summary=f"`merged = (1 - lam) * INSTRUCT + lam * THINKING` with lam = {_shown(content['lam'])}{shown}.",
            numerics=_LERP_NUMERICS,
            parameters={"lam": content["lam"], **masks, "rules": [dict(rule) for rule in content.get("rules", [])]},
            dtype=options.out_dtype,
            copy_from=options.copy_from,
            max_shard_size=options.shard_bytes,
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
        """Returns the record of a merge with any other method. If there is a base, it is the first of `models`."""
        from ..recipe.plain_recipe import plain_recipe

        copied = sum(s.copied for s in sources.values())
        first = 0 if recipe.base is None else 1
        return cls(
            method=recipe.method,
            summary=_recipe_summary(plain_recipe(recipe)),
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
            max_shard_size=options.shard_bytes,
            base=None if recipe.base is None else models[0].identity(),
            models=[model.identity() for model in models[first:]],
            tensors_interpolated=len(sources) - copied,
            tensors_copied=copied,
            version=__version__,
        )

    @property
    def inputs(self) -> list[Identity]:
        """The identities of all inputs in order, the base first."""
        return [*([] if self.base is None else [self.base]), *self.models]

    def asked(self) -> dict[str, Any]:
        """Returns everything except the inputs that decides the bytes of the output. It must be equal to resume."""
        return {
            "mi_kernels": self.version,
            "method": self.method,
            **self.parameters,
            "dtype": self.dtype,
            "copy_from": self.copy_from,
            "max_shard_size": self.max_shard_size,
        }

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of mi_kernels.json."""
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

    def recipe(self, models: Sequence[str]) -> dict[str, Any]:
        """Returns the recipe of this merge as plain values, as `recipe.models.from_dict` and a recipe file hold them.

        Only `max_shard_size` is not part of a recipe.

        Args:
            models: the names of all inputs, the base first.

        Raises:
            ArgumentError, KeyError, TypeError or ValueError: the record was changed.
        """
        output = {"dtype": TORCH_NAMES[self.dtype]} if self.dtype is not None else {}
        output |= {"copy_from": self.copy_from} if self.copy_from != "thinking" else {}
        if self.method == LERP:
            given = {key: value for key, value in self.parameters.items() if value not in (None, [])}
            lams = [given["lam"], *(rule["lam"] for rule in given.get("rules", []))]
            outside = any(not 0 <= lam <= 1 for each in lams for lam in (each if isinstance(each, list) else [each]))
            extrapolate = {"extrapolate": True} if outside else {}
            return {"method": LERP, "models": list(models), **given, **extrapolate, **output}
        from ..recipe.models import from_record
        from ..recipe.plain_recipe import plain_recipe

        return {**plain_recipe(from_record(self.to_dict(), models, RECORD)), **output}

    def facts(self, models: Sequence[Checkpoint], **known: Any) -> Facts:
        """Returns what the model card says about the merge of `models`.

        Args:
            known: further facts: "dtypes", "command", "sigma", "repo", "origin". See `output.card.Facts`.
        """
        names = [reference(model) for model in models]
        if self.method == LERP:
            roles = ["INSTRUCT", "THINKING"]
            method = f"`lerp`, linear interpolation ([paper]({_LERP_SOURCE}))"
        else:
            from ..methods.registry import METHODS

            roles = [*([] if self.base is None else ["base"]), *(str(i) for i in range(1, len(self.models) + 1))]
            found = METHODS[self.method]
            method = f"`{self.method}`: {found.summary} ({found.paper})"
        return Facts(
            summary=self.summary,
            numerics=self.numerics,
            version=self.version,
            method=method,
            recipe=yaml_block(self.recipe(names)),
            inputs=list(zip(roles, names)),
            max_shard_size=self.max_shard_size,
            merged=self.tensors_interpolated,
            copied=self.tensors_copied,
            **known,
        )

    def encode(self) -> bytes:
        """Returns mi_kernels.json as bytes."""
        return (json.dumps(self.to_dict(), indent=2) + "\n").encode()

    def metadata(self) -> dict[str, str]:
        """Returns the essential content as metadata of a safetensors file, for an output without mi_kernels.json."""
        lam = {"lam": json.dumps(self.parameters["lam"])} if self.method == LERP else {}
        names = [given(identity) for identity in self.inputs]
        content = {"version": self.version, "method": self.method, **lam, "models": json.dumps(names)}
        content |= {"recipe": json.dumps(self.recipe(names)), "summary": self.summary}
        return {f"{OURS}{key}": printable(value) for key, value in content.items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], path: str) -> MergeRecord:
        """Returns the record with the given content of mi_kernels.json. Messages name the file as `path`.

        Raises:
            CheckpointError: a key is missing or has a wrong type, the method is unknown, or a newer version of
                mi_kernels wrote the file.
        """
        try:
            schema = content.get("schema", 1)
            if type(schema) is not int or not 1 <= schema <= SCHEMA:
                raise CheckpointError(
                    f"{path}: has schema {schema!r}, but this version of mi_kernels reads only schema {SCHEMA}",
                    "Install the version of mi_kernels that wrote the file, or a newer one.",
                )
            method = content["method"]
            pair = method == LERP
            if not pair:
                from ..methods.registry import METHODS

                if method not in METHODS:
                    raise CheckpointError(
                        f"{path}: unknown method {method!r}",
                        f"Install the version of mi_kernels that wrote it. This one has {LERP}, {', '.join(METHODS)}.",
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
                max_shard_size=content.get("max_shard_size"),  # the first versions did not write it
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
    """Returns the exception for a record that lacks information about the merge."""
    return CheckpointError(
        f"{path}: does not say how the merge was made ({error!r})",
        "The file was changed, or another program wrote it: merge the models again.",
    )


def read_content(root: str) -> dict[str, Any] | None:
    """Returns the unchecked content of mi_kernels.json in the folder `root`, or None if the file is missing.

    Raises:
        CheckpointError: the file cannot be read, or is not a JSON object.
    """
    path = os.path.join(root, RECORD)
    return read_json(path, limit=_MOST_BYTES) if os.path.lexists(path) else None


def content_of(model: Checkpoint) -> dict[str, Any] | None:
    """Returns the unchecked content of the record of `model`: of its mi_kernels.json, else of the metadata of its file.

    A file that a merge wrote stays one if it is put beside a config.json, which makes it a model with a folder.

    Raises:
        CheckpointError: see `read_content`.
    """
    content = None if model.alone else read_content(model.root)
    said = {key.removeprefix(OURS): value for key, value in model.metadata.items() if key.startswith(OURS)}
    if content is not None or not said:
        return content
    try:
        models = [{"source": source} for source in json.loads(said.pop("models", "[]"))]
    except (ValueError, TypeError, RecursionError):
        models = []
    return {"mi_kernels": said.pop("version", None), **said, "models": models}


def same_merge(one: bytes, other: bytes) -> bool:
    """Returns whether two contents of mi_kernels.json describe the same merge, whatever their sentences for people."""
    try:
        contents = [json.loads(content) for content in (one, other)]
        plain = [{key: value for key, value in c.items() if key not in ("summary", "numerics")} for c in contents]
    except (ValueError, AttributeError, RecursionError):
        return False
    return plain[0] == plain[1]


def read_record(root: str) -> MergeRecord | None:
    """Returns the record of the model folder `root`, or None if mi_kernels.json is missing.

    Raises:
        CheckpointError: see `read_content` and `MergeRecord.from_dict`.
    """
    content = read_content(root)
    return None if content is None else MergeRecord.from_dict(content, os.path.join(root, RECORD))


def made(content: Mapping[str, Any] | None) -> str | None:
    """Returns one line on how a model was merged, from the result of `content_of`; None if it was not.

    Checks every type, because the folder may be a stranger's.
    """
    if content is None:
        return None
    version, summary = content.get("mi_kernels"), content.get("summary")
    if not isinstance(version, str) or not isinstance(summary, str):
        return f"{RECORD} was not written by mi_kernels"
    inputs = [content.get(key) for key in ("base", "instruct", "thinking")]
    inputs += content["models"] if isinstance(content.get("models"), list) else []
    named = [name for name in map(input_name, inputs) if name is not None]
    return f"merged by mi_kernels {version} from {shortened(named, _MOST_INPUTS)}: {summary}"


def input_name(identity: Any) -> str | None:
    """Returns the name of an input as the user gave it, with its adapter; None if it is not an identity."""
    parts = [identity, identity.get("adapter")] if isinstance(identity, dict) else []
    sources = [str(part["source"]) for part in parts if isinstance(part, dict) and "source" in part]
    return "+".join(sources) or None


def given(identity: Identity) -> str:
    """Returns an input as the user wrote it: a folder or a Hub id, with the revision and the adapter."""
    parts = [identity, identity["adapter"]] if "adapter" in identity else [identity]
    return "+".join(
        p["source"] if p["revision"] is None else f"{p['source'].split('@')[0]}@{p['revision']}" for p in parts
    )


def difference(recorded: Identity, model: Checkpoint) -> str | None:
    """Returns a sentence if `model` is not the recorded model, because its tensors or its commit differ; else None."""
    now = model.identity()
    facts = (("tensors", "number of tensors"), ("bytes", "number of bytes"), ("headers", "SHA-256 of the headers"))
    for key, what in facts:
        if key in recorded and recorded[key] != now[key]:
            return (
                f"{model.source} is not the recorded model {recorded['source']}: "
                f"{what} {now[key]} instead of {recorded[key]}"
            )
    if None not in (recorded["revision"], now["revision"]) and recorded["revision"] != now["revision"]:
        return f"{model.source} is at commit {now['revision']}, but the record says {recorded['revision']}"
    return None


def _recipe_summary(content: Mapping[str, Any]) -> str:
    """Returns a sentence with the parameters and the masks of a recipe, which `plain_recipe` returned."""
    from ..methods.registry import METHODS

    shown = []
    for parameter in METHODS[content["method"]].parameters:
        name = parameter.name
        own = [m.get(name) if isinstance(m, dict) else None for m in content["models"]]
        values = [_shown(content.get(name) if v is None else v) for v in own] if parameter.by_model else []
        if values and len({*values}) > 1:
            shown.append(f"{name} {', '.join(values[:-1])} and {values[-1]}")
        elif (value := values[0] if values else _shown(content.get(name))) != _shown(None):
            shown.append(f"{name} {value}")
    if "slices" in content:
        shown.append(f"other parameters in {counted(len(content['slices']), 'slice')} of the layers")
    shown += _masks(content)
    return f"`{content['method']}`{' with ' if shown else ''}{', '.join(shown)}."


def _masks(content: Mapping[str, Any]) -> list[str]:
    """Returns the masks as the command line reads them: ["layers 12:36", "modules attn,ffn"]."""
    found = [(key, content.get(key)) for key in ("layers", "modules")]
    return [
        f"{key} {','.join(map(str, mask)) if isinstance(mask, list) else mask}"
        for key, mask in found
        if mask is not None
    ]


def _rules(rules: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the rules in words: ["lam = 0 for modules attn", "lam = 0.3 for tensors that match `up_proj`"].

    Of many rules, the last ones are left out. Their number is given, because later rules replace earlier ones.
    """
    shown = []
    for rule in rules[:_MOST_RULES]:
        pattern = rule.get("pattern")
        which = " and ".join(_masks(rule)) or ("all tensors" if pattern is None else "tensors")
        if pattern is not None:
            which += f" that match {code(printable(pattern, _MOST_PATTERN))}"
        shown.append(f"lam = {_shown(rule['lam'])} for {which}")
    left = len(rules) - len(shown)
    return [*shown, f"and {counted(left, 'more rule')}"] if left else shown


def _shown(value: Any) -> str:
    """Returns a parameter for the summary. Names of tensors are left out, because they can be any text."""
    if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict) for item in value)):
        return "by tensor"
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(float(value))
    return str(value).lower() if isinstance(value, bool) else str(value)
