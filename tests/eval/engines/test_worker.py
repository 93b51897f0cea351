"""The requests of an engine process: those sent together are taken together, and the end is noticed."""

from __future__ import annotations

import io
import json
import queue
from collections.abc import Generator, Mapping
from dataclasses import asdict
from typing import Any

import pytest

from eval.engines import Completion, Request
from eval.engines.worker import Feed, serve
from eval.schema import Sampling

REQUESTS = [Request(i, f"Question {i}", i, Sampling(0.6, 0.95, 20, 9)) for i in range(5)]


def sent(*messages: object) -> Feed:
    lines: queue.Queue[str] = queue.Queue()
    for message in messages:
        lines.put(json.dumps(message))
    return Feed(lines)


def requests(*chosen: Request) -> dict[str, object]:
    return {"requests": [asdict(request) for request in chosen]}


def test_batches_hold_what_was_sent_together() -> None:
    feed = sent(requests(*REQUESTS[:4]), requests(REQUESTS[4]), {"end": True})
    assert feed.take(3, wait=True) == REQUESTS[:3]
    assert feed.take(3, wait=True) == REQUESTS[3:]
    assert feed.take(3, wait=True) == []
    assert feed.ended


def test_nothing_to_take_does_not_wait_unless_told() -> None:
    feed = sent(requests(REQUESTS[0]))
    assert feed.take(wait=False) == REQUESTS[:1]
    assert feed.take(wait=False) == []
    assert not feed.ended


def test_a_feed_can_be_iterated_over() -> None:
    assert list(sent(requests(*REQUESTS[:2]), requests(*REQUESTS[2:]), {"end": True})) == REQUESTS


def test_dropped_requests_do_not_begin() -> None:
    feed = sent(requests(*REQUESTS[:4]), {"drop": True})
    assert feed.poll()
    assert feed.take(wait=True) == []
    assert (feed.ended, feed.dropped) == (True, True)


def test_a_backend_is_closed_when_its_requests_are_dropped_and_generates_again() -> None:
    class Endless:
        """Finishes the first request, and never the others."""

        closed = 0

        def open(self, model: str, length: int, options: Any) -> Mapping[str, Any]:
            return {}

        def generate(self, feed: Feed) -> Generator[Completion | None, None, None]:
            try:
                first, *_ = feed.take(wait=True)
                yield Completion(first.index, "done", 1, "stop")
                lines.put(json.dumps({"drop": True}))
                commands()
                while True:
                    yield None
            finally:
                self.closed += 1

    lines: queue.Queue[str] = queue.Queue()
    answers = io.StringIO()
    numbers = iter((3, 4))

    def commands() -> None:
        """The next command of the parent; in the end, what is no JSON ends the test."""
        number = next(numbers, None)
        if number is None:
            lines.put("end of the test")
            return
        for message in ({"generate": True}, requests(REQUESTS[number], REQUESTS[0])):
            lines.put(json.dumps(message))

    commands()
    backend = Endless()
    with pytest.raises(json.JSONDecodeError):
        serve(backend, lines, answers)
    assert [json.loads(line) for line in answers.getvalue().splitlines()] == [
        {"done": asdict(Completion(3, "done", 1, "stop"))},
        {"finished": True},
        {"done": asdict(Completion(4, "done", 1, "stop"))},
        {"finished": True},
    ]
    assert backend.closed == 2
