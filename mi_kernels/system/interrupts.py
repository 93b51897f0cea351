"""Delays Ctrl-C and SIGTERM during short steps that must not be interrupted."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_HELD = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held() -> Iterator[None]:
    """Context: a SIGINT or SIGTERM that arrives inside takes effect at the end of the context. Can be nested.

    Does nothing outside the main thread, because Python runs signal handlers only there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        pending.append(number)

    previous = {number: signal.getsignal(number) for number in _HELD}
    # None: the handler was not set from Python and could not be restored, so leave it in place.
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
