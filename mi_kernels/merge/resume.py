"""The work on one output: what a killed merge of the same request left of it, what is still to do, and its journal."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..checkpoint.record import Checkpoint
from ..checkpoint.tensor import TensorInfo
from ..checksums.accumulator import Layout
from ..checksums.crc import crc32c
from ..checksums.folder import measure
from ..checksums.record import NAME as CHECKSUMS
from ..checksums.record import FileSum, Record, ShardSum
from ..errors import OutputError
from ..output.folder import OutputFolder
from ..output.layout import OutputShard
from ..system.faults import problem, remedy
from .findings import Values
from .journal import Journal, Request, State, read
from .plan import Source


def request_of(
    asked: Mapping[str, Any],
    models: Sequence[Checkpoint],
    shards: Sequence[OutputShard],
    sources: Mapping[str, Source],
    output: int,
) -> Request:
    """Everything that decides the bytes of output number `output`, as plain values.

    Args:
        asked: what decides the bytes besides the inputs, see `MergeRecord.asked`.
        models: what is read.
        shards: what is written: their names, sizes and headers count.
        sources: what each tensor is made of, however that was asked for.
    """
    digest = hashlib.sha256()
    for shard in shards:
        made: list[Any] = [shard.name, shard.size]
        for t in shard.tensors:
            source = sources[t.name]
            inputs = [[i.shard, i.begin] if isinstance(i, TensorInfo) else repr(i) for i in source.inputs]
            made.append([source.formula or source.weights[output], inputs])
        digest.update(json.dumps(made, sort_keys=True).encode() + shard.header)
    request = {**asked, "inputs": [file for model in models for file in model.evidence()], "plan": digest.hexdigest()}
    plain: Request = json.loads(json.dumps(request))
    return plain


class _Refusal(NamedTuple):
    problem: str
    remedy: str


def _difference(old: Request, new: Request) -> _Refusal | None:
    """Why work on `old` cannot be gone on with for `new`."""
    own = "Its own command finishes it; or pass --restart, which drops it and begins anew."
    for key in sorted({*old, *new} - {"inputs", "plan"}):
        if old.get(key) != new.get(key):
            return _Refusal(f"with {key} {_shown(old.get(key))}, not {_shown(new.get(key))}", own)
    for was, now in zip(old["inputs"], new["inputs"]):
        if was["path"] != now["path"]:
            return _Refusal(f"of {was['path']}, not {now['path']}", own)
        for key, value in now.items():
            if was[key] != value:
                change = f"its {key} is no longer {was[key]}, but {value}"
                anew = "Pass --restart to begin anew with it as it is."
                return _Refusal(f"of {was['path']} as it was: {change}", anew)
    if old != new:
        return _Refusal("with other tensors, weights or shards", own)
    return None


def _shown(value: object) -> str:
    return "none" if value is None else json.dumps(value)


class Work:
    """The work on one output.

    Args:
        folder: entered already.
        request: what is asked, see `request_of`.
        shards: what is to be written.
        restart: drop what is there, whatever it is.

    Attributes:
        finished: checksums of the shards that are there and right, by their numbers.
        values: what was found in the values of these, and of those that have been written since; by their numbers.

    Raises:
        OutputError: another merge is unfinished in the work folder.
    """

    def __init__(
        self, folder: OutputFolder, request: Request, shards: Sequence[OutputShard], restart: bool = False
    ) -> None:
        self.folder, self._shards = folder, shards
        self.finished: dict[int, ShardSum] = {}
        self.values: dict[int, Values] = {}
        self._sums: dict[int, ShardSum] = {}  # of those that were written since
        self._moved = False  # the model stands at its place already
        self._state = State() if restart else self._read(request)
        self._request = request

    def _read(self, request: Request) -> State:
        try:
            state = read(self.folder.journal)
        except OSError as error:
            raise OutputError(
                f"{self.folder.given}: {self.folder.journal} cannot be read: {problem(error)}",
                f"{remedy(error, reading=True)} Or pass --restart, which drops the unfinished merge.",
            ) from error
        if state.request is None or state.request == request:
            return state
        if not any(_has_size(os.path.join(self.folder.staged, n), s.size) for n, s in state.shards.items()):
            return State()  # nothing would be lost
        try:
            refusal = _difference(state.request, request)
        except (KeyError, TypeError):
            refusal = None
        refusal = refusal or _Refusal("by another version", "Pass --restart to drop it and begin anew.")
        raise OutputError(f"{self.folder.given}: an unfinished merge stands there, {refusal.problem}", refusal.remedy)

    def verify(self, small: Mapping[str, bytes], threads: int) -> None:
        """Finds out how much is finished: reads every shard that the journal names, and takes those that are right.

        A process that was killed while it published may have moved the model to its place: where the small files are
        there, so must the shards be.

        Args:
            small: the files of the model besides its shards, but for their checksums.
            threads: how many sum.

        Raises:
            CheckpointError: one of them cannot be read.
        """
        sums = {i: self._state.shards[s.name] for i, s in enumerate(self._shards) if s.name in self._state.shards}
        if not sums:
            return
        out = self.folder.path
        if self._state.publishing:
            files = {**small, CHECKSUMS: self._record(small, self._state.shards)}
            self._moved = all(_holds(os.path.join(out, name), content) for name, content in files.items())
        root = out if self._moved else self.folder.staged

        whole = [i for i in sums if _has_size(os.path.join(root, self._shards[i].name), sums[i].size)]
        layouts = [Layout(self._shards[i].name, sums[i].size, sums[i].size, []) for i in whole]
        measured = measure(root, layouts, threads)
        self.finished = {i: sums[i] for i, now in zip(whole, measured) if now.crc == sums[i].crc}
        if self._moved and len(self.finished) < len(self._shards):  # it was changed since
            self._moved = False
            self.finished.clear()
        self.values = {i: self._state.values[self._shards[i].name] for i in self.finished}
        if self._moved:
            self.folder.adopt()

    def begin(self) -> None:
        """Takes over what is finished, and removes the rest."""
        if self._moved:
            return
        self.folder.prepare({self._shards[i].name for i in self.finished})
        if not self.finished:
            self._state = State()
        self._journal = Journal(self.folder.journal, self._request, self._state, self.folder.staged)

    @property
    def left(self) -> int:
        """Bytes of shards that are still to be written."""
        return sum(shard.size for i, shard in enumerate(self._shards) if i not in self.finished)

    def needed(self, small: Mapping[str, bytes]) -> int:
        """Bytes of disk that are wanted besides those of the work folder, whose remains are used again or freed."""
        remains = self.folder.used_space() - sum(sums.size for sums in self.finished.values())
        return max(0, self.left + sum(map(len, small.values())) - max(0, remains))

    def finish(self, shard: int, sums: ShardSum, values: Values) -> None:
        """Notes that the shard of this number is closed and synced. May be called from any thread."""
        self._sums[shard], self.values[shard] = sums, values
        self._journal.finished(self._shards[shard].name, sums, values)

    def complete(self, small: Mapping[str, bytes]) -> None:
        """Writes the files besides the shards, and the checksums of all; then notes that only the rename is left."""
        if self._moved:
            return
        for name, content in small.items():
            self.folder.write_file(name, content)
        sums = {**self.finished, **self._sums}
        named = {shard.name: sums[i] for i, shard in enumerate(self._shards)}
        self.folder.write_file(CHECKSUMS, self._record(small, named))
        self._journal.publishing()

    def _record(self, small: Mapping[str, bytes], sums: Mapping[str, ShardSum]) -> bytes:
        files = {name: FileSum(len(content), crc32c(content)) for name, content in small.items()}
        return Record({shard.name: sums[shard.name] for shard in self._shards}, files).encode()


def _has_size(path: str, size: int) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == size


def _holds(path: str, content: bytes) -> bool:
    if not _has_size(path, len(content)):
        return False
    with open(path, "rb") as file:
        return file.read() == content


def publish(folders: Sequence[OutputFolder]) -> None:
    """Publishes all of them, or none: those that were, are withdrawn when a later one fails.

    Old models are removed when all are published, and journals after that, by the folders: a kill in between finds the
    whole sweep finished.

    Raises:
        OutputError: one of them cannot be, and another one could not be withdrawn; or an old model cannot be removed.
    """
    for folder in folders:
        folder.check_target()
    try:
        for folder in folders:
            folder.publish()
    except BaseException as failure:
        stuck = []
        for folder in reversed(folders):
            try:
                folder.withdraw()
            except OSError:  # where only the sync after its renames failed, it is withdrawn
                stuck += [folder.given] if folder.published else []
        if stuck:
            why = problem(failure) if isinstance(failure, OSError) else getattr(failure, "problem", failure)
            raise OutputError(
                f"{why}; {', '.join(stuck)}: published by then, cannot be withdrawn",
                "What stands there is complete: keep it or remove it, and run the command again.",
            ) from failure
        raise
    for folder in folders:
        folder.clean()
