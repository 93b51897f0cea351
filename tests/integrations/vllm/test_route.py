"""The route that changes lam over HTTP, and our client for it, with an engine that records."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from mi_kernels.errors import ArgumentError
from mi_kernels.integrations.vllm.client import EngineError, NotLiveError
from mi_kernels.integrations.vllm.http_client import ServerError, change_lam, get_lam
from mi_kernels.integrations.vllm.lam_request import RequestError, error_body, read_request

from ...support.engines import DONE, AsyncEngine, Engine

PATH = "/v1/mi_kernels/lam"

INVALID = [
    ("", None, "the body is empty"),
    ("x", None, "the body is not JSON"),
    ("[" * 100_000, None, "nested too deeply"),
    ("[0.5]", None, "the body is a list, [0.5], not an object"),
    ("{}", "lam", "lam is missing"),
    ('{"lamb": 1}', "lamb", 'unknown key "lamb". Did you mean lam?'),
    *(
        (json.dumps({name: 0.5}), name, f'unknown key "{name}". Did you mean lam?')
        for name in ("alpha", "lambda", "weight", "t", "ratio", "Alpha")
    ),
    ('{"lam": 1, "layer": "1:"}', "layer", 'unknown key "layer". Did you mean layers?'),
    ('{"lam": 1, "xyz": 2}', "xyz", "The keys are lam, layers, modules, rules, drain."),
    ('{"lam": "0.5"}', "lam", 'lam is text, "0.5". Send a number without quotes'),
    ('{"lam": true}', "lam", "lam is a boolean, true"),
    ('{"lam": null}', "lam", "lam is null"),
    ('{"lam": []}', "lam", "lam is a list, []"),
    ('{"lam": [0.1, "0.5"]}', "lam", "lam is a list"),
    ('{"lam": 1, "layers": 1.5}', "layers", "layers is a number, 1.5"),
    ('{"lam": 1, "layers": true}', "layers", "layers is a boolean, true"),
    ('{"lam": 1, "modules": 3}', "modules", "modules is a number, 3"),
    ('{"lam": 1, "modules": ["ffn", 3]}', "modules", "modules is a list"),
    ('{"lam": 1, "drain": 2}', "drain", "drain is a number, 2"),
    ('{"lam": 1, "rules": {"lam": 1}}', "rules", "rules is an object"),
    ('{"lam": 1, "rules": [3]}', "rules", "rule 1: a number, 3 is not an object"),
    ('{"lam": 1, "rules": [{"lam": "1"}]}', "rules", "rule 1: lam is text"),
    ('{"lam": 1, "rules": [{"lam": 1, "module": "ffn"}]}', "rules", "Did you mean modules?"),
]


@pytest.mark.parametrize(("body", "param", "words"), INVALID)
def test_invalid_requests(body: str, param: str | None, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_request(body.encode())
    assert words in f"{caught.value.problem}. {caught.value.remedy}"
    assert caught.value.param == param


@pytest.mark.parametrize(
    "body",
    [
        {"lam": 0},
        {"lam": 1.5, "layers": 3},
        {"lam": [0.1, 1], "layers": [1, "2:4"], "modules": ["ffn"], "drain": False},
        {"lam": 0.5, "rules": [{"lam": 0.1, "modules": "attn", "pattern": "q_proj"}]},
    ],
)
def test_valid_requests(body: dict[str, Any]) -> None:
    assert read_request(json.dumps(body).encode()) == body
    assert read_request(json.dumps({**body, "layers": None}).encode()).keys() == body.keys() - {"layers"}


class TestRoute:
    """The route in FastAPI, as vLLM's server adds it."""

    @pytest.fixture(autouse=True)
    def _needs(self) -> None:
        pytest.importorskip("fastapi")
        pytest.importorskip("httpx")

    def client(self, engine: Engine, key: Any = None, host: str = "127.0.0.1") -> Any:
        from fastapi import FastAPI
        from fastapi.testclient import TestClient

        from mi_kernels.integrations.vllm.endpoint import LamEndpoint

        app, endpoint = FastAPI(), LamEndpoint()
        endpoint.attach_router(app)
        asyncio.run(endpoint.init_state(engine, app.state, Namespace(api_key=key)))
        return TestClient(app, client=(host, 1))

    def refused(self, answer: Any, status: int, words: str, param: str | None = None) -> None:
        """Checks an error: its status, and the shape that vLLM's own errors have."""
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (status, status, param)
        assert words in error["message"]
        assert isinstance(error["type"], str)

    def test_changes(self) -> None:
        engine = AsyncEngine(DONE)
        answer = self.client(engine).post(PATH, json={"lam": 0.3, "drain": False})
        assert (answer.status_code, answer.json()) == (200, DONE)
        assert engine.calls[0] == "pause abort"

    @pytest.mark.parametrize(("body", "param", "words"), INVALID)
    def test_rejects_invalid_requests(self, body: str, param: str | None, words: str) -> None:
        engine = AsyncEngine(DONE)
        self.refused(self.client(engine).post(PATH, content=body), 400, words, param)
        assert not engine.calls

    def test_a_change_that_the_engine_refuses(self) -> None:
        engine = AsyncEngine({"refused": ["layers: 9 is beyond the 4 layers of this model", "Use 0 to 4."]})
        answer = self.client(engine).post(PATH, json={"lam": 0.3, "layers": "9:"})
        self.refused(answer, 400, "layers: 9 is beyond the 4 layers of this model. Use 0 to 4.", "layers")

    def test_files_that_have_changed(self) -> None:
        engine = AsyncEngine({"changed": ["thinking/model.safetensors: is no longer readable", "no"]})
        answer = self.client(engine).post(PATH, json={"lam": 0.3})
        self.refused(answer, 409, "is no longer readable. The weights in use stay as they are. Restart the server")
        assert engine.calls == ["pause wait", "check", "resume"]

    def test_an_engine_whose_lam_is_fixed(self) -> None:
        answer = self.client(AsyncEngine({"fixed": ["this engine cannot change lam", "no"]})).post(
            PATH, json={"lam": 0}
        )
        self.refused(answer, 409, "this engine cannot change lam")

    def test_an_engine_without_an_interpolation(self) -> None:
        self.refused(self.client(AsyncEngine({})).get(PATH), 404, "does not serve an interpolation")

    def test_a_broken_engine_is_unavailable(self) -> None:
        client = self.client(AsyncEngine({"lam": 0.3}, {"broken": "half set"}))
        self.refused(client.post(PATH, json={"lam": 0.3}), 503, "half set")
        self.refused(client.get(PATH), 503, "half set. Restart the server.")

    def test_reads(self) -> None:
        answer = self.client(AsyncEngine({"lam": 0.3})).get(PATH)
        assert (answer.status_code, answer.json()) == (200, {"lam": 0.3})

    @pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
    def test_other_methods(self, method: str) -> None:
        answer = self.client(AsyncEngine(DONE)).request(method, PATH)
        self.refused(answer, 405, f"{method} is not supported. GET reads lam, and POST changes it.")
        assert answer.headers["allow"] == "GET, POST"

    @pytest.mark.parametrize(
        ("host", "key", "headers", "status"),
        [
            ("127.0.0.1", None, {}, 200),
            ("::1", None, {}, 200),
            ("10.0.0.7", None, {}, 403),
            ("127.0.0.1", None, {"origin": "http://127.0.0.1"}, 403),
            ("10.0.0.7", ["secret"], {}, 200),  # vLLM's own middleware has asked for the key
            ("10.0.0.7", [""], {}, 403),  # and it asks for none if the only key is empty
        ],
    )
    def test_clients_without_permission(self, host: str, key: Any, headers: dict[str, str], status: int) -> None:
        client = self.client(AsyncEngine(DONE), key, host)
        assert client.post(PATH, json={"lam": 0.3}, headers=headers).status_code == status


