"""The small files of the output: config, tokenizer, chat template, licences."""

from __future__ import annotations

import copy
import json
import os
import re

from ..checkpoint.files import parse_json, read_file
from ..checkpoint.record import Checkpoint
from ..checksums.record import NAME as CHECKSUMS
from ..dtypes import TORCH_NAMES
from ..errors import CheckpointError
from ..system.faults import reading_failed

RECORD = "mi_kernels.json"  # `merge.record` writes and reads it
_KEPT = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".py")
_NEVER = (".safetensors.index.json", ".bin.index.json")
_OURS = (RECORD, CHECKSUMS)
_MAX_SIZE = 256 << 20  # of all of them; a tokenizer of 250,000 words is 20 MB


def collect(source: Checkpoint) -> dict[str, bytes]:
    """The files that make `source` a model besides its weights and its card, by name.

    Raises:
        CheckpointError: one of them cannot be read, is a link out of the model's folder, or they are far too large.
    """
    files: dict[str, bytes] = {}
    left = _MAX_SIZE
    try:
        names = sorted(os.listdir(source.root))
    except OSError as error:
        raise reading_failed(error, source.root) from error
    for name in names:
        path = os.path.join(source.root, name)
        wanted = name.endswith(_KEPT) or name.upper().startswith(("LICENSE", "NOTICE"))
        if not wanted or name.startswith(".") or name.endswith(_NEVER) or name in _OURS or os.path.isdir(path):
            continue
        files[name] = read_file(path, _MAX_SIZE, source.root)
        left -= len(files[name])
        if left < 0:
            raise CheckpointError(
                f"{path}: with it the small files are larger than {_MAX_SIZE >> 20} MiB", "Remove what is no model's."
            )
    return files


def adjust_config(config: bytes, path: str, untied: bool, dtype: str | None) -> bytes:
    """config.json as the new weights need it; the very same bytes where nothing changes.

    Args:
        untied: the output stores an lm_head of its own, so the config must not tie it to the embedding.
        dtype: the dtype asked for, by safetensors' name.

    The output is never quantised, so quantization_config goes.
    """
    quantised = b'"quantization_config"' in config
    if not untied and dtype is None and not quantised:
        return config
    content = parse_json(config, path)
    before = copy.deepcopy(content)
    text = content.get("text_config")
    for part in (content, text if isinstance(text, dict) else {}):
        part.pop("quantization_config", None)
        if untied and part.get("tie_word_embeddings"):
            part["tie_word_embeddings"] = False
        for key in ("dtype", "torch_dtype"):
            if dtype is not None and key in part:
                part[key] = TORCH_NAMES[dtype]
    if untied:
        content["tie_word_embeddings"] = False  # where it is absent, some architectures tie
    if content == before:
        return config
    return (json.dumps(content, indent=2) + "\n").encode()


def hub_id(model: Checkpoint) -> str:
    """The model's Hub id where it is known (given as one, or lying in the Hub's cache), else the folder's name.

    That of its base, where there is an adapter.
    """
    return origin_id(model.base, model.root, model.revision)


def origin_id(source: str, root: str, revision: str | None) -> str:
    """`hub_id` of a model or an adapter."""
    if revision is not None:
        return source.split("@")[0]
    cached = re.search(r"models--([\w.-]+?)--([\w.-]+)/snapshots/", os.path.abspath(root) + "/")
    return f"{cached[1]}/{cached[2]}" if cached else os.path.basename(os.path.abspath(root))
