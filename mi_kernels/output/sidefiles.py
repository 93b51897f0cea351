"""Collects the small files of the output: config, tokenizer, chat template, licences."""

from __future__ import annotations

import copy
import json
import os

from ..checkpoint.files import parse_json, read_file
from ..checkpoint.hub import cached_id
from ..checkpoint.record import Checkpoint
from ..checksums.record import NAME as CHECKSUMS
from ..dtypes import TORCH_NAMES
from ..errors import CheckpointError
from ..system.faults import reading_failed

RECORD = "mi_kernels.json"  # `merge.record` writes and reads it
_KEPT = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".py")
_NEVER = (".safetensors.index.json", ".bin.index.json")
_OURS = (RECORD, CHECKSUMS)
_MAX_SIZE = 256 << 20  # bytes of all small files; a tokenizer with 250,000 tokens has 20 MB


def collect(source: Checkpoint) -> dict[str, bytes]:
    """Returns the small files of `source` by name: everything that belongs to a model except weights and model card.

    Raises:
        CheckpointError: a file cannot be read, a file is a link out of the folder, or the files are too large.
    """
    files: dict[str, bytes] = {}
    if source.alone:
        return files
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
                f"{path}: the small files up to this one have more than {_MAX_SIZE >> 20} MiB",
                "Remove files that do not belong to the model.",
            )
    return files


def adjust_config(config: bytes, path: str, untied: bool, dtype: str | None) -> bytes:
    """Returns config.json adjusted to the new weights, or the same bytes if nothing changes.

    Removes quantization_config, because the output is never quantised.

    Args:
        config: the content of config.json.
        path: the file that `config` was read from, for messages.
        untied: the output stores its own lm_head, so the config must not tie it to the embedding.
        dtype: the safetensors name of the requested dtype; None keeps the dtype.
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
        content["tie_word_embeddings"] = False  # some architectures tie if it is missing
    if content == before:
        return config
    return (json.dumps(content, indent=2) + "\n").encode()


def hub_id(model: Checkpoint) -> str:
    """Returns the Hub id of the model if it was given as one or is in the Hub cache, otherwise the name of its folder.

    With an adapter, returns the id of the base.
    """
    return origin_id(model.base, model.root, model.revision)


def origin_id(source: str, root: str, revision: str | None) -> str:
    """As `hub_id`, for a model or an adapter."""
    if revision is not None:
        return source.split("@")[0]
    folder = os.path.abspath(root)
    return cached_id(folder) or os.path.basename(folder)
