"""lam over HTTP: one route of vLLM's OpenAI-compatible server, `/v1/mi_kernels/lam`.

vLLM loads it only where `VLLM_PLUGINS` names mi_kernels. It lies under /v1, which the server's `--api-key` guards;
without a key it answers requests from this machine alone, and none that a web page sends. `mi-kernels serve` sets all
of that.

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
    """vLLM's contract for endpoint plugins."""

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
    return JSONResponse(answers[0])


async def _post(request: Request) -> JSONResponse:
    if (refusal := _stranger(request)) is not None:
        return refusal
    state = request.app.state
    try:
        wanted = _checked(await request.body())
        async with state.mi_kernels_turn:  # one change after the other
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
        raise ArgumentError("the body holds no lam", 'Send {"lam": 0.55}.')
    unknown = [key for key in body if key not in _KEYS]
    if unknown:
        raise ArgumentError(f"unknown key {unknown[0]!r}", f"The keys are {', '.join(_KEYS)}.")
    if not isinstance(body.get("drain", True), bool):
        raise ArgumentError(f"drain is {body['drain']!r}", "Say true or false.")
    return body


def _stranger(request: Request) -> JSONResponse | None:
    """A refusal for who may not: without an API key, everybody but this machine's own programs."""
    if request.app.state.mi_kernels_guarded:
        return None  # the server has checked the key
    host = request.client.host if request.client else ""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = not host  # a Unix socket has no address
    if local and "origin" not in request.headers:  # a browser says where its page is from; anybody's may be open here
        return None
    return JSONResponse({"error": "without --api-key, lam is for programs on this machine only"}, 403)
