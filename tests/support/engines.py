"""Engines that record their calls, with the interfaces of vLLM's LLM and AsyncLLM."""

from __future__ import annotations

from typing import Any


class Engine:
    """Answers with `answers`, and records its calls in order."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers, self.calls = list(answers), []

    def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> list[dict[str, Any]]:
        if method == "mi_kernels_check":
            self.calls.append("check")
            return [a if {"refused", "fixed", "changed"} & set(a) else {"selected": [1]} for a in self.answers]
        if method == "mi_kernels_get":
            return self.answers
        self.calls.append("stop" if method == "mi_kernels_stop" else args[0]["lam"])
        return self.answers

    def reset_prefix_cache(self) -> None:
        self.calls.append("reset")


class AsyncEngine(Engine):
    async def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> list[dict[str, Any]]:  # type: ignore[override]
        return Engine.collective_rpc(self, method, args)

    async def reset_prefix_cache(self) -> None:  # type: ignore[override]
        self.calls.append("reset")

    async def pause_generation(self, mode: str, clear_cache: bool) -> None:
        self.calls.append(f"pause {mode}")

    async def resume_generation(self) -> None:
        self.calls.append("resume")


DONE = {"lam": 0.3, "seconds": 1.0}
