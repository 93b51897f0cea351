"""Where a server listens, and when it answers."""

from __future__ import annotations

import asyncio
import errno
import json
import shlex
import socket
import ssl
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from ...errors import ArgumentError
from .lam_request import PATH

_PAUSE = 0.2  # seconds between two attempts


def check_free(host: str, port: int) -> None:
    """Checks that a server can listen there.

    Raises:
        ArgumentError: the port is in use or out of range, or this machine does not have the address.
    """
    if not 1 <= port <= 65535:
        raise ArgumentError(f"--port {port} is not a port", "Use a number from 1 to 65535.")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as vLLM does
        try:
            sock.bind((host, port))
        except PermissionError:
            raise ArgumentError(
                f"--port {port}: this user may not listen on it", "Use a port from 1024 to 65535."
            ) from None
        except socket.gaierror:
            raise ArgumentError(f"--host {host}: is not an address of this machine", "Use 127.0.0.1.") from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise _port_taken(host, port) from None
            raise ArgumentError(
                f"--host {host}: this machine cannot listen there ({error.strerror})", "Use 127.0.0.1."
            ) from None


def refuse_taken(options: Namespace) -> NoReturn:
    """Raises:
    ArgumentError: always, because another program already uses the address of a server with vLLM's `options`.
    """
    if options.uds:
        raise ArgumentError(
            f"--uds {options.uds}: exists already", "Stop the program that uses it, or remove the file if none does."
        )
    raise _port_taken(options.host, options.port)


def _port_taken(host: str, port: int) -> ArgumentError:
    return ArgumentError(f"port {port} of {host} is in use", "Give another --port, or stop the program that uses it.")


def url(host: str, port: int, tls: bool = False) -> str:
    """Returns the URL of a server for programs on its machine."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http{'s' if tls else ''}://{reachable}:{port}"


def has_tls(options: Namespace) -> bool:
    return bool(getattr(options, "ssl_keyfile", None) and getattr(options, "ssl_certfile", None))


def example(options: Namespace, lam: float, keyed: bool) -> str:
    """Returns a curl command that changes lam of a server with vLLM's `options`.

    Args:
        lam: the current value.
        keyed: the server asks for a key.
    """
    words = ["curl"]
    if has_tls(options):
        words.append("--insecure")
    base = url(options.host or "", options.port, has_tls(options))
    if options.uds:
        words += ["--unix-socket", options.uds]
        base = "http://localhost"
    key = ' -H "Authorization: Bearer $VLLM_API_KEY"' if keyed else ""
    body = json.dumps({"lam": 0.8 if lam != 0.8 else 0.5})
    return f"{shlex.join([*words, base + PATH])}{key} -d {shlex.quote(body)}"


async def wait_until_healthy(options: Namespace, answers: Callable[[], None]) -> None:
    """Waits until the server with vLLM's `options` answers GET /health with 200, and then calls `answers`."""
    while not await _healthy(options):
        await asyncio.sleep(_PAUSE)
    answers()


async def _healthy(options: Namespace) -> bool:
    context = None
    if has_tls(options):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it is this process
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(options.host or "0.0.0.0", options.host)
    try:
        if options.uds:
            reader, writer = await asyncio.open_unix_connection(options.uds)
        else:
            reader, writer = await asyncio.open_connection(host, options.port, ssl=context)
    except OSError:
        return False
    try:
        writer.write(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
        await writer.drain()
        return b" 200 " in await reader.readline()
    except OSError:
        return False
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
