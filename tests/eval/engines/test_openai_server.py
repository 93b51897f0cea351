"""The engine on a server: what it sends, what it tries again, what it refuses."""

from __future__ import annotations

import copy
import json
import signal
import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip("openai")

from eval.engines import Completion, Options, Request, openai_server
from eval.engines.openai_server import OpenAIServer, Patience
from eval.errors import EngineError
from eval.schema import Sampling

from ..support.server import said, serving

REQUESTS = [Request(i, f"Question {i}", 50 + i, Sampling(0.6, 0.95, 20, 99)) for i in range(12)]


def answer(body, times):
    return 200, said(f"{body['messages'][0]['content']}</think>", body["seed"])


WANTED = [Completion(i, f"Question {i}</think>", 50 + i, "stop") for i in range(12)]


NONE = Patience(total=0, asked=0, bodies=0)


@pytest.fixture(autouse=True)
def pauses(monkeypatch) -> list[float]:
    """The pauses before another try, which no test waits for."""
    found: list[float] = []

    async def sleep(seconds: float) -> None:
        found.append(seconds)

    monkeypatch.setattr(openai_server, "_sleep", sleep)
    return found


def generate(url: str, **options) -> list[Completion]:
    with OpenAIServer(Options(kind="openai", url=url, **options)) as engine:
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


def test_what_fails_for_the_moment_is_tried_again(pauses):
    """Every request fails once: dropped, too many, a server error, by turns."""

    def flaky(body, times):
        return answer(body, times) if times > 1 else ([0, 429, 503][body["seed"] % 3], {"error": {"message": "later"}})

    with serving(flaky) as server:
        assert generate(server.url) == WANTED
    assert len(pauses) == 12
    assert set(server.seen.values()) == {2}


def test_what_is_in_flight_is_estimated_from_what_is_finished():
    with serving(answer) as server, OpenAIServer(Options(url=server.url, concurrency=1)) as engine:
        engine.open("mi", 100)
        assert engine.running() == []
        list(engine.generate(REQUESTS[:3]))
        assert engine.running() == [], "nothing is in flight"
        engine._started[7] = time.monotonic() - 2 * engine._seconds
        assert engine.running()[0] >= 2 * (50 + 51 + 52), "twice the time of the three takes twice their tokens"


def test_no_more_requests_are_in_flight_than_asked_for():
    def slow(body, times):
        time.sleep(0.02)
        return answer(body, times)

    with serving(slow) as server:
        assert generate(server.url, concurrency=3) == WANTED
    assert 1 < server.most_at_once <= 3


def breaking(status, content, times=1000):
    """Answers as a server does that breaks the first `times` answers to one of the requests."""

    def breaks(body, asked):
        return (status, copy.copy(content)) if body["seed"] == 55 and asked <= times else answer(body, asked)

    return breaks


CUT = json.dumps(said("4", 1)).encode()[:-20]
BROKEN = [
    (200, CUT, "not JSON"),
    (200, {**said("4", 1), "headers": {"Content-Length": 100_000}}, "does not answer"),
    (200, b"<html>Bad gateway</html>", "not JSON: '<html>Bad gateway"),
    (200, b"", "not JSON"),
    (200, {"error": "later"}, "without a choice"),
    (200, {**said("4", 1), "choices": []}, "without a choice"),
    (200, {**said("4", 1), "choices": None}, "without a choice"),
    (200, said("4", 1, "content_filter"), "finish reason 'content_filter'"),
    (200, said("4", 1, None), "finish reason None"),
    (200, said([{"type": "text"}], 1), "no text"),
    (200, said("4", None), "usage.completion_tokens is None"),
    (200, said("4", -1), "usage.completion_tokens is -1"),
    (200, {**said("4", 1), "usage": None}, "does not report the number of generated tokens"),
]
KINDS = ["cut", "ends-early", "html", "empty", "error", "no-choice", "null-choices", "filter", "no-reason", "parts"]
KINDS += ["null-tokens", "negative-tokens", "no-usage"]


@pytest.mark.parametrize(("status", "content", "problem"), BROKEN, ids=KINDS)
def test_a_body_that_is_not_a_response_is_asked_for_again(status, content, problem):
    with serving(breaking(status, content, times=1)) as server:
        assert generate(server.url, concurrency=2) == WANTED
    assert server.seen[55] == 2


@pytest.mark.parametrize(
    ("status", "content", "problem"),
    [
        (400, {"error": {"message": "the prompt is too long"}}, "answered 400: "),
        *[b for b in BROKEN if b[2][:4] != "does"],
    ],
)
def test_a_response_that_stays_wrong_does_not_stop_the_others(status, content, problem):
    done = []
    with (
        serving(breaking(status, content)) as server,
        OpenAIServer(Options(url=server.url, concurrency=2), NONE) as engine,
    ):
        engine.open("mi", 100)
        with pytest.raises(EngineError) as caught:
            done.extend(engine.generate(REQUESTS))
    assert caught.value.problem.startswith("1 of 12 responses failed: ")
    assert problem in caught.value.problem
    assert caught.value.remedy
    assert sorted(done, key=lambda c: c.index) == WANTED[:5] + WANTED[6:]


def test_a_server_that_answers_nothing_usable_is_not_asked_for_everything():
    wrong = lambda body, times: (200, b"<html>")  # noqa: E731
    with serving(wrong) as server, OpenAIServer(Options(url=server.url, concurrency=1), NONE) as engine:
        engine.open("mi", 100)
        with pytest.raises(EngineError, match="8 of 12 responses failed"):
            list(engine.generate(REQUESTS))
    assert len(server.asked) == 8


