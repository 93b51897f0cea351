"""A clock that tests set, and an engine whose responses take time on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from eval.engines import Completion, Request

from .fakes import FakeEngine, completion, never


class Clock:
    """`time.monotonic` of the whole program."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)


class SlowEngine(FakeEngine):
    """Generates `width` responses together, each one token a second, and looks at `stop` every second.

    A response has the tokens that `fakes.completion` gives it, 5 to 11. It has no others in flight than it `running`
    says, and takes `start` seconds to open a model.

    Attributes:
        dropped: the indices of requests that it has begun and not finished.
        deeds: by second of generation: called then.
    """

    def __init__(self, clock: Clock, width: int = 4, start: float = 0.0) -> None:
        super().__init__()
        self.clock, self.width, self.start = clock, width, start
        self.dropped: list[int] = []
        self.deeds: dict[int, Callable[[], None]] = {}
        self._second = 0
        self._flying: dict[int, list[Any]] = {}  # index: [tokens so far, Completion]

    def open(self, model: str, length: int) -> Mapping[str, Any]:
        self.clock.now += self.start
        return super().open(model, length)

    def answer(self, request: Request) -> Completion:
        return completion(request)

    def running(self) -> Sequence[int]:
        return [tokens for tokens, _ in self._flying.values()]

    def generate(self, requests: Sequence[Request], stop: Callable[[], bool] = never) -> Iterator[Completion]:
        self.asked += requests
        waiting = list(requests)
        self._flying = {}
        while waiting or self._flying:
            if stop():
                self.dropped += self._flying
                self._flying = {}
                return
            while waiting and len(self._flying) < self.width:
                request = waiting.pop(0)
                self._flying[request.index] = [0, self.answer(request)]
            self.clock.now += 1
            self._second += 1
            for flying in self._flying.values():
                flying[0] += 1
            if self._second in self.deeds:
                self.deeds[self._second]()
            for index in [i for i, (tokens, done) in self._flying.items() if tokens == done.tokens]:
                yield self._flying.pop(index)[1]
