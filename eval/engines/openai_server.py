"""Any server with OpenAI's chat completions API: vLLM, SGLang, llama.cpp, a gateway.

Each request asks for one response, so `usage.completion_tokens` is its token count on every server. The client reads
the key from OPENAI_API_KEY. vLLM's server is `python -m vllm.entrypoints.openai.api_server --model OUT`, without
--reasoning-parser, because Think #R counts `</think>` in the text.

Requests run in a thread with its own event loop. So Ctrl-C and SIGTERM reach the main thread while it waits for the
next response, and not the middle of the loop.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import queue
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import EngineError
from . import Completion, Options, Request, refuses_pairs
from .live_pair import LivePair, NotLiveError

LOG = logging.getLogger("eval")

_FAILED_IN_A_ROW = 8  # responses: then the server, not the responses, is the problem
_STOP_SECONDS = 5.0


@dataclass(frozen=True)
class Patience:
    """How long a temporary failure of one request is retried, in seconds.

    Attributes:
        first, longest: pauses double from one to the other. total: all pauses together.
        asked: all pauses together if the server itself names them, with Retry-After.
        bodies: how often a response whose body cannot be used is requested again.
    """

    first: float = 0.5
    longest: float = 8.0
    total: float = 30.0
    asked: float = 600.0
    bodies: int = 2


class _UnusableResponse(EngineError):
    """The server answered one request with something that is not a response. Others may succeed."""


class OpenAIServer:
    """An `Engine` on the server at `options.url`, with `options.concurrency` requests in flight.

    Temporary failures (no connection, 408, 409, 429, 5xx, a body that is not a response) are retried, with growing
    pauses or with those of Retry-After. A response that fails for good does not stop the others. If the server fails,
    no request is sent any more, and the responses in flight are still awaited.
    """

    def __init__(self, options: Options, patience: Patience | None = None) -> None:
        self._url = (options.url or "").rstrip("/")
        if not self._url.startswith(("http://", "https://")):
            raise EngineError(
                f"--url is {options.url!r}", "Give the URL of a server, such as http://localhost:8000/v1."
            )
        self._concurrency = options.concurrency
        self._patience = patience or Patience()
        self._model = ""
        self._started: dict[int, float] = {}  # by request in flight
        self._tokens, self._seconds = 0, 0.0  # of finished responses

    def refuses_pairs(self) -> str:
        return refuses_pairs(self._options)

    def open(self, model: str | LivePair, length: int) -> Mapping[str, Any]:
        import openai

        if isinstance(model, LivePair):
            raise NotLiveError(self.refuses_pairs(), "Serve each merge, and evaluate it with `run --url`.")

        with openai.OpenAI(**self._connection(), max_retries=2) as client:
            try:
                served = [str(entry.id) for entry in client.models.list()]
            except openai.APIError as error:
                raise self._explained(error) from error
            except (ValueError, TypeError, AttributeError) as error:
                raise EngineError(
                    f"{self._url}/models is not a list of models", "Check the URL: it usually ends in /v1."
                ) from error
        if model not in served:
            raise EngineError(
                f"{self._url} serves {', '.join(served) or 'no model'}, not {model}",
                "Give MODEL as the server names it (for vLLM: --served-model-name).",
            )
        self._model = model
        return {"name": "openai", "version": None, "settings": {"url": self._url}}

    def close(self) -> None:
        """Does nothing: this process did not start the server."""

    def __enter__(self) -> OpenAIServer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def running(self) -> Sequence[int]:
        """Estimates: a response in flight is generated as fast as the mean of the finished ones."""
        if not self._seconds:
            return []
        now = time.monotonic()
        return [int((now - start) * self._tokens / self._seconds) for start in list(self._started.values())]

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        answers: queue.Queue[Completion | BaseException | None] = queue.Queue()
        loop = asyncio.new_event_loop()
        stream = loop.create_task(self._stream(requests, answers))

        def work() -> None:
            try:
                loop.run_until_complete(stream)
                answers.put(None)
            except BaseException as error:
                answers.put(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            while (answer := answers.get()) is not None:
                if isinstance(answer, BaseException):
                    raise answer
                yield answer
        finally:  # after an error, Ctrl-C, or a caller that stops early, nothing may run in the background
            loop.call_soon_threadsafe(stream.cancel)
            thread.join(_STOP_SECONDS)
            if not thread.is_alive():
                loop.close()

    async def _stream(self, requests: Sequence[Request], answers: queue.Queue[Any]) -> None:
        """Puts every response into `answers`.

        Raises:
            EngineError: the server failed, or some responses did; after all others.
        """
        waiting = iter(requests)
        running: set[asyncio.Task[Completion]] = set()
        unusable: list[_UnusableResponse] = []
        fatal: EngineError | None = None
        in_a_row = 0
        async with self._client() as client:
            try:
                while True:
                    going_on = fatal is None and in_a_row < _FAILED_IN_A_ROW
                    while going_on and len(running) < self._concurrency and (request := next(waiting, None)):
                        running.add(asyncio.create_task(self._complete(client, request)))
                    if not running:
                        break
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        error = task.exception()
                        if error is None:
                            in_a_row = 0
                            answers.put(task.result())
                        elif isinstance(error, _UnusableResponse):
                            in_a_row += 1
                            unusable.append(error)
                        elif fatal is None:
                            fatal = error if isinstance(error, EngineError) else self._explained(error)
                            if running:
                                LOG.warning("%s; waiting for %d responses in flight", fatal.problem, len(running))
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)
        if fatal is not None:
            raise fatal
        if unusable:
            count = f"{len(unusable)} of {len(requests)} responses failed: " if len(requests) > 1 else ""
            raise EngineError(f"{count}{unusable[0].problem}", unusable[0].remedy)

    async def _complete(self, client: Any, request: Request) -> Completion:
        """One response, after as many tries as `Patience` allows."""
        import openai

        patience, waited, broken = self._patience, 0.0, 0
        pause = patience.first
        while True:
            try:
                start = self._started[request.index] = time.monotonic()
                done = self._completion(request.index, await self._asked(client, request))
                self._tokens += done.tokens
                self._seconds += time.monotonic() - start
                return done
            except _UnusableResponse:
                broken += 1
                if broken > patience.bodies:
                    raise
                delay = pause
            except openai.APIError as error:
                if isinstance(error, openai.APIStatusError) and error.status_code in (400, 413, 422):
                    raise _UnusableResponse(self._explained(error).problem, "See the server's log.") from error
                named = _retry_after(error)
                delay = pause if named is None else max(pause, named)
                if not _temporary(error) or waited + delay > (patience.total if named is None else patience.asked):
                    raise
            finally:
                self._started.pop(request.index, None)
            waited += delay
            pause = min(2 * pause, patience.longest)
            await _sleep(delay * (1 + random.random() / 4))  # not all requests again at the same moment

    async def _asked(self, client: Any, request: Request) -> bytes:
        sampling = request.sampling
        answer = await client.chat.completions.with_raw_response.create(
            model=self._model,
            messages=[{"role": "user", "content": request.prompt}],
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            seed=request.seed,
            extra_body={"top_k": sampling.top_k},
        )
        content: bytes = answer.http_response.content
        return content

    def _completion(self, index: int, body: bytes) -> Completion:
        """The response in the body of an answer. Nothing in it is taken for granted: gateways send anything."""
        try:
            content = json.loads(body)
        except ValueError as error:
            start = body[:60].decode("utf-8", "replace")
            raise _UnusableResponse(
                f"{self._url} answered with something that is not JSON: {start!r}",
                "Check the URL and the server's log.",
            ) from error
        choice = _first(content.get("choices")) if isinstance(content, dict) else None
        message = choice.get("message") if choice else None
        if choice is None or not isinstance(message, dict):
            raise _UnusableResponse(f"{self._url} answered without a choice", "See the server's log.")
        if message.get("reasoning_content") or message.get("reasoning"):
            raise EngineError(
                f"{self._url} removes the reasoning from the text, with the </think> that Think #R counts",
                "Start the server without a reasoning parser.",
            )
        usage = content.get("usage")
        tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
        if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 0:
            raise _UnusableResponse(
                f"{self._url} does not report the number of generated tokens: usage.completion_tokens is {tokens!r}",
                "Use a server that sends `usage`.",
            )
        text, reason = message.get("content"), choice.get("finish_reason")
        if reason not in ("stop", "length"):
            raise _UnusableResponse(
                f"{self._url} ended a response with the finish reason {reason!r}, not stop or length",
                "Turn off filters and tools on the server.",
            )
        if not isinstance(text, str) and text is not None:
            raise _UnusableResponse(f"{self._url} answered with a content that is no text", "See the server's log.")
        return Completion(index, text or "", tokens, reason)

    def _connection(self) -> dict[str, Any]:
        import openai

        return {
            "base_url": self._url,
            "api_key": os.environ.get("OPENAI_API_KEY", "none"),
            # 80,000 tokens may take any time; a missing server should be noticed soon.
            "timeout": openai.Timeout(None, connect=10.0),
        }

    def _client(self) -> Any:
        import openai

        return openai.AsyncOpenAI(**self._connection(), max_retries=0)  # `_complete` retries

    def _explained(self, error: BaseException) -> EngineError:
        import openai

        if isinstance(error, openai.APIConnectionError):
            return EngineError(
                f"{self._url} does not answer: {error.__cause__ or error}", "Check the URL, and that the server runs."
            )
        if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)):
            return EngineError(f"{self._url} rejected the key", "Set OPENAI_API_KEY to a valid key.")
        if isinstance(error, openai.APIStatusError):
            return EngineError(
                f"{self._url} answered {error.status_code}: {error.message[:200]}", "See the server's log."
            )
        return EngineError(f"{self._url}: {type(error).__name__}: {error}", "See the server's log.")


async def _sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)


def _temporary(error: Exception) -> bool:
    import openai

    if isinstance(error, openai.APIStatusError):
        return error.status_code in (408, 409, 429) or error.status_code >= 500
    return isinstance(error, openai.APIConnectionError)


def _retry_after(error: Exception) -> float | None:
    """The pause in seconds that the server asks for; None if it asks for none, or in another unit."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return _until(headers.get("retry-after", ""))
    return seconds if 0 <= seconds < float("inf") else None


def _until(date: str) -> float | None:
    """Seconds until an HTTP date."""
    from datetime import datetime, timezone
    from email.utils import parsedate_to_datetime

    try:
        when = parsedate_to_datetime(date)
    except ValueError:
        return None
    now = datetime.now(timezone.utc)
    return max(0.0, (when - now).total_seconds()) if when.tzinfo else None


def _first(choices: Any) -> dict[str, Any] | None:
    found = choices[0] if isinstance(choices, list) and choices else None
    return found if isinstance(found, dict) else None
