"""Serve the page of `mi-kernels serve --ui`: static files, and the sweep of a report for its plot.

The page loads nothing from elsewhere, and the browser is told to allow nothing else. Without an API key, only browsers
on this machine get it, under a name of this machine: a web site whose name resolves to this machine gets nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from .addresses import is_loopback
from .lam_request import error_body

PATH = "/ui"
_FOLDER = Path(__file__).parent / "page"
_REMEDY = "Open it as http://127.0.0.1 with the server's port, or start the server with --api-key."
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def attach_page(app: FastAPI, stages: list[dict[str, Any]]) -> None:
    """Adds the page to the server's application.

    Args:
        stages: from `report_sweep.read_stages`; empty for a page without a plot.
    """

    contents: dict[str, tuple[bytes, str]] = {
        f"{PATH}/": _file("index.html", "text/html"),
        f"{PATH}/app.js": _file("app.js", "text/javascript"),
        f"{PATH}/style.css": _file("style.css", "text/css"),
        f"{PATH}/stages.json": (json.dumps(stages).encode(), "application/json"),
    }

    async def answer(request: Request) -> Response:
        if not _welcome(request):
            message = error_body(403, "without an API key, only browsers on this machine get the page", _REMEDY)
            return JSONResponse(message, 403)
        content, kind = contents[request.url.path]
        return Response(content, media_type=kind, headers=_HEADERS)

    async def with_slash(request: Request) -> Response:
        return RedirectResponse(f"{PATH}/")

    for path in contents:
        app.add_route(path, answer)
    app.add_route(PATH, with_slash)


def _file(name: str, kind: str) -> tuple[bytes, str]:
    return (_FOLDER / name).read_bytes(), f"{kind}; charset=utf-8"


def _welcome(request: Request) -> bool:
    if request.app.state.mi_kernels_guarded:
        return True  # the page is no secret; it asks for the key that its requests need
    try:
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname
    except ValueError:
        return False
    return is_loopback(request.client.host if request.client else "") and is_loopback(host or "")
