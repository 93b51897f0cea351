"""`mi-kernels serve --effort` with vLLM itself: mixed efforts under load, streams, n > 1, and clients that leave."""

from __future__ import annotations

import http.client
import importlib.util
import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

if not importlib.util.find_spec("vllm"):
    pytest.skip("needs vLLM: pip install -e '.[eval-cpu]'", allow_module_level=True)

from bench.serving import efforts
from mi_kernels.integrations.vllm.http_client import change_lam, get_lam

ASKED = efforts.requests(36)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    return efforts.reference(tmp_path_factory.mktemp("merged"), sorted({one.prompt for one in ASKED}))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    words = ",".join(f"{name}={lam}" for name, lam in efforts.EFFORTS.items())
    with efforts.server(tmp_path_factory.mktemp("server"), "--effort", words, "--max-wait", "1") as url:
        yield url


def post(url: str, **body: Any) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)
    content = {"model": efforts.PAIR[0], "max_tokens": efforts.TOKENS, "temperature": 0, **body}
    connection.request("POST", "/v1/chat/completions", json.dumps(content), {"Content-Type": "application/json"})
    return connection.getresponse()


def test_every_response_is_that_of_its_merge(url: str, expected: dict[tuple[str, str], str]) -> None:
    efforts.load(url, ASKED, expected)


def test_streams_several_choices_and_clients_that_leave(url: str, expected: dict[tuple[str, str], str]) -> None:
    one = ASKED[0]
    messages = [{"role": "user", "content": one.prompt}]
    leaving = post(url, messages=messages, model="instruct+thinking@0.37", stream=True, max_tokens=200)
    assert json.loads(leaving.readline().removeprefix(b"data: "))["mi_kernels"] == {"lam": 0.37}
    leaving.close()
    stream = post(url, messages=messages, model="instruct+thinking@high", stream=True)
    assert stream.headers["x-mi-kernels-effort"] == "high"
    events = [json.loads(line[6:]) for line in stream.read().splitlines() if line.startswith(b"data: {")]
    assert {json.dumps(event["mi_kernels"]) for event in events} == {'{"lam": 0.9, "effort": "high"}'}
    text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"])
    assert text == expected["high", one.prompt]
    # vLLM refuses n > 1 with temperature 0.
    several = json.load(post(url, messages=messages, n=2, lam=0.2, temperature=1, top_k=1))
    assert [choice["message"]["content"] for choice in several["choices"]] == [expected["low", one.prompt]] * 2


def test_the_default_and_what_is_refused(url: str, expected: dict[tuple[str, str], str]) -> None:
    one = ASKED[0]
    messages = [{"role": "user", "content": one.prompt}]
    assert change_lam(url, efforts.EFFORTS["high"])["lam"] == efforts.EFFORTS["high"]
    assert get_lam(url)["current"] == {"lam": efforts.EFFORTS["high"]}
    answer = json.load(post(url, messages=messages))
    assert answer["choices"][0]["message"]["content"] == expected["high", one.prompt]
    for body, status, words in (
        ({"reasoning_effort": "hihg"}, 400, "Did you mean high?"),
        ({"model": "instruct+thinking@nope"}, 404, "does not exist"),
        ({"lam": 2}, 400, "lam is 2"),
        ({"model": "another"}, 404, "another"),  # vLLM's own answer
    ):
        refused = post(url, messages=messages, **body)
        assert refused.status == status
        assert words in json.load(refused)["error"]["message"]


def test_models_and_metrics(url: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    connection.request("GET", "/v1/models")
    names = [model["id"] for model in json.load(connection.getresponse())["data"]]
    assert names == ["instruct+thinking", efforts.PAIR[0], *(f"instruct+thinking@{name}" for name in efforts.EFFORTS)]
    before = efforts.metrics(url)["mi_kernels_lam_changes_total"]
    change_lam(url, 0.111)
    time.sleep(0.1)
    assert efforts.metrics(url)["mi_kernels_lam_changes_total"] == before + 1


def test_the_reference_is_not_all_alike(expected: dict[tuple[str, str], str]) -> None:
    """Otherwise the comparison above would show nothing."""
    prompts = {one.prompt for one in ASKED}
    assert all(len({expected[name, prompt] for name in efforts.EFFORTS}) > 1 for prompt in prompts)
