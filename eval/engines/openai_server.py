"""Any server with OpenAI's chat completions API: vLLM, SGLang, llama.cpp, a gateway.

Each request asks for one response, so `usage.completion_tokens` is its token count on every server. The client reads
the key from OPENAI_API_KEY. vLLM's server is `python -m vllm.entrypoints.openai.api_server --model OUT`, without
--reasoning-parser, because Think #R counts `</think>` in the text.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import EngineError
from . import Completion, Options, Request

_RETRIES = 6  # the client waits 0.5 s, then twice as long each time, up to 8 s: about half a minute


class OpenAIServer:
    """An `Engine` on the server at `options.url`, with `options.concurrency` requests in flight.

    Temporary failures (no connection, 408, 409, 429, 5xx) are retried, with growing pauses.
    """

    def __init__(self, options: Options, retries: int = _RETRIES) -> None:
        self._url = (options.url or "").rstrip("/")
        if not self._url.startswith(("http://", "https://")):
            raise EngineError(
                f"--url is {options.url!r}", "Give the URL of a server, such as http://localhost:8000/v1."
            )
        self._concurrency = options.concurrency
        self._retries = retries
        self._model = ""

    def open(self, model: str, length: int) -> Mapping[str, Any]:
        served = asyncio.run(self._served())
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

    async def _served(self) -> list[str]:
        async with self._client() as client:
            try:
                return [model.id async for model in client.models.list()]
            except Exception as error:
                raise self._explained(error) from error

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        loop = asyncio.new_event_loop()
        stream = self._stream(requests)
        try:
            while True:
                try:
                    yield loop.run_until_complete(anext(stream))
                except StopAsyncIteration:
                    return
        finally:  # after an error, Ctrl-C, or a caller that stops early, nothing may run in the background
            loop.run_until_complete(stream.aclose())
            loop.close()

    async def _stream(self, requests: Sequence[Request]) -> Any:
        waiting = iter(requests)
        running: set[asyncio.Task[Completion]] = set()
        async with self._client() as client:
            try:
                while True:
                    while len(running) < self._concurrency and (request := next(waiting, None)):
                        running.add(asyncio.create_task(self._complete(client, request)))
                    if not running:
                        return
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    failed = [task for task in done if task.exception()]
                    for task in done.difference(failed):  # finished responses first, then the failure
                        yield task.result()
                    for task in failed:
                        error = task.exception()
                        assert error is not None
                        raise error if isinstance(error, EngineError) else self._explained(error) from error
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)

    async def _complete(self, client: Any, request: Request) -> Completion:
        sampling = request.sampling
        answer = await client.chat.completions.create(
            model=self._model,
            messages=[{"role": "user", "content": request.prompt}],
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            seed=request.seed,
            extra_body={"top_k": sampling.top_k},
        )
        choice = answer.choices[0]
        if getattr(choice.message, "reasoning_content", None) or getattr(choice.message, "reasoning", None):
            raise EngineError(
                f"{self._url} removes the reasoning from the text, with the </think> that Think #R counts",
                "Start the server without a reasoning parser.",
            )
        if answer.usage is None:
            raise EngineError(
                f"{self._url} does not report the number of generated tokens", "Use a server that sends `usage`."
            )
        return Completion(
            request.index, choice.message.content or "", answer.usage.completion_tokens, str(choice.finish_reason)
        )

    def _client(self) -> Any:
        import openai

        return openai.AsyncOpenAI(
            base_url=self._url,
            api_key=os.environ.get("OPENAI_API_KEY", "none"),
            max_retries=self._retries,
            # 80,000 tokens may take any time; a missing server should be noticed soon.
            timeout=openai.Timeout(None, connect=10.0),
        )

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
