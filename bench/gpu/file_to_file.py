"""File to file through a GPU, compared with the slowest link: writing to disk, PCIe to the GPU, PCIe from the GPU.

The inputs are in the page cache, and outputs are synced. Each link is measured with as many bytes as the merge moves
through it. The CPU path, which `device="auto"` chooses, is measured too.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any

import mi_kernels
from mi_kernels.merge.plan import plan_buffers
from mi_kernels.output.synthetic import Shapes, write_checkpoint
from mi_kernels.output.writer import ShardFile
from mi_kernels.system.calls import io_buffer

from ..files.contestants import read_file
from ..noise import ratios, show, spread
from .clock import Clock
from .contestants import LAM
from .sets import WrongBitsError

LINKS = ("disk write", "PCIe in", "PCIe out")
_BLOCK = 64 << 20
Emit = Callable[[dict[str, Any]], None]


class Files:
    """Two checkpoints in a folder, and their merges."""

    def __init__(self, folder: Path, shapes: Shapes) -> None:
        self.instruct, self.thinking, self.folder = folder / "instruct", folder / "thinking", folder
        for seed, path in ((1, self.instruct), (2, self.thinking)):
            write_checkpoint(path, shapes, seed=seed, shards=2)
        os.sync()

    def warm(self) -> None:
        for path in (*self.instruct.glob("*.safetensors"), *self.thinking.glob("*.safetensors")):
            read_file(path)

    def merge(self, device: str, backend: str | None, keep: bool = False) -> mi_kernels.Report:
        out = self.folder / f"out-{backend or device}"
        report = mi_kernels.lerp_checkpoint(
            self.instruct, self.thinking, out, LAM, device=device, backend=backend, progress=False
        )
        if not keep:
            shutil.rmtree(out)
        return report

    def check(self, backends: Sequence[str]) -> mi_kernels.Report:
        """The report of the CPU path, after every backend has written the same shards.

        Raises:
            WrongBitsError: names the backend and the shard.
        """
        report = self.merge("cpu", None, keep=True)
        for backend in backends:
            self.merge("cuda", backend, keep=True)
            for shard in sorted((self.folder / "out-cpu").glob("*.safetensors")):
                if not filecmp.cmp(shard, self.folder / f"out-{backend}" / shard.name, shallow=False):
                    raise WrongBitsError(f"backend {backend}: {shard.name} differs from that of the CPU path")
            shutil.rmtree(self.folder / f"out-{backend}")
        shutil.rmtree(self.folder / "out-cpu")
        return report


def disk_seconds(folder: Path, size: int) -> float:
    """Seconds to write and sync `size` bytes into one file, with the chunks and workers of a merge."""
    buffers = plan_buffers(os.cpu_count() or 1, None)
    path = folder / "disk"
    started = time.perf_counter()
    file = ShardFile(str(path), size)
    offsets = iter(range(0, size, buffers.chunk))
    failures: list[BaseException] = []

    def write() -> None:
        try:
            chunk = io_buffer(buffers.chunk)
            chunk[:] = os.urandom(len(chunk))  # some disks do not write zeros
            for offset in offsets:
                file.write(chunk, offset)
        except BaseException as error:
            failures.append(error)

    workers = [Thread(target=write) for _ in range(buffers.workers)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]
    file.close()
    seconds = time.perf_counter() - started
    path.unlink()
    return seconds


def link_seconds(clock: Clock, size: int, inwards: bool) -> float:
    """Seconds to copy `size` bytes between pinned and device memory, in blocks larger than the caches."""
    import torch

    host, device = clock.pinned(_BLOCK), torch.empty(_BLOCK, dtype=torch.uint8, device=clock.device)
    to, source = (device, host) if inwards else (host, device)
    source.random_()
    repeats = max(1, min(size // _BLOCK, 32))

    def copies() -> None:
        for _ in range(repeats):
            to.copy_(source, non_blocking=True)

    return clock.kernel(copies) * size / (repeats * _BLOCK)


def measure(
    clock: Clock, folder: Path, shapes: Shapes, backends: Sequence[str], rounds: int, emit: Emit = lambda found: None
) -> dict[str, Any]:
    """Seconds of each link and of each path, which alternate, after a check of the written bytes.

    Args:
        emit: called with what is known after each round.

    Returns:
        bytes_read, bytes_written, the spread of `seconds` by name, the `slowest` link, and for each path the spread of
        its share of that link's speed in the same round, `of_slowest`.

    Raises:
        WrongBitsError: names the backend and the shard.
    """
    files = Files(folder, shapes)
    report = files.check(backends)
    runs: dict[str, list[float]] = {}
    for _ in range(rounds):
        found = {
            "disk write": disk_seconds(folder, report.bytes_written),
            "PCIe in": link_seconds(clock, report.bytes_read, inwards=True),
            "PCIe out": link_seconds(clock, report.bytes_written, inwards=False),
        }
        for name, device, backend in (("cpu", "cpu", None), *((b, "cuda", b) for b in backends)):
            files.warm()
            found[name] = files.merge(device, backend).seconds
        for name, seconds in found.items():
            runs.setdefault(name, []).append(seconds)
        emit(_summary(report, runs, backends))
    return _summary(report, runs, backends)


def _summary(report: mi_kernels.Report, runs: dict[str, list[float]], backends: Sequence[str]) -> dict[str, Any]:
    slowest = max(LINKS, key=lambda name: median(runs[name]))
    return {
        "bytes_read": report.bytes_read,
        "bytes_written": report.bytes_written,
        "seconds": {name: spread(seconds) for name, seconds in runs.items()},
        "slowest": slowest,
        "of_slowest": {name: ratios(runs[slowest], runs[name]) for name in ("cpu", *backends)},
    }


def lines(found: dict[str, Any]) -> list[str]:
    text = [f"file -> file: {found['bytes_read'] / 1e9:.2f} GB read, {found['bytes_written'] / 1e9:.2f} GB written"]
    for name, seconds in found["seconds"].items():
        share = found["of_slowest"].get(name)
        ratio = "" if share is None else f"   {share['median']:.2f} of the slowest link ({found['slowest']})"
        text.append(f"  {name:<12}{show(seconds, 1, 3):>28} s{ratio}")
    return text