@pytest.mark.parametrize(
    ("status", "content", "problem"),
    [
        (401, {"error": {"message": "no"}}, "rejected the key"),
        (500, {"error": {"message": "CUDA out of memory"}}, "answered 500: "),
        (0, {}, "does not answer"),
        (200, {**said("4", 1), "headers": {"Content-Length": 100_000}}, "does not answer"),
        (200, said("4", 1, reasoning_content="hm"), "removes the reasoning from the text"),
    ],
)
def test_a_server_that_fails_is_told_after_what_was_finished(status, content, problem):
    done = []
    with (
        serving(breaking(status, content)) as server,
        OpenAIServer(Options(url=server.url, concurrency=1), NONE) as engine,
    ):
        engine.open("mi", 100)
        with pytest.raises(EngineError) as caught:
            done.extend(engine.generate(REQUESTS))
    assert problem in caught.value.problem
    assert caught.value.remedy
    assert done == WANTED[:5]


def test_what_is_in_flight_when_the_server_fails_is_kept():
    failed, started = threading.Event(), threading.Semaphore(0)

    def breaks(body, times):
        if body["seed"] == 51:
            for _ in range(3):
                started.acquire(timeout=20)
            failed.set()
            return 401, {"error": {"message": "no"}}
        started.release()
        failed.wait(20)
        time.sleep(0.3)  # so that the client has read the other answer
        return answer(body, times)

    done = []
    with serving(breaks) as server, OpenAIServer(Options(url=server.url, concurrency=4), NONE) as engine:
        engine.open("mi", 100)
        with pytest.raises(EngineError, match="rejected the key"):
            done.extend(engine.generate(REQUESTS))
    assert {0, 2, 3} <= {c.index for c in done}
    assert len(server.asked) < 12, "a server that rejects the key is not asked for more"


def test_too_many_requests_are_sent_again_for_half_a_minute(pauses):
    busy = lambda body, times: (429, {"error": {"message": "later"}})  # noqa: E731
    with serving(busy) as server, OpenAIServer(Options(url=server.url, concurrency=1)) as engine:
        engine.open("mi", 100)
        with pytest.raises(EngineError, match="answered 429"):
            list(engine.generate(REQUESTS[:1]))
    # 0.5 + 1 + 2 + 4 + 8 + 8 seconds, each with up to a quarter more: another 8 would exceed 30.
    assert len(pauses) == 6
    assert 23.5 <= sum(pauses) <= 30


def test_the_pause_that_a_server_asks_for_is_made(pauses):
    def busy(body, times):
        return answer(body, times) if times > 3 else (429, {"error": {}, "headers": {"Retry-After": 100}})

    with serving(busy) as server:
        assert generate(server.url, concurrency=2) == WANTED
    assert set(server.seen.values()) == {4}
    assert min(pauses) >= 100
    with serving(lambda body, times: (429, {"error": {}, "headers": {"Retry-After": 100}})) as server:
        with OpenAIServer(Options(url=server.url, concurrency=1)) as engine:
            engine.open("mi", 100)
            with pytest.raises(EngineError, match="answered 429"):
                list(engine.generate(REQUESTS[:1]))
    assert len(server.asked) == 7, "six pauses of 100 seconds are as long as a server may ask for"


RUN = """
import sys
from eval.cli.program import main
sys.exit(main(["run", "mi", "--url", sys.argv[1], "--role", "merged", "--benchmark", "chains", "--out", sys.argv[2]]))
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_a_run_in_one_line(tmp_path, number, status):
    pytest.importorskip("pebble", reason="the run is a process of its own, and grading needs pebble")
    stopped = threading.Event()

    def stuck(body, times):
        if body["seed"] >= 8:
            stopped.wait(60)
        return 200, said("4", 1)

    with serving(stuck) as server:
        command = [sys.executable, "-c", RUN, server.url, str(tmp_path / "out")]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        journal = tmp_path / "out" / "chains.jsonl"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and (not journal.exists() or journal.read_bytes().count(b"\n") < 8):
            time.sleep(0.05)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        stopped.set()
    assert process.returncode == status
    assert "Traceback" not in errors
    assert errors.splitlines()[-1].endswith("every finished response is kept: run the same command again to resume")
    assert journal.read_bytes().count(b"\n") == 8


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


def test_a_stop_drops_what_is_in_flight_and_keeps_what_is_finished():
    release = threading.Event()

    def slow(body, times):
        if body["seed"] > 52:
            release.wait(20)
        return answer(body, times)

    with serving(slow) as server:
        engine = OpenAIServer(Options(kind="openai", url=server.url, concurrency=6))
        engine.open("mi", 100)
        done = []
        for completion in engine.generate(REQUESTS, lambda: len(done) == 3):
            done.append(completion)
        assert sorted(done, key=lambda c: c.index) == WANTED[:3]
        assert len(server.asked) <= 9, "no others begin"
        release.set()
        rest = sorted(engine.generate(REQUESTS[3:]), key=lambda c: c.index)
        assert rest == WANTED[3:], "the engine generates again"


def test_a_model_or_server_that_is_not_there():
    with serving(answer) as server:
        with pytest.raises(EngineError, match="serves mi, not other"):
            OpenAIServer(Options(kind="openai", url=server.url)).open("other", 100)
    with pytest.raises(EngineError, match="does not answer"):
        OpenAIServer(Options(kind="openai", url=server.url)).open("mi", 100)
    with pytest.raises(EngineError, match="--url is 'localhost'"):
        OpenAIServer(Options(kind="openai", url="localhost"))
