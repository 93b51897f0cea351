"""Mapped inputs that shrink, change or become unreadable during a merge: it is rejected, and the process survives."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mi_kernels import CheckpointError, _cpu, lerp_checkpoint, merge_checkpoint, similarity
from mi_kernels.checkpoint import header
from mi_kernels.checkpoint.inputs import Inputs
from mi_kernels.checkpoint.mapped import MappedFile
from mi_kernels.checkpoint.tensor import TensorInfo

from ..support.changing import at_operand, write_one_byte
from ..support.checks import World, snapshot
from ..support.models import assert_same_tensors, bits, load, merge_reference, random_bits

PAGE = mmap.PAGESIZE
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def world_of(root: Path, elements: int = 20_000) -> World:
    """Models of two shards, each of several pages and many tensors."""
    a, b = (
        {f"model.layers.0.mlp.{i}.weight": random_bits((elements,), torch.bfloat16, seed + i) for i in range(6)}
        for seed in (1, 100)
    )
    return World(root, a, b)


def lerp(world: World) -> None:
    lerp_checkpoint(world.instruct, world.thinking, world.out, 0.5, progress=False, max_memory=8 * PAGE, threads=2)


def ties(world: World) -> None:
    recipe = {
        "method": "ties",
        "base": str(world.instruct),
        "models": [str(world.thinking)],
        "density": 0.5,
    }
    merge_checkpoint(recipe, world.out, progress=False)


def compare(world: World) -> None:
    similarity(world.instruct, world.thinking, progress=False)


@pytest.mark.parametrize("size", [0, PAGE, 3 * PAGE + 5])
@pytest.mark.parametrize("reader", [lerp, ties, compare])
def test_a_shard_that_shrinks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: Callable[[World], None], size: int
) -> None:
    world = world_of(tmp_path)
    shard = world.thinking / SECOND
    before = shard.stat().st_size
    at_operand(monkeypatch, 0, lambda: os.truncate(shard, size))
    with pytest.raises(CheckpointError) as refusal:
        reader(world)
    words = (str(shard), "shorter while it was read", f"from {before:,} to {size:,} bytes", "in model.layers.0.mlp.")
    assert [word for word in words if word not in refusal.value.problem] == []
    assert {p.name for p in tmp_path.iterdir()} == {"instruct", "thinking"}


def shrink_within_the_last_page(shard: Path) -> None:
    """Causes no signal: the kernel keeps the page, and the end of it reads as zeros."""
    assert shard.stat().st_size % PAGE > 1
    os.truncate(shard, shard.stat().st_size - 1)


def replace(shard: Path) -> None:
    """Replaces the file as an editor or a download does: a program that has opened the old file still reads it."""
    copy = shard.with_name("copy")
    copy.write_bytes(shard.read_bytes())
    times = shard.stat()
    os.utime(copy, ns=(times.st_atime_ns, times.st_mtime_ns))
    os.replace(copy, shard)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (shrink_within_the_last_page, "bytes since it was opened|has become shorter"),
        (write_one_byte, "has been written"),
        (replace, "replaced by another file"),
        (os.unlink, "no longer readable|No such file"),
    ],
)
@pytest.mark.parametrize("reader", [lerp, ties, compare])
def test_an_input_that_changes_without_a_signal(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reader: Callable[[World], None],
    change: Callable[[Path], None],
    words: str,
) -> None:
    world = world_of(tmp_path)
    at_operand(monkeypatch, 1, lambda: change(world.instruct / FIRST))
    with pytest.raises(CheckpointError) as refusal:
        reader(world)
    assert refusal.value.problem.startswith(f"{world.instruct / FIRST}: ")
    assert re.search(words, refusal.value.problem)
    assert not world.out.exists()


def test_an_input_that_is_replaced_after_its_header_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The map is a map of the new file then, and reading it causes no signal."""
    world, real = world_of(tmp_path), Inputs.__init__

    def opened(self: Inputs, models: list[list[str]]) -> None:
        replace(world.thinking / FIRST)
        real(self, models)

    monkeypatch.setattr(Inputs, "__init__", opened)
    with pytest.raises(CheckpointError, match="replaced by another file"):
        lerp(world)
    assert not world.out.exists()


