"""Read and change lam over HTTP: the route `/v1/mi_kernels/lam` of vLLM's OpenAI-compatible server.

vLLM loads this plugin only if `VLLM_PLUGINS` names mi_kernels, as `mi-kernels serve` sets it. The route is under /v1,
which the server's `--api-key` protects. Without a key it answers only requests from programs on this machine, and
rejects those that a web page sends.

    GET   {"lam": 0.55}
    POST  {"lam": 0.8, "layers": "12:36", "modules": "ffn", "drain": true}

With `--effort`, requests choose their own lam (`effort_route`). The route then shows and changes the default: what a
request gets that chooses nothing.

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
from ...recipe.interpolation import Recipe
from .addresses import is_loopback
from .client import set_lam_async
from .efforts import Efforts, Wanted, shown
from .lam_request import PATH, error_body, read_request
from .refusals import answer_to
from .server import has_key
from .turns import Turns


class LamEndpoint:
    """The route as an endpoint plugin of vLLM."""

    name = "mi_kernels"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        app.add_api_route(PATH, _get, methods=["GET"])
        app.add_api_route(PATH, _post, methods=["POST"])
        app.add_api_route(PATH, _other_method, methods=["PUT", "PATCH", "DELETE"], include_in_schema=False)
        options = getattr(app.state, "args", None)
        if _efforts(options) is not None:
            from .effort_route import EffortLayer

            app.add_middleware(EffortLayer, state=app.state)
        if (stages := getattr(options, "mi_kernels_page", None)) is not None:
            from .page_route import attach_page

            attach_page(app, stages)

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        state.mi_kernels_engine = engine_client
        state.mi_kernels_turn = asyncio.Lock()
        state.mi_kernels_turns = None
        if (efforts := _efforts(args)) is not None:
            from .effort_metrics import count

            async def change(wanted: Wanted) -> None:
                await set_lam_async(engine_client, **shown(wanted.recipe))

            state.mi_kernels_efforts = efforts
            state.mi_kernels_turns = Turns(change, Wanted.of(efforts.default), efforts.max_wait, count)
        state.mi_kernels_guarded = has_key(args, os.environ)


def _efforts(options: Any) -> Efforts | None:
    """The efforts that `mi-kernels serve` has put beside vLLM's options."""
    return getattr(options, "mi_kernels_efforts", None)


async def _get(request: Request) -> JSONResponse:
    if (refusal := _stranger(request)) is not None:
        return refusal
    if request.app.state.mi_kernels_turns is not None:
        return JSONResponse(_shown(request.app.state))
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
        if state.mi_kernels_turns is not None:
            return JSONResponse(await _set_default(state, wanted))
        async with state.mi_kernels_turn:  # one change at a time
            answer = await set_lam_async(state.mi_kernels_engine, **wanted)
    except MIKernelsError as error:
        return _error(*answer_to(error))
    return JSONResponse(answer)


async def _set_default(state: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    """Changes what requests get that choose nothing. Takes a turn, so that the engine checks the recipe.

    Raises:
        MIKernelsError: as `set_lam_async`.
    """
    efforts: Efforts = state.mi_kernels_efforts
    content = {key: value for key, value in wanted.items() if key != "drain"}  # every turn waits for running requests
    recipe = Recipe.from_dict({**content, "extrapolate": efforts.default.extrapolate})
    async with state.mi_kernels_turns.turn(Wanted.of(recipe)):
        efforts.default = recipe
    return _shown(state)


def _shown(state: Any) -> dict[str, Any]:
    """The default, the current merge of the engine, and all efforts."""
    efforts: Efforts = state.mi_kernels_efforts
    named = {name: shown(recipe) for name, recipe in efforts.named.items()}
    return {**shown(efforts.default), "current": shown(state.mi_kernels_turns.current.recipe), "efforts": named}


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
