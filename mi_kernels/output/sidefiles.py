"""Collects the small files of the output: config, tokenizer, chat template, licences."""

from __future__ import annotations

import os

from ..checkpoint.files import read_file
from ..checkpoint.hub import cached_id
from ..checkpoint.record import Checkpoint
from ..checksums.record import NAME as CHECKSUMS
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
