"""The requests of an engine process: those sent together are taken together, and the end is noticed."""

from __future__ import annotations

import json
import queue
from dataclasses import asdict

from eval.engines import Request
from eval.engines.worker import Feed
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
