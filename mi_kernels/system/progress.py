"""The progress bar: bytes written, on a terminal's stderr, or a function of the caller's."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(progress: bool | Callable[[int, int], None], total: int) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with each number of bytes done, from any thread.

    Args:
        progress: False for none; True for a bar where stderr is a terminal; or a function that is called with
            (bytes done so far, `total`).
    """
    if callable(progress):
        done, lock = 0, threading.Lock()

        def count(n: int) -> None:
            nonlocal done
            with lock:
                done += n
                progress(done, total)

        yield count
    elif progress and sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, unit="B", unit_scale=True, leave=False) as bar:
            lock = threading.Lock()

            def update(n: int) -> None:
                with lock:
                    bar.update(n)

            yield update
    else:
        yield lambda n: None
