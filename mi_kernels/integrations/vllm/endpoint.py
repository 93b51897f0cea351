"""Read and change lam over HTTP: the route `/v1/mi_kernels/lam` of vLLM's OpenAI-compatible server.

vLLM loads this plugin only if `VLLM_PLUGINS` names mi_kernels, as `mi-kernels serve` sets it. The route is under /v1,
which the server's `--api-key` protects. Without a key it answers only requests from programs on this machine, and
rejects those that a web page sends.

    GET   {"lam": 0.55}
    POST  {"lam": 0.8, "layers": "12:36", "modules": "ffn", "drain": true}

docs/serve.md lists the errors.
"""

from __future__ import annotations

import asyncio
import os
from argparse import Namespace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from ...errors import MIKernelsError
from .addresses import is_loopback
from .client import EngineError, FilesChangedError, NotLiveError, set_lam_async
from .lam_request import PATH, RequestError, error_body, param_of, read_request
from .server import has_key


class LamEndpoint:
    """The route as an endpoint plugin of vLLM."""

    name = "mi_kernels"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        app.add_api_route(PATH, _get, methods=["GET"])
        app.add_api_route(PATH, _post, methods=["POST"])
        app.add_api_route(PATH, _other_method, methods=["PUT", "PATCH", "DELETE"], include_in_schema=False)

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        state.mi_kernels_engine = engine_client
        state.mi_kernels_turn = asyncio.Lock()
        state.mi_kernels_guarded = has_key(args, os.environ)


async def _get(request: Request) -> JSONResponse:
    if (refusal := _stranger(request)) is not None:
        return refusal
    answers = await request.app.state.mi_kernels_engine.collective_rpc("mi_kernels_get")
    for answer in answers:
        if "broken" in answer:
            return _error(503, answer["broken"], "Restart the server.")
    if not answers[0]:
        return _error(
            404, "this server does not serve an interpolation of two models", "Start it with `mi-kernels serve`."
        )
    return JSONResponse(answers[0])


async def _post(request: Request) -> JSONResponse:
    if (refusal := _stranger(request)) is not None:
        return refusal
    state = request.app.state
    try:
        wanted = read_request(await request.body())
        async with state.mi_kernels_turn:  # one change at a time
            answer = await set_lam_async(state.mi_kernels_engine, **wanted)
    except EngineError as error:
        return _error(503, error.problem, "Restart the server.")
    except FilesChangedError as error:
        return _error(409, error.problem, "The weights in use stay as they are. Restart the server to change lam.")
    except NotLiveError as error:
        return _error(409, error.problem, "Start the server with `mi-kernels serve`.")
    except RequestError as error:
        return _error(400, error.problem, error.remedy, error.param)
    except MIKernelsError as error:
        return _error(400, error.problem, error.remedy, param_of(error.problem))
    return JSONResponse(answer)


async def _other_method(request: Request) -> JSONResponse:
    answer = _error(405, f"{request.method} is not supported", "GET reads lam, and POST changes it.")
    answer.headers["Allow"] = "GET, POST"
    return answer


def _error(status: int, problem: str, remedy: str = "", param: str | None = None) -> JSONResponse:
    return JSONResponse(error_body(status, problem, remedy, param), status)


def _stranger(request: Request) -> JSONResponse | None:
    """Returns an error for clients without permission: without an API key, all but the programs on this machine."""
    if request.app.state.mi_kernels_guarded:
        return None  # the server has already checked the key
    host = request.client.host if request.client else ""
    local = not host or is_loopback(host)  # a Unix socket has no address
    if local and "origin" not in request.headers:  # a browser sends the origin of the page, which may be any web site
        return None
    return _error(
        403, "without an API key, only programs on this machine can use this route", "Start the server with --api-key."
    )
