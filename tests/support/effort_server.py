"""A server whose requests choose lam, with an engine that knows its weights instead of vLLM."""

from __future__ import annotations

import asyncio
import json
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from mi_kernels.integrations.vllm.efforts import Efforts

from .engines import AsyncEngine

CHAT = "/v1/chat/completions"


class Weights(AsyncEngine):
    """An engine that knows its weights, and how many responses it generates."""

    def __init__(self) -> None:
        super().__init__({"lam": 0.5, "seconds": 0.0})
        self.lam, self.running, self.pause = 0.5, 0, 0.0
        self.bodies: list[Any] = []

    async def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> list[dict[str, Any]]:
        if method == "mi_kernels_set":
            assert not self.running
            self.lam = args[0]["lam"]
        if method == "mi_kernels_check" and args[0].get("layers"):
            return [{"refused": ["layers: 9 is beyond the 4 layers of this model", "Use 0 to 4."]}]
        return await super().collective_rpc(method, args)


def application(
    engine: Weights, efforts: Efforts | None, page: list[dict[str, Any]] | None = None, key: Any = None
) -> Any:
    """A server with vLLM's routes in small: they answer with the weights that they begin and end with.

    Args:
        page: the sweeps of the page; None for a server without it. key: the server's API key.
    """
    fastapi = pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    pytest.importorskip("prometheus_client")
    from fastapi.responses import JSONResponse, StreamingResponse

    from mi_kernels.integrations.vllm.endpoint import LamEndpoint

    app = fastapi.FastAPI()
    options = Namespace(api_key=[key] if key else None)
    if page is not None:
        options.mi_kernels_page = page
    if efforts is not None:
        options.mi_kernels_efforts = efforts
    app.state.args = options

    @app.post(CHAT)
    async def chat(body: dict[str, Any]) -> Any:
        engine.bodies.append(body)
        engine.running += 1
        begun = engine.lam
        if not body.get("stream"):
            for _ in range(body.get("steps", 3)):
                await asyncio.sleep(0)
            engine.running -= 1
            return JSONResponse({"id": "x", "began": begun, "ended": engine.lam})

        async def events() -> AsyncIterator[str]:
            said = ["Let me think <b>", "data: {", "</think>"] if begun > 0.5 else ["So, ", "the ", "answer "]
            for i, text in enumerate([*said, "is ", f"{begun}", " <img src=x>"]):
                await asyncio.sleep(engine.pause)
                choice = {"index": 0, "delta": {"content": text}, "token_ids": [i], "finish_reason": None}
                yield f"data: {json.dumps({'part': i, 'began': begun, 'ended': engine.lam, 'choices': [choice]})}\n\n"
            engine.running -= 1
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    @app.get("/v1/models")
    async def models() -> Any:
        return {"object": "list", "data": [{"id": "qwen", "owned_by": "vllm"}]}

    endpoint = LamEndpoint()
    endpoint.attach_router(app)
    with suppress(StopIteration):  # it waits for nothing, and a browser's test has a running loop
        endpoint.init_state(engine, app.state, options).send(None)
    if key:

        @app.middleware("http")
        async def guard(request: Any, call_next: Any) -> Any:  # as vLLM: everything under /v1
            if request.url.path.startswith("/v1") and request.headers.get("authorization") != f"Bearer {key}":
                return JSONResponse({"error": "Unauthorized"}, 401)
            return await call_next(request)

    return app