def test_an_input_that_is_written_while_its_header_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state before reading the header counts, because the header may be from the old or the new state."""
    world, real = world_of(tmp_path), header._read
    shard = world.thinking / FIRST

    def read(path: str) -> bytes:
        text = real(path)
        if path == str(shard):
            write_one_byte(shard)
        return text

    monkeypatch.setattr(header, "_read", read)
    with pytest.raises(CheckpointError, match="has been written"):
        lerp(world)
    assert not world.out.exists()


@pytest.mark.parametrize("way", ["truncate", "rewrite", "replace"])
def test_inputs_changed_at_any_moment(tmp_path: Path, way: str) -> None:
    """A thread changes a shard at a random time: the merge is rejected, or complete because the change was too late."""
    world = world_of(tmp_path, 60_000)
    shard = world.thinking / FIRST
    content, expected = shard.read_bytes(), merge_reference(world.a, world.b, 0.5)
    times = random.Random(way)

    def change(after: float) -> None:
        time.sleep(after)
        if way == "truncate":
            os.truncate(shard, times.randrange(len(content)))
        elif way == "rewrite":
            shard.write_bytes(content[::-1])
        else:
            replace(shard)

    def refusal() -> str:
        try:
            lerp_checkpoint(world.instruct, world.thinking, world.out, 0.5, overwrite=True, progress=False)
        except CheckpointError as error:
            return error.problem
        return ""

    began = time.perf_counter()
    assert not refusal()
    undisturbed = time.perf_counter() - began  # on a slow machine a fixed time would always be too early
    refusals = []
    for _ in range(25):
        thread = threading.Thread(target=change, args=(times.uniform(0, undisturbed),))
        thread.start()
        refusals.append(refusal())
        thread.join()
        if not refusals[-1]:
            assert_same_tensors(load(world.out), expected)
        shard.write_bytes(content)
    assert any(refusals)
    assert all(str(shard) in problem for problem in refusals if problem)


def mapped(path: Path, pages: int = 4) -> MappedFile:
    path.write_bytes(os.urandom(pages * PAGE))
    return MappedFile(str(path))


def test_a_read_error_is_distinguished_from_a_change(tmp_path: Path) -> None:
    """The file has its old size and time again when they are checked, as after an error of the disk."""
    path = tmp_path / "f"
    with mapped(path) as file:
        file.check_length(TensorInfo("first", "U8", (PAGE,), 0, 0, PAGE))
        file.check_length(TensorInfo("second", "U8", (3 * PAGE,), 0, PAGE, 4 * PAGE))
        status = path.stat()
        os.truncate(path, 0)
        assert file.data[2 * PAGE + 5] == 0
        assert bytes(file.data[3 * PAGE :]) == bytes(PAGE)
        os.truncate(path, status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        with pytest.raises(CheckpointError, match=f"reading in second failed at byte {2 * PAGE}: the disk"):
            file.check()


def test_every_check_reports_damage(tmp_path: Path) -> None:
    """Workers share the maps of a merge, and later merges in memory use them again: the mark must stay."""
    path = tmp_path / "f"
    path.write_bytes(os.urandom(4 * PAGE))
    tensor = TensorInfo("tensor", "U8", (4 * PAGE,), 0, 0, 4 * PAGE)
    with Inputs([[str(path)]]) as inputs:
        inputs.check_length(0, tensor)
        inputs.check()
        os.truncate(path, PAGE)
        data, at, _ = inputs.operand(0, tensor, 2 * PAGE, 1)
        assert memoryview(data)[at] == 0
        for _ in range(3):
            with pytest.raises(CheckpointError, match=f"reading in tensor failed at byte {2 * PAGE}"):
                inputs.check()


def test_maps_have_marks_of_their_own(tmp_path: Path) -> None:
    """Two merges in one process: the one with an intact input continues. A reused slot starts without a mark."""
    with mapped(tmp_path / "a") as sound, mapped(tmp_path / "b") as broken:
        content = bytes(sound.data)
        os.truncate(tmp_path / "b", PAGE + 1)
        whole = bytes(broken.data)
        assert whole[2 * PAGE :] == bytes(2 * PAGE)
        sound.check()
        assert bytes(sound.data) == content
        with pytest.raises(CheckpointError, match=f"at byte {2 * PAGE}"):
            broken.check()
    with mapped(tmp_path / "c") as later, mapped(tmp_path / "d") as last:
        later.check()
        last.check()


def test_a_guard_ends_where_its_map_does(tmp_path: Path) -> None:
    """The guard maps zeros over the rest of a damaged map, but not over the next map."""
    files = [mapped(tmp_path / str(number), 1) for number in range(64)]
    by_place = {address(file.data): file for file in files}
    below = next(place for place in by_place if place + PAGE in by_place)
    broken, behind = by_place[below], by_place[below + PAGE]
    content = bytes(behind.data)
    os.truncate(broken.path, 0)
    assert bytes(broken.data) == bytes(PAGE)
    assert bytes(behind.data) == content
    behind.check()
    for file in files:
        file.__exit__()


def test_unguarding_from_another_thread_and_out_of_order(tmp_path: Path) -> None:
    first = mapped(tmp_path / "a")
    second: list[MappedFile] = []
    thread = threading.Thread(target=lambda: second.append(mapped(tmp_path / "b")))
    thread.start()
    thread.join()
    first.__exit__()
    os.truncate(tmp_path / "b", 0)
    assert second[0].data[0] == 0
    second[0].__exit__()


def address(data: memoryview) -> int:
    return int(np.frombuffer(data, np.uint8).ctypes.data)


def is_mapped(path: Path) -> bool:
    return str(path) in Path("/proc/self/maps").read_text()


def page_at(place: int) -> memoryview | None:
    """Maps a new page at exactly that address and never unmaps it. Returns None if the address is in use."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
    fixed_noreplace = 0x100000
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | fixed_noreplace
    if libc.mmap(place, PAGE, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0) != place:
        return None
    return memoryview((ctypes.c_char * PAGE).from_address(place)).cast("B")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc and MAP_FIXED_NOREPLACE")
