"""The exceptions that mi_kernels raises. Each message says what is wrong, then what to do.

Messages name arguments as Python does, and each medium spells them in its own way (`spelled`): the command line shows
`overwrite=True` as `--overwrite`. Two places of a message can be spelled:

- text in backticks, such as "Pass `overwrite=True`." or "Use a larger `max_memory`."
- the first word of the problem, if `argument` names it: `ArgumentError("lam is 2", "...", argument="lam")`.

Recipes and other files have keys of the same names, which stay as they are: their messages start with the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

_COMPARED = 200  # characters of a word: comparing takes the square of them
_RANKED = 12  # known words that are like a word, and that are compared letter by letter
_ERROR, _WRONG_LETTER = 2, 3  # what a typing error counts
_MAX_CHARACTERS = 1500  # of one line of a message: paths and tensor names can be very long
_ARGUMENT = re.compile(r"`([a-z_]+)(?:=([^`\s]+))?`")

# What other tools call our arguments, options and keys. A hint uses an entry only where our name is a known one.
OTHER_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("alpha", "lambda", "lambda_", "lmbda", "weight", "weights", "w", "t", "l"), "lam"),
    **dict.fromkeys(("ratio", "merge_ratio", "interpolation", "interpolation_weight", "lerp_weight", "mix"), "lam"),
    **dict.fromkeys(("output", "output_dir", "output_path", "out_dir", "out_path", "dest", "save"), "out"),
    **dict.fromkeys(("layer", "blocks", "layer_range"), "layers"),
    **dict.fromkeys(("module", "mask", "masks"), "modules"),
    **dict.fromkeys(("force", "clobber", "f", "y"), "overwrite"),
    **dict.fromkeys(("precision", "out_dtype", "torch_dtype"), "dtype"),
    **dict.fromkeys(("jobs", "workers", "num_threads", "j"), "threads"),
    **dict.fromkeys(("cuda", "gpu", "gpus"), "device"),
    **dict.fromkeys(("shard_size", "out_shard_size"), "max_shard_size"),
    **dict.fromkeys(("dryrun", "plan", "n"), "dry_run"),
    **dict.fromkeys(("silent",), "quiet"),
    **dict.fromkeys(("copy_tokenizer", "tokenizer", "tokenizer_source"), "copy_from"),
    **dict.fromkeys(("upload", "push_to_hub"), "push"),
}


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
    """A call does not fit: a dtype or a type that the function does not support, or arguments that it does not have."""


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

    Closest is the word that the fewest typing errors turn into `word`: a letter that is missing or added, or two
    neighbours that changed places; a wrong letter is less likely. Among equally close words, the first known one is
    first, so give the most frequent names first. Capital letters, `-` and `_` do not count, so that `Task-Arithmetic`
    finds `task_arithmetic`.

    Args:
        likeness: from 0 (any word) to 1 (only equal ones).

    Example:
        >>> from mi_kernels.errors import nearest
        >>> nearest("modles", ["models", "modules"], limit=2)
        ['models', 'modules']
    """
    import difflib

    plain = _plain(word)
    spelled = {_plain(name): name for name in known}
    like = difflib.get_close_matches(plain, spelled, n=max(limit, _RANKED), cutoff=likeness)
    places = {name: i for i, name in enumerate(spelled)}
    like.sort(key=lambda name: (_typing_errors(plain, name), places[name]))
    return [spelled[name] for name in like[:limit]]


def _plain(word: str) -> str:
    return word[:_COMPARED].lower().replace("-", "_")


def _typing_errors(one: str, other: str) -> int:
    """Returns the cost of the letters to insert, drop, replace or swap that turn one word into the other.

    This is the distance of Damerau and Levenshtein in which no letter is edited twice.
    """
    above: list[int] = []
    row = [_ERROR * j for j in range(len(other) + 1)]
    for i, a in enumerate(one):
        above, before, row = row, above, [_ERROR * (i + 1)]
        for j, b in enumerate(other):
            cost = min(row[j] + _ERROR, above[j + 1] + _ERROR, above[j] + (a != b) * _WRONG_LETTER)
            if i and j and a == other[j - 1] and b == one[i - 1]:
                cost = min(cost, before[j - 1] + _ERROR)
            row.append(cost)
    return row[-1]


def meant(word: object, known: Iterable[str]) -> str | None:
    """Returns the known word that `word` most likely means: what other tools call by that name, or the closest one.

    Example:
        >>> from mi_kernels.errors import meant
        >>> meant("alpha", ["scale", "lam"]), meant("tise", ["ties", "slerp"]), meant("xyz", ["ties", "slerp"])
        ('lam', 'ties', None)
    """
    names = list(known)
    close = nearest(str(word), names)
    if close and _typing_errors(_plain(str(word)), _plain(close[0])) <= _WRONG_LETTER:
        return close[0]
    ours = OTHER_NAMES.get(_plain(str(word)))
    return next((name for name in (ours, f"{ours}s") if name in names), close[0] if close else None)


def did_you_mean(word: object, known: Iterable[str], otherwise: str = "") -> str:
    """Returns a sentence for a remedy that names the known word that is `meant`; `otherwise` if there is none.

    Example:
        >>> from mi_kernels.errors import did_you_mean
        >>> did_you_mean("tise", ["ties", "slerp"])
        'Did you mean ties?'
        >>> did_you_mean("xyz", ["ties", "slerp"], otherwise="Use ties or slerp.")
        'Use ties or slerp.'
    """
    name = meant(word, known)
    return f"Did you mean {name}?" if name else otherwise


def with_hint(word: object, known: Iterable[str], then: str) -> str:
    """Returns `then`, after the known word that is `meant` if there is one.

    Example:
        >>> from mi_kernels.errors import with_hint
        >>> with_hint("tise", ["ties", "slerp"], "Use ties or slerp.")
        'Did you mean ties? Use ties or slerp.'
    """
    return f"{did_you_mean(word, known)} {then}".lstrip()
