"""The record of what a search is, in its folder: the same command resumes it, another one is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from ..errors import EvalError
from ..run.files import write_json

_NAME = "tune.json"
FORMAT = 1


def check(out: str, content: Mapping[str, Any]) -> None:
    """Raises:
    EvalError: `out` holds another search, or something else.
    """
    path = os.path.join(out, _NAME)
    if not os.path.exists(path):
        if os.path.isdir(out) and any(not name.startswith(".") for name in os.listdir(out)):
            raise EvalError(f"{out}: exists and is not the folder of a search", "Choose another folder with --out.")
        if os.path.exists(out) and not os.path.isdir(out):
            raise EvalError(f"{out}: is a file", "Choose a folder with --out.")
        return
    before = _read(path)
    differs = [
        f"{key} {before.get(key)}, now {value}" for key, value in content.items() if before.get(key) != _plain(value)
    ]
    if differs:
        raise EvalError(
            f"{out}: holds another search: {'; '.join(differs)}",
            "Use the same settings (only --evaluations may grow), or choose another folder with --out.",
        )


def save(out: str, content: Mapping[str, Any]) -> None:
    os.makedirs(out, exist_ok=True)
    if not os.path.exists(os.path.join(out, _NAME)):
        write_json(os.path.join(out, _NAME), {"format": FORMAT, **content})


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        if content.pop("format", FORMAT) > FORMAT:
            raise EvalError(f"{path}: was written by a newer version", "Use that version of eval.")
        return dict(content)
    except (ValueError, AttributeError, TypeError) as error:
        raise EvalError(
            f"{path}: is not the record of a search", "Restore it, or choose another folder with --out."
        ) from error
