"""Any server that speaks OpenAI's chat completions: vLLM's own, SGLang, llama.cpp, a gateway.

One request is one response, so `usage.completion_tokens` counts its tokens on every server. The key is read from
OPENAI_API_KEY by the client. vLLM's server: `python -m vllm.entrypoints.openai.api_server --model OUT`, without
--reasoning-parser: Think #R counts `</think>` in the text.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import EngineError
from . import Completion, Options, Request

_RETRIES = 6  # the client waits 0.5 s, then twice as long each time, up to 8 s: half a minute for a restart


class OpenAIServer:
    """An `Engine` on the server at `options.url`, with `options.concurrency` requests in flight.

    What fails for the moment (no connection, 408, 409, 429, 5xx) is tried again, with growing pauses.
    """

    def __init__(self, options: Options, retries: int = _RETRIES) -> None:
        self._url = (options.url or "").rstrip("/")
        if not self._url.startswith(("http://", "https://")):
            raise EngineError(f"--url is {options.url!r}", "Give the server's, such as http://localhost:8000/v1.")
        self._concurrency = options.concurrency
        self._retries = retries
        self._model = ""

    def open(self, model: str, length: int) -> Mapping[str, Any]:
        served = asyncio.run(self._served())
        if model not in served:
            raise EngineError(
                f"{self._url} serves {', '.join(served) or 'nothing'}, not {model}",
                "Give MODEL as the server calls it (--served-model-name of vLLM's).",
            )
        self._model = model
        return {"name": "openai", "version": None, "settings": {"url": self._url}}

    def close(self) -> None:
        """Nothing to stop: the server is somebody else's."""

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
        finally:  # an error, Ctrl-C, or a caller that stops early: nothing may go on in the background
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
                    for task in done.difference(failed):  # what came is handed on before what failed is told
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
                f"{self._url} takes the reasoning out of the text, and with it the </think> that is counted",
                "Start the server without its reasoning parser.",
            )
        if answer.usage is None:
            raise EngineError(
                f"{self._url} does not say how many tokens it generated", "Use a server that sends usage."
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
            # 80,000 tokens take as long as they take; a server that is not there should be told apart soon.
            timeout=openai.Timeout(None, connect=10.0),
        )

    def _explained(self, error: BaseException) -> EngineError:
        import openai

        if isinstance(error, openai.APIConnectionError):
            return EngineError(
                f"{self._url} does not answer: {error.__cause__ or error}", "Is the server running, and at this URL?"
            )
        if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)):
            return EngineError(f"{self._url} refuses the key", "Set OPENAI_API_KEY to one that it takes.")
        if isinstance(error, openai.APIStatusError):
            return EngineError(f"{self._url} answers {error.status_code}: {error.message[:200]}", "See its log.")
        return EngineError(f"{self._url}: {type(error).__name__}: {error}", "See the server's log.")
