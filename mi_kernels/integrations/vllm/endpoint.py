"""Read and change lam over HTTP: the route `/v1/mi_kernels/lam` of vLLM's OpenAI-compatible server.

vLLM loads this plugin only if `VLLM_PLUGINS` names mi_kernels, as `mi-kernels serve` sets it. The route is under /v1,
which the server's `--api-key` protects. Without a key it answers only requests from programs on this machine, and
rejects those that a web page sends.

    GET   {"lam": 0.55}
    POST  {"lam": 0.8, "layers": "12:36", "modules": "ffn", "drain": true}
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
from argparse import Namespace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from ...errors import ArgumentError, MIKernelsError
from .client import EngineError, set_lam_async

PATH = "/v1/mi_kernels/lam"
_KEYS = ("lam", "layers", "modules", "rules", "drain")


class LamEndpoint:
    """The route as an endpoint plugin of vLLM."""

    name = "mi_kernels"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        app.add_api_route(PATH, _get, methods=["GET"])
        app.add_api_route(PATH, _post, methods=["POST"])

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        state.mi_kernels_engine = engine_client
        state.mi_kernels_turn = asyncio.Lock()
        state.mi_kernels_guarded = bool(getattr(args, "api_key", None) or os.environ.get("VLLM_API_KEY"))


async def _get(request: Request) -> JSONResponse:
    if (refusal := _stranger(request)) is not None:
        return refusal
    answers = await request.app.state.mi_kernels_engine.collective_rpc("mi_kernels_get")
    for answer in answers:
        if "broken" in answer:
            return JSONResponse({"error": answer["broken"]}, 503)
    return JSONResponse(answers[0])


async def _post(request: Request) -> JSONResponse:
    if (refusal := _stranger(request)) is not None:
        return refusal
    state = request.app.state
    try:
        wanted = _checked(await request.body())
        async with state.mi_kernels_turn:  # one change at a time
            answer = await set_lam_async(state.mi_kernels_engine, **wanted)
    except EngineError as error:
        return JSONResponse({"error": str(error)}, 503)
    except MIKernelsError as error:
        return JSONResponse({"error": str(error)}, 400)
    return JSONResponse(answer)


def _checked(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict) or "lam" not in body:
        raise ArgumentError("the request body is not a JSON object with the key lam", 'Send {"lam": 0.55}.')
    unknown = [key for key in body if key not in _KEYS]
    if unknown:
        raise ArgumentError(f"unknown key {unknown[0]!r}", f"Use only the keys {', '.join(_KEYS)}.")
    if not isinstance(body.get("drain", True), bool):
        raise ArgumentError(f"drain is {body['drain']!r}", "Use true or false.")
    return body


def _stranger(request: Request) -> JSONResponse | None:
    """Returns an error for clients without permission: without an API key, all but the programs on this machine."""
    if request.app.state.mi_kernels_guarded:
        return None  # the server has already checked the key
    host = request.client.host if request.client else ""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = not host  # a Unix socket has no address
    if local and "origin" not in request.headers:  # a browser sends the origin of the page, which may be any web site
        return None
    return JSONResponse(
        {"error": "without an API key, only programs on this machine can use this route; start with --api-key"}, 403
    )
