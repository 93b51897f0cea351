"""A copy of the repository's files and of the built extension, for what must leave this folder alone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from . import ROOT


def copy_repository(to: Path) -> None:
    """Copies the files that git has or would take, and the extension, with their times."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    extensions = [path.relative_to(ROOT).as_posix() for path in (ROOT / "mi_kernels").glob("*.so")]
    for name in [*filter(None, listed.split("\0")), *extensions]:
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
