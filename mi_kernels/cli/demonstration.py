"""Generate two checkpoints, merge them, check every element, and compare the time with copying the same bytes."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..backends.cpu import default_threads
from ..backends.reference import lerp as reference
from ..checkpoint.open import open_checkpoint
from ..checkpoint.tensor import TensorInfo
from ..checkpoint.virtual import Tensor
from ..errors import MIKernelsError, counted
from ..merge.api import lerp_checkpoint
from ..merge.forecast import Forecast
from ..merge.space import of_folder
from ..output.synthetic import qwen3_like, write_checkpoint
from ..system.progress import OnBytes, Progress, progress_bar
from .text import show_bytes

LAM = 0.8
_ROUNDS = 3
_SHOWN: Progress = "lines"


def demonstrate(folder: Path, size: int, announce: Callable[[Forecast], None]) -> int:
    """Runs the demo in `folder` with checkpoints of `size` bytes, prints the results, and returns the exit status.

    Args:
        announce: called with what the demo will read and write, before it starts.

    Raises:
        OutputError: the disk has too little free space.
        MIKernelsError: an element differs from the reference.
    """
    instruct, thinking, out = folder / "instruct", folder / "thinking", folder / "merged"
    shapes = qwen3_like(size)
    each = sum(2 * math.prod(shape) for shape in shapes.values())
    forecast = _forecast(folder, each)
    forecast.check()
    announce(forecast.measured())
    with progress_bar(_SHOWN, 2 * each, "writing two models") as on_bytes:
        for seed, path in ((1, instruct), (2, thinking)):
            write_checkpoint(path, shapes, seed=seed, shards=3, on_bytes=on_bytes)
    model = open_checkpoint(instruct)
    print(
        f"wrote    2 bf16 checkpoints with the layout of Qwen3, {show_bytes(model.nbytes)} each: "
        f"{counted(len(model.shards), 'shard')}, {counted(len(model.tensors), 'tensor')}"
    )
    merges, copies = [], []
    for i in range(_ROUNDS):  # alternating, so that a change of the machine's speed affects both
        shutil.rmtree(out, ignore_errors=True)
        with progress_bar(_SHOWN, each, f"merge {i + 1} of {_ROUNDS}", then="syncing to disk") as on_bytes:
            report = lerp_checkpoint(instruct, thinking, out, LAM, progress=_steps(on_bytes))
        merges.append(report.seconds)
        with progress_bar(_SHOWN, 2 * each, f"copy {i + 1} of {_ROUNDS}") as on_bytes:
            copies.append(_copy_seconds(instruct, thinking, folder / "copy", on_bytes))
    merge, copy = sorted(merges)[_ROUNDS // 2], sorted(copies)[_ROUNDS // 2]
    moved = report.bytes_read + report.bytes_written
    print(f"merged   at lam {LAM} ({report.isa}, {counted(report.threads, 'thread')}), like `mi-kernels lerp`")
    with progress_bar(_SHOWN, each, "checking every element") as on_bytes:
        different, total = _compare(instruct, thinking, out, on_bytes)
    if different:
        raise MIKernelsError(
            f"demo: {different:,} of {total:,} elements differ from the reference",
            "This is a bug in mi_kernels: report it with the output of `mi-kernels env`.",
        )
    print(f"checked  all {total:,} elements: bit-identical to an independent NumPy reference")
    print(f"merge    {merge:.2f} s, {show_bytes(moved / merge)}/s read and written, synced (median of {_ROUNDS})")
    print(f"copy     {copy:.2f} s for the same bytes: copy one checkpoint, sync it, read the other")
    print(f"ratio    {merge / copy:.2f} (merge / copy)")
    return 0


def _forecast(folder: Path, each: int) -> Forecast:
    """Returns what the demo does with models of `each` bytes: it writes two, and then merges and copies them."""
    written = (2 + 2 * _ROUNDS) * each
    # Inputs, merge and copy exist at one time. All that is read was just written, so it is in the page cache.
    return Forecast((4 * _ROUNDS + 3) * each, [of_folder(str(folder.parent), written, 4 * each)], [])


def _steps(on_bytes: OnBytes) -> Callable[[int, int], None]:
    """Returns a progress function for a merge that calls `on_bytes` with the newly finished bytes."""
    before = 0

    def progress(done: int, total: int) -> None:
        nonlocal before
        on_bytes(done - before)
        before = done

    return progress


def _copy_seconds(copied: Path, read: Path, target: Path, on_bytes: OnBytes) -> float:
    """Returns the time to copy one checkpoint, sync the copy and read the other: a merge moves the same bytes."""
    started = time.perf_counter()
    target.mkdir()
    for file in copied.glob("*.safetensors"):
        shutil.copyfile(file, target / file.name)
        on_bytes(file.stat().st_size)
    for file in target.iterdir():
        fd = os.open(file, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    block = bytearray(1 << 20)
    for file in read.glob("*.safetensors"):
        with open(file, "rb", buffering=0) as stream:
            while count := stream.readinto(block):
                on_bytes(count)
    seconds = time.perf_counter() - started
    shutil.rmtree(target)
    return seconds


def _compare(instruct: Path, thinking: Path, out: Path, on_bytes: OnBytes) -> tuple[int, int]:
    """Returns how many elements of `out` differ from the reference, and how many elements it has."""
    models = [open_checkpoint(path) for path in (instruct, thinking, out)]
    maps = [[np.memmap(path, np.uint8, "r") for path in m.shards] for m in models]

    def bits(which: int, t: Tensor) -> npt.NDArray[np.uint16]:
        assert isinstance(t, TensorInfo)  # this module wrote the model, so it is not quantised and has no adapter
        return np.asarray(maps[which][t.shard][t.begin : t.end]).view(np.uint16)

    def blocks() -> Iterator[tuple[npt.NDArray[np.uint16], ...]]:
        for name in models[0].tensors:
            arrays = [bits(i, m.tensors[name]) for i, m in enumerate(models)]
            for start in range(0, arrays[0].size, 1 << 18):
                yield tuple(array[start : start + (1 << 18)] for array in arrays)

    def differing(block: tuple[npt.NDArray[np.uint16], ...]) -> int:
        a, b, merged = block
        wrong = int(np.count_nonzero(reference.lerp_bf16(a, b, LAM) != merged))
        on_bytes(merged.nbytes)
        return wrong

    total = sum(t.elements for t in models[0].tensors.values())
    with ThreadPoolExecutor(default_threads()) as pool:
        return sum(pool.map(differing, blocks())), total
