"""Streaming: buffers within the limit, writes on file systems with restrictions, failures that end the stream."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mi_kernels import ArgumentError, CheckpointError, open_checkpoint
from mi_kernels.checkpoint.tensor import TensorInfo
from mi_kernels.merge.plan import CHUNK, DEFAULT_MEMORY, Buffers, Plan, Source, plan_buffers
from mi_kernels.merge.stream import Request, Sink, stream
from mi_kernels.output.layout import OutputTensor, plan_shards
from mi_kernels.output.writer import PAGE, ShardFile

from ..support.models import Tensors, assert_same_tensors, load, random_bits, save


@given(threads=st.integers(1, 1024), memory=st.integers(PAGE, 1 << 40))
def test_buffers_stay_within_their_limit(threads: int, memory: int) -> None:
    buffers = plan_buffers(threads, memory)
    assert buffers.workers >= 1
    assert PAGE <= buffers.chunk <= CHUNK
    assert buffers.chunk % PAGE == 0
    assert buffers.chunk * buffers.workers <= memory


def test_buffers_by_default() -> None:
    assert plan_buffers(4, None) == Buffers(CHUNK, 8)
    most = plan_buffers(1024, None)
    assert most.workers == 1028
    assert most.chunk * most.workers <= DEFAULT_MEMORY


def test_one_page_is_enough_and_less_is_not() -> None:
    assert plan_buffers(8, PAGE) == Buffers(PAGE, 1)
    with pytest.raises(ArgumentError, match="4095"):
        plan_buffers(8, PAGE - 1)


def copies(folder: Path, tensors: Tensors, shards: int = 1) -> Plan:
    """Saves a model with `tensors` at `folder`, and returns a plan that copies it."""
    model = open_checkpoint(save(folder, tensors, shards))
    outputs = [OutputTensor(t.name, t.dtype, t.shape, t.nbytes, t.shard) for t in model.tensors.values()]
    layout, _ = plan_shards(outputs, model)
    sources = {t.name: Source((t, t), (0.0,)) for t in model.tensors.values()}
    return Plan(layout, sources, [model.shards, model.shards])


TENSORS: Tensors = {
    "long": random_bits((3 * PAGE + 7,), torch.bfloat16, 1),
    "bytes": random_bits((PAGE + 1,), torch.uint8, 2),
    "ids": torch.arange(PAGE),
    "empty": torch.empty(0),
    "scalar": torch.tensor(1.5),
    **{f"tiny.{i}": random_bits((i % 3,), torch.float16, i) for i in range(300)},
}


@pytest.mark.parametrize("io", ["buffered", "auto"])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("chunk", [PAGE, 3 * PAGE, CHUNK])
def test_copies(tmp_path: Path, chunk: int, workers: int, io: str) -> None:
    plan = copies(tmp_path / "m", TENSORS, 2)
    out = tmp_path / "out"
    out.mkdir()
    done: list[int] = []
    stream(Request(plan, [str(out)], Buffers(chunk, workers), io), Sink(on_bytes=done.append))
    assert_same_tensors(load(out), TENSORS)
    assert sum(done) == sum(shard.size for shard in plan.shards)
    assert [(out / s.name).stat().st_size for s in plan.shards] == [s.size for s in plan.shards]


def test_memory_is_that_of_the_buffers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every anonymous map is the buffer of a worker, and their number is as planned."""
    import mmap

    sizes: list[int] = []

    def counting(fd: int, length: int, **options: int) -> mmap.mmap:
        if fd == -1:
            sizes.append(length)
        return mmap.mmap(fd, length, **options)

    plan = copies(tmp_path / "m", {"w": torch.zeros(64 * PAGE, dtype=torch.uint8)})
    (tmp_path / "out").mkdir()
    monkeypatch.setattr("mi_kernels.system.calls.mmap", SimpleNamespace(**{**vars(mmap), "mmap": counting}))
    stream(Request(plan, [str(tmp_path / "out")], Buffers(PAGE, 3)))
    assert sizes == [PAGE] * 3


def test_no_more_workers_than_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = copies(tmp_path / "m", {"w": torch.ones(3)})
    (tmp_path / "out").mkdir()
    started: list[str] = []
    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda self: (started.append(self.name), start(self)))
    stream(Request(plan, [str(tmp_path / "out")], Buffers(CHUNK, 50)))
    assert len(started) == 1


