"""The exceptions that mi_kernels raises. Each message says what is wrong, then what to do."""

from __future__ import annotations

from collections.abc import Iterable

_COMPARED = 200  # characters of a word: comparing takes the square of them
_MAX_CHARACTERS = 1500  # of one line of a message: paths and tensor names can be very long


class MIKernelsError(Exception):
    """Base class of all exceptions that mi_kernels raises on purpose. `str()` gives one or two lines.

    Attributes:
        problem (str): one line that says what is wrong: the file, the tensor, both values.
        remedy (str): one line that says what to do. Empty if the problem needs no remedy.

    Example:
        >>> import mi_kernels
        >>> try:
        ...     mi_kernels.open_checkpoint("no_such_folder")
        ... except mi_kernels.MIKernelsError as error:
        ...     print(error.problem)
        ...     print(error.remedy)
        no_such_folder: no such folder
        Give a model folder or a Hub id such as ORG/NAME.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem, remedy)
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
