"""An engine process: `python -m eval.engines.worker MODULE:CLASS`, controlled by JSON lines on stdin.

| command                            | answers on stdout                                                        |
| ---------------------------------- | ------------------------------------------------------------------------ |
| {"open": {model, length, options}} | {"opened": {...}}                                                        |
| {"set": {recipe, files}}           | {"set": {...}}: the weights of the open pair are those of the recipe     |
| {"generate": true}, then           | {"done": completion} as each finishes; {"running": [...]} now and then:  |
| {"requests": [...]} at any time    | the tokens of each unfinished response, where the backend knows them     |
| {"end": true} after all requests   | {"finished": true} after the last response                               |

or {"failed": {"kind", "text"}}. The process ends when stdin is closed, so it never outlives its parent.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Protocol, TextIO

from ..schema import Sampling
from . import Completion, Request
from .diagnosis import failure

_TELL_SECONDS = 5.0


class Backend(Protocol):
    """The engine inside the process. Created without arguments; `open` imports its package.

    A backend that can hold a pair of models opens it as `model`, from `live_session.LiveSession.model`, and has `set`.
    """

    def open(self, model: Any, length: int, options: Mapping[str, Any]) -> Mapping[str, Any]: ...

    def generate(self, requests: Feed) -> Iterator[Completion]: ...


class Feed:
    """The requests that the parent sends, until it ends them. Iterate over it, or `take` those that have come."""

    def __init__(self, lines: queue.Queue[str]) -> None:
        self._lines = lines
        self._come: deque[Request] = deque()
        self.ended = False

    def take(self, most: int | None = None, *, wait: bool) -> list[Request]:
        """Up to `most` requests that have come; if `wait`, at least one, unless `ended`."""
        while not self.ended and (most is None or len(self._come) < most):
            try:
                content = json.loads(self._lines.get(block=wait and not self._come))
            except queue.Empty:
                break
            if "end" in content:
                self.ended = True
            else:
                self._come.extend(map(_request, content["requests"]))
        count = len(self._come) if most is None else min(most, len(self._come))
        return [self._come.popleft() for _ in range(count)]

    def __iter__(self) -> Iterator[Request]:
        while taken := self.take(1, wait=True):
            yield from taken


def serve(backend: Backend, lines: queue.Queue[str], answers: TextIO) -> None:
    def answer(content: Mapping[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    while True:
        command = json.loads(lines.get())
        try:
            if "open" in command:
                answer({"opened": backend.open(**command["open"])})
            elif "set" in command:
                answer({"set": backend.set(**command["set"])})
            else:
                told = time.monotonic()
                for completion in backend.generate(Feed(lines)):
                    answer({"done": asdict(completion)})
                    if time.monotonic() - told >= _TELL_SECONDS and hasattr(backend, "running"):
                        told = time.monotonic()
                        answer({"running": backend.running()})
                answer({"finished": True})
        except Exception as error:
            import traceback

            traceback.print_exc()  # into the log: the parent shows one line
            answer({"failed": failure(error)})


def _request(content: dict[str, Any]) -> Request:
    return Request(**{**content, "sampling": Sampling(**content["sampling"])})


def _read_lines(source: TextIO, lines: queue.Queue[str]) -> None:
    """Forwards every line. When they end, the parent is gone, and this process exits immediately."""
    for line in source:
        lines.put(line)
    os._exit(0)


def main() -> None:
    # Engines print to stdout, also from C++. So the answers get their own descriptor, and stdout goes to the log.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    module, name = sys.argv[1].split(":")
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read_lines, args=(sys.stdin, lines), daemon=True).start()
    serve(getattr(importlib.import_module(module), name)(), lines, answers)


if __name__ == "__main__":
    main()