@contextmanager
def answering(status: int, body: bytes, **headers: str) -> Iterator[tuple[str, list[Any]]]:
    """A server that gives one answer to everything. Yields its URL, and a list of what it was asked."""
    asked: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append((self.path, json.loads(content or b"null"), self.headers.get("Authorization")))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_client_changes_and_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "K")
    with answering(200, b'{"lam": 0.3, "seconds": 1.0}') as (url, asked):
        assert change_lam(f"{url}/v1/", 0.3, layers="1:") == DONE
        assert get_lam(url, api_key="other")["lam"] == 0.3
    assert asked == [
        (PATH, {"lam": 0.3, "layers": "1:", "drain": True}, "Bearer K"),
        (PATH, None, "Bearer other"),
    ]


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (401, b'{"error": "Unauthorized"}', ServerError, "the API key is missing or wrong\nSet VLLM_API_KEY"),
        (404, b'{"error": {"message": "Not Found", "code": 404}}', ServerError, "is not a server whose lam"),
        (404, b"<html>", ServerError, "is not a server whose lam"),
        (404, b'{"error": {"message": "no interpolation", "code": 404}}', ServerError, "no interpolation"),
        (200, b"<html>", ServerError, "is not a server whose lam"),
        (200, b"[1]", ServerError, "is not a server whose lam"),
        (400, b'{"error": {"message": "lam is 3", "code": 400}}', ArgumentError, "lam is 3"),
        (409, b'{"error": {"message": "fixed", "code": 409}}', NotLiveError, "fixed"),
        (503, b'{"error": {"message": "half set", "code": 503}}', EngineError, "half set"),
        (503, b"Bad gateway", ServerError, "answered with status 503"),
    ],
)
def test_what_the_client_says(status: int, body: bytes, kind: type[Exception], words: str) -> None:
    with answering(status, body) as (url, _), pytest.raises(kind) as caught:
        change_lam(url, 0.3)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"{url}: {words}")