def test_dropping_a_map_ends_its_guard(tmp_path: Path) -> None:
    """Otherwise the next fault at the old addresses maps zeros over other memory that is there now.

    This happened: the memory held Python frames of a thread, and the interpreter crashed in another test.
    """
    path = tmp_path / "f"
    for pages in range(100, 1000, 9):
        dropped = mapped(path, pages)
        end = address(dropped.data) + len(dropped.data)
        del dropped
        assert not is_mapped(path)
        # A new page takes the end of the gap. The same file, one page shorter, is mapped into the rest of it.
        neighbour = page_at(end - PAGE)
        with mapped(path, pages - 1) as file:
            if neighbour is None or address(file.data) + len(file.data) != end - PAGE:
                continue  # another thread took the address, or the kernel chose another gap
            neighbour[:] = b"\xa5" * PAGE
            os.truncate(path, 0)
            assert file.data[-1] == 0
        assert bytes(neighbour) == b"\xa5" * PAGE
        return
    pytest.fail("no map was placed where another one had been")


def test_a_view_may_outlive_its_file(tmp_path: Path) -> None:
    with mapped(tmp_path / "f") as file:
        whole, view = bytes(file.data), file.data[PAGE : 3 * PAGE]
    assert len(file.data) == 0
    assert bytes(view) == whole[PAGE : 3 * PAGE]
    os.truncate(tmp_path / "f", 2 * PAGE)
    assert bytes(view) == whole[PAGE : 2 * PAGE] + bytes(PAGE)
    del view
    if sys.platform.startswith("linux"):
        assert not is_mapped(tmp_path / "f")


def test_a_closed_file_is_unmapped_whoever_refers_to_it(tmp_path: Path) -> None:
    """Frames of a traceback can refer to it. The disk could not be unmounted while the error was alive."""
    with mapped(tmp_path / "f") as file:
        data = file.data
    with pytest.raises(ValueError, match="released"):
        len(data)
    if sys.platform.startswith("linux"):
        assert not is_mapped(tmp_path / "f")


