"""A folder that appears by one rename after everything in it is written and synced, or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from types import TracebackType

from ..errors import ClusterError, OutputError
from ..system import calls as system
from ..system import interrupts
from ..system.faults import naming, problem, remedy
from .sidefiles import RECORD

_WORK_SUFFIX = ".mi-kernels-work"
_STAGED, _ASIDE, _JOURNAL = "model", "old", "journal"


class OutputFolder:
    """Context manager: a hidden work folder beside `out`, in which the model is made that `publish` turns into `out`.

        .NAME.mi-kernels-work/     locked while it is in use, so that two processes cannot write one `out`
            model/                 becomes `out`
            journal                what of it is finished, see `mi_kernels.merge.journal`

    Leaving the context removes the work folder and, unless `out` was published, any parent made for it. What a killed
    process left stays as it was found until `prepare` is called, so that a refusal loses nothing of it.

    Args:
        out: the folder to make.
        inputs: folders and files that must survive: `out` may be neither one of them, nor within one, nor around one.
        overwrite: allow replacing a model folder that is there already. It stays in place until the new one is whole.

    Attributes:
        work, staged, journal: the paths of the three.
        published: whether the model stands at `out`.

    Raises:
        OutputError: `out` cannot or must not be written.
    """

    def __init__(self, out: str | os.PathLike[str], inputs: Iterable[str] = (), overwrite: bool = False) -> None:
        self.given = os.fspath(out)
        if not self.given or not _can_be(self.given):
            raise OutputError(f"the output {self.given!r} is not a path", "Name the folder to make.")
        self.path = os.path.realpath(self.given)
        parent, name = os.path.split(self.path)
        self.work = os.path.join(parent, f".{name}{_WORK_SUFFIX}")
        self.staged, self.journal = os.path.join(self.work, _STAGED), os.path.join(self.work, _JOURNAL)
        self._overwrite = overwrite
        self._made_parent: str | None = None
        self._lock = -1
        self._found = False  # the work folder is a killed process's, and not yet taken over
        self._was_empty = False  # `out` is an empty folder that publishing replaces
        self._replaced = False
        self.published = False
        self.protect(inputs)
        if not os.path.exists(self.journal):  # with one, what stands at `out` may be this very merge, see `adopt`
            self.check_target()

    def protect(self, inputs: Iterable[str]) -> None:
        """Refuses an output that touches one of `inputs`."""
        for item in filter(_can_be, inputs):  # opening it refuses what is no path
            real = os.path.realpath(item)
            if real == self.path:
                raise OutputError(
                    f"{self.given}: is the input {item}", "Inputs are never written: choose another output."
                )
            if _within(self.path, real):
                raise OutputError(f"{self.given}: lies inside the input {item}", "Choose an output outside the inputs.")
            if _within(real, self.path):
                raise OutputError(f"{self.given}: holds the input {item}", "Choose an output outside the inputs.")

    def holds(self, path: str) -> bool:
        """Whether `path` is the output or the work folder, or lies in one of them."""
        return any(path == root or _within(path, root) for root in (self.path, self.work))

    def check_target(self) -> None:
        """Refuses what stands at `out`, unless it is an empty folder or a model that may be overwritten."""
        if self.published:
            return
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
        if not any(n == RECORD or n.endswith(".safetensors") for n in present):
            raise OutputError(
                f"{self.given}: does not look like a model folder, so it is not overwritten",
                "Choose another output, or empty it yourself.",
            )

    def free_space(self) -> int:
        """Bytes an ordinary user may still write where `out` will be."""
        return shutil.disk_usage(self._existing_parent()).free

    def used_space(self) -> int:
        """Bytes on disk of what a killed process left: they will be used again, or freed."""
        files = (os.path.join(at, name) for at, _, names in os.walk(self.work) for name in names)
        return sum(os.lstat(path).st_blocks * 512 for path in files)

    def device(self) -> int:
        """The number of the file system where `out` will be."""
        return os.stat(self._existing_parent()).st_dev

    def _existing_parent(self) -> str:
        parent = os.path.dirname(self.path)
        while not os.path.isdir(parent):
            parent = os.path.dirname(parent)
        return parent

    def __enter__(self) -> OutputFolder:
        """Makes the work folder, or takes the one that is there, and locks it.

        Raises:
            OutputError: it cannot be made, or another process has it.
        """
        try:
            with interrupts.held():
                self._enter()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            if isinstance(error, OSError):
                raise OutputError(f"{self.given}: cannot be made: {problem(error)}", remedy(error)) from error
            raise
        return self

    def _enter(self) -> None:
        parent = os.path.dirname(self.path)
        missing = parent
        while not os.path.isdir(missing):
            self._made_parent, missing = missing, os.path.dirname(missing)
        os.makedirs(parent, exist_ok=True)
        while not self._acquire():
            pass
        self._restore()
        if not _is_folder(self.staged):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.staged)
            os.mkdir(self.staged)

    def _restore(self) -> None:
        """Puts an old model back that `_exchange` left aside: it was killed, or failed and could not undo it."""
        aside = os.path.join(self.work, _ASIDE)
        if not os.path.isdir(aside) or os.path.lexists(self.path):
            return
        try:
            os.rename(aside, self.path)
        except OSError as error:
            raise OutputError(
                f"{self.given}: the old model is in {aside} and cannot be put back: {problem(error)}",
                "Rename it yourself, or run the command again.",
            ) from error

    def _acquire(self) -> bool:
        """Locks the work folder. False when it went away meanwhile, with the process that had it."""
        found = False
        try:
            os.mkdir(self.work)
        except FileExistsError:
            found = True
        try:
            return self._take(found)
        except OSError:
            if not found:
                with contextlib.suppress(OSError):  # another process may have taken it
                    os.rmdir(self.work)
            raise

    def _take(self, found: bool) -> bool:
        lock = os.open(self.work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if not _lock(lock):
                raise OutputError(
                    f"{self.given}: another process is writing it", "Wait for it to end, or choose another output."
                )
            try:
                current = os.path.samestat(os.fstat(lock), os.lstat(self.work))
            except FileNotFoundError:
                current = False
            if current:
                self._lock, self._found = lock, found
            return current
        finally:
            if self._lock != lock:
                _close(lock)

    def prepare(self, finished: Collection[str] = ()) -> None:
        """Takes the work folder over: removes what a killed process left in it, but for `finished` and the journal.

        Args:
            finished: names of files of the model. Where there are none, the journal goes as well.
        """
        self._found = False
        kept = {_STAGED, _JOURNAL} if finished else {_STAGED}
        _clear(self.work, kept)
        _clear(self.staged, finished)
        system.sync_folder(os.path.dirname(self.work))

    def write_file(self, name: str, content: bytes) -> None:
        """A small file of the model, synced."""
        path = os.path.join(self.staged, name)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        with naming(path), open(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)

    def publish(self) -> None:
        """Makes the model `out`: atomically, also in place of an old one, which goes when the context is left.

        Raises:
            OutputError: something that must not be overwritten has come into being at `out`.
        """
        if self.published:
            return
        system.sync_folder(self.staged)
        system.sync_folder(self.work)
        if os.path.isdir(self.path) and os.listdir(self.path):
            self.check_target()
            _exchange(self.staged, self.path, os.path.join(self.work, _ASIDE))
            self._replaced = True
        else:
            self._was_empty = os.path.isdir(self.path)
            os.rename(self.staged, self.path)
        self.published = True
        system.sync_folder(os.path.dirname(self.path))

    def withdraw(self) -> None:
        """Undoes `publish`: whatever stood at `out` before stands there again."""
        if not self.published or self._found:
            return
        if self._replaced:
            _exchange(self.staged, self.path, os.path.join(self.work, _ASIDE))
        else:
            os.rename(self.path, self.staged)
            if self._was_empty:
                os.mkdir(self.path)
        self.published = False
        system.sync_folder(os.path.dirname(self.path))

    def adopt(self) -> None:
        """Takes what stands at `out` for published: a killed process got that far, and its files are the right ones."""
        self.published = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with interrupts.held():
            # An adopted output is finished only with the others of its sweep: until then its journal is wanted.
            kept = self._found and (kind is not None or not self.published)
            # A cluster that fails is no one's decision to stop: as after a kill, the same command goes on.
            if kind is not None and issubclass(kind, ClusterError):
                kept = kept or os.path.exists(self.journal)
            try:
                if self._lock >= 0 and not kept:
                    self._remove_work(kind is not None)
            finally:
                if self._lock >= 0:
                    lock, self._lock = self._lock, -1
                    _close(lock)
            if not self.published:
                self._remove_parents()

    def clean(self) -> None:
        """Removes what is in the work folder (the old model, for one), but for the journal, as far as possible.

        The journal goes last of all: until then the same command knows what it finds.

        Raises:
            OutputError: it cannot be removed.
        """
        with self._naming_what_stays():
            _clear(self.work, {_JOURNAL})

    def _remove_work(self, failed: bool) -> None:
        self._restore()
        try:
            self.clean()
            with self._naming_what_stays():
                _remove_folder(self.work)
        except OutputError:
            if not failed:  # else what ended the merge is what the user should read
                raise

    @contextlib.contextmanager
    def _naming_what_stays(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"{self.given}: is made and whole, but {self.work} cannot be removed: {problem(error)}",
                "Remove it yourself, or run the same command again.",
            ) from error

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


def _close(lock: int) -> None:
    with contextlib.suppress(OSError):  # it was only locked
        os.close(lock)


def _can_be(path: str) -> bool:
    """Whether a file can have this name."""
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:  # a lone surrogate
        return False


def _within(inner: str, outer: str) -> bool:
    return inner.startswith(outer.rstrip("/") + "/")


def _is_folder(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _remove(path: str) -> None:
    if _is_folder(path):
        _remove_folder(path)
    else:
        os.unlink(path)


def _remove_folder(path: str) -> None:
    """As far as possible.

    Raises:
        OSError: some of it stays; what kept the first file of that from being removed.
    """
    try:
        shutil.rmtree(path)
    except OSError:
        shutil.rmtree(path, ignore_errors=True)
        if os.path.lexists(path):
            raise


def _clear(folder: str, kept: Collection[str]) -> None:
    """Removes what is in `folder`, but for `kept`, as far as possible; raises as `_remove_folder`."""
    first: OSError | None = None
    for name in os.listdir(folder):
        if name not in kept:
            try:
                _remove(os.path.join(folder, name))
            except OSError as error:
                first = first or error
    if first is not None:
        raise first


def _exchange(one: str, other: str, aside: str) -> None:
    """Swaps two folders: in one step, or by three renames by way of `aside` where the system has no such step."""
    if system.exchange(one, other):
        return
    os.rename(other, aside)
    try:
        os.rename(one, other)
    except BaseException:
        os.rename(aside, other)
        raise
    with contextlib.suppress(OSError):  # it is as well where it is
        os.rename(aside, one)
