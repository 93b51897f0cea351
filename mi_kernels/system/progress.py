"""Progress of a merge in bytes: a bar on stderr, or calls of a user function."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(progress: bool | Callable[[int, int], None], total: int) -> Iterator[Callable[[int], None]]:
    """Context: yields a function that takes a number of newly finished bytes. Any thread may call it.

    Args:
        progress: False: show nothing. True: show a bar if stderr is a terminal. A function: call it with
            (bytes finished so far, `total`).
        total: bytes in total.
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
