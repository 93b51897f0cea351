"""Ctrl-C and SIGTERM kept waiting for the short steps that must not stop halfway."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_HELD = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held() -> Iterator[None]:
    """Context: SIGINT and SIGTERM that arrive within it take effect at its end. May be nested.

    Python runs handlers in the main thread only, so in other threads there is nothing to hold.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        pending.append(number)

    previous = {number: signal.getsignal(number) for number in _HELD}
    # A handler that was not set from Python cannot be put back: leave it where it is.
    mine = [number for number, handler in previous.items() if handler is not None]
    try:
        for number in mine:
            signal.signal(number, remember)
        yield
    finally:
        for number in mine:
            signal.signal(number, previous[number])
        if pending:
            signal.raise_signal(pending[0])
