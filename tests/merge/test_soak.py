"""Long runs: hundreds of merges and errors in one process leak no memory, no handles and no files."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from mi_kernels import MIKernelsError, lerp_checkpoint, merge_checkpoint, sweep_checkpoint, verify_checkpoint
from mi_kernels.output.folder import OutputFolder

from ..support.checks import World
from ..support.models import INDEX, save, tiny

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts what Linux's /proc shows")

# Allocators take more arenas during the first few hundred runs: 0.4 MB in 204 runs, 2.8 MB in 1,200 runs, then no more.
# A leak of 20 KiB in each run (1.4 KiB in the long test) exceeds this, and so does one map in every 24 runs.
_MEMORY, _MAPS = 4 << 20, 8


class State(NamedTuple):
    """Resources of this process: anonymous and resident bytes, maps, open files, threads, files in the folders."""

    anonymous: int
    resident: int
    maps: int
    files: list[str]
    threads: int
    left: list[str]

    @classmethod
    def now(cls, *folders: Path) -> State:
        gc.collect()
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        sizes = [int(status[key].split()[0]) * 1024 for key in ("RssAnon", "VmRSS")]
        maps = len(Path("/proc/self/maps").read_text().splitlines())
        files = []
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):  # the descriptor of the listing itself
                files.append(os.readlink(f"/proc/self/fd/{fd}"))
        left = [str(p) for folder in folders for p in folder.rglob("*")]
        return cls(sizes[0], sizes[1], maps, sorted(files), len(os.listdir("/proc/self/task")), sorted(left))


class Runs:
    """Correct and wrong uses of two models. Each leaves the folder unchanged."""

    def __init__(self, root: Path) -> None:
        self.world = World(root)
        self.pair = (self.world.instruct, self.world.thinking)
        self.out = self.world.out
        self.wrong = save(root / "wrong", tiny(3, layers=3))
        self.cut = save(root / "cut", tiny(4))
        shard = self.cut / "model.safetensors"
        shard.write_bytes(shard.read_bytes()[:-100])
        self.foreign = save(root / "foreign", tiny(5), 2)
        (self.foreign / INDEX).write_text("{")

    def all(self) -> list[Callable[[], None]]:
        return [
            self.merge, self.sweep, self.ties, self.verified, self.another_shape, self.cut_off, self.no_index,
            self.strict, self.interrupted, self.a_disk_that_fails, self.publishing_fails, self.damaged,
        ]  # fmt: skip

    @contextlib.contextmanager
    def refused(self, error: type[BaseException] = MIKernelsError) -> Iterator[None]:
        with pytest.raises(error):
            yield
        assert not self.out.exists()

    def merge(self) -> None:
        lerp_checkpoint(*self.pair, self.out, 0.5, progress=False, threads=2)
        lerp_checkpoint(*self.pair, self.out, 0.25, overwrite=True, dtype="float32", max_memory=12288, progress=False)
        shutil.rmtree(self.out)

    def sweep(self) -> None:
        for report in sweep_checkpoint(*self.pair, f"{self.out}-{{lam}}", [0, 0.3, 0.6, 1], progress=False):
            shutil.rmtree(report.out)

    def ties(self) -> None:
        recipe = {"method": "ties", "base": str(self.pair[0]), "models": [str(self.pair[1])] * 2, "density": 0.5}
        merge_checkpoint(recipe, self.out, progress=False)
        shutil.rmtree(self.out)

    def verified(self) -> None:
        lerp_checkpoint(*self.pair, self.out, 0.5, progress=False)
        assert verify_checkpoint(self.out, recompute=self.pair, progress=False).right
        shutil.rmtree(self.out)

    def damaged(self) -> None:
        lerp_checkpoint(*self.pair, self.out, 0.5, progress=False)
        shard = min(self.out.glob("*.safetensors"))
        content = bytearray(shard.read_bytes())
        content[-5] ^= 4
        shard.write_bytes(content)
        assert not verify_checkpoint(self.out, recompute=self.pair, progress=False).right
        shutil.rmtree(self.out)

    def another_shape(self) -> None:
        with self.refused():
            lerp_checkpoint(self.pair[0], self.wrong, self.out, 0.5)

    def cut_off(self) -> None:
        with self.refused():
            lerp_checkpoint(self.cut, self.pair[1], self.out, 0.5)

    def no_index(self) -> None:
        with self.refused():
            lerp_checkpoint(self.pair[0], self.foreign, self.out, 0.5)

    def strict(self) -> None:
        with self.refused():  # random bits contain NaN, which is reported after all is written
            lerp_checkpoint(*self.pair, self.out, 0.5, strict=True, progress=False)

    def interrupted(self) -> None:
        def stop(done: int, total: int) -> None:
            if done * 2 > total:
                raise KeyboardInterrupt

        with self.refused(KeyboardInterrupt):
            lerp_checkpoint(*self.pair, self.out, 0.5, progress=stop, max_memory=12288)

    def a_disk_that_fails(self) -> None:
        real, count = os.pwrite, iter(range(100))

        def pwrite(fd: int, data: bytes, offset: int) -> int:
            if next(count) == 3:
                raise OSError(28, "No space left on device")
            return real(fd, data, offset)

        with pytest.MonkeyPatch.context() as patch, self.refused():
            patch.setattr(os, "pwrite", pwrite)
            lerp_checkpoint(*self.pair, self.out, 0.5, progress=False, max_memory=12288)

    def publishing_fails(self) -> None:
        def publish(folder: OutputFolder) -> None:
            raise OSError(5, "Input/output error")

        with pytest.MonkeyPatch.context() as patch, self.refused():
            patch.setattr(OutputFolder, "publish", publish)
            lerp_checkpoint(*self.pair, self.out, 0.5, progress=False)


def soak(root: Path, monkeypatch: pytest.MonkeyPatch, warm: int, count: int) -> None:
    """Runs all uses in turn, `warm` and then `count` times, and compares the resources after both."""
    temporary = root / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # saves time; this test does not depend on the disk
    (root / "w").mkdir()
    runs = Runs(root / "w").all()
    for i in range(warm):
        runs[i % len(runs)]()
    before = State.now(root)
    for i in range(count):
        runs[i % len(runs)]()
    after = State.now(root)
    assert (after.files, after.threads, after.left) == (before.files, before.threads, before.left)
    assert after.maps - before.maps <= _MAPS
    assert after.anonymous - before.anonymous <= _MEMORY
    assert after.resident - before.resident <= _MEMORY


def test_two_hundred_merges_and_refusals_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soak(tmp_path, monkeypatch, 48, 204)


@pytest.mark.slow
def test_thousands_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The same bounds as for two hundred runs, to distinguish a leak from late allocations."""
    if "slow" not in request.config.getoption("-m"):
        pytest.skip("minutes: asked for with -m slow; two hundred runs are its slice")
    soak(tmp_path, monkeypatch, 48, 3000)
