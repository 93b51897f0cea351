"""Files that a killed process leaves complete."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file in one step: a reader, or whoever comes after a kill, finds the old or the new content."""
    part = path.with_name(f".{path.name}")
    part.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(part, path)
