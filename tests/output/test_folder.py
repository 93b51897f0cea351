"""The output appears by one rename or not at all, with failures, signals, kills and two processes at once."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from mi_kernels import OutputError, lerp_checkpoint, sweep_checkpoint
from mi_kernels.output import folder as publish
from mi_kernels.output.folder import OutputFolder
from mi_kernels.output.writer import ShardFile
from mi_kernels.system import calls as system

from ..support.checks import World, assert_message, run_cli, snapshot
from ..support.models import assert_same_tensors, load, merge_reference, random_bits, save, tiny


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def merge(world: World, **options: object) -> None:
    lerp_checkpoint(world.instruct, world.thinking, world.out, 0.5, progress=False, **options)  # type: ignore[arg-type]


def work_folder(world: World) -> Path:
    return Path(OutputFolder(world.out, [], overwrite=True).work)


def fail_after(monkeypatch: pytest.MonkeyPatch, writes: int, error: BaseException) -> None:
    """Makes all writes after the first `writes` raise `error`."""
    real, lock, left = ShardFile.write, threading.Lock(), [writes]

    def write(self: ShardFile, data: memoryview, offset: int) -> None:
        with lock:
            left[0] -= 1
            failing = left[0] < 0
        if failing:
            raise error
        real(self, data, offset)

    monkeypatch.setattr(ShardFile, "write", write)


NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("writes", [0, 1, 3])
def test_a_full_disk(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], writes: int, old: bool
) -> None:
    if old:
        save(world.out, tiny(3))
    before = snapshot(world.root)
    fail_after(monkeypatch, writes, NO_SPACE)
    assert run_cli(world.argv("--overwrite", "--max-memory", "8KiB")) == 2
    assert_message(capsys.readouterr().err, str(world.out), os.strerror(errno.ENOSPC))
    assert snapshot(world.root) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), MemoryError()])
def test_every_failure_cleans_up(world: World, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    save(world.out, tiny(3))
    before = snapshot(world.root)
    fail_after(monkeypatch, 1, error)
    with pytest.raises(type(error)):
        merge(world, overwrite=True)
    assert snapshot(world.root) == before


@pytest.mark.parametrize("name", ["config.json", "README.md", "mi_kernels.json", "model.safetensors.index.json"])
def test_a_small_file_that_cannot_be_written(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = snapshot(world.root)
    real = OutputFolder.write_file

    def write_file(self: OutputFolder, given: str, content: bytes) -> None:
        if given == name:
            raise NO_SPACE
        real(self, given, content)

    monkeypatch.setattr(OutputFolder, "write_file", write_file)
    with pytest.raises(OutputError, match=os.strerror(errno.ENOSPC)):
        merge(world)
    assert snapshot(world.root) == before


def test_created_parents_are_removed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(world.root)
    fail_after(monkeypatch, 1, NO_SPACE)
    with pytest.raises(OutputError):
        lerp_checkpoint(world.instruct, world.thinking, world.root / "a" / "b" / "out", 0.5, progress=False)
    assert snapshot(world.root) == before


def test_parents_in_use_are_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(self: ShardFile, data: memoryview, offset: int) -> None:
        (world.root / "a" / "others.txt").write_text("")
        raise NO_SPACE

    monkeypatch.setattr(ShardFile, "write", write)
    with pytest.raises(OutputError):
        lerp_checkpoint(world.instruct, world.thinking, world.root / "a" / "b" / "out", 0.5, progress=False)
    assert [p.name for p in (world.root / "a").iterdir()] == ["others.txt"]


def test_success_leaves_the_output_and_nothing_else(world: World) -> None:
    before = snapshot(world.root)
    lerp_checkpoint(world.instruct, world.thinking, world.root / "a" / "b" / "out", 0.5, progress=False)
    after = snapshot(world.root)
    assert {name: after[name] for name in before} == before
    assert {name for name in after if name not in before and not name.startswith("a/b/out")} == {"a", "a/b"}


def test_the_same_command_again_after_a_failure(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        fail_after(patched, 1, NO_SPACE)
        with pytest.raises(OutputError):
            merge(world)
    merge(world)
    assert_same_tensors(load(world.out), merge_reference(world.a, world.b, 0.5))


def test_the_work_folder_of_a_killed_process_is_reused(world: World) -> None:
    work = work_folder(world)
    (work / "sub").mkdir(parents=True)
    (work / "model-00001-of-00002.safetensors").write_bytes(b"half")
    (work / "sub" / "file").write_bytes(b"")
    (work / "link").symlink_to(world.instruct)
    merge(world)
    assert not work.exists()
    assert not any((world.out / name).exists() for name in ("sub", "link"))
    assert_same_tensors(load(world.out), merge_reference(world.a, world.b, 0.5))
    assert_same_tensors(load(world.instruct), world.a)


def test_the_work_folder_of_a_killed_process_needs_space(world: World) -> None:
    work = work_folder(world)
    (work / "model").mkdir(parents=True)
    files = [work / "journal", work / "model" / "model-00001-of-00002.safetensors"]
    for path in files:
        path.write_bytes(os.urandom(9000))
    used = OutputFolder(world.out).used_space()
    assert used == sum(path.stat().st_blocks * 512 for path in files)


@pytest.mark.parametrize("target", ["file", "link"])
def test_another_file_named_like_the_work_folder_is_rejected(world: World, target: str) -> None:
    """A file or link with the name of the work folder is not ours: a link could point anywhere."""
    work = work_folder(world)
    if target == "file":
        work.write_text("precious")
    else:
        work.symlink_to(world.instruct)
    before = snapshot(world.root)
    with pytest.raises(OutputError):
        merge(world)
    assert snapshot(world.root) == before


def test_a_second_process_with_the_same_output(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    with OutputFolder(world.out, []) as first:
        first.write_file("mine", b"x")
        before = snapshot(world.root)
        assert run_cli(world.argv()) == 2
        assert_message(capsys.readouterr().err, str(world.out), "another process")
        assert snapshot(world.root) == before
        first.publish()
    assert (world.out / "mine").read_bytes() == b"x"


@pytest.mark.parametrize("another", [False, True])
def test_a_work_folder_that_is_removed_while_it_is_locked(
    world: World, monkeypatch: pytest.MonkeyPatch, another: bool
) -> None:
    """The process that used it removes it. A lock on a removed folder protects nothing: create and lock a new one."""
    real, work = publish._lock, work_folder(world)

    def lock(fd: int) -> bool:
        monkeypatch.setattr(publish, "_lock", real)
        work.rmdir()
        if another:
            work.mkdir()
        return real(fd)

    work.mkdir()
    monkeypatch.setattr(publish, "_lock", lock)
    with OutputFolder(world.out, []) as first:
        first.write_file("mine", b"x")
        with pytest.raises(OutputError, match="another process"):
            merge(world)
        first.publish()
    assert (world.out / "mine").read_bytes() == b"x"


def test_a_file_system_without_locks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    merge(world)
    assert_same_tensors(load(world.out), merge_reference(world.a, world.b, 0.5))


def test_overwriting_exchanges_old_and_new(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every moment, OUT is the complete old model or the complete new one."""
    save(world.out, tiny(3), files={"stale.txt": "old"})
    old_inode = world.out.stat().st_ino
    removed: list[int] = []
    real = publish._remove

    def remove(path: str) -> None:
        removed.append(os.stat(path).st_ino)
        assert_same_tensors(load(world.out), merge_reference(world.a, world.b, 0.5))
        real(path)

    monkeypatch.setattr(publish, "_remove", remove)
    merge(world, overwrite=True)
    assert removed == [old_inode]
    assert not (world.out / "stale.txt").exists()


