"""Merges on real disks that fail, and at real limits: I/O errors, read-only disks, permissions, open files, paths."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mi_kernels import CheckpointError, lerp_checkpoint, similarity
from mi_kernels.output.folder import OutputFolder

from ..support.checks import World, assert_message, assert_refused, run_cli, snapshot
from ..support.models import random_bits, save

needs_root = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0, reason="only root can mount and change the user"
)


def command(*words: object) -> str:
    """Runs a system program. Skips the test if the program is missing or not permitted."""
    try:
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"{words[0]}: {error.strerror}")
    if done.returncode != 0:
        pytest.skip(f"{words[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


@contextlib.contextmanager
def mounted(folder: Path, *words: object) -> Iterator[Path]:
    folder.mkdir()
    command("mount", *words, folder)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def dying_disk(tmp_path: Path) -> Iterator[World]:
    """Two models on a disk whose second half is missing. Reading there is an I/O error."""
    image = tmp_path / "image"
    image.touch()
    os.truncate(image, 24 << 20)
    command("mkfs.ext4", "-q", "-O", "^has_journal", "-b", "4096", image)
    device = command("losetup", "--find", "--show", image)
    try:
        with mounted(tmp_path / "disk", device) as folder:
            # Much larger than half of the disk, so that both files extend into the missing half.
            a, b = (
                {f"w.{i}": random_bits((1 << 19,), torch.bfloat16, seed + i) for i in range(10)} for seed in (1, 50)
            )
            world = World(folder, a, b, shards=1)
            files = [folder / name / "model.safetensors" for name in ("instruct", "thinking")]
            for path in files:
                fd = os.open(path, os.O_RDWR)
                os.fsync(fd)
                os.posix_fadvise(fd, 1 << 16, 0, os.POSIX_FADV_DONTNEED)  # all but the header
                os.close(fd)
            os.truncate(image, 10 << 20)
            yield world
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@needs_root
@pytest.mark.parametrize("command", ["lerp", "compare"])
def test_an_io_error_in_a_mapped_file(dying_disk: World, tmp_path: Path, command: str) -> None:
    models = (dying_disk.instruct, dying_disk.thinking)
    reader = {
        "lerp": lambda: lerp_checkpoint(*models, tmp_path / "out", 0.5, progress=False),
        "compare": lambda: similarity(*models, progress=False),
    }[command]
    with pytest.raises(CheckpointError) as refusal:
        reader()
    assert "model.safetensors: reading in w." in refusal.value.problem
    assert "the disk or its network connection failed" in refusal.value.problem
    assert not (tmp_path / "out").exists()


@needs_root
def test_a_read_only_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(tmp_path)
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "ro,size=40m", "none") as disk:
        for out in (disk / "out", disk / "a" / "out"):
            assert_refused(capsys, tmp_path, world.argv("-o", out), str(out), os.strerror(errno.EROFS), "read-only")


@needs_root
def test_a_disk_that_becomes_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As ext4 does after an error. The next run removes the work folder."""
    from mi_kernels.output.folder import OutputFolder

    world = World(tmp_path)
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=40m", "none") as disk:
        real = OutputFolder.write_file

        def write_file(self: OutputFolder, name: str, content: bytes) -> None:
            command("mount", "-o", "remount,ro", disk)
            real(self, name, content)

        with monkeypatch.context() as patched:
            patched.setattr(OutputFolder, "write_file", write_file)
            assert run(world, disk / "out") == 2
        assert_message(capsys.readouterr().err, str(disk / "out"), os.strerror(errno.EROFS), "read-only")
        assert not (disk / "out").exists()
        command("mount", "-o", "remount,rw", disk)
        assert run(world, disk / "out") == 0
        assert [path.name for path in disk.iterdir()] == ["out"]


def run(world: World, out: Path) -> int:
    from ..support.checks import run_cli

    return run_cli(world.argv("--quiet", "-o", out))


# The first run is as root, because other users may not be allowed to read the interpreter's folder.
AS_NOBODY = """
import os, shutil, sys
from mi_kernels.cli import main
warm = sys.argv[-1] + "-warm"
assert main([*sys.argv[1:-1], warm]) == 0
shutil.rmtree(warm)
os.seteuid(65534)
sys.exit(main())
"""


