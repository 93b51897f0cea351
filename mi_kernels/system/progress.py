"""Progress in bytes: a bar on a terminal or in a notebook, lines in a log, or calls of a user's function."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ..errors import ArgumentError
from .duration import show_left
from .sizes import show_bytes

if TYPE_CHECKING:
    from tqdm import tqdm

Progress = bool | Literal["lines"] | Callable[[int, int], None]
"""What the argument `progress` of a function takes.

False: show nothing. True: show a bar if stderr is a terminal or the code runs in a notebook. "lines": as True, and
elsewhere write a line to stderr every five seconds, as the command line does. A function: call it with (bytes finished,
bytes in total).
"""

INTERVAL = 5.0  # seconds between two lines, and before the first one, so that a short merge writes none
_COLUMNS, _ROWS = 80, 24  # of a terminal that does not know its size

OnBytes = Callable[[int], None]


class _Display(Protocol):
    """Shows how many bytes are finished. The functions are called by one thread at a time."""

    def update(self, count: int) -> None: ...

    def relabel(self, label: str) -> None: ...

    def close(self) -> None: ...


def checked_progress(progress: Progress) -> None:
    """Raises ArgumentError if `progress` is not one of the values of `Progress`."""
    if not (isinstance(progress, bool) or callable(progress) or (isinstance(progress, str) and progress == "lines")):
        raise ArgumentError(
            f"progress is {progress!r:.80}", "Use True, False, 'lines' or a function.", argument="progress"
        )


def without_functions(progress: Progress) -> Progress:
    """Returns the progress for a step before the real work, whose bytes a user's function does not expect."""
    return False if callable(progress) else progress


@contextmanager
def progress_bar(progress: Progress, total: int, label: str, *, done: int = 0, then: str = "") -> Iterator[OnBytes]:
    """Context: yields a function that takes a number of newly finished bytes. Any thread may call it.

    Args:
        progress: who is shown what, see `Progress`.
        total: bytes in total.
        label: what is being done, such as "merging".
        done: bytes that were finished before, such as those of a merge that is resumed.
        then: the label after the last byte, for what follows it, such as "syncing to disk".

    Raises:
        ArgumentError: `progress` has a value that is not supported.
    """
    checked_progress(progress)
    lock, finished = threading.Lock(), done
    display = None if callable(progress) else _display(progress, total, label, done)
    if callable(progress) and done:
        progress(done, total)

    def count(new: int) -> None:
        nonlocal finished
        with lock:
            left = max(0, total - finished)
            finished += new
            if callable(progress):
                progress(finished, total)
            elif display is not None:
                display.update(min(new, left))
                if then and left > 0 and finished >= total:
                    display.relabel(then)

    try:
        yield count
    finally:
        if display is not None:
            with lock:
                display.close()


def _display(progress: bool | str, total: int, label: str, done: int) -> _Display | None:
    if not progress:
        return None
    if bar := _bar_class():
        return _Bar(bar, total, label, done)
    return Lines(total, label, done) if progress == "lines" else None


def say(text: str) -> None:
    """Prints a line for the user on stderr. If a bar is shown, the line appears above it.

    Where stderr is closed, or nobody reads it, the line is lost: that must not end the work it tells of.
    """
    if sys.stderr is None:
        return
    shown = sys.modules.get("tqdm")  # without tqdm there is no bar
    with suppress(OSError, ValueError):
        if shown is None:
            print(text, file=sys.stderr, flush=True)
        else:
            shown.tqdm.write(text, file=sys.stderr)
            sys.stderr.flush()


def _bar_class() -> type[tqdm[Any]] | None:
    """Returns the class of the bar for the place where this code runs; None where a bar cannot be shown."""
    notebook = _in_notebook()
    # tqdm.auto decides the same, but warns in a notebook without ipywidgets. There, the bar of a terminal works.
    if notebook and importlib.util.find_spec("ipywidgets") is not None:
        from tqdm.notebook import tqdm_notebook

        return tqdm_notebook
    if notebook or (sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"):
        from tqdm import tqdm

        return tqdm
    return None


def _in_notebook() -> bool:
    ipython: Any = sys.modules.get("IPython")  # not imported: a notebook has imported it
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in getattr(shell, "config", ())


class _Bar:
    """A bar: its label, a percentage, bytes, speed and the time that is left. It disappears when it is closed."""

    def __init__(self, bar: type[tqdm[Any]], total: int, label: str, done: int) -> None:
        size = {"ncols": _COLUMNS, "nrows": _ROWS} if _unknown_size() else {"dynamic_ncols": True}
        self._bar = bar(
            total=total,
            initial=done,
            desc=label,
            unit="B",
            unit_scale=True,
            leave=False,
            file=sys.stderr,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}B of {total_fmt}B, {rate_fmt}, {remaining} left",
            **size,
        )

    def update(self, count: int) -> None:
        self._bar.update(count)

    def relabel(self, label: str) -> None:
        self._bar.set_description_str(label)

    def close(self) -> None:
        self._bar.close()


def _unknown_size() -> bool:
    """Returns True if the terminal has no size. tqdm would draw nothing."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns == 0
    except (OSError, ValueError, AttributeError):  # a notebook
        return False


class Lines:
    """Writes a line to stderr every few seconds, also while nothing moves.

    Args:
        total, label, done: see `progress_bar`.
        clock: returns the time in seconds.
        wait: waits for `INTERVAL`; returns True if it was interrupted by `close`. None: a thread waits.
    """

    def __init__(
        self,
        total: int,
        label: str,
        done: int = 0,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self._total, self._label, self._done, self._first = total, label, done, done
        self._clock, self._begin = clock, clock()
        self._ended = threading.Event()
        self._wait = wait or self._ended.wait
        if wait is None:
            self._thread = threading.Thread(target=self.run, name="mi-kernels-progress", daemon=True)
            self._thread.start()

    def run(self) -> None:
        """Writes lines until `close`."""
        while not self._wait(INTERVAL):
            say(f"mi-kernels: {self.line()}")

    def line(self) -> str:
        """Returns what is done, such as "merging: 3.2 GB of 8.04 GB (40 %), 1.1 GB/s, 5 s left"."""
        seconds, moved = self._clock() - self._begin, self._done - self._first
        share = f"{show_bytes(self._done)} of {show_bytes(self._total)}"
        if self._total:
            share += f" ({100 * self._done // self._total} %)"
        if not moved or seconds <= 0 or self._done >= self._total:
            return f"{self._label}: {share}"
        speed = moved / seconds
        return f"{self._label}: {share}, {show_bytes(speed)}/s, {show_left((self._total - self._done) / speed)} left"

    def update(self, count: int) -> None:
        self._done += count

    def relabel(self, label: str) -> None:
        self._label = label

    def close(self) -> None:
        self._ended.set()
