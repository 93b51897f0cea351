"""Subfolders that belong to a model: modules of sentence-transformers, further chat templates, code for generation.

Everything else in a subfolder (checkpoints of a training run, weights in other formats) is not part of the model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from ..errors import CheckpointError
from ..system.faults import reading_failed
from .files import read_file, refuse_link_out
from .model_files import (
    CODE,
    DOCUMENTS,
    OTHER_WEIGHTS,
    PRIVATE,
    SCRIPTS,
    TEMPLATE,
    TRAINING,
    is_folder_of_copies,
    kind_of,
)

MODULES = "modules.json"
ROUTER = "router_config.json"
TEMPLATES = "additional_chat_templates"  # transformers reads *.jinja here
GENERATION = "custom_generate"  # transformers reads generate.py and requirements.txt here
_LEFT_IN_MODULES = (TRAINING, CODE, SCRIPTS, PRIVATE, OTHER_WEIGHTS, DOCUMENTS)
_MAX_JSON = 1 << 20  # bytes; modules.json has one entry for each of a few modules
_MAX_DEPTH = 16
_NOT_FOLDERS = (".safetensors", ".json", ".md")  # the output has files with such names


def needed(root: str) -> list[str]:
    """Returns the subfolders of the model at `root` that belong to it, as paths within `root`.

    Raises:
        CheckpointError: modules.json names a folder outside the model or a hidden one.
    """
    folders = [*module_folders(root), TEMPLATES, GENERATION]
    return [folder for folder in dict.fromkeys(folders) if os.path.isdir(os.path.join(root, folder))]


def module_folders(root: str) -> list[str]:
    """Returns the folders of the modules of sentence-transformers, also those that do not exist.

    Git does not store empty folders, so the folder of a module without settings is often missing.

    Raises:
        CheckpointError: as `needed`.
    """
    modules, router = _read(root, MODULES), _read(root, ROUTER)
    named = [(MODULES, m["path"]) for m in _list(modules) if isinstance(m, dict) and isinstance(m.get("path"), str)]
    if named and isinstance(router, dict) and isinstance(router.get("types"), dict):
        named += [(ROUTER, path) for path in router["types"]]
    checked = [_checked(root, file, path) for file, path in named]
    return [folder for folder in checked if folder]  # "" is the root itself


def belongs(name: str, folder: str) -> bool:
    """Returns whether the file `name` in the subfolder `folder` of a model, or in a folder in it, belongs to the model.

    Code in the folder of a module belongs to the model only if a config names it, see `output.copied_files`.
    """
    kind = kind_of(name)
    if folder == TEMPLATES:
        return kind is TEMPLATE
    if folder == GENERATION:
        return kind is CODE or os.path.basename(name) == "requirements.txt"
    return kind not in _LEFT_IN_MODULES


def copies(name: str, folder: str) -> str | None:
    """Returns the folder in the folder of a module that has copies of it in other formats, and the file `name` in it.

    Returns None if the file is in no such folder.
    """
    parts = name[len(folder) + 1 :].split("/")[:-1]
    depth = next((i for i, part in enumerate(parts) if is_folder_of_copies(part)), None)
    return None if depth is None else "/".join([folder, *parts[: depth + 1]])


def files_in(root: str, folder: str) -> Iterator[str]:
    """Yields the paths within `root` of all files in a subfolder and in the folders in it. Skips hidden ones.

    Raises:
        CheckpointError: a folder is a link out of the model, nested too deeply, or cannot be listed.
    """
    path = os.path.join(root, folder)
    refuse_link_out(path, root)
    if folder.count("/") > _MAX_DEPTH:
        raise CheckpointError(f"{path}: is nested more than {_MAX_DEPTH} folders deep", "Remove it from the model.")
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    except OSError as error:
        raise reading_failed(error, path) from error
    for entry in entries:
        name = f"{folder}/{entry.name}"
        if entry.name.startswith("."):
            continue
        if not os.path.isdir(entry.path):
            yield name
        elif entry.is_symlink():  # could lead in circles
            raise CheckpointError(f"{entry.path}: is a link to a folder", "Replace the link with a copy of the folder.")
        else:
            yield from files_in(root, name)


def _read(root: str, name: str) -> Any:
    """Returns the JSON value in a file of the model; None if it is missing or not valid."""
    path = os.path.join(root, name)
    if os.path.isfile(path):
        with suppress(ValueError, RecursionError):
            return json.loads(read_file(path, _MAX_JSON, root))
    return None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _checked(root: str, file: str, path: str) -> str:
    """Returns `path` in its shortest form. It is from a stranger, and its files are copied to the output."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    hidden = any(part.startswith(".") for part in parts)  # also ..; and .git holds passwords
    if path.startswith("/") or "\\" in path or "\0" in path or hidden or "/".join(parts).endswith(_NOT_FOLDERS):
        raise CheckpointError(
            f"{os.path.join(root, file)}: names the folder {path!r}, which is not a subfolder with files of the model",
            "Do not use this model unless you trust its source: its files must be in its own folder.",
        )
    return "/".join(parts)
