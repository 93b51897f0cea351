"""Serve the page of `mi-kernels serve --ui`: static files, and the sweep of a report for its plot.

The page loads nothing from elsewhere, and the browser is told to allow nothing else. Without an API key, only browsers on
this machine get it, under a name of this machine: a web site whose name resolves to this machine gets nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from ...errors import ArgumentError
from .listening import is_loopback

PATH = "/ui"
_FOLDER = Path(__file__).parent / "page"
_FILES = {"": ("index.html", "text/html"), "app.js": ("app.js", "text/javascript"), "style.css": ("style.css", "text/css")}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