def test_the_client_follows_nobody_with_the_key() -> None:
    with answering(200, b'{"lam": 0.3}') as (other, asked), answering(302, b"", Location=f"{other}/x") as (url, _):
        for call in (lambda: get_lam(url, api_key="SECRET"), lambda: change_lam(url, 0.3, api_key="SECRET")):
            with pytest.raises(ServerError, match="answered with status 302"):
                call()
    assert asked == []


@pytest.mark.parametrize("status", [200, 500])
def test_an_answer_that_is_cut_off(status: int) -> None:
    with answering(status, b'{"lam": 0.3}', Content_Length="100") as (url, _):
        with pytest.raises(ServerError, match="cut off"):
            get_lam(url)


def test_a_server_of_another_kind() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            with server.accept()[0] as connection:
                connection.sendall(b"SSH-2.0-OpenSSH_9\r\n")
                connection.recv(1000)

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(ServerError, match="is not HTTP"):
            get_lam(f"http://127.0.0.1:{server.getsockname()[1]}")
        thread.join()


def test_a_key_that_http_cannot_send() -> None:
    for key in ("a\nb", "\u20ac"):
        with pytest.raises(ArgumentError, match="the API key"):
            get_lam("http://127.0.0.1:1", api_key=key)


def test_a_key_of_the_body_that_is_no_text_for_json() -> None:
    with pytest.raises(RequestError) as caught:
        read_request(b'{"lam": 0.5, "\\ud800": 1}')
    error = caught.value
    json.dumps(error_body(400, error.problem, error.remedy, error.param), ensure_ascii=False).encode()


def test_the_client_without_a_server() -> None:
    with answering(200, b"") as (url, _):
        pass
    with pytest.raises(ServerError, match=r"no server answers .*refused.*\n.*mi-kernels serve"):
        get_lam(url)
    for wrong in ("127.0.0.1:8000", "ftp://host", "http://", "http://[::1", "http://127.0.0.1:abc", "http://a b"):
        with pytest.raises(ArgumentError, match="url is"):
            get_lam(wrong)
    with pytest.raises(ArgumentError, match="cannot be sent as JSON"):
        change_lam(url, object())
