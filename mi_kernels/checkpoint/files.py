"""Reads the small files of an untrusted model safely: never blocks, limits the size, limits the depth of JSON."""

from __future__ import annotations

import json
import os
import re
import stat
from typing import Any

from ..errors import CheckpointError
from ..system.faults import reading_failed
from .model_files import may_replace

_MAX_JSON = 64 << 20  # an index of 100,000 tensors has 10 MB
# A file in the Hub's cache is named after the hash of its content.
_BLOB = re.compile(r"/(?:models|datasets|spaces)--[^/]+/blobs/(?:[0-9a-f]{40}|[0-9a-f]{64})")
_MAX_DEPTH = 100  # nested configs are 5 deep; copying and writing JSON recurse


def read_file(path: str, limit: int, root: str | None = None) -> bytes:
    """Returns the content of the file at `path`.

    Args:
        limit: maximum size in bytes.
        root: the folder of the model. Pass it for files that are copied to the output: a link must not point outside
            of it, see `refuse_link_out`.

    Raises:
        CheckpointError: the file is missing, not a regular file, larger than `limit`, unreadable, or a link out of
            `root`.
    """
    try:
        # Checked before opening, which can have side effects on a device. O_NONBLOCK below: it may become a FIFO now.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise CheckpointError(f"{path}: is not a regular file", "Replace it with a file, or remove it.")
        if root is not None:
            refuse_link_out(path, root)
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if os.fstat(file.fileno()).st_size > limit:
                raise CheckpointError(
                    f"{path}: is larger than {limit >> 20} MiB, the limit for such files", "Remove it from the folder."
                )
            return file.read(limit)
    except FileNotFoundError:
        link = os.path.islink(path)
        raise CheckpointError(
            f"{path}: {'is a broken link' if link else 'missing'}",
            "Download the model again: its files were removed from the cache." if link else "Download it again.",
        ) from None
    except OSError as error:
        raise reading_failed(error, path) from error


def read_json(path: str, unique: bool = False, limit: int = _MAX_JSON) -> dict[str, Any]:
    """Returns the JSON object in the file at `path`.

    Args:
        unique: reject duplicate names in an object. JSON does not define which of the two values is used, and readers
            differ.
        limit: maximum size in bytes.

    Raises:
        CheckpointError: as `read_file`; or the content is not a JSON object, or it is nested too deeply.
    """
    return parse_json(read_file(path, limit), path, unique)


def parse_json(content: bytes, path: str, unique: bool = False) -> dict[str, Any]:
    """As `read_json`, for `content` that was read from `path`."""
    try:
        value = json.loads(content, object_pairs_hook=refuse_duplicates if unique else None)
    except DuplicateName as duplicate:
        raise CheckpointError(
            f"{path}: has the name {duplicate} twice", "Remove one of the two, or download the file again."
        ) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not valid JSON: {error}", "Fix it, or download it again.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: is not a JSON object", "Fix it, or download it again.")
    if _deeper_than(value, _MAX_DEPTH):
        raise CheckpointError(
            f"{path}: is nested more than {_MAX_DEPTH} levels deep", "Replace it with the file of the original model."
        )
    return value


class DuplicateName(ValueError):
    """A JSON object contains the same name twice."""


def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An `object_pairs_hook` for `json.loads` that raises DuplicateName."""
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise DuplicateName(name)
            seen.add(name)
    return result


def _deeper_than(value: object, limit: int) -> bool:
    level: list[object] = [value]
    for _ in range(limit):
        containers = [v for v in level if isinstance(v, (dict, list))]
        level = [child for v in containers for child in (v.values() if isinstance(v, dict) else v)]
        if not level:
            return False
    return True


def refuse_link_out(path: str, root: str) -> None:
    """Checks a file or subfolder that is copied to the output, in case it is a link.

    Users publish outputs, and a model from an archive or from git may contain a link to a private file of the user.
    Accepted are

    - regular files, and links to visible files inside the folder `root`. Hidden ones, such as .git/config, can hold
      passwords.
    - links to blobs in the Hub cache: the name of a blob is the hash of its content, so an attacker cannot link to
      content that they do not know.
    - links into another model folder, to a file of the same kind by the table in `model_files`. So a folder can be made
      of links to a model. An archive cannot put private data into such a folder.

    Args:
        path: the file or folder, inside `root`.
        root: the folder of the model.

    Raises:
        CheckpointError: the file is another link.
    """
    real, home = os.path.realpath(path), os.path.realpath(root)
    name = os.path.relpath(path, root)
    inside = real.startswith(os.path.join(home, ""))
    if real == os.path.join(home, name) or (inside and not _hidden(os.path.relpath(real, home))):
        return
    if _BLOB.search(real) or _in_another_model(name, real):
        return
    raise CheckpointError(
        f"{path}: is a link to {real}, {'a hidden file' if inside else 'outside the folder of the model'}",
        "The output would contain a copy. If you want that, replace the link with a copy of the file.",
    )


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _in_another_model(name: str, real: str) -> bool:
    """Returns whether a link `name` in the root of a model leads to the same place in another model."""
    parts = real.split("/")
    depth = name.count("/") + 1
    folder, target = "/".join(parts[:-depth]) or "/", "/".join(parts[-depth:])
    fits = name == target if os.path.isdir(real) else may_replace(name, target)
    return fits and _is_model(folder)


def _is_model(folder: str) -> bool:
    """Returns whether `folder` has the config of a model, and weights. Many programs have a file config.json."""
    config = os.path.join(folder, "config.json")
    try:
        if not os.path.isfile(config) or not {"model_type", "architectures"} & set(read_json(config)):
            return False
        return any(entry.name.endswith(".safetensors") and entry.is_file() for entry in os.scandir(folder))
    except (CheckpointError, OSError):
        return False
