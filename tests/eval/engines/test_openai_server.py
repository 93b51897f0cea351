"""The engine on a server: what it sends, what it tries again, what it refuses."""

from __future__ import annotations

import threading
import time

import pytest

pytest.importorskip("openai")

from eval.engines import Completion, Options, Request
from eval.engines.openai_server import OpenAIServer
from eval.errors import EngineError
from eval.schema import Sampling

from ..support.server import said, serving

REQUESTS = [Request(i, f"Question {i}", 50 + i, Sampling(0.6, 0.95, 20, 99)) for i in range(12)]


def answer(body, times):
    return 200, said(f"{body['messages'][0]['content']}</think>", body["seed"])


WANTED = [Completion(i, f"Question {i}</think>", 50 + i, "stop") for i in range(12)]


def generate(url: str, retries: int = 3, **options) -> list[Completion]:
    with OpenAIServer(Options(kind="openai", url=url, **options), retries=retries) as engine:
        engine.open("mi", 100)
        return sorted(engine.generate(REQUESTS), key=lambda c: c.index)


def test_each_request_is_one_response_with_its_seed_and_sampling(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    with serving(answer) as server:
        assert generate(server.url) == WANTED
    assert server.keys == {"Bearer a-key"}
    first = min(server.asked, key=lambda body: body["seed"])
    assert first == {
        "model": "mi",
        "messages": [{"role": "user", "content": "Question 0"}],
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 20,
        "max_tokens": 99,
        "seed": 50,
    }


def test_what_fails_for_the_moment_is_tried_again():
    """Every request fails once: dropped, too many, a server error, by turns."""

    def flaky(body, times):
        return answer(body, times) if times > 1 else ([0, 429, 503][body["seed"] % 3], {"error": {"message": "later"}})

    with serving(flaky) as server:
        assert generate(server.url) == WANTED
    assert set(server.seen.values()) == {2}


def test_no_more_requests_are_in_flight_than_asked_for():
    def slow(body, times):
        time.sleep(0.02)
        return answer(body, times)

    with serving(slow) as server:
        assert generate(server.url, concurrency=3) == WANTED
    assert 1 < server.most_at_once <= 3


@pytest.mark.parametrize(
    ("status", "content", "problem"),
    [
        (401, {"error": {"message": "no"}}, "rejected the key"),
        (400, {"error": {"message": "max_tokens is too large"}}, "answered 400: "),
        (500, {"error": {"message": "CUDA out of memory"}}, "answered 500: "),
        (0, {}, "does not answer"),
        (200, said("4", 1, reasoning_content="hm"), "removes the reasoning from the text"),
        (200, {**said("4", 1), "usage": None}, "does not report the number of generated tokens"),
    ],
)
def test_what_stays_wrong_is_told_after_what_was_finished(status, content, problem):
    def breaks(body, times):
        return (status, content) if body["seed"] == 55 else answer(body, times)

    done = []
    options = {"kind": "openai", "concurrency": 1}
    with serving(breaks) as server, OpenAIServer(Options(url=server.url, **options), retries=0) as engine:
        engine.open("mi", 100)
        with pytest.raises(EngineError) as caught:
            done.extend(engine.generate(REQUESTS))
    assert problem in caught.value.problem
    assert caught.value.remedy
    assert done == WANTED[:5]


def test_stopping_early_does_not_wait_for_what_is_running():
    stopped, outlasted = threading.Event(), []

    def stuck(body, times):
        if body["seed"] > 50 and not stopped.wait(20):
            outlasted.append(body["seed"])
        return answer(body, times)

    with serving(stuck) as server, OpenAIServer(Options(kind="openai", url=server.url)) as engine:
        engine.open("mi", 100)
        started = engine.generate(REQUESTS)
        assert next(started) == WANTED[0]
        started.close()
        stopped.set()
    assert not outlasted


def test_a_model_or_server_that_is_not_there():
    with serving(answer) as server:
        with pytest.raises(EngineError, match="serves mi, not other"):
            OpenAIServer(Options(kind="openai", url=server.url)).open("other", 100)
    with pytest.raises(EngineError, match="does not answer"):
        OpenAIServer(Options(kind="openai", url=server.url), retries=0).open("mi", 100)
    with pytest.raises(EngineError, match="--url is 'localhost'"):
        OpenAIServer(Options(kind="openai", url="localhost"))
