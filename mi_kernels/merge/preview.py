"""Shows what a merge of two models would do, without merging them: how they match, and what the output would be."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from typing import Any

from ..checkpoint.config import declared_tied, text_config
from ..checkpoint.names import layer_count
from ..dtypes import TORCH_NAMES
from ..recipe.interpolation import Recipe
from .api import plan_lerp
from .job import Job
from .options import Options


@dataclass(frozen=True)
class Note:
    """One note of the merge. `strict`: a merge with --strict is rejected because of it."""

    text: str
    strict: bool


@dataclass(frozen=True)
class Preview:
    """What a merge of two models would do. Only headers and small files are read, so it takes a moment.

    Attributes:
        models: the two models as the user gave them.
        merged: the number of tensors that both models have.
        kept: the number of tensors that only one model has and the output keeps.
        architecture: the class in config.json of the output; None if the output has no config.json.
        bytes: the size of the shards of the output.
        shards: their number.
        dtypes: the number of tensors of the output by dtype, with the names of torch.
        tied: True if config.json of the output ties the head to the embedding.
        layers: the number of decoder layers.
        vocabulary: vocab_size in config.json of the output; None if it has none.
        tokenizers: "equal", "different", or "not compared" if a model has no tokenizer.json.
        files: the small files of the output, in the order of their names.
        notes: what the merge would report.
    """

    models: tuple[str, str]
    merged: int
    kept: int
    architecture: str | None
    bytes: int
    shards: int
    dtypes: dict[str, int]
    tied: bool
    layers: int
    vocabulary: int | None
    tokenizers: str
    files: list[str] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Returns the preview as values that JSON supports."""
        return asdict(self)


def preview_merge(instruct: str | os.PathLike[str], thinking: str | os.PathLike[str]) -> Preview:
    """Checks two models as `mi_kernels.lerp_checkpoint` does before it merges them. Writes nothing.

    Raises:
        MIKernelsError: the merge would be rejected. The message is the same.

    Example:
        >>> from mi_kernels.merge.preview import preview_merge
        >>> found = preview_merge("instruct", "thinking")
        >>> found.kept, found.architecture
        (0, 'Qwen3ForCausalLM')
    """
    out = os.path.join(tempfile.gettempdir(), f"mi-kernels-preview-{os.getpid()}")  # never created
    job = plan_lerp(instruct, thinking, [(out, Recipe(0.5))], Options(overwrite=True))
    shards, index = job.layout()
    files = job.small_files(job.outputs[0], index)
    config: dict[str, Any] = json.loads(files.get("config.json", b"{}"))
    names = config.get("architectures")
    dtypes: dict[str, int] = {}
    for tensor in (t for shard in shards for t in shard.tensors):
        name = TORCH_NAMES.get(tensor.dtype, tensor.dtype)
        dtypes[name] = dtypes.get(name, 0) + 1
    return Preview(
        models=(job.models[0].source, job.models[1].source),
        merged=len(job.alignment.merged),
        kept=len(job.alignment.rows) - len(job.alignment.merged),
        architecture=names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None,
        bytes=sum(shard.size for shard in shards),
        shards=len(shards),
        dtypes=dtypes,
        tied=declared_tied(config),
        layers=layer_count(row.name for row in job.alignment.merged),
        vocabulary=text_config(config).get("vocab_size", config.get("vocab_size")),
        tokenizers=_tokenizers(job),
        files=sorted(files),
        notes=_notes(job),
    )


def _tokenizers(job: Job) -> str:
    if any(difference.text.startswith("tokenizers differ") for difference in job.differences_found):
        return "different"
    held = all(os.path.exists(os.path.join(model.root, "tokenizer.json")) for model in job.models)
    return "equal" if held else "not compared"


def _notes(job: Job) -> list[Note]:
    serious = {difference.text for difference in job.differences_found if difference.serious}
    return [Note(text, text in serious) for text in job.notes()]
