"""The options that every kind of merge takes: how it runs, and what its output looks like.

`Options` is the only list of them. The flags of the command line and the signatures in `help()` are generated from its
fields. `MergeOptions` repeats the names and types for type checkers; a test compares the two.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields
from typing import Any, TypedDict, TypeVar

from ..backends import cpu
from ..backends.device import Place, place_for
from ..dtypes import OUTPUTS
from ..errors import ArgumentError, BackendError
from ..system.arguments import checks_names
from ..system.progress import Progress, checked_progress
from ..system.sizes import checked_size

WRITTEN, HOW = "output", "execution"  # the groups in the help of a command
F = TypeVar("F", bound=Callable[..., Any])


class MergeOptions(TypedDict, total=False):
    """The keyword arguments of every merge function. They are the fields of `Options`."""

    dtype: str | None
    max_shard_size: int | str | None
    copy_from: str
    overwrite: bool
    restart: bool
    strict: bool
    sigma: bool
    device: str
    backend: str | None
    threads: int | None
    max_memory: int | str | None
    io: str
    progress: Progress


def _option(
    default: Any, help: str | None = None, group: str = WRITTEN, metavar: str | None = None, kind: str = "text"
) -> Any:
    """Declares a field of Options.

    Args:
        help: the help of its flag on the command line. None: the option has no flag.
        group: the group of the flag in the help.
        metavar: the name of the value in the help.
        kind: how the command line parses the value: "text", "size" (bytes), "count" or "flag".
    """
    return field(default=default, metadata={"help": help, "group": group, "metavar": metavar, "kind": kind})


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a merge runs, and what its output looks like.

    Attributes:
        dtype: convert every floating-point tensor to "bfloat16", "float16" or "float32". None: keep the dtypes of the
            first model.
        max_shard_size: the maximum number of data bytes in a shard, or text such as "5GB". None: keep the shards of the
            first model.
        copy_from: the model whose config, tokenizer and chat template are copied to the output: "thinking" (the last
            model), "instruct" (the first model), "base", or the number of a model from "1", the base not counted.
        overwrite: replace an existing model at `out`. It stays in place until the new model is complete.
        restart: delete the work of an unfinished merge of `out`, and start from scratch. Otherwise the same call
            resumes the unfinished merge, and a call with other arguments raises OutputError.
        strict: raise StrictError for problems that can spoil the model and that are otherwise notes in the report: NaN
            or infinity in the tensors, one model passed twice, tokenizers or config settings that differ. See
            docs/safety.md.
        sigma: measure the distance between the two models first, for the model card; see `mi_kernels.similarity`. This
            reads both models one more time.
        device: "cpu", "cuda" (the first GPU), "cuda:1", "cuda:0,cuda:1" (several GPUs take turns), or "auto", which is
            the CPU unless `backend` needs a GPU; see `mi_kernels.backends.device`. The bits are the same on all. GPUs
            use at most 256 MiB of pinned memory in addition, and the same amount of GPU memory.
        backend: "cpu", "cuda" or "triton". None: the best backend of the device. With device "auto", the backend
            decides the device.
        threads: the number of computing threads. None: one for each core.
        max_memory: the maximum number of bytes for buffers, or text such as "64MiB". None: 128 MiB.
        io: "direct" (without the page cache), "buffered", or "auto", which is direct if the file system supports it.
        progress: True shows a bar on a terminal or in a notebook, and nothing in a log. "lines" also writes a line to
            stderr every five seconds there. A function is called with (bytes finished, bytes in total).

    Raises:
        ArgumentError: an option has a value that is not supported.
        BackendError: the device or the backend is not available.

    Example:
        >>> from mi_kernels.merge.options import Options
        >>> Options(dtype="bfloat16", threads=2).out_dtype
        'BF16'
    """

    dtype: str | None = _option(
        None, "bfloat16, float16 or float32 (default: the dtypes of the first model)", metavar="DTYPE"
    )
    max_shard_size: int | str | None = _option(
        None, "limit for one shard, such as 5GB (default: as the first model)", metavar="SIZE", kind="size"
    )
    copy_from: str = _option(
        "thinking", "copy config, tokenizer and template from thinking or instruct", metavar="SIDE"
    )
    overwrite: bool = _option(False, "replace an existing model at OUT", kind="flag")
    restart: bool = _option(False, "delete an unfinished merge of OUT instead of resuming it", kind="flag")
    strict: bool = _option(
        False,
        "fail on NaN or inf, one model passed twice, or tokenizers or settings that differ",
        kind="flag",
    )
    sigma: bool = _option(
        False, "measure the distance between the models for the model card (implied by --push)", kind="flag"
    )
    device: str = _option("auto", "cpu, cuda, cuda:1, cuda:0,cuda:1 or auto (default: auto)", HOW, "DEVICE")
    backend: str | None = _option(None, "cpu, cuda or triton (default: the best for the device)", HOW, "NAME")
    threads: int | None = _option(None, "computing threads (default: all cores)", HOW, "N", "count")
    max_memory: int | str | None = _option(
        None, "limit for buffers, such as 64MiB (default: 128MiB)", HOW, "SIZE", "size"
    )
    io: str = _option("auto", "direct, buffered or auto (default: auto)", HOW, "MODE")
    progress: Progress = field(default=True, metadata={"help": None})

    def __post_init__(self) -> None:
        if self.dtype is not None and (not isinstance(self.dtype, str) or self.dtype not in OUTPUTS):
            raise ArgumentError(
                f"dtype {self.dtype!r:.80} is unknown", "Use bfloat16, float16 or float32.", argument="dtype"
            )
        for name in ("copy_from", "io"):
            if not isinstance(getattr(self, name), str):
                raise ArgumentError(f"{name} {getattr(self, name)!r:.80} is unknown", "Give it as text.", argument=name)
        if self.copy_from not in ("thinking", "instruct", "base") and self.copy_number is None:
            raise ArgumentError(
                f"copy_from {self.copy_from!r} is unknown",
                "Use thinking, instruct, base or the number of a model.",
                argument="copy_from",
            )
        if self.io not in ("auto", "direct", "buffered"):
            raise ArgumentError(f"io {self.io!r} is unknown", "Use auto, direct or buffered.", argument="io")
        for name in ("max_shard_size", "max_memory"):
            object.__setattr__(self, name, checked_size(getattr(self, name), name))
        for name in ("overwrite", "restart", "strict", "sigma"):
            if not isinstance(getattr(self, name), bool):
                raise ArgumentError(f"{name} is {getattr(self, name)!r:.80}", "Give True or False.", argument=name)
        checked_progress(self.progress)
        for name in ("device", "backend"):
            value = getattr(self, name)
            if not isinstance(value, str) and not (name == "backend" and value is None):
                raise ArgumentError(
                    f"{name} is {value!r:.80}, a {type(value).__name__}", "Give it as text: 'cpu'.", argument=name
                )
        cpu.checked_threads(self.threads)
        place_for(self.device, self.backend)

    @property
    def copy_number(self) -> int | None:
        """`copy_from`, if it is the number of a model."""
        given = self.copy_from
        return int(given) if isinstance(given, str) and re.fullmatch("[1-9][0-9]?", given) else None

    def refuse_copy_from(self, models: int, has_base: bool, what: str) -> None:
        """Checks that the model exists whose small files are copied.

        Args:
            models: the number of models, the base not counted.
            what: "the recipe" or "interpolation", for messages.

        Raises:
            ArgumentError: there is no base, or there are fewer models.
        """
        if self.copy_from == "base" and not has_base:
            raise ArgumentError(
                f"copy_from is 'base', but {what} has no base", "Use thinking or instruct.", argument="copy_from"
            )
        if self.copy_number is not None and self.copy_number > models:
            raise ArgumentError(
                f"copy_from is {self.copy_from!r}, but {what} has {models} models",
                "Use thinking or instruct.",
                argument="copy_from",
            )

    @property
    def place(self) -> Place:
        """The device and the backend that compute."""
        return place_for(self.device, self.backend)

    def refuse_method(self, method: str, weighted_sum: bool) -> None:
        """Checks that the backend has the formula of a method.

        Args:
            weighted_sum: see `methods.method.Method`.

        Raises:
            BackendError: the backend is Triton, which has only weighted sums.
        """
        if self.place.backend == "triton" and not weighted_sum:
            raise BackendError(
                f"method {method!r} does not run on backend 'triton', which has only weighted sums of models",
                "Use `backend='cuda'`, or `device='cpu'` with `backend='cpu'`. All give the same bits.",
            )

    @property
    def thread_count(self) -> int:
        """The number of computing threads."""
        return cpu.checked_threads(self.threads)

    @property
    def shard_bytes(self) -> int | None:
        """`max_shard_size` as a number."""
        return checked_size(self.max_shard_size, "max_shard_size")

    @property
    def buffer_bytes(self) -> int | None:
        """`max_memory` as a number."""
        return checked_size(self.max_memory, "max_memory")

    @property
    def out_dtype(self) -> str | None:
        """The requested dtype by its name in safetensors, such as "BF16". None: keep the dtypes of the first model."""
        return None if self.dtype is None else OUTPUTS[self.dtype]


FLAGS: tuple[Field[Any], ...] = tuple(f for f in fields(Options) if f.metadata["help"] is not None)
"""The options that have a flag on the command line, in the order of the help."""


def takes_options(function: F) -> F:
    """Decorates a function that ends with ``**options: Unpack[MergeOptions]``: `help()` shows every option, and names
    that do not fit are refused by `checks_names`."""
    signature = inspect.signature(function)
    named = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    kind = inspect.Parameter.KEYWORD_ONLY
    named += [inspect.Parameter(f.name, kind, default=f.default, annotation=f.type) for f in fields(Options)]
    function.__signature__ = signature.replace(parameters=named)  # type: ignore[attr-defined]
    return checks_names(function)
