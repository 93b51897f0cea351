"""Every error a user can meet. Each says what is wrong, and then what to do next."""

from __future__ import annotations

_MOST = 1500  # characters of a line: paths are long, and a name may be as long as its author likes


class MIKernelsError(Exception):
    """Base of all errors raised on purpose.

    Attributes:
        problem: one line: which file, which tensor, both values.
        remedy: one line: what to do. May be empty where the problem says it all.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem, remedy)
        self.problem = printable(problem, _MOST)
        self.remedy = printable(remedy, _MOST)

    def __str__(self) -> str:
        return f"{self.problem}\n{self.remedy}" if self.remedy else self.problem


class ArgumentError(MIKernelsError, ValueError):
    """An argument has a value that cannot be used: lam, layers, modules, a shape, an overlap."""


class DTypeError(MIKernelsError, TypeError):
    """A tensor's dtype, or a Python type, is not one this function takes."""


class BackendError(MIKernelsError, RuntimeError):
    """A backend or an ISA was asked for by name and is not available."""


class CheckpointError(MIKernelsError):
    """An input folder or one of its files is not a readable safetensors checkpoint."""


class MismatchError(MIKernelsError):
    """Two checkpoints cannot be interpolated: names, shapes or dtypes differ."""


class StrictError(MIKernelsError):
    """What a strict merge refuses and any other one tells: values that are not finite, tokenizers that differ."""


class OutputError(MIKernelsError):
    """The output cannot be written: it exists, it is an input, there is no space."""


class ClusterError(MIKernelsError):
    """A cluster cannot be used, or failed. As after a kill, what was finished is kept for the same command."""


def printable(text: str, limit: int | None = None) -> str:
    """`text` on one line: control characters (a tensor's name may hold any) as escapes.

    Args:
        limit: characters of `text` that are shown; the rest is cut out of its middle.
    """
    if limit is not None and len(text) > limit:
        text = f"{text[: limit // 2]} ... {text[-limit // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(names: list[str], limit: int = 3) -> str:
    """A few names for a message: "a, b, c and 7 more"."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(n if len(n) <= 200 else n[:197] + "..." for n in names[:limit]) + more
