"""Collects the small files of the output: config, tokenizer, chat template, code, licences, modules in subfolders."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..checkpoint.files import read_file
from ..checkpoint.hub import cached_id
from ..checkpoint.record import Checkpoint
from ..errors import CheckpointError

RECORD = "mi_kernels.json"  # `merge.record` writes and reads it
MAX_SIZE = 256 << 20  # bytes of all small files; a tokenizer with 250,000 tokens has 20 MB


def collect(source: Checkpoint, names: Sequence[str]) -> dict[str, bytes]:
    """Returns the content of the files `names` of `source`, see `copied_files.survey`.

    Raises:
        CheckpointError: a file cannot be read, a file is a link out of the folder, or the files are too large.
    """
    files: dict[str, bytes] = {}
    left = MAX_SIZE
    for name in names:
        path = os.path.join(source.root, name)
        files[name] = read_file(path, MAX_SIZE, source.root)
        left -= len(files[name])
        if left < 0:
            raise CheckpointError(
                f"{path}: the small files up to this one have more than {MAX_SIZE >> 20} MiB",
                "Remove files that do not belong to the model.",
            )
    return files


def hub_id(model: Checkpoint) -> str:
    """Returns the Hub id of the model if it was given as one or is in the Hub cache, otherwise the name of its folder.

    With an adapter, returns the id of the base.
    """
    return origin_id(model.base, model.root, model.revision)


def reference(model: Checkpoint) -> str:
    """Returns how to name the model again, with its adapter: a Hub id with its commit, otherwise the path as given."""
    adapter = model.adapter
    parts = [(model.base, model.root, model.revision)]
    parts += [(adapter.source, adapter.root, adapter.revision)] if adapter else []
    return "+".join(_reference(*part, model.alone) for part in parts)


def _reference(source: str, root: str, revision: str | None, alone: bool) -> str:
    folder, commit = os.path.split(os.path.abspath(root))
    cached = None if alone or os.path.basename(folder) != "snapshots" else cached_id(f"{folder}/{commit}")
    if revision is None and cached is None:
        return source
    return f"{source.split('@')[0]}@{revision}" if revision is not None else f"{cached}@{commit}"


def origin_id(source: str, root: str, revision: str | None) -> str:
    """As `hub_id`, for a model or an adapter."""
    if revision is not None:
        return source.split("@")[0]
    folder = os.path.abspath(root)
    return cached_id(folder) or os.path.basename(folder)
