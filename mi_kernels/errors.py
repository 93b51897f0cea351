"""The exceptions that mi_kernels raises. Each message says what is wrong, then what to do.

Messages name arguments as Python does, and each medium spells them in its own way (`spelled`): the command line shows
`overwrite=True` as `--overwrite`. Two places of a message can be spelled:

- text in backticks, such as "Pass `overwrite=True`." or "Use a larger `max_memory`."
- the first word of the problem, if `argument` names it: `ArgumentError("lam is 2", "...", argument="lam")`.

Recipes and other files have keys of the same names, which stay as they are: their messages start with the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

_COMPARED = 200  # characters of a word: comparing takes the square of them
_MAX_CHARACTERS = 1500  # of one line of a message: paths and tensor names can be very long
_ARGUMENT = re.compile(r"`([a-z_]+)(?:=([^`\s]+))?`")


class MIKernelsError(Exception):
    """Base class of all exceptions that mi_kernels raises on purpose. `str()` gives one or two lines.

    Attributes:
        problem (str): one line that says what is wrong: the file, the tensor, both values.
        remedy (str): one line that says what to do. Empty if the problem needs no remedy.
        argument (str | None): the argument of the function that `problem` starts with. None: with something else.

    Example:
        >>> import mi_kernels
        >>> try:
        ...     mi_kernels.open_checkpoint("no_such_folder")
        ... except mi_kernels.MIKernelsError as error:
        ...     print(error.problem)
        ...     print(error.remedy)
        no_such_folder: no such folder
        Check the path, or give a Hub id such as ORG/NAME.
    """

    def __init__(self, problem: str, remedy: str = "", *, argument: str | None = None) -> None:
        super().__init__(problem, remedy)
        self.argument = argument
        self.problem = printable(problem, _MAX_CHARACTERS)
        self.remedy = printable(remedy, _MAX_CHARACTERS)

    def __str__(self) -> str:
        return f"{self.problem}\n{self.remedy}" if self.remedy else self.problem


class ArgumentError(MIKernelsError, ValueError):
    """The value of an argument is not valid: lam, layers, modules, a shape, tensors that overlap in memory."""


class DTypeError(MIKernelsError, TypeError):
    """The function does not support the dtype of a tensor or the Python type of an argument."""


class BackendError(MIKernelsError, RuntimeError):
    """A backend or an instruction set was requested by name but is not available."""


class CheckpointError(MIKernelsError):
    """An input folder is not a readable safetensors checkpoint, or one of its files cannot be used."""


class MismatchError(MIKernelsError):
    """Two checkpoints cannot be merged: the names, shapes or dtypes of their tensors differ."""


class StrictError(MIKernelsError):
    """A strict merge found something that other merges report as a note: NaN or inf, tokenizers that differ."""


class OutputError(MIKernelsError):
    """The output cannot be written: it already exists, it is an input, or the disk is full."""


class ClusterError(MIKernelsError):
    """The cluster cannot be used, or it failed. Finished work is kept: the same command resumes it."""


def spelled(error: MIKernelsError, spell: Callable[[str, str | None], str | None]) -> tuple[str, str]:
    """Returns the problem and the remedy of `error`, with its arguments as a medium spells them.

    Args:
        spell: gets the name of an argument, and its value as Python code or None; returns its text in the medium, or
            None if the medium has no such argument.

    Example:
        >>> from mi_kernels.errors import OutputError, spelled
        >>> error = OutputError("mi-0.8: exists", "Choose another output, or pass `overwrite=True`.")
        >>> spelled(error, lambda name, value: f"--{name}")[1]
        'Choose another output, or pass --overwrite.'
    """

    def other(match: re.Match[str]) -> str:
        return spell(match[1], match[2]) or match[0]

    problem, name = error.problem, error.argument
    if name is not None and problem.startswith(name):
        problem = (spell(name, None) or name) + problem[len(name) :]
    return _ARGUMENT.sub(other, problem), _ARGUMENT.sub(other, error.remedy)


def printable(text: str, limit: int | None = None) -> str:
    """Returns `text` on one line, with escapes for control characters. The name of a tensor may contain any.

    Args:
        limit: maximum number of characters of `text`. Longer text is shortened in the middle.
    """
    if limit is not None and len(text) > limit:
        text = f"{text[: limit // 2]} ... {text[-limit // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(names: list[str], limit: int = 3) -> str:
    """Returns the first names for a message: "a, b, c and 7 more"."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(n if len(n) <= 200 else n[:197] + "..." for n in names[:limit]) + more


def counted(count: int, one: str, many: str | None = None) -> str:
    """Returns a number with its noun: "1 tensor", "2,000 tensors". `many` is the plural if `one` + "s" is not.

    Example:
        >>> from mi_kernels.errors import counted
        >>> counted(1, "tensor is", "tensors are"), counted(7, "file")
        ('1 tensor is', '7 files')
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def nearest(word: str, known: Iterable[str], limit: int = 1, likeness: float = 0.6) -> list[str]:
    """Returns up to `limit` of the known words that are like `word`, the closest first.

    Capital letters, `-` and `_` do not count, so that `Task-Arithmetic` finds `task_arithmetic`.

    Args:
        likeness: from 0 (any word) to 1 (only equal ones).
    """
    import difflib

    def plain(text: str) -> str:
        return text[:_COMPARED].lower().replace("-", "_")

    spelled = {plain(name): name for name in known}
    return [spelled[name] for name in difflib.get_close_matches(plain(word), spelled, n=limit, cutoff=likeness)]


def did_you_mean(word: object, known: Iterable[str], otherwise: str = "") -> str:
    """Returns a sentence for a remedy that names the known word closest to `word`; `otherwise` if none is close.

    Example:
        >>> from mi_kernels.errors import did_you_mean
        >>> did_you_mean("tise", ["ties", "slerp"])
        'Did you mean ties?'
        >>> did_you_mean("xyz", ["ties", "slerp"], otherwise="Use ties or slerp.")
        'Use ties or slerp.'
    """
    close = nearest(str(word), known)
    return f"Did you mean {close[0]}?" if close else otherwise


def with_hint(word: object, known: Iterable[str], then: str) -> str:
    """Returns `then`, after the closest known word if one is close.

    Example:
        >>> from mi_kernels.errors import with_hint
        >>> with_hint("tise", ["ties", "slerp"], "Use ties or slerp.")
        'Did you mean ties? Use ties or slerp.'
    """
    return f"{did_you_mean(word, known)} {then}".lstrip()
