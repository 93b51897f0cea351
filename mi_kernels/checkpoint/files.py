"""The small files of a model, which may come from anybody: opened without waiting, read up to a limit, and JSON parsed
only as far as it can be handled."""

from __future__ import annotations

import json
import os
import stat
from typing import Any

from ..errors import CheckpointError
from ..system.faults import reading_failed
from .hub import is_cached_blob

_MAX_JSON = 64 << 20  # an index of 100,000 tensors is 10 MB
_MAX_DEPTH = 100  # a config of parts with parts is 5 deep; what copies or writes JSON recurses


def read_file(path: str, limit: int, root: str | None = None) -> bytes:
    """The content of the file at `path`.

    Args:
        root: the model's folder, for what will be copied: links may not lead out of it, see `_refuse_link_out`.

    Raises:
        CheckpointError: missing, no regular file, larger than `limit` bytes, unreadable, or a link out of `root`.
    """
    try:
        # Asked before it is opened: a device may do anything then. It may still change into a FIFO, which would wait.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise CheckpointError(f"{path}: is not a regular file", "Download the model again.")
        if root is not None:
            _refuse_link_out(path, root)
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if os.fstat(file.fileno()).st_size > limit:
                raise CheckpointError(
                    f"{path}: is larger than {limit >> 20} MiB", "That is no model's file: remove it."
                )
            return file.read(limit)
    except FileNotFoundError:
        link = os.path.islink(path)
        raise CheckpointError(
            f"{path}: {'is a link that leads nowhere' if link else 'missing'}",
            "Download the model again: a cache that was pruned leaves such links." if link else "Download it again.",
        ) from None
    except OSError as error:
        raise reading_failed(error, path) from error


def read_json(path: str, unique: bool = False, limit: int = _MAX_JSON) -> dict[str, Any]:
    """The JSON object at `path`.

    Args:
        limit: bytes that are read at most.
        unique: a name may not stand twice in an object. JSON leaves open which of the two counts, and readers differ.

    Raises:
        CheckpointError: as `read_file`, not JSON, no object, or nested beyond reason.
    """
    return parse_json(read_file(path, limit), path, unique)


def parse_json(content: bytes, path: str, unique: bool = False) -> dict[str, Any]:
    """`read_json` of what was read from `path`."""
    try:
        value = json.loads(content, object_pairs_hook=refuse_duplicates if unique else None)
    except DuplicateName as duplicate:
        raise CheckpointError(
            f"{path}: names {duplicate} twice", "Which of the two is meant cannot be known: download it again."
        ) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not valid JSON: {error}", "Download it again.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: is not a JSON object", "Download it again.")
    if _deeper_than(value, _MAX_DEPTH):
        raise CheckpointError(f"{path}: is nested more than {_MAX_DEPTH} deep", "That is no model's file.")
    return value


class DuplicateName(ValueError):
    """A name that stands twice in one JSON object."""


def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The `object_pairs_hook` of json that raises DuplicateName."""
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


def _refuse_link_out(path: str, root: str) -> None:
    """Passes files, links within the folder `root`, and links to blobs of the Hub's cache; nothing else.

    What a link leads to is copied into the output, which people publish: a model that came as an archive or by git may
    hold a link to any file of its user. A blob is called by the hash of its content, so nobody can name one whose
    content is not known already.
    """
    real = os.path.realpath(path)
    inside = os.path.join(os.path.realpath(root), "")
    if not real.startswith(inside) and not is_cached_blob(real):
        raise CheckpointError(
            f"{path}: is a link to {real}, outside of the model's folder",
            "The output would hold a copy: put the file itself there if that is meant (cp --remove-destination).",
        )