def test_overwriting_where_two_folders_cannot_be_exchanged(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    class OldLibc:
        def __init__(self, *_: object, **__: object) -> None:
            pass

    monkeypatch.setattr(system, "_libc", OldLibc)
    save(world.out, tiny(3))
    before = set(snapshot(world.root))
    merge(world, overwrite=True)
    assert_same_tensors(load(world.out), merge_reference(world.a, world.b, 0.5))
    assert {n for n in snapshot(world.root) if n.partition("/")[0] != "out"} <= before


def test_the_old_model_returns_when_the_second_rename_fails(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    save(world.out, tiny(3))
    before = snapshot(world.root)
    staged, real = str(work_folder(world) / "model"), os.rename

    def rename(source: str, target: str) -> None:
        if source == staged:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(source, target)

    monkeypatch.setattr(system, "_libc", object)
    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OutputError, match=os.strerror(errno.EIO)):
        merge(world, overwrite=True)
    assert snapshot(world.root) == before


def test_the_old_model_returns_at_once_when_the_second_rename_fails(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only when the work folder is removed: a kill before that would leave no model at OUT."""
    save(world.out, tiny(3))
    before = snapshot(world.out)
    with OutputFolder(world.out, [], overwrite=True) as folder:
        real = os.rename

        def rename(source: str, target: str) -> None:
            if source == folder.staged:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            real(source, target)

        monkeypatch.setattr(system, "_libc", object)
        monkeypatch.setattr(os, "rename", rename)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            folder.publish()
        assert snapshot(world.out) == before
    assert snapshot(world.out) == before


def test_an_old_model_that_cannot_return_is_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tiny(3)
    save(world.out, old)
    work, real = work_folder(world), os.rename

    def rename(source: str, target: str) -> None:
        if target == str(world.out):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(source, target)

    monkeypatch.setattr(system, "_libc", object)
    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", rename)
        with pytest.raises(OutputError, match="the old model is in"):
            merge(world, overwrite=True)
    assert_same_tensors(load(work / "old"), old)
    with pytest.raises(OutputError, match="not empty"):  # and it is restored before anything else
        merge(world)
    assert_same_tensors(load(world.out), old)
    merge(world, overwrite=True)
    assert_same_tensors(load(world.out), merge_reference(world.a, world.b, 0.5))
    assert not work.exists()


def test_overwrite_without_an_old_model(world: World) -> None:
    merge(world, overwrite=True)
    assert_same_tensors(load(world.out), merge_reference(world.a, world.b, 0.5))


def test_an_empty_folder_is_filled(world: World) -> None:
    world.out.mkdir()
    merge(world)
    assert_same_tensors(load(world.out), merge_reference(world.a, world.b, 0.5))


def test_a_link_to_an_empty_folder_is_followed(world: World) -> None:
    (world.root / "elsewhere").mkdir()
    world.out.symlink_to(world.root / "elsewhere")
    merge(world)
    assert world.out.is_symlink()
    assert_same_tensors(load(world.root / "elsewhere"), merge_reference(world.a, world.b, 0.5))


def test_an_output_that_appears_during_the_merge(world: World) -> None:
    with OutputFolder(world.out, []) as folder:
        save(world.out, tiny(3))
        before = snapshot(world.out)
        with pytest.raises(OutputError, match="not empty"):
            folder.publish()
    assert snapshot(world.out) == before
    assert not Path(folder.work).exists()


def test_a_second_process_while_the_old_model_is_removed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    save(world.out, tiny(3))
    real, outcomes = publish._remove, []

    def remove(path: str) -> None:
        monkeypatch.setattr(publish, "_remove", real)
        try:
            with OutputFolder(world.out, [], overwrite=True):
                outcomes.append("entered")
        except OutputError as error:
            outcomes.append(error.problem)
        real(path)

    monkeypatch.setattr(publish, "_remove", remove)
    merge(world, overwrite=True)
    assert len(outcomes) == 1
    assert "another process" in outcomes[0]


def test_everything_is_synced_before_it_is_published(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Syncs, in order: the work folder's entry, the files at their final size, their folder, and the entry of OUT."""
    synced: list[str] = []
    real_sync, real_cut, real_rename = os.fsync, os.ftruncate, os.rename

    def fsync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        real_sync(fd)

    def ftruncate(fd: int, size: int) -> None:
        synced.append("cut " + os.readlink(f"/proc/self/fd/{fd}"))
        real_cut(fd, size)

    def rename(source: str, target: str) -> None:
        synced.append("renamed")
        real_rename(source, target)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "ftruncate", ftruncate)
    monkeypatch.setattr("mi_kernels.output.writer.ShardFile.close.__defaults__", (fsync,))
    monkeypatch.setattr(os, "rename", rename)
    merge(world)
    work = str(work_folder(world))
    assert next(path for path in synced if not path.startswith("cut ")) == str(world.root)
    at = synced.index("renamed")
    assert synced[at - 2 : at] == [os.path.join(work, "model"), work]
    files = {p.name for p in world.out.iterdir()}
    assert {os.path.join(work, "model", name) for name in files} < set(synced[: at - 2])
    for path in (os.path.join(work, "model", name) for name in files if name.endswith(".safetensors")):
        assert synced.count(path) == synced.count(f"cut {path}") == 1
        assert synced.index(f"cut {path}") < synced.index(path)
    assert synced[at + 1 :] == [str(world.root)]
    assert "journal" not in files


def test_a_signal_while_outputs_are_published_waits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """All outputs are published or none: the signal takes effect after the last one."""
    real = OutputFolder.publish

    def publish(self: OutputFolder) -> None:
        real(self)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(OutputFolder, "publish", publish)
    lams = [0.25, 0.5, 1.0]
    with pytest.raises(KeyboardInterrupt):
        sweep_checkpoint(world.instruct, world.thinking, str(world.root / "mi-{lam}"), lams, progress=False)
    for lam in lams:
        assert_same_tensors(load(world.root / f"mi-{lam:g}"), merge_reference(world.a, world.b, lam))
    assert not list(world.root.glob(".*"))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


SLOW = """
import sys, time
from mi_kernels.output.writer import ShardFile
from mi_kernels.cli import main
real = ShardFile.write
def write(self, data, offset):
    real(self, data, offset)
    print("writing", flush=True)
    time.sleep(0.5)
ShardFile.write = write
sys.exit(main())
"""


@pytest.fixture
def world_of_a_minute(tmp_path: Path) -> World:
    """Models of 100 chunks: a merge that sleeps after each is still writing, however slowly the test itself runs."""
    a, b = ({**tiny(seed), "long": random_bits((100 * 4096 // 2,), torch.bfloat16, seed)} for seed in (1, 2))
    return World(tmp_path, a, b)


@pytest.fixture
def slow(world_of_a_minute: World) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a slow merge and returns when it has started to write."""
    world = world_of_a_minute
    started: list[subprocess.Popen[str]] = []

    def start(*extra: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SLOW, *world.argv("--max-memory", "4096B", "--io", "buffered", *extra)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True))
        assert started[-1].stdout is not None
        assert started[-1].stdout.readline() == "writing\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("number", "status", "word"), [(signal.SIGINT, 130, "inter"), (signal.SIGTERM, 143, "term")])
@pytest.mark.parametrize("old", [False, True])
def test_signals(
    world_of_a_minute: World, slow: Callable[..., subprocess.Popen[str]], number: int, status: int, word: str, old: bool
) -> None:
    world = world_of_a_minute
    if old:
        save(world.out, tiny(3))
    before = snapshot(world.root)
    process = slow("--overwrite")
    assert work_folder(world).is_dir()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert_message(err, word, "no output is half-done")
    assert snapshot(world.root) == before


def test_the_next_run_reuses_the_work_of_a_killed_one(
    world_of_a_minute: World, slow: Callable[..., subprocess.Popen[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    world = world_of_a_minute
    process = slow()
    assert run_cli(world.argv()) == 2  # it is still writing
    assert_message(capsys.readouterr().err, "another process")
    process.kill()
    process.wait()
    assert work_folder(world).is_dir()
    assert not world.out.exists()
    deadline = time.monotonic() + 30  # the kernel releases the lock of a dead process after a short time
    while (status := run_cli(world.argv("--quiet"))) == 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert status == 0
    assert_same_tensors(load(world.out), merge_reference(world.a, world.b, 0.5))
    assert not work_folder(world).exists()
