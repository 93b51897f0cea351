"""A server that speaks as much of OpenAI's protocol as the driver needs, and fails on demand."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Server:
    """What was asked, and how to answer.

    Attributes:
        answer: from the request's body and how often it came, to (status, content); status 0 drops the connection.
            Content in bytes is sent as it is, as HTML; "headers" in other content are headers.
    """

    url: str = ""
    answer: Callable[[dict[str, Any], int], tuple[int, Any]] | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    seen: Counter[int] = field(default_factory=Counter)
    most_at_once: int = 0
    running: int = 0


def said(text: Any, tokens: int | None, reason: str | None = "stop", **message: Any) -> dict[str, Any]:
    content = {"role": "assistant", "content": text, **message}
    choice = {"index": 0, "message": content, "finish_reason": reason}
    usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": 1 + (tokens or 0)}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}


@contextmanager
def serving(answer: Callable[[dict[str, Any], int], tuple[int, Any]]) -> Iterator[Server]:
    state, lock = Server(answer=answer), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(200, {"object": "list", "data": [{"id": "mi", "object": "model"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                state.asked.append(body)
                state.keys.add(self.headers["Authorization"])
                state.seen[body["seed"]] += 1
                times = state.seen[body["seed"]]
                state.running += 1
                state.most_at_once = max(state.most_at_once, state.running)
            status, content = answer(body, times)
            with lock:
                state.running -= 1
            self._send(status, content)

        def _send(self, status: int, content: Any) -> None:
            if not status:
                self.close_connection = True
                return
            raw = isinstance(content, bytes)
            headers = {} if raw else content.pop("headers", {})
            data = content if raw else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if raw else "application/json")
            for name, value in {"Content-Length": len(data), **headers}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(data)
            if "Content-Length" in headers:  # that of a longer body: the client waits for the rest
                self.close_connection = True

        def log_message(self, *arguments: object) -> None: ...

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that went away while it was answered is a part of the tests."""

    server = Quiet(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
