"""Publishes an output folder atomically: by one rename, after all of its files are written and synced."""

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
from ..system.disk_space import existing_folder, free_space
from ..system.faults import naming, problem, remedy
from .sidefiles import RECORD

_WORK_SUFFIX = ".mi-kernels-work"
_STAGED, _ASIDE, _JOURNAL = "model", "old", "journal"


class OutputFolder:
    """Context manager: writes a model in a hidden work folder beside `out`; `publish` moves it to `out`.

        .NAME.mi-kernels-work/     locked while in use, so that two processes cannot write the same `out`
            model/                 becomes `out`
            journal                lists the finished parts, see `mi_kernels.merge.journal`

    At the end of the context the work folder is removed. If `out` was not published, parent folders that were created
    for it are removed too. The work folder of a killed process stays unchanged until `prepare` is called, so that an
    error before that loses no finished work.

    Args:
        out: the folder to create.
        inputs: folders and files to protect: `out` must not be one of them, inside one, or contain one.
        overwrite: allow replacing an existing model folder. It stays in place until the new one is complete.

    Attributes:
        work, staged, journal: the paths of the work folder, `model/` and the journal.
        single_file: `out` is one file instead of a folder, see `OutputFile`.
        published: True if the model is at `out`.

    Raises:
        OutputError: `out` cannot be written, or writing it is not allowed.

    Example:
        >>> import os, tempfile
        >>> from mi_kernels.output.folder import OutputFolder
        >>> out = os.path.join(tempfile.mkdtemp(), "out")
        >>> with OutputFolder(out) as folder:
        ...     folder.prepare()
        ...     folder.write_file("config.json", b"{}")
        ...     print(os.path.exists(out))
        ...     folder.publish()
        False
        >>> os.listdir(out)
        ['config.json']
    """

    single_file = False

    def __init__(self, out: str | os.PathLike[str], inputs: Iterable[str] = (), overwrite: bool = False) -> None:
        self.given = os.fspath(out)
        if not self.given or not _can_be(self.given):
            raise OutputError(f"the output {self.given!r} is not a valid path", "Give the path of a new folder.")
        self.path = os.path.realpath(self.given)
        parent, name = os.path.split(self.path)
        self.work = os.path.join(parent, f".{name}{_WORK_SUFFIX}")
        self.staged, self.journal = os.path.join(self.work, _STAGED), os.path.join(self.work, _JOURNAL)
        self._overwrite = overwrite
        self._made_parent: str | None = None
        self._lock = -1
        self._found = False  # the work folder is from a killed process, and `prepare` has not been called
        self._was_empty = False  # publishing replaced an empty folder at `out`
        self._replaced = False
        self.published = False
        self.protect(inputs)
        if not os.path.exists(self.journal):  # with a journal, `out` may be the result of this merge, see `adopt`
            self.check_target()

    def protect(self, inputs: Iterable[str]) -> None:
        """Raises OutputError if the output is one of `inputs`, is inside one, or contains one."""
        for item in filter(_can_be, inputs):  # opening the input reports invalid paths
            real = os.path.realpath(item)
            if real == self.path:
                raise OutputError(
                    f"{self.given}: is the input {item}", "Choose another output: inputs are never written."
                )
            if _within(self.path, real):
                raise OutputError(f"{self.given}: is inside the input {item}", "Choose an output outside the inputs.")
            if _within(real, self.path):
                raise OutputError(f"{self.given}: contains the input {item}", "Choose an output outside the inputs.")

    def holds(self, path: str) -> bool:
        """Returns True if `path` is the output or the work folder, or inside one of them."""
        return any(path == root or _within(path, root) for root in (self.path, self.work))

    def check_target(self) -> None:
        """Raises OutputError if `out` exists, unless it is an empty folder or a model that may be overwritten."""
        if self.published:
            return
        if os.path.islink(self.given) and not os.path.exists(self.given):
            raise OutputError(f"{self.given}: is a broken link", "Remove it or choose another output.")
        if os.path.lexists(self.path):
            self._check_present()

    def _check_present(self) -> None:
        if not os.path.isdir(self.path):
            raise OutputError(f"{self.given}: exists and is not a folder", "Choose another output.")
        try:
            present = os.listdir(self.path)
        except OSError as error:
            raise OutputError(f"{self.given}: cannot be listed: {problem(error)}", remedy(error)) from error
        if not present:
            return
        if not self._overwrite:
            raise OutputError(
                f"{self.given}: exists and is not empty", "Choose another output, or pass `overwrite=True`."
            )
        if not any(n == RECORD or n.endswith(".safetensors") for n in present):
            raise OutputError(
                f"{self.given}: does not look like a model folder, so it is not overwritten",
                "Choose another output, or remove the folder yourself.",
            )

    @property
    def _item(self) -> str:
        """The path of what `publish` moves to `out`."""
        return self.staged

    def _occupied(self) -> bool:
        """Returns True if a model is at `out`."""
        return os.path.isdir(self.path) and bool(os.listdir(self.path))

    def published_path(self, name: str) -> str:
        """Returns where a file of the model is after `publish`."""
        return os.path.join(self.path, name)

    def free_space(self) -> int:
        """Returns the free space of the file system of `out`, in bytes, without blocks reserved for root."""
        return free_space(self.existing_parent())

    def used_space(self) -> int:
        """Returns the bytes on disk in the work folder of a killed process. They will be reused or freed."""
        if os.path.islink(self.work):
            return 0  # refused when it is opened, and what it leads to is none of ours
        files = (os.path.join(at, name) for at, _, names in os.walk(self.work) for name in names)
        return sum(os.lstat(path).st_blocks * 512 for path in files)

    def device(self) -> int:
        """Returns the device number of the file system of `out`."""
        return os.stat(self.existing_parent()).st_dev

    def existing_parent(self) -> str:
        """Returns the folder that contains `out`, or the closest one above it that exists."""
        return existing_folder(os.path.dirname(self.path))

    def __enter__(self) -> OutputFolder:
        """Creates the work folder, or uses an existing one, and locks it.

        Raises:
            OutputError: the work folder cannot be created, or another process has locked it.
        """
        try:
            with interrupts.held():
                self._enter()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            if isinstance(error, OSError):
                raise OutputError(f"{self.given}: cannot be created: {problem(error)}", remedy(error)) from error
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
        """Restores an old model that `_exchange` left in the work folder because it was killed or failed."""
        aside = os.path.join(self.work, _ASIDE)
        if not os.path.lexists(aside) or os.path.lexists(self.path):
            return
        try:
            os.rename(aside, self.path)
        except OSError as error:
            raise OutputError(
                f"{self.given}: the old model is in {aside} and cannot be moved back: {problem(error)}",
                "Move it back yourself, or run the same command again.",
            ) from error

    def _acquire(self) -> bool:
        """Creates and locks the work folder. Returns False if another process removed it in the meantime."""
        found = False
        try:
            os.mkdir(self.work)
        except FileExistsError:
            found = True
        try:
            return self._take(found)
        except OSError:
            if not found:
                with contextlib.suppress(OSError):  # another process may use it now
                    os.rmdir(self.work)
            raise

    def _take(self, found: bool) -> bool:
        lock = os.open(self.work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if not _lock(lock):
                raise OutputError(
                    f"{self.given}: another process is writing it", "Wait until it ends, or choose another output."
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
        """Removes everything that a killed process left in the work folder, except finished files and the journal.

        Args:
            finished: names of finished files of the model. If it is empty, the journal is removed too.
        """
        self._found = False
        kept = {_STAGED, _JOURNAL} if finished else {_STAGED}
        _clear(self.work, kept)
        _clear(self.staged, finished)
        system.sync_folder(os.path.dirname(self.work))

    def write_file(self, name: str, content: bytes) -> None:
        """Writes and syncs a small file of the model.

        Args:
            name: its path within the model. Missing subfolders are created.
        """
        if name != os.path.normpath(name) or name.startswith(("/", "..")):
            raise ValueError(f"{name!r} is not a path within the model")
        path = os.path.join(self.staged, name)
        if os.path.dirname(name):
            os.makedirs(os.path.dirname(path), exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        with naming(path), open(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
        while name := os.path.dirname(name):  # `publish` syncs the model's own folder
            system.sync_folder(os.path.join(self.staged, name))

    def publish(self) -> None:
        """Moves the model to `out` atomically. An old model at `out` is removed at the end of the context.

        Raises:
            OutputError: another program has created files at `out` that must not be overwritten.
        """
        if self.published:
            return
        system.sync_folder(self.staged)
        system.sync_folder(self.work)
        if self._occupied():
            self.check_target()
            _exchange(self._item, self.path, os.path.join(self.work, _ASIDE))
            self._replaced = True
        else:
            self._was_empty = os.path.isdir(self.path)
            os.rename(self._item, self.path)
        self.published = True
        system.sync_folder(os.path.dirname(self.path))

    def withdraw(self) -> None:
        """Undoes `publish` and restores the previous state of `out`."""
        if not self.published or self._found:
            return
        if self._replaced:
            _exchange(self._item, self.path, os.path.join(self.work, _ASIDE))
        else:
            os.rename(self.path, self._item)
            if self._was_empty:
                os.mkdir(self.path)
        self.published = False
        system.sync_folder(os.path.dirname(self.path))

    def adopt(self) -> None:
        """Marks `out` as published. The caller has checked that a killed process published it with the right files."""
        self.published = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with interrupts.held():
            # An adopted output still needs its journal until all other outputs of the sweep are published.
            kept = self._found and (kind is not None or not self.published)
            # The user did not decide to stop when a cluster fails, so the same command can resume, as after a kill.
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
        """Removes everything in the work folder, such as the old model, except the journal.

        The journal is removed last, so that the same command can resume until then.

        Raises:
            OutputError: a file cannot be removed. All others are removed.
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
            if not failed:  # otherwise the user should see the error that ended the merge
                raise

    @contextlib.contextmanager
    def _naming_what_stays(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"{self.given}: is complete, but {self.work} cannot be removed: {problem(error)}",
                "Remove the work folder yourself, or run the same command again.",
            ) from error

    def _remove_parents(self) -> None:
        if self._made_parent is None:
            return
        folder = os.path.dirname(self.path)
        while _within(folder, self._made_parent) or folder == self._made_parent:
            with contextlib.suppress(OSError):  # another program uses it now, or it could not be created
                os.rmdir(folder)
            folder = os.path.dirname(folder)


def _lock(fd: int) -> bool:
    """Locks an open folder exclusively. Returns False if another process has locked it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (
            errno.EWOULDBLOCK,
            errno.EACCES,
        )  # a file system without locks: continue without a lock
    return True


def _close(lock: int) -> None:
    with contextlib.suppress(OSError):  # nothing was written, so the error does not matter
        os.close(lock)


def _can_be(path: str) -> bool:
    """Returns True if `path` is a valid path for the operating system."""
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
    """Removes a folder and its content as far as possible.

    Raises:
        OSError: the first error, if a file could not be removed.
    """
    try:
        shutil.rmtree(path)
    except OSError:
        shutil.rmtree(path, ignore_errors=True)
        if os.path.lexists(path):
            raise


def _clear(folder: str, kept: Collection[str]) -> None:
    """Removes everything in `folder` except the names `kept`, as far as possible. Raises as `_remove_folder`."""
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
    """Swaps two folders or files atomically, or with three renames through `aside` if the system cannot swap."""
    if system.exchange(one, other):
        return
    os.rename(other, aside)
    try:
        os.rename(one, other)
    except BaseException:
        os.rename(aside, other)
        raise
    with contextlib.suppress(OSError):  # leaving it at `aside` is fine
        os.rename(aside, one)
