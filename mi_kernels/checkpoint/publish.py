"""A folder that appears by one rename after everything in it is written and synced, or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterable
from types import TracebackType

from .. import system
from ..errors import OutputError
from ..faults import naming, problem, remedy

_WORK_SUFFIX = ".mi-kernels-work"


class OutputFolder:
    """Context manager: a hidden work folder beside `out`, which `publish` turns into `out`.

    Leaving the context without `publish` removes the work folder and any parent made for it. A killed process leaves
    the work folder behind; the next run with the same `out` takes it over and starts clean. The work folder is locked
    while it is in use, so that two processes cannot write one `out`.

    Args:
        out: the folder to make.
        inputs: folders and files that must survive: `out` may be neither one of them, nor within one, nor around one.
        overwrite: allow replacing a model folder that is there already. It stays in place until the new one is whole.

    Raises:
        OutputError: `out` cannot or must not be written.
    """

    def __init__(self, out: str | os.PathLike[str], inputs: Iterable[str] = (), overwrite: bool = False) -> None:
        self.given = os.fspath(out)
        if not self.given or "\0" in self.given:
            raise OutputError(f"the output {self.given!r} is not a path", "Name the folder to make.")
        self.path = os.path.realpath(self.given)
        self._overwrite = overwrite
        self._made_parent: str | None = None
        self._lock = -1
        self.published = False
        self.protect(inputs)
        self.check_target()
        parent, name = os.path.split(self.path)
        self.work = os.path.join(parent, f".{name}{_WORK_SUFFIX}")

    def protect(self, inputs: Iterable[str]) -> None:
        """Refuses an output that touches one of `inputs`."""
        for item in inputs:
            real = os.path.realpath(item)
            if real == self.path:
                raise OutputError(
                    f"{self.given}: is the input {item}", "Inputs are never written: choose another output."
                )
            if _within(self.path, real):
                raise OutputError(f"{self.given}: lies inside the input {item}", "Choose an output outside the inputs.")
            if _within(real, self.path):
                raise OutputError(f"{self.given}: holds the input {item}", "Choose an output outside the inputs.")

    def check_target(self) -> None:
        """Refuses what stands at `out`, unless it is an empty folder or a model that may be overwritten."""
        if os.path.islink(self.given) and not os.path.exists(self.given):
            raise OutputError(f"{self.given}: is a link that leads nowhere", "Remove it or choose another output.")
        if not os.path.lexists(self.path):
            return
        if not os.path.isdir(self.path):
            raise OutputError(f"{self.given}: exists and is not a folder", "Choose another output.")
        try:
            present = os.listdir(self.path)
        except OSError as error:
            raise OutputError(f"{self.given}: cannot be listed: {problem(error)}", remedy(error)) from error
        if not present:
            return
        if not self._overwrite:
            raise OutputError(f"{self.given}: exists and is not empty", "Choose another output, or pass --overwrite.")
        if not any(n == "mi_kernels.json" or n.endswith(".safetensors") for n in present):
            raise OutputError(
                f"{self.given}: does not look like a model folder, so it is not overwritten",
                "Choose another output, or empty it yourself.",
            )

    def free_space(self) -> int:
        """Bytes an ordinary user may still write where `out` will be."""
        return shutil.disk_usage(self._existing_parent()).free

    def device(self) -> int:
        """The number of the file system where `out` will be."""
        return os.stat(self._existing_parent()).st_dev

    def _existing_parent(self) -> str:
        parent = os.path.dirname(self.path)
        while not os.path.isdir(parent):
            parent = os.path.dirname(parent)
        return parent

    def __enter__(self) -> OutputFolder:
        parent = os.path.dirname(self.path)
        try:
            missing = parent
            while not os.path.isdir(missing):
                self._made_parent, missing = missing, os.path.dirname(missing)
            os.makedirs(parent, exist_ok=True)
            self._acquire()
        except BaseException as error:
            self._remove_parents()
            if isinstance(error, OSError):
                raise OutputError(f"{self.given}: cannot be made: {problem(error)}", remedy(error)) from error
            raise
        return self

    def _acquire(self) -> None:
        made = False
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.work)
            made = True
        try:
            self._lock = os.open(self.work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            if not _lock(self._lock):
                raise OutputError(
                    f"{self.given}: another process is writing it", "Wait for it to end, or choose another output."
                )
            for name in os.listdir(self.work):  # left by a process that was killed
                _remove(os.path.join(self.work, name))
        except BaseException as error:
            self._release()
            if made and isinstance(error, OSError):  # not where another process has locked it before us
                with contextlib.suppress(OSError):
                    os.rmdir(self.work)
            raise

    def _release(self) -> None:
        if self._lock >= 0:
            fd, self._lock = self._lock, -1
            with contextlib.suppress(OSError):  # it was only locked and synced
                os.close(fd)

    def write_file(self, name: str, content: bytes) -> None:
        """A small file, synced."""
        path = os.path.join(self.work, name)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        with naming(path), open(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)

    def publish(self) -> None:
        """Makes the work folder `out`: atomically, also in place of an old model.

        Raises:
            OSError: `out` is as it was.
            OutputError: likewise; or `published`, and what failed came after.
        """
        with naming(self.work):
            os.fsync(self._lock)
        if os.path.isdir(self.path) and os.listdir(self.path):
            self.check_target()  # it may have come into being since
            # After the exchange the old model has the work folder's name: lock it first, so that nobody takes it over
            # while it is being removed.
            old = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                _lock(old)
                leftover = _exchange(self.work, self.path)
                self.published = True
                self._remove_old(leftover)
            finally:
                with contextlib.suppress(OSError):
                    os.close(old)
        else:
            os.rename(self.work, self.path)
        self._made_parent = None
        self.published = True
        self._sync_parent()

    def _remove_old(self, leftover: str) -> None:
        try:
            _remove(leftover)
        except OSError as error:
            _remove_as_far_as_possible(leftover)
            if not os.path.lexists(leftover):
                return
            raise OutputError(
                f"{self.given}: is made and whole, but the model it replaced cannot be removed: {problem(error)}",
                f"Remove {leftover}",
            ) from error

    def _sync_parent(self) -> None:
        try:
            parent = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(parent)
            finally:
                os.close(parent)
        except OSError as error:
            raise OutputError(
                f"{self.given}: is made and whole, but may be gone after a power failure: {problem(error)}",
                remedy(error),
            ) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self.published and os.path.isdir(self.work):
            _remove_as_far_as_possible(self.work)  # what ended the merge is what the user should read
        self._release()
        self._remove_parents()

    def _remove_parents(self) -> None:
        if self._made_parent is None:
            return
        folder = os.path.dirname(self.path)
        while _within(folder, self._made_parent) or folder == self._made_parent:
            with contextlib.suppress(OSError):  # others use it by now; or it was the one that could not be made
                os.rmdir(folder)
            folder = os.path.dirname(folder)


def _lock(fd: int) -> bool:
    """Takes the exclusive lock of an open folder. False when another process holds it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)  # a file system without locks: go on without
    return True


def _within(inner: str, outer: str) -> bool:
    return inner.startswith(outer.rstrip("/") + "/")


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def _remove_as_far_as_possible(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _exchange(work: str, out: str) -> str:
    """Swaps two folders: in one step, or by three renames where the system has no such step.

    Returns:
        Where what stood at `out` is now: `work`, unless the third rename failed.
    """
    if system.exchange(work, out):
        return work
    aside = work + "-old"
    os.rename(out, aside)
    try:
        os.rename(work, out)
    except BaseException:
        os.rename(aside, out)
        raise
    try:
        os.rename(aside, work)
    except OSError:
        return aside
    return work
