"""Finds the cause of an engine's failure, in particular lack of memory, from its exceptions and its log."""

from __future__ import annotations

from collections.abc import Iterable

from . import PairRefusal, Refusal

_MEMORY = (
    "out of memory",
    "OutOfMemoryError",
    "MemoryError",
    "No available memory for the cache blocks",
    "Free memory on device",
    "not enough memory",
    "DefaultCPUAllocator",
    "available KV cache memory",  # of vLLM's "... is larger than the available KV cache memory"
)


def failure(error: BaseException) -> dict[str, str]:
    """The failure in one line ("text") and its "kind": "memory", "refusal", "pair" or "error".

    Searches the whole chain of exceptions, because an engine often wraps the cause.
    """
    if isinstance(error, Refusal):
        return {"kind": "pair" if isinstance(error, PairRefusal) else "refusal", "text": str(error)}
    lines = [f"{type(link).__name__}: {link}" for link in _chain(error)]
    memory = next((line for line in lines if _is_memory(line)), None)
    return {"kind": "memory" if memory else "error", "text": shortened(memory or lines[0])}


def memory_line(log: Iterable[str]) -> str | None:
    """The last line about memory in an engine's log. Child processes of an engine report such errors only there."""
    lines = [line for line in log if "Error" in line and _is_memory(line)]
    return shortened(lines[-1]) if lines else None


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


def _is_memory(text: str) -> bool:
    return any(sign in text for sign in _MEMORY)


def shortened(text: str) -> str:
    """The first three lines joined: the first line of a validation error contains only a count."""
    line = "; ".join([line.strip() for line in text.splitlines() if line.strip()][:3])
    return line if len(line) <= 300 else line[:297] + "..."
