"""Two checkpoints in, one model folder out: checked, planned, streamed, published."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from . import dispatch, sidefiles
from ._version import __version__
from .backends import cpu
from .checkpoint import Checkpoint, OutputFolder, TensorInfo, open_checkpoint, plan_shards
from .checkpoint.layout import OutputTensor, encode_index
from .checkpoint.tensor import ITEM_SIZE
from .errors import ArgumentError, BackendError, MismatchError, OutputError
from .lam import checked_lam
from .masks import Layers, Modules
from .pairing import Pair, pair
from .progress import progress_bar
from .recipe import Recipe
from .stream import Plan, Source, plan_buffers, stream

NUMERICS = "Bit-identical to torch.lerp(a.float(), b.float(), lam).to(dtype); lam 0 and 1 copy bytes."
_SPARE = 16 << 20  # bytes left free for small files and the file system's own needs
_DTYPES = {"bf16": "BF16", "bfloat16": "BF16", "fp16": "F16", "float16": "F16", "fp32": "F32", "float32": "F32"}


@dataclass
class Report:
    """What a merge did.

    Attributes:
        out: the folder made.
        seconds: from the first check to the published folder.
        bytes_read, bytes_written: of tensors and headers.
        tensors_interpolated, tensors_copied: their counts; copied ones have weight 0 or 1.
        shards: how many safetensors files were written.
        backend, isa, threads: what did the arithmetic.
        notes: oddities that were handled, a sentence each.
    """

    out: str
    seconds: float
    bytes_read: int
    bytes_written: int
    tensors_interpolated: int
    tensors_copied: int
    shards: int
    backend: str
    isa: str
    threads: int
    notes: list[str] = field(default_factory=list)

    @property
    def gigabytes_per_second(self) -> float:
        """Bytes read and written, in 10^9 bytes per second."""
        return (self.bytes_read + self.bytes_written) / self.seconds / 1e9

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "gigabytes_per_second": round(self.gigabytes_per_second, 3)}


def lerp_checkpoint(
    instruct: str | os.PathLike[str],
    thinking: str | os.PathLike[str],
    out: str | os.PathLike[str],
    lam: float,
    *,
    layers: Layers = None,
    modules: Modules = None,
    device: str = "auto",
    backend: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    max_memory: int | None = None,
    overwrite: bool = False,
    progress: bool | Callable[[int, int], None] = True,
    extrapolate: bool = False,
    copy_from: str = "thinking",
    max_shard_size: int | None = None,
    io: str = "auto",
) -> Report:
    """Writes the model (1 - lam) * instruct + lam * thinking to the folder `out`.

    Every tensor is bit-identical to ``torch.lerp(a.float(), b.float(), lam).to(dtype)``; see `mi_kernels.ops.linear`.
    Memory stays flat whatever the model's size. `out` appears by one rename after everything is written and synced.

    Args:
        instruct, thinking: model folders, or Hub ids ORG/NAME[@REVISION].
        out: the folder to make: INSTRUCT's shard layout, small files from `copy_from`.
        lam: from 0 (instruct) to 1 (thinking); others only with `extrapolate`.
        layers, modules: masks, see `mi_kernels.masks.select`; what they leave out keeps INSTRUCT's bytes.
        device: "auto" or "cpu".
        backend: "cpu", or None for the best.
        dtype: "bfloat16", "float16" or "float32" to convert every floating tensor; None keeps INSTRUCT's dtypes.
        threads: computing threads; None for all cores.
        max_memory: bytes for buffers; None for at most 128 MiB.
        overwrite: replace a model that stands at `out`; it stays until the new one is whole.
        progress: a bar on a terminal's stderr, or a function called with (bytes done, bytes in all).
        copy_from: "thinking" or "instruct": whose config, tokenizer and chat template the output gets.
        max_shard_size: bytes of data in a shard; None keeps INSTRUCT's layout.
        io: "direct" (past the page cache), "buffered", or "auto": direct where the file system can.

    Returns:
        A Report.

    Raises:
        MIKernelsError: a refusal, before anything is written: what is wrong, and the remedy.
        OSError: the disk failed while writing; nothing is left behind.
    """
    started = time.perf_counter()
    recipe = Recipe(checked_lam(lam, extrapolate), layers, modules)
    out_dtype = _checked_dtype(dtype)
    _check_choices(device, copy_from, io, max_shard_size)
    chosen = dispatch.choose(dispatch.Request(backend), dispatch.Machine())
    if chosen != "cpu":
        raise BackendError(f"backend {chosen!r} does not stream checkpoints", "Use 'cpu', or None.")
    thread_count = cpu.checked_threads(threads)
    buffers = plan_buffers(thread_count, max_memory)

    a, b = open_checkpoint(instruct), open_checkpoint(thinking)
    folder = OutputFolder(out, [path for m in (a, b) for path in (m.root, *m.shards)], overwrite)
    pairing = pair(a, b)
    sources = _sources(pairing.pairs, recipe, a, b)
    shards, index = plan_shards(_output_tensors(pairing.pairs, out_dtype), a, max_shard_size)
    small = _small_files(a, b, copy_from, pairing.untied, out_dtype)
    record = _record(recipe, a, b, out_dtype, copy_from, sources)
    small[sidefiles.RECORD] = sidefiles.encode_record(record)
    small["README.md"] = sidefiles.model_card(a, b, record, os.path.basename(folder.path))
    small.update(encode_index(index))
    size = sum(s.size for s in shards)
    _check_space(folder, size + sum(map(len, small.values())))

    plan = Plan(shards, sources, a.shards, b.shards)
    try:
        with folder, progress_bar(progress, size) as on_bytes:
            stream(plan, folder.work, buffers, direct=io != "buffered", on_bytes=on_bytes)
            for name, content in small.items():
                folder.write_file(name, content)
            folder.publish()
    except OSError as error:
        raise OutputError(
            f"{folder.given}: writing failed: {error.strerror or error}",
            "Nothing is left behind, the inputs are untouched.",
        ) from error
    copied = sum(s.weight in (0, 1) for s in sources.values())
    return Report(
        out=folder.given,
        seconds=time.perf_counter() - started,
        bytes_read=sum((s.weight != 1) * s.a.nbytes + (s.weight != 0) * s.b.nbytes for s in sources.values()),
        bytes_written=size,
        tensors_interpolated=len(sources) - copied,
        tensors_copied=copied,
        shards=len(shards),
        backend=chosen,
        isa=cpu.isa(),
        threads=thread_count,
        notes=a.notes + b.notes + pairing.notes + _dtype_notes(pairing.pairs, out_dtype),
    )


def _checked_dtype(dtype: str | None) -> str | None:
    if dtype is None:
        return None
    if dtype not in _DTYPES:
        raise ArgumentError(f"dtype {dtype!r}: unknown", "Use bfloat16, float16 or float32.")
    return _DTYPES[dtype]


def _check_choices(device: str, copy_from: str, io: str, max_shard_size: int | None) -> None:
    if device not in ("auto", "cpu"):
        raise BackendError(f"device {device!r}: this version merges checkpoints on the CPU", "Use 'cpu' or 'auto'.")
    if copy_from not in ("thinking", "instruct"):
        raise ArgumentError(f"copy_from {copy_from!r}: unknown", "Use 'thinking' or 'instruct'.")
    if io not in ("auto", "direct", "buffered"):
        raise ArgumentError(f"io {io!r}: unknown", "Use 'auto', 'direct' or 'buffered'.")
    if max_shard_size is not None and max_shard_size <= 0:
        raise ArgumentError(f"max_shard_size is {max_shard_size}", "Give a positive number of bytes.")


def _sources(pairs: list[Pair], recipe: Recipe, a: Checkpoint, b: Checkpoint) -> dict[str, Source]:
    """A weight for each tensor. What cannot be interpolated must be the same on both sides, and is copied."""
    weights = recipe.weights([p.name for p in pairs])
    fixed = [p for p in pairs if not p.floating]
    for p in fixed:
        if not _same_bytes(a.shards[p.a.shard], p.a, b.shards[p.b.shard], p.b):
            raise MismatchError(
                f"{p.name}: {p.a.dtype} tensors differ between {a.source} and {b.source}, and cannot be interpolated",
                "Only bf16, float16 and float32 tensors can: dequantise or convert the models first.",
            )
        weights[p.name] = 0.0
    return {p.name: Source(p.a, p.b, weights[p.name]) for p in pairs}


def _same_bytes(path_a: str, a: TensorInfo, path_b: str, b: TensorInfo) -> bool:
    with open(path_a, "rb") as file_a, open(path_b, "rb") as file_b:
        file_a.seek(a.begin)
        file_b.seek(b.begin)
        left = a.nbytes
        while left:
            size = min(left, 1 << 20)
            if file_a.read(size) != file_b.read(size):
                return False
            left -= size
    return True


def _output_tensors(pairs: list[Pair], dtype: str | None) -> list[OutputTensor]:
    tensors = []
    for p in pairs:
        out = dtype if dtype is not None and p.floating else p.a.dtype
        nbytes = p.a.elements * ITEM_SIZE[out] if p.floating else p.a.nbytes
        tensors.append(OutputTensor(p.name, out, p.a.shape, nbytes, p.a.shard))
    return tensors


def _dtype_notes(pairs: list[Pair], dtype: str | None) -> list[str]:
    mixed = [p for p in pairs if p.a.dtype != p.b.dtype]
    if not mixed:
        return []
    p = mixed[0]
    return [
        f"{len(mixed)} tensors have two dtypes ({p.name}: {p.a.dtype} and {p.b.dtype}); "
        f"computed in float32, written as {dtype or 'the first one'}"
    ]


def _small_files(a: Checkpoint, b: Checkpoint, copy_from: str, untied: bool, dtype: str | None) -> dict[str, bytes]:
    origin = b if copy_from == "thinking" else a
    files = sidefiles.collect(origin)
    config = "config.json"
    if config in files:
        files[config] = sidefiles.adjust_config(files[config], os.path.join(origin.root, config), untied, dtype)
    return files


def _record(
    recipe: Recipe, a: Checkpoint, b: Checkpoint, dtype: str | None, copy_from: str, sources: dict[str, Source]
) -> dict[str, Any]:
    """What mi_kernels.json holds: enough to make the same folder again."""

    def identity(model: Checkpoint) -> dict[str, Any]:
        return {
            "source": model.source,
            "revision": model.revision,
            "tensors": len(model.tensors),
            "bytes": model.nbytes,
        }

    def plain(mask: object) -> object:
        return mask if mask is None or isinstance(mask, (str, int)) else str(mask)

    copied = sum(s.weight in (0, 1) for s in sources.values())
    return {
        "mi_kernels": __version__,
        "role": "merged",
        "method": "lerp",
        "lam": recipe.lam,
        "layers": plain(recipe.layers),
        "modules": plain(recipe.modules),
        "dtype": dtype,
        "copy_from": copy_from,
        "instruct": identity(a),
        "thinking": identity(b),
        "tensors_interpolated": len(sources) - copied,
        "tensors_copied": copied,
        "numerics": NUMERICS,
    }


def _check_space(folder: OutputFolder, size: int) -> None:
    needed, free = size + _SPARE, folder.free_space()
    if needed > free:
        raise OutputError(
            f"{folder.given}: {needed / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are free",
            "Free some space, or choose another disk.",
        )
