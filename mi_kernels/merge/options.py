"""How a merge runs and what its output looks like: the options every kind of merge shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..backends import cpu
from ..backends.device import Place, place_for
from ..dtypes import OUTPUTS
from ..errors import ArgumentError, BackendError


@dataclass(frozen=True)
class Options:
    """The keyword arguments of `lerp_checkpoint` that are not about lam and masks; see there."""

    device: str = "auto"
    backend: str | None = None
    dtype: str | None = None
    threads: int | None = None
    max_memory: int | None = None
    overwrite: bool = False
    progress: bool | Callable[[int, int], None] = True
    copy_from: str = "thinking"
    max_shard_size: int | None = None
    io: str = "auto"
    restart: bool = False
    sigma: bool = False
    strict: bool = False

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in OUTPUTS:
            raise ArgumentError(f"dtype {self.dtype!r}: unknown", "Use bfloat16, float16 or float32.")
        if self.copy_from not in ("thinking", "instruct", "base"):
            raise ArgumentError(f"copy_from {self.copy_from!r}: unknown", "Use 'thinking', 'instruct' or 'base'.")
        if self.io not in ("auto", "direct", "buffered"):
            raise ArgumentError(f"io {self.io!r}: unknown", "Use 'auto', 'direct' or 'buffered'.")
        if self.max_shard_size is not None and self.max_shard_size <= 0:
            raise ArgumentError(f"max_shard_size is {self.max_shard_size}", "Give a positive number of bytes.")
        cpu.checked_threads(self.threads)
        place_for(self.device, self.backend)

    @property
    def place(self) -> Place:
        """Where the arithmetic is done."""
        return place_for(self.device, self.backend)

    def refuse_gpu(self, method: str) -> None:
        """For what the CPU alone computes.

        Raises:
            BackendError: a GPU was asked for.
        """
        if self.place.devices:
            asked = f"device {self.device!r}" if self.device != "auto" else f"backend {self.place.backend!r}"
            raise BackendError(
                f"{asked} requested for method {method!r}, which runs on the CPU only",
                "Use device 'cpu' and backend 'cpu'; interpolation of two models runs on a GPU too.",
            )

    @property
    def thread_count(self) -> int:
        return cpu.checked_threads(self.threads)

    @property
    def out_dtype(self) -> str | None:
        """The dtype asked for, by safetensors' name."""
        return None if self.dtype is None else OUTPUTS[self.dtype]
