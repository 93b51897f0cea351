"""Read and change lam of a server that `mi-kernels serve` has started, from any machine. Needs no vLLM."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from ...errors import ArgumentError, MIKernelsError
from .addresses import is_loopback
from .client import Answer, EngineError, NotLiveError
from .lam_request import PATH


class ServerError(MIKernelsError):
    """The server cannot be reached, does not have the route, or rejects the client."""


def get_lam(url: str, *, api_key: str | None = None, timeout: float = 60) -> Answer:
    """Returns the recipe that a server serves: "lam", and "layers", "modules", "rules" if they are set.

    Args:
        url: such as http://127.0.0.1:8000, with or without /v1.
        api_key: the server's key; VLLM_API_KEY if None.
        timeout: seconds to wait for the answer.

    Raises:
        ServerError: the server cannot be reached, does not serve an interpolation, or rejects the key.
        EngineError: the server must be started again.

    Example:
        from mi_kernels.integrations.vllm.http_client import change_lam, get_lam

        get_lam("http://127.0.0.1:8000")  # {"lam": 0.55}
        change_lam("http://127.0.0.1:8000", 0.8, layers="12:36")
    """
    return _send(url, None, api_key, timeout)


def change_lam(
    url: str,
    lam: Any,
    *,
    layers: Any = None,
    modules: Any = None,
    rules: Any = None,
    drain: bool = True,
    api_key: str | None = None,
    timeout: float = 600,
) -> Answer:
    """Changes the merge that a server serves. The next request uses it.

    Args:
        url, api_key: as for `get_lam`.
        lam, layers, modules, rules: as JSON has them; see docs/serve.md.
        drain: True waits until the requests in flight are answered; False aborts them.
        timeout: seconds to wait for the answer, which comes after the change.

    Returns:
        The recipe that is served now, and "seconds".

    Raises:
        ArgumentError: the change was rejected. The server serves the previous merge.
        NotLiveError: the server cannot change lam.
        ServerError, EngineError: as `get_lam`.
    """
    given = {"lam": lam, "layers": layers, "modules": modules, "rules": rules, "drain": drain}
    try:
        body = json.dumps({key: value for key, value in given.items() if value is not None}).encode()
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"the change cannot be sent as JSON: {error}", "Use numbers, text and lists.") from None
    return _send(url, body, api_key, timeout)


def _send(url: str, body: bytes | None, api_key: str | None, timeout: float) -> Answer:
    base = url.rstrip("/").removesuffix(PATH).removesuffix("/v1")
    host = _host(base)
    if not host:
        raise ArgumentError(f"url is {url!r}", "Use one such as http://127.0.0.1:8000.")
    key = os.environ.get("VLLM_API_KEY") if api_key is None else api_key
    if key and not (key.isascii() and key.isprintable()):
        raise ArgumentError("the API key has characters that HTTP cannot send", "Check it for line breaks and letters.")
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    request = urllib.request.Request(base + PATH, body, headers)
    proxies = [urllib.request.ProxyHandler({})] if is_loopback(host) else []
    try:
        status, content = _answer(urllib.request.build_opener(_Direct(), *proxies), request, timeout)
    except TimeoutError:
        raise _slow(base, timeout) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise _slow(base, timeout) from None
        raise ServerError(
            f"{base}: no server answers ({error.reason})",
            "Start one with `mi-kernels serve`, and wait until it prints its address.",
        ) from None
    except http.client.HTTPException as error:
        what = f"the answer is cut off or is not HTTP ({type(error).__name__})"
        raise ServerError(f"{base}: {what}", "Check the URL, and see the server's messages.") from None
    except OSError as error:
        raise ServerError(f"{base}: the connection broke ({error})", "See the server's messages.") from None
    if status != 200:
        raise _refusal(base, status, content)
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or "lam" not in answer:
        raise _stranger(base)
    return answer


class _Direct(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: it would take the key to another server, and turn a change into a question."""

    def redirect_request(self, *given: Any) -> None:
        return None


def _host(url: str) -> str | None:
    """Returns the host of an http or https URL; None if it is none."""
    try:
        parts = urllib.parse.urlsplit(url)
        usable = parts.scheme in ("http", "https") and (parts.port is None or parts.port > 0)
    except ValueError:
        return None
    return parts.hostname if usable and url.isascii() and url.isprintable() and " " not in url else None


def _answer(
    opener: urllib.request.OpenerDirector, request: urllib.request.Request, timeout: float
) -> tuple[int, bytes]:
    """Returns the status and the body of the server's answer."""
    try:
        with opener.open(request, timeout=timeout) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def _refusal(base: str, status: int, content: bytes) -> MIKernelsError:
    """Returns the exception for an answer with an error status."""
    if status == 401:
        return ServerError(f"{base}: the API key is missing or wrong", "Set VLLM_API_KEY to the server's key.")
    try:
        error = json.loads(content)["error"]
        message, ours = str(error["message"]), error["code"] == status
    except (ValueError, TypeError, KeyError):
        message, ours = "", False
    if status == 404 and (not ours or message == "Not Found"):  # vLLM's message about a route it does not have
        return _stranger(base)
    if not ours:
        return ServerError(f"{base}: answered with status {status}", "See the server's messages.")
    kind = {400: ArgumentError, 409: NotLiveError, 503: EngineError}.get(status, ServerError)
    return kind(f"{base}: {message}")


def _stranger(base: str) -> ServerError:
    return ServerError(
        f"{base}: is not a server whose lam can be changed", "Start it with `mi-kernels serve`, or check the URL."
    )


def _slow(base: str, timeout: float) -> ServerError:
    return ServerError(
        f"{base}: no answer in {timeout:g} s",
        "Give a longer timeout. A change with drain waits for the requests in flight.",
    )
