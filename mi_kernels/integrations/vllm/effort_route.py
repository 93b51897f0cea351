"""Serve each request with the merge that it chooses: a layer of ASGI around vLLM's routes that generate text.

A request waits for its turn (`turns`) before vLLM sees it, and has its turn until its response is sent. So no response
is begun by one merge and finished by another. vLLM gets the request without what chose the merge.

The response says which merge made it: in the headers `x-mi-kernels-lam` and `x-mi-kernels-effort`, and in the field
"mi_kernels" of its JSON, which is in each event of a stream.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ...errors import MIKernelsError
from .efforts import Chosen, Efforts, Wanted
from .lam_request import RequestError, error_body
from .refusals import Refusal, answer_to
from .turns import Turns

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

MODELS = "/v1/models"
# vLLM's routes whose responses depend on the weights.
GENERATING = frozenset(
    {
        *("/v1/chat/completions", "/v1/chat/completions/batch", "/v1/completions", "/v1/responses", "/v1/messages"),
        *("/inference/v1/generate", "/invocations", "/generative_scoring", "/cohere/v2/chat"),
        *("/pooling", "/classify", "/score", "/rerank", "/v1/embeddings", "/v1/score", "/v1/rerank", "/v2/rerank"),
        *("/v2/embed", "/v1/audio/transcriptions", "/v1/audio/translations"),
    }
)
_EVENT = re.compile(rb"(^|\n)data: \{(?=[^}])")


class EffortLayer:
    """The layer, as Starlette's `add_middleware` creates it.

    Args:
        app: what comes next. state: of the application; `endpoint` sets `mi_kernels_efforts` and `mi_kernels_turns`.
    """

    def __init__(self, app: App, state: Any) -> None:
        self._app, self._state = app, state

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] == "http" and scope["method"] == "POST" and path in GENERATING:
            await self._generate(scope, receive, send, path)
        elif scope["type"] == "http" and scope["method"] == "GET" and path == MODELS:
            names = self._state.mi_kernels_efforts.listed()
            await self._app(scope, receive, _Changed(send, lambda content: _listed(content, names)))
        else:
            await self._app(scope, receive, send)

    async def _generate(self, scope: MutableMapping[str, Any], receive: Receive, send: Send, path: str) -> None:
        content = await _read(receive)
        if content is None:
            return  # the client has gone
        efforts: Efforts = self._state.mi_kernels_efforts
        try:
            chosen, content = _chosen(efforts, content, path)
        except RequestError as error:
            await _refuse(send, answer_to(error))
            return
        turns: Turns[Wanted] = self._state.mi_kernels_turns
        gone = asyncio.ensure_future(receive())  # the next message is that the client has gone
        try:
            if not await _begun(turns, chosen.wanted, gone):
                return
            try:
                await self._app(_resized(scope, content), _Replayed(content, gone), _Told(send, chosen))
            finally:
                turns.end()
        except MIKernelsError as error:
            await _refuse(send, answer_to(error))
        finally:
            gone.cancel()


async def _begun(turns: Turns[Wanted], wanted: Wanted, gone: asyncio.Future[Message]) -> bool:
    """Waits for a turn. False if the client goes first; its place is given up then."""
    begun = asyncio.ensure_future(turns.begin(wanted))
    try:
        await asyncio.wait((gone, begun), return_when=asyncio.FIRST_COMPLETED)
    finally:
        if not begun.done():
            begun.cancel()
    if not begun.done():
        return False
    begun.result()
    return True


def _chosen(efforts: Efforts, content: bytes, path: str) -> tuple[Chosen, bytes]:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):  # vLLM says what is wrong with it
        return Chosen(efforts.default), content
    if body.get("background") is True:
        raise RequestError(
            "background responses outlive their request, so their merge could change",
            "Send it without background.",
            "background",
        )
    chosen, left = efforts.choose(body, path)
    return chosen, content if left == body else json.dumps(left).encode()


async def _read(receive: Receive) -> bytes | None:
    """The body of a request; None if the client has gone."""
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _resized(scope: MutableMapping[str, Any], content: bytes) -> MutableMapping[str, Any]:
    headers = [(k, v) for k, v in scope["headers"] if k.lower() not in (b"content-length", b"transfer-encoding")]
    return {**scope, "headers": [*headers, (b"content-length", str(len(content)).encode())]}


class _Replayed:
    """Receives a body that has been read already, and then that the client has gone."""

    def __init__(self, content: bytes, gone: asyncio.Future[Message]) -> None:
        self._content: bytes | None = content
        self._gone = gone

    async def __call__(self) -> Message:
        if self._content is not None:
            content, self._content = self._content, None
            return {"type": "http.request", "body": content, "more_body": False}
        return await asyncio.shield(self._gone)


class _Told:
    """Sends a response with what it says about its merge."""

    def __init__(self, send: Send, chosen: Chosen) -> None:
        self._send = send
        self._field = b'"mi_kernels": ' + json.dumps(chosen.shown).encode() + b", "
        self._headers = [(b"x-mi-kernels-lam", json.dumps(chosen.recipe.lam).encode())]
        if chosen.effort:
            self._headers.append((b"x-mi-kernels-effort", chosen.effort.encode()))
        self._start: Message | None = None
        self._kind = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message["headers"], *self._headers]
            message = {**message, "headers": headers}
            kind = dict(message["headers"]).get(b"content-type", b"").split(b";")[0]
            self._kind = kind if message["status"] == 200 else b""
            if self._kind == b"application/json":
                self._start = message  # its length is known with the body
                return
        elif message["type"] == "http.response.body":
            message = await self._with_field(message)
        await self._send(message)

    async def _with_field(self, message: Message) -> Message:
        body = message.get("body", b"")
        if self._kind == b"text/event-stream":
            return {**message, "body": _EVENT.sub(lambda found: found.group() + self._field, body)}
        if self._start is None:
            return message
        start, self._start = self._start, None
        if body.startswith(b'{"'):
            body = b"{" + self._field + body[1:]
            start["headers"] = [
                (k, str(int(v) + len(self._field)).encode() if k == b"content-length" else v)
                for k, v in start["headers"]
            ]
        await self._send(start)
        return {**message, "body": body}


class _Changed:
    """Sends a JSON response after `change`."""

    def __init__(self, send: Send, change: Callable[[Any], Any]) -> None:
        self._send, self._change = send, change
        self._start: Message = {}
        self._parts: list[bytes] = []

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._parts.append(message.get("body", b""))
        if message.get("more_body", False):
            return
        content = b"".join(self._parts)
        if self._start["status"] == 200:
            content = json.dumps(self._change(json.loads(content))).encode()
        headers = [(k, v) for k, v in self._start["headers"] if k != b"content-length"]
        await self._send({**self._start, "headers": [*headers, (b"content-length", str(len(content)).encode())]})
        await self._send({"type": "http.response.body", "body": content})


def _listed(content: Any, names: list[str]) -> Any:
    """/v1/models with an entry for each effort, like the model's own but for the name."""
    own = content["data"][0]
    return {**content, "data": [*content["data"], *({**own, "id": name} for name in names)]}


async def _refuse(send: Send, answer: Refusal) -> None:
    body = json.dumps(error_body(*answer)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
