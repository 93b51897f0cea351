"""The small files that the folder of a merge would hold, for an engine that holds the merge without a folder.

The code that writes merges makes them, so they are the same bytes. Reads headers and small files only.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from typing import Any, NamedTuple

from mi_kernels.checkpoint.model_files import CONFIG, PROCESSOR, TEMPLATE, TOKENIZER, kind_of
from mi_kernels.checkpoint.open import open_checkpoint
from mi_kernels.checkpoint.virtual import Tensor
from mi_kernels.merge.api import plan_lerp
from mi_kernels.merge.options import Options
from mi_kernels.output.card import NAME as CARD
from mi_kernels.output.copied_files import survey
from mi_kernels.output.sidefiles import RECORD, collect

from .live_pair import LivePair

_CONFIG, _GENERATION, _TOKENIZER_CONFIG = "config.json", "generation_config.json", "tokenizer_config.json"
_READ = (CONFIG, TOKENIZER, PROCESSOR, TEMPLATE)  # what an engine reads beside the weights
_NO_MEANING = ("transformers_version", "_name_or_path", "_commit_hash")  # of config.json


class MergedFiles(NamedTuple):
    """What the folder of a merge would hold beside its weights.

    Attributes:
        files: the files that an engine reads, by name: config, tokenizer, chat template.
        record: the content of mi_kernels.json.
        lost: why an engine that loads INSTRUCT's architecture would miss a tensor of the merge; "" if it has all.
        ends: of the two models, those whose tensors a merge at lam 0 or 1 equals in every respect.
    """

    files: Mapping[str, bytes]
    record: Mapping[str, Any]
    lost: str
    ends: frozenset[str]

    @property
    def digest(self) -> str:
        """Equal for equal files."""
        joined = json.dumps({name: hashlib.sha256(content).hexdigest() for name, content in sorted(self.files.items())})
        return hashlib.sha256(joined.encode()).hexdigest()[:16]

    def write(self, folder: str) -> None:
        for name, content in self.files.items():
            path = os.path.join(folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(content)


def merged_files(pair: LivePair) -> MergedFiles:
    """Plans the merge that `pair` describes, without writing anything.

    Raises:
        mi_kernels.errors.MIKernelsError: the models cannot be merged, or not with this recipe.
    """
    nowhere = os.path.join(tempfile.gettempdir(), f"mi-eval-not-written-{os.getpid()}")
    job = plan_lerp(pair.instruct, pair.thinking, [(nowhere, pair.recipe)], Options(copy_from=pair.side))
    output = job.outputs[0]
    small = job.small_files(output, None)
    rows = job.alignment.rows
    lost = [row.name for row in rows if row.kept not in (None, 0)]
    ends = {
        name
        for number, name in enumerate(("instruct", "thinking"))
        if all(row.kept in (None, number) and _alike(row.inputs[number], row.inputs[0]) for row in rows)
    }
    return MergedFiles(
        files=_read(small),
        record=output.record.to_dict(),
        lost=f"{lost[0]} is only in {pair.thinking}" if lost else "",
        ends=frozenset(ends),
    )


def files_of(folder: str) -> dict[str, bytes]:
    """The files in the model folder `folder` that an engine reads."""
    model = open_checkpoint(folder)
    return _read(collect(model, survey(model).names))


def serves(started: Mapping[str, bytes], wanted: Mapping[str, bytes]) -> bool:
    """Whether an engine that was started with the files `started` generates as one that was started with `wanted`.

    Prompts are made with the chat template of `wanted`, so templates may differ. Of generation_config.json, vLLM uses
    only the tokens that end a response, because a request carries all other settings.
    """
    return _comparable(started) == _comparable(wanted)


def _alike(tensor: Tensor, first: Tensor) -> bool:
    return tensor.dtype == first.dtype and tensor.shape == first.shape


def _read(files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name not in (RECORD, CARD) and kind_of(name) in _READ}


def _comparable(files: Mapping[str, bytes]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, content in files.items():
        if kind_of(name) is TEMPLATE:
            continue
        if name == _CONFIG:
            found[name] = {k: v for k, v in json.loads(content).items() if k not in _NO_MEANING}
        elif name == _GENERATION:
            found[name] = json.loads(content).get("eos_token_id")
        elif name == _TOKENIZER_CONFIG:
            found[name] = {k: v for k, v in json.loads(content).items() if k != "chat_template"}
        else:
            found[name] = content
    return found