def stream_workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("mi-kernels-")]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_failing_write_ends_the_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    plan = copies(tmp_path / "m", TENSORS)
    (tmp_path / "out").mkdir()
    lock, calls = threading.Lock(), []

    def write(self: ShardFile, data: memoryview, offset: int) -> None:
        with lock:
            calls.append(threading.current_thread())
            first = len(calls) == 1
        if first:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        calls[0].join()

    monkeypatch.setattr(ShardFile, "write", write)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        stream(Request(plan, [str(tmp_path / "out")], Buffers(PAGE, workers)))
    assert stream_workers() == []
    # Every other worker finishes its chunk and the chunk that it took in advance, and takes no new one.
    assert len(calls) <= 1 + 2 * (workers - 1) < -(-plan.shards[0].size // PAGE)


def test_the_first_of_several_errors_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Later errors can be consequences of the first one, and would mislead the user."""
    plan = copies(tmp_path / "m", TENSORS)
    (tmp_path / "out").mkdir()
    both, first = threading.Barrier(2), []

    def write(self: ShardFile, data: memoryview, offset: int) -> None:
        if both.wait() == 0:
            first.append(threading.current_thread())
            both.wait()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        both.wait()
        first[0].join()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(ShardFile, "write", write)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        stream(Request(plan, [str(tmp_path / "out")], Buffers(PAGE, 2)))


def test_a_shard_is_reported_after_it_is_closed_in_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal records a reported shard, so the shard must be on the disk by then."""
    plan = copies(tmp_path / "m", TENSORS, 2)
    plan = plan._replace(sources={name: s._replace(weights=(0.0, 0.0)) for name, s in plan.sources.items()})
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    events: list[tuple[str, str]] = []

    class Recorded(ShardFile):
        def __init__(self, path: str, size: int, io: str) -> None:
            super().__init__(path, size, io)
            self.name = os.path.relpath(path, tmp_path)

        def close(self, *_: object) -> None:
            super().close()
            events.append(("closed", self.name))

    def report(output: int, shard: int, sums: object) -> None:
        events.append(("reported", f"{folders[output].name}/{plan.shards[shard].name}"))

    out = [str(folder) for folder in folders]
    stream(Request(plan, out, Buffers(PAGE, 1)), Sink(open=Recorded, on_shard=report))
    assert events == [
        (what, f"{folder.name}/{shard.name}")
        for shard in plan.shards
        for what in ("closed", "reported")
        for folder in folders
    ]


@pytest.mark.parametrize("failing", [0, 1])
def test_a_shard_that_cannot_be_closed_is_not_reported(tmp_path: Path, failing: int) -> None:
    plan = copies(tmp_path / "m", TENSORS, 2)
    (tmp_path / "out").mkdir()
    reported: list[int] = []

    class Failing(ShardFile):
        def __init__(self, path: str, size: int, io: str) -> None:
            super().__init__(path, size, io)
            self.fails = os.path.basename(path) == plan.shards[failing].name

        def close(self, *_: object) -> None:
            if self.fails:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            super().close()

    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        stream(
            Request(plan, [str(tmp_path / "out")], Buffers(PAGE, 1)),
            Sink(open=Failing, on_shard=lambda output, shard, sums: reported.append(shard)),
        )
    assert reported == list(range(failing))


def test_an_interruption_waits_for_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers must not write after the folder is cleaned up."""
    plan = copies(tmp_path / "m", TENSORS)
    (tmp_path / "out").mkdir()
    written: list[int] = []

    def write(self: ShardFile, data: memoryview, offset: int) -> None:
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.2)  # the main thread gets the signal long before this ends
        written.append(offset)

    monkeypatch.setattr(ShardFile, "write", write)
    with pytest.raises(KeyboardInterrupt):
        stream(Request(plan, [str(tmp_path / "out")], Buffers(PAGE, 2)))
    assert stream_workers() == []
    count = len(written)
    time.sleep(0.5)
    assert len(written) == count >= 1


def test_a_failing_callback_ends_the_stream(tmp_path: Path) -> None:
    plan = copies(tmp_path / "m", TENSORS)
    (tmp_path / "out").mkdir()

    def fail(count: int) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        stream(Request(plan, [str(tmp_path / "out")], Buffers(PAGE, 2)), Sink(on_bytes=fail))


def test_a_missing_input(tmp_path: Path) -> None:
    plan = copies(tmp_path / "m", TENSORS)
    (tmp_path / "out").mkdir()
    (tmp_path / "m" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot be mapped"):
        stream(Request(plan, [str(tmp_path / "out")], Buffers(PAGE, 1)))


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    plan = copies(tmp_path / "m", TENSORS, 3)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        stream(Request(plan, [str(tmp_path / name)], Buffers(PAGE, 2)))
    with pytest.raises(FileExistsError):
        stream(Request(plan, [str(tmp_path / "one")], Buffers(PAGE, 2)))
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert after == before


def test_more_shards_than_descriptors(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    tensors = {f"t{i}": torch.full((2,), float(i)) for i in range(200)}
    model = open_checkpoint(save(tmp_path / "m", tensors))
    outputs = [OutputTensor(t.name, t.dtype, t.shape, t.nbytes, t.shard) for t in model.tensors.values()]
    layout, _ = plan_shards(outputs, model, 1)
    plan = Plan(layout, {t.name: Source((t, t), (0.0,)) for t in model.tensors.values()}, [model.shards, model.shards])
    (tmp_path / "out").mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (150, hard))
    try:
        stream(Request(plan, [str(tmp_path / "out")], Buffers(PAGE, 2)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert_same_tensors(load(tmp_path / "out"), tensors)


Pwrite = Callable[[int, memoryview, int], int]


def page_aligned(content: bytes) -> memoryview:
    """Copies `content` to page-aligned memory, which direct writes need."""
    import mmap

    memory = mmap.mmap(-1, -(-len(content) // PAGE) * PAGE)
    memory[: len(content)] = content
    return memoryview(memory)


CONTENT = bytes(range(256)) * 40  # 2.5 pages


def write_all(path: Path, io: str) -> None:
    file = ShardFile(str(path), len(CONTENT), io)
    data = page_aligned(CONTENT)
    for offset in (2 * PAGE, 0, PAGE):  # any order
        file.write(data[offset : offset + PAGE], offset)
    file.close()


@pytest.mark.parametrize("io", ["buffered", "auto"])
def test_a_file_is_cut_to_its_size(tmp_path: Path, io: str) -> None:
    write_all(tmp_path / "f", io)
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_an_existing_file_is_never_written(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        ShardFile(str(tmp_path / "f"), 10)
    assert (tmp_path / "f").read_bytes() == b"old"


def test_a_file_system_without_direct_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system refuses to open the file with O_DIRECT."""
    real = os.open
    direct_flag = getattr(os, "O_DIRECT", 0)
    if not direct_flag:
        pytest.skip("this system has no direct writing")

    def refusing(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & direct_flag:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", refusing)
    write_all(tmp_path / "f", io="auto")
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_a_file_system_that_refuses_the_first_direct_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system opens the file with O_DIRECT, but refuses to write."""
    if not hasattr(os, "O_DIRECT"):
        pytest.skip("this system has no direct writing")
    import fcntl

    real = os.pwrite

    def refusing(fd: int, data: memoryview, offset: int) -> int:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", refusing)
    write_all(tmp_path / "f", io="auto")
    assert (tmp_path / "f").read_bytes() == CONTENT


@pytest.mark.parametrize("step", [1000, PAGE // 2])
@pytest.mark.parametrize("io", ["buffered", "auto"])
def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, io: str) -> None:
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real_short(real, fd, data, offset, step))
    write_all(tmp_path / "f", io)  # the rest no longer starts on a page boundary
    assert (tmp_path / "f").read_bytes() == CONTENT


def real_short(real: Pwrite, fd: int, data: memoryview, offset: int, step: int) -> int:
    """Writes only `step` bytes, through another descriptor, because a direct one needs whole pages."""
    other = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY)
    try:
        return real(other, data[:step], offset)
    finally:
        os.close(other)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_other_errors_are_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def failing(fd: int, data: memoryview, offset: int) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "pwrite", failing)
    with pytest.raises(OSError, match=os.strerror(code)):
        write_all(tmp_path / "f", io="buffered")


def test_a_write_of_zero_bytes_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: 0)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_all(tmp_path / "f", io="buffered")


def test_closing_makes_durable(tmp_path: Path) -> None:
    file = ShardFile(str(tmp_path / "f"), 5, io="buffered")
    file.write(memoryview(b"12345".ljust(PAGE)), 0)  # a whole page, as a stream writes it
    synced: list[int] = []
    file.close(sync=lambda fd: synced.append(os.fstat(fd).st_size))
    assert synced == [5]
    file.abandon()  # harmless


def test_the_size_of_a_tensor_info() -> None:
    info = TensorInfo("w", "BF16", (2, 3), 0, 100, 112)
    assert (info.nbytes, info.elements) == (12, 6)
    assert info._replace(shape=()).elements == 1