@needs_root
@pytest.mark.parametrize("closed", ["parent", "shard", "config", "folder"])
def test_missing_permissions(closed: str) -> None:
    """Runs as another user, because root has all permissions."""
    root = Path(tempfile.mkdtemp())  # other users cannot read pytest's own folders
    try:
        root.chmod(0o755)
        world = World(root)
        for path in root.glob("*/*"):
            path.chmod(0o644)
        home = root / "home"
        home.mkdir(mode=0o777 if closed != "parent" else 0o755)
        home.chmod(0o777 if closed != "parent" else 0o755)
        shut = {"shard": "thinking/model-00001-of-00002.safetensors", "config": "instruct/config.json"}
        path = {"parent": home / "out", "folder": world.thinking}.get(closed) or root / shut[closed]
        if closed != "parent":
            path.chmod(0)
        before = snapshot(root)
        argv = [sys.executable, "-c", AS_NOBODY, *world.argv("--quiet", "-o", home / "out")]
        done = subprocess.run(argv, capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        assert_message(done.stderr, str(path), os.strerror(errno.EACCES), "Get permission to")
        assert snapshot(root) == before
    finally:
        shutil.rmtree(root)


LIMITED = """
import resource, sys
name, value = sys.argv.pop(1), int(sys.argv.pop(1))
import mi_kernels.merge, safetensors.numpy
resource.setrlimit(getattr(resource, name), (value, resource.getrlimit(getattr(resource, name))[1]))
from mi_kernels.cli import main
sys.exit(main())
"""


def limited(name: str, value: int, argv: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", LIMITED, name, str(value), *argv], capture_output=True, text=True)


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    """SIGXFSZ, which the system sends at this limit, does not end the process."""
    world = World(tmp_path)
    before = snapshot(tmp_path)
    done = limited("RLIMIT_FSIZE", 4096, world.argv("--quiet"))
    assert done.returncode == 2, done.stderr
    assert_message(done.stderr, str(world.out), os.strerror(errno.EFBIG), "ulimit -f")
    assert snapshot(tmp_path) == before


def test_a_limit_on_open_files(tmp_path: Path) -> None:
    tensors = {f"w.{i}": torch.full((10,), float(i)) for i in range(60)}
    world = World(tmp_path, tensors, tensors, shards=60)
    before = snapshot(tmp_path)
    done = limited("RLIMIT_NOFILE", 64, world.argv("--quiet"))
    assert done.returncode == 2, done.stderr
    assert_message(done.stderr, str(world.root), os.strerror(errno.EMFILE), "ulimit -n")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    "name",
    ["n" * 256, "n" * 250, "/".join(["n" * 200] * 25)],
    ids=["component", "component of the work folder", "path"],
)
def test_a_path_that_is_too_long(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    world = World(tmp_path)
    assert_refused(capsys, tmp_path, world.argv("-o", tmp_path / name), os.strerror(errno.ENAMETOOLONG), "shorter")


def test_an_input_whose_path_is_too_long(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(tmp_path)
    long = "/".join(["n" * 200] * 25)
    argv = ["lerp", str(world.instruct), long, "-o", str(world.out), "--lam", "0.5"]
    assert_refused(capsys, tmp_path, argv, "no such folder")


def test_too_little_space_for_all_outputs_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    """The free space is compared with the sum of all outputs. Each of the two alone would fit."""
    from mi_kernels import OutputError, sweep_checkpoint
    from mi_kernels.output.folder import OutputFolder

    model = {"w": torch.zeros(1 << 20)}
    save(tmp_path / "a", model)
    save(tmp_path / "b", model)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(OutputFolder, "free_space", lambda self: (16 << 20) + (6 << 20))
        before = snapshot(tmp_path)
        with pytest.raises(OutputError, match="of free space"):
            sweep_checkpoint(tmp_path / "a", tmp_path / "b", str(tmp_path / "m-{lam}"), [0.2, 0.8], progress=False)
        assert snapshot(tmp_path) == before
        lerp_checkpoint(tmp_path / "a", tmp_path / "b", tmp_path / "one", 0.2, progress=False)


@needs_root
@pytest.mark.parametrize("checked", [True, False])
def test_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checked: bool
) -> None:
    """The check finds it. If the disk fills up after the check, the failing write ends the merge."""
    world = World(tmp_path)
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=1m", "none") as disk:
        (disk / "others").write_bytes(bytes(1020 << 10))
        if not checked:
            monkeypatch.setattr(OutputFolder, "free_space", lambda self: 1 << 40)
        before = snapshot(world.root)
        assert run_cli(world.argv("-o", disk / "out")) == 2
        assert_message(capsys.readouterr().err, "of free space" if checked else os.strerror(errno.ENOSPC))
        assert snapshot(world.root) == before