def test_what_cannot_be_mapped(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(CheckpointError, match="cannot be mapped: the file is empty"):
        MappedFile(str(tmp_path / "empty"))
    with pytest.raises(CheckpointError, match="cannot be mapped"):
        MappedFile(str(tmp_path))
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        _cpu.GuardedMap(-1)


SETUP = """
import faulthandler, mmap, os, resource, signal, tempfile
from mi_kernels import _cpu
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core is evidence of a crash that nobody meant
PAGE = mmap.PAGESIZE
def shrunk(kind):
    file = tempfile.TemporaryFile()
    file.truncate(4 * PAGE)
    data = kind(file.fileno())
    file.truncate(0)
    return data
def ours(): return shrunk(_cpu.GuardedMap)
def read(data): return memoryview(data)[9]
foreign = shrunk(lambda fd: mmap.mmap(fd, 0, prot=mmap.PROT_READ))
"""

# What a process does, its exit status, and a word of its output.
PROCESSES = {
    "ours": ("n = ours(); read(n); print(n.damage)", 0, "0"),
    "ours, faulthandler": ("faulthandler.enable(); read(ours()); print('fine')", 0, "fine"),
    "foreign": ("n = ours(); read(foreign)", -signal.SIGBUS, ""),
    "foreign, faulthandler": ("faulthandler.enable(); n = ours(); read(foreign)", -signal.SIGBUS, "Bus error"),
    "foreign, faulthandler above": ("n = ours(); faulthandler.enable(); read(foreign)", -signal.SIGBUS, "Bus"),
    "foreign, ignored": ("signal.signal(7, signal.SIG_IGN); n = ours(); read(foreign)", -signal.SIGBUS, ""),
    "afterwards": ("ours(); read(foreign)", -signal.SIGBUS, ""),
    "afterwards, faulthandler": ("faulthandler.enable(); ours(); read(foreign)", -signal.SIGBUS, "Bus error"),
    "afterwards, faulthandler above": (
        "n = ours(); faulthandler.enable(); del n; read(foreign)",
        -signal.SIGBUS,
        "Bus error",
    ),
    "again": ("ours(); n = ours(); read(n); print(n.damage)", 0, "0"),
    "again, taken out of the chain": (
        "faulthandler.enable(); n = ours(); faulthandler.disable(); del n; n = ours(); read(n); print('fine')",
        0,
        "fine",
    ),
    "sent": ("n = ours(); os.kill(os.getpid(), signal.SIGBUS); print('alive')", -signal.SIGBUS, ""),
    "sent, ignored": (
        "signal.signal(7, signal.SIG_IGN); n = ours(); os.kill(os.getpid(), 7); print('alive')",
        0,
        "alive",
    ),
    "sent, handled": (
        "signal.signal(7, lambda *_: print('handled')); n = ours(); os.kill(os.getpid(), 7)",
        0,
        "handled",
    ),
    "in a fork": (
        "n = ours()\n"
        "if os.fork() == 0: read(n); os._exit(n.damage != 0)\n"
        "assert os.wait()[1] == 0 and n.damage is None; read(n); print(n.damage)",
        0,
        "0",
    ),
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the numbers of signals are Linux's")
@pytest.mark.parametrize("case", PROCESSES)
def test_signal_handlers_of_other_libraries(case: str) -> None:
    code, status, word = PROCESSES[case]
    done = subprocess.run([sys.executable, "-c", SETUP + code], capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert word in done.stdout + done.stderr
    assert status == 0 or "alive" not in done.stdout


def test_a_merge_continues_while_another_one_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sound").mkdir()
    (tmp_path / "broken").mkdir()
    sound, broken = world_of(tmp_path / "sound"), world_of(tmp_path / "broken")
    before = snapshot(sound.instruct)

    def fail() -> None:
        os.truncate(broken.instruct / FIRST, 0)
        with MappedFile(str(broken.instruct / SECOND)) as file:
            os.truncate(broken.instruct / SECOND, 0)
            assert file.data[-1] == 0

    at_operand(monkeypatch, 1, fail)
    lerp(sound)
    assert_same_tensors(load(sound.out), merge_reference(sound.a, sound.b, 0.5))
    assert snapshot(sound.instruct) == before
    assert bits(load(sound.out)["model.layers.0.mlp.0.weight"])
