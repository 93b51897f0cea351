"""The report on a folder of runs: report.md, report.json, index.html, and each picture as PNG and SVG.

The same runs give the same bytes. A report contains counts, never the text of a problem or a response.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from mi_kernels.errors import ArgumentError, OutputError
from mi_kernels.system.faults import problem, remedy

from ..run import files

TITLE = "Evaluation of interpolated models"


def write(
    runs_folder: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    max_tokens_per_answer: float | None = None,
) -> list[str]:
    """Writes the report on `runs_folder` (a folder of runs, one run, or several of either) into the folder `out`.

    Args:
        max_tokens_per_answer: also recommend a model whose mean tokens are at most this.

    Returns:
        The paths of the files: index.html, report.md, report.json, then pictures.

    Raises:
        ArgumentError: `runs_folder` has no run with scores, or the budget is not positive.
        OutputError: matplotlib is missing, or `out` cannot be written.
    """
    if max_tokens_per_answer is not None and not max_tokens_per_answer > 0:
        raise ArgumentError(f"a budget of {max_tokens_per_answer} tokens per answer", "Give a number above 0.")
    require()
    from . import collect, content, markdown, page

    given = [runs_folder] if isinstance(runs_folder, (str, os.PathLike)) else runs_folder
    found, notes = collect.families(*map(os.fspath, given))
    folder = os.fspath(out)
    try:
        os.makedirs(folder, exist_ok=True)
        made = content.compose(found, notes, max_tokens_per_answer)
        page_text = page.render(TITLE, content.HOW, made.sections, made.images)
        pictures = {f"{stem}.{kind}": data for stem, image in made.images.items() for kind, data in image.items()}
        for name, data in pictures.items():
            files.write_whole(os.path.join(folder, name), data)
        files.write_whole(
            os.path.join(folder, "report.md"), markdown.render(TITLE, content.HOW, made.sections).encode()
        )
        files.write_json(os.path.join(folder, "report.json"), {"families": made.values, "notes": notes})
        files.write_whole(os.path.join(folder, "index.html"), page_text.encode())
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {problem(error)}", remedy(error)) from error
    return [os.path.join(folder, name) for name in ("index.html", "report.md", "report.json", *sorted(pictures))]


def require() -> None:
    """Checks that the package that draws the pictures is installed: before a sweep, not after it.

    Raises:
        OutputError: matplotlib is missing.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise OutputError(
            f"a report needs matplotlib, which cannot be imported: {error}",
            "Run `python -m pip install matplotlib`.",
        ) from error
