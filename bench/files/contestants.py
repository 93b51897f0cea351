"""The contestants: every way to merge two checkpoints file to file, as a command, and one timed run of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mi_kernels

from .. import machine
from ..models import Layout, checkpoint
from .process import run

LAM = 0.8
MERGEKIT = "mergekit==0.1.5"
NAMES = ("ours", "disk", "cp", "torch", "paper", "mergekit")
MEASURES = ("disk", "cp")  # what a merge is compared with; they do not merge
# Anonymous memory of a contestant, in sizes of the checkpoint. ours and cp stream.
_HELD = {"torch": 1, "paper": 3, "mergekit": 3}
_DROP = Path("/proc/sys/vm/drop_caches")
_BLOCK = 1 << 22


class Bench:
    """Two inputs, and a working folder for the output of the contestants.

    Args:
        home: the folder of the inputs, which are kept, and of the working folder, which `__exit__` removes.
        others: seeds of further inputs, for methods that take more than two models.
    """

    def __init__(self, home: Path, layout: Layout, shards: int = 1, others: Sequence[int] = ()) -> None:
        self.layout = layout
        self.inputs = [checkpoint(home, layout, seed, shards) for seed in (1, 2, *others)]
        self.instruct, self.thinking = self.inputs[:2]
        self.home, self.folder = home, Path(tempfile.mkdtemp(prefix="run-", dir=home))
        self.out = self.folder / "out"
        os.sync()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder)

    def clear(self) -> None:
        """Removes the output of a contestant."""
        shutil.rmtree(self.out)

    def reason_not_to(self, name: str) -> str | None:
        """Why the contestant cannot run on this machine, or None if it can."""
        needed = _HELD.get(name.split()[-1], 0) * self.layout.nbytes
        if needed > 0.9 * machine.available_memory():
            return f"needs about {needed / 1e9:.0f} GB of memory"
        return None

    def command(self, name: str) -> Sequence[str]:
        """The command line of the contestant `name`, which writes `self.out`.

        "ours" takes further options, as in "ours --threads 2".
        """
        a, b, out = map(str, (self.instruct, self.thinking, self.out))
        if name == "cp":
            copy = f"mkdir {out} && cp {a}/*.safetensors {out}/ && sync {out}/*.safetensors"
            return ["sh", "-c", f"{copy} && cat {b}/*.safetensors > /dev/null"]
        if name == "disk":
            return [sys.executable, "-m", "bench.programs.disk", a, out]
        if name in ("paper", "torch"):
            program = {"paper": "paper", "torch": "torch_lerp"}[name]
            return [sys.executable, "-m", f"bench.programs.{program}", a, b, out, str(LAM)]
        if name == "mergekit":
            return [self.program("mergekit-yaml"), str(self._mergekit_config()), out]
        return [*self.program_of_ours(), "lerp", a, b, "-o", out, "--lam", str(LAM), "--quiet", *name.split()[1:]]

    def program_of_ours(self) -> list[str]:
        """mi-kernels of this environment, or of the checkout if it is not installed."""
        found = shutil.which("mi-kernels", path=os.path.dirname(sys.executable))
        return [found] if found else [sys.executable, "-c", "from mi_kernels.cli import main; main()"]

    def program(self, name: str) -> str:
        """The path of the program of another contestant."""
        return str(mergekit(self.home)) if name == "mergekit-yaml" else name

    def _mergekit_config(self) -> Path:
        path = self.folder / "mergekit.yml"
        path.write_text(
            f"merge_method: linear\ndtype: bfloat16\nmodels:\n"
            f"  - model: {self.instruct}\n    parameters: {{weight: {1 - LAM:g}}}\n"
            f"  - model: {self.thinking}\n    parameters: {{weight: {LAM:g}}}\n"
        )
        return path

    def time(self, name: str, cold: bool = False) -> dict[str, Any]:
        """One run, whose output is removed afterwards: the figures of `process.Run`, `sync` and `seconds`.

        sync: seconds to write to disk what the contestant left in the page cache. seconds: the run and sync.
        """
        prepare(self.inputs, cold)
        result = run(self.command(name), env={"HF_HUB_OFFLINE": "1"})
        sync = sync_folder(self.out)
        self.clear()
        os.sync()
        return {"seconds": result.wall + sync, "sync": sync, **asdict(result)}

    def differing(self, name: str) -> float:
        """The share of elements in the output of the contestant that differ from the contract, computed by torch."""
        run(self.command(name), env={"HF_HUB_OFFLINE": "1"})
        share = differing(self.instruct, self.thinking, self.out, LAM)
        self.clear()
        return share


def differing(instruct: Path, thinking: Path, out: Path, lam: float) -> float:
    """The share of bf16 elements in `out` that are not torch.lerp(a.float(), b.float(), lam).to(bf16)."""
    models = [mi_kernels.open_checkpoint(path) for path in (instruct, thinking, out)]
    maps = [[np.memmap(path, np.uint8, "r") for path in m.shards] for m in models]
    wrong = total = 0
    for tensor in models[0].tensors:
        found = [m.tensors[tensor] for m in models]
        columns = [maps[i][t.shard][t.begin : t.end] for i, t in enumerate(found)]
        for at in range(0, len(columns[0]), _BLOCK):
            block = (torch.from_numpy(np.array(x[at : at + _BLOCK])).view(torch.bfloat16) for x in columns)
            a, b, merged = block
            wanted = torch.lerp(a.float(), b.float(), lam).to(torch.bfloat16)
            wrong += int(torch.count_nonzero(wanted.view(torch.int16) != merged.view(torch.int16)))
            total += merged.numel()
    return wrong / total


def prepare(folders: Sequence[Path], cold: bool) -> None:
    """Reads the inputs into the page cache, or with `cold` drops them from it. Pending writes are synced first."""
    os.sync()
    if cold and os.access(_DROP, os.W_OK):
        _DROP.write_text("3")
    for path in (file for folder in folders for file in folder.glob("*.safetensors")):
        if not cold:
            read_file(path)
            continue
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_file(path: Path) -> None:
    """Reads a file into the page cache."""
    block = bytearray(_BLOCK)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(block):
            pass


def how_cold() -> str:
    """What `prepare` drops from the page cache on this machine."""
    return "all of the page cache dropped" if os.access(_DROP, os.W_OK) else "the inputs dropped from the page cache"


def sync_folder(folder: Path) -> float:
    """Writes the files of a folder from the page cache to disk, and returns the seconds."""
    started = time.perf_counter()
    for path in folder.rglob("*.safetensors"):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    return time.perf_counter() - started


def mergekit(home: Path) -> Path:
    """The path of mergekit-yaml, in an environment that is created on first use, or that MERGEKIT_ENV names."""
    place = Path(os.environ.get("MERGEKIT_ENV", home / "mergekit-env"))
    program = place / "bin" / "mergekit-yaml"
    if not program.exists():
        print(f"creating {place} with {MERGEKIT} ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        release = torch.__version__.split("+")[0]
        subprocess.run([place / "bin" / "pip", "install", "-q", f"torch=={release}", MERGEKIT], check=True)
    return program
