"""How a merge runs and what its output looks like: the options that every kind of merge shares.

`Options` is their one list. The command line's flags and the signatures that `help()` shows are made from its fields;
`MergeOptions` names them once more for type checkers, and a test holds the two together.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields
from typing import Any, TypedDict, TypeVar

from ..backends import cpu
from ..backends.device import Place, place_for
from ..dtypes import OUTPUTS
from ..errors import ArgumentError, BackendError

WRITTEN, HOW = "what is written", "how"  # the groups of a command's help
F = TypeVar("F", bound=Callable[..., Any])


class MergeOptions(TypedDict, total=False):
    """The keyword arguments that every merge takes: the fields of `Options`."""

    dtype: str | None
    max_shard_size: int | None
    copy_from: str
    overwrite: bool
    restart: bool
    strict: bool
    sigma: bool
    device: str
    backend: str | None
    threads: int | None
    max_memory: int | None
    io: str
    progress: bool | Callable[[int, int], None]


def _option(
    default: Any, help: str | None = None, group: str = WRITTEN, metavar: str | None = None, kind: str = "text"
) -> Any:
    """A field of Options.

    Args:
        help: of its flag on the command line; None for an option that has no flag of its own.
        kind: "text", "size" (bytes), "count" or "flag": how the command line reads it.
    """
    return field(default=default, metadata={"help": help, "group": group, "metavar": metavar, "kind": kind})


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a merge runs and what its output looks like.

    Attributes:
        dtype: "bfloat16", "float16" or "float32" to convert every floating tensor; None keeps the first model's dtypes.
        max_shard_size: bytes of data in a shard; None keeps the first model's shards.
        copy_from: "thinking" (the last model), "instruct" (the first) or "base": whose config, tokenizer and chat
            template the output gets.
        overwrite: replace a model that is at `out`. It stays until the new one is complete.
        restart: drop what a killed merge left of `out`, and start from scratch. Without it, the same call resumes the
            killed one, and any other call is refused.
        strict: refuse what is otherwise a note of the report and may make a bad model: NaN or inf in what is read or
            written, one model given twice, tokenizers or computing settings that differ; see docs/safety.md.
        sigma: measure first how far apart the two models are (`mi_kernels.similarity`), for the model card. Reads both
            models once more.
        device: "cpu", "cuda" (the first GPU), "cuda:1", "cuda:0,cuda:1" (in turns), or "auto": the CPU, see
            `backends.device`. The bits are the same. GPUs take at most 256 MiB of pinned memory besides, and as much of
            their own.
        backend: "cpu", "cuda" or "triton"; None for the best on the device. With device "auto", it chooses the device.
        threads: computing threads; None for all cores.
        max_memory: bytes for buffers; None for at most 128 MiB.
        io: "direct" (past the page cache), "buffered", or "auto": direct where the file system can.
        progress: a bar on a terminal's stderr, or a function that is called with (bytes done, bytes in all).
    """

    dtype: str | None = _option(None, "bfloat16, float16 or float32 (default: the first model's)", metavar="DTYPE")
    max_shard_size: int | None = _option(
        None, "such as 5GB (default: the first model's shards)", metavar="SIZE", kind="size"
    )
    copy_from: str = _option("thinking", "thinking or instruct: whose config, tokenizer and template", metavar="SIDE")
    overwrite: bool = _option(False, "replace a model that is at OUT", kind="flag")
    restart: bool = _option(False, "drop what a killed merge left of OUT instead of resuming it", kind="flag")
    strict: bool = _option(
        False,
        "refuse NaN and inf, one model given twice, tokenizers or settings that do not fit together",
        kind="flag",
    )
    sigma: bool = _option(False, "measure the models' distance for the card (--push does, too)", kind="flag")
    device: str = _option("auto", "cpu, cuda, cuda:1, cuda:0,cuda:1 or auto (default: auto)", HOW, "DEVICE")
    backend: str | None = _option(None, "cpu, cuda or triton (default: the device's best)", HOW, "NAME")
    threads: int | None = _option(None, "computing threads (default: all cores)", HOW, "N", "count")
    max_memory: int | None = _option(None, "for buffers, such as 64MiB (default: at most 128MiB)", HOW, "SIZE", "size")
    io: str = _option("auto", "direct, buffered or auto (default: auto)", HOW, "MODE")
    progress: bool | Callable[[int, int], None] = field(default=True, metadata={"help": None})

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


FLAGS: tuple[Field[Any], ...] = tuple(f for f in fields(Options) if f.metadata["help"] is not None)
"""The options that have a flag on the command line, in the order of its help."""


def takes_options(function: F) -> F:
    """Decorates a function whose last parameter is ``**options: Unpack[MergeOptions]``: `help()` shows each of them."""
    signature = inspect.signature(function)
    named = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    kind = inspect.Parameter.KEYWORD_ONLY
    named += [inspect.Parameter(f.name, kind, default=f.default, annotation=f.type) for f in fields(Options)]
    function.__signature__ = signature.replace(parameters=named)  # type: ignore[attr-defined]
    return function
