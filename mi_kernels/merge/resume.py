"""Resuming an unfinished merge: which files of an output are finished, which are missing, and whether they fit."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from ..checkpoint.record import Checkpoint
from ..checkpoint.tensor import TensorInfo
from ..checksums.accumulator import Layout
from ..checksums.crc import crc32c
from ..checksums.folder import measure
from ..checksums.record import NAME as CHECKSUMS
from ..checksums.record import FileSum, Record, ShardSum, repaired, weights_digest
from ..errors import CheckpointError, OutputError
from ..output.card import NAME as CARD
from ..output.card import completed
from ..output.folder import OutputFolder
from ..output.layout import OutputShard
from ..output.sidefiles import RECORD
from ..system.faults import problem, remedy
from ..system.progress import OnBytes
from .findings import Findings
from .journal import Journal, MergeRequest, State, read
from .plan import Source
from .record import same_merge


def merge_request(
    asked: Mapping[str, Any],
    models: Sequence[Checkpoint],
    shards: Sequence[OutputShard],
    sources: Mapping[str, Source],
    output: int,
) -> MergeRequest:
    """Returns everything that decides the bytes of output number `output`, as plain values.

    Two merges with equal requests write equal files, so one can resume the work of the other.

    Args:
        asked: the method, its parameters and the options, see `MergeRecord.asked`.
        models: the input models.
        shards: the shards of the output. Their names, sizes and headers are part of the request.
        sources: how each output tensor is computed.
    """
    digest = hashlib.sha256()
    for shard in shards:
        made: list[Any] = [shard.name, shard.size]
        for t in shard.tensors:
            source = sources[t.name]
            inputs = [[i.shard, i.begin] if isinstance(i, TensorInfo) else repr(i) for i in source.inputs]
            how = source.formula or source.weights[output]
            odd = [source.kept, source.common] if (source.kept, source.common) != (None, None) else []
            made.append([how, inputs, *odd])
        digest.update(json.dumps(made, sort_keys=True).encode() + shard.header_of(output))
    request = {**asked, "inputs": [file for model in models for file in model.evidence()], "plan": digest.hexdigest()}
    plain: MergeRequest = json.loads(json.dumps(request))
    return plain


_RESTART = "pass `restart=True` to delete its work and start from scratch"


class _Refusal(NamedTuple):
    problem: str
    remedy: str


def _difference(old: MergeRequest, new: MergeRequest) -> _Refusal | None:
    """Returns why a merge with the request `new` cannot resume the work of one with the request `old`."""
    finish = f"Run the command that started it to finish it, or {_RESTART}."
    if old.get("strict") != new.get("strict"):
        return _Refusal(f"was started {'with' if old.get('strict') else 'without'} `strict=True`", finish)
    for key in sorted({*old, *new} - {"inputs", "plan"}):
        if old.get(key) != new.get(key):
            return _Refusal(f"was started with {key} {_shown(old.get(key))}, not {_shown(new.get(key))}", finish)
    for was, now in zip(old["inputs"], new["inputs"]):
        if was["path"] != now["path"]:
            return _Refusal(f"was started with {was['path']}, not {now['path']}", finish)
        for key, value in now.items():
            if was[key] != value:
                change = f"{was['path']} has changed since: its {key} was {was[key]} and is now {value}"
                return _Refusal(f"cannot be resumed because {change}", f"{_RESTART.capitalize()}.")
    if old != new:
        return _Refusal("was started with other tensors, weights or shards", finish)
    return None


def _shown(value: object) -> str:
    return "none" if value is None else json.dumps(value)


class ResumableWork:
    """The work on one output: finished shards of a killed merge, and what is still missing.

    Args:
        folder: the output folder. Its context is already entered.
        request: what the merge is asked for, see `merge_request`.
        shards: the shards of the output.
        restart: ignore the work of an unfinished merge.

    Attributes:
        finished: the checksums of the intact shards of a killed merge, by number of the shard.
        findings: the findings in these shards and in the shards that were written since, by number of the shard.

    Raises:
        OutputError: the work folder has an unfinished merge with another request, or its journal cannot be read.
    """

    def __init__(
        self, folder: OutputFolder, request: MergeRequest, shards: Sequence[OutputShard], restart: bool = False
    ) -> None:
        self.folder, self._shards = folder, shards
        self.finished: dict[int, ShardSum] = {}
        self.findings: dict[int, Findings] = {}
        self._sums: dict[int, ShardSum] = {}  # of the shards that this process wrote
        self._moved = False  # a killed process already moved the model to `out`
        self._state = State() if restart else self._read(request)
        self._request = request

    def _read(self, request: MergeRequest) -> State:
        try:
            state = read(self.folder.journal)
        except OSError as error:
            raise OutputError(
                f"{self.folder.given}: {self.folder.journal} cannot be read: {problem(error)}",
                f"{remedy(error, reading=True)} Or pass `restart=True` to delete the unfinished merge.",
            ) from error
        if state.request is None or state.request == request:
            return state
        if not any(_has_size(os.path.join(self.folder.staged, n), s.size) for n, s in state.shards.items()):
            return State()  # nothing would be lost
        try:
            refusal = _difference(state.request, request)
        except (KeyError, TypeError):
            refusal = None
        other = "was started by another version of mi_kernels"
        refusal = refusal or _Refusal(other, f"{_RESTART.capitalize()}.")
        raise OutputError(f"{self.folder.given}: an unfinished merge {refusal.problem}", refusal.remedy)

    def glance(self) -> None:
        """Takes every shard that the journal names for finished if a file of its size exists. Reads no shard.

        This is for a forecast, without a lock. `verify` decides which shards are kept.
        """
        sums = {i: self._state.shards[s.name] for i, s in enumerate(self._shards) if s.name in self._state.shards}
        staged = partial(os.path.join, self.folder.staged)
        for path in (self.folder.published_path, staged) if self._state.publishing else (staged,):
            self.finished = {i: found for i, found in sums.items() if _has_size(path(self._shards[i].name), found.size)}
            if self.finished:
                return

    def verify(self, small: Mapping[str, bytes], threads: int, on_bytes: OnBytes = lambda count: None) -> None:
        """Reads every shard that the journal names, and keeps those whose checksums match as `finished`.

        A process that was killed while it published may have moved the model to `out`. If all small files are at `out`,
        the shards should be there too. The model card may have other text: its writer may have been another build of
        this version, and the card holds the command as it was typed.

        Args:
            small: the content of all files of the model except the shards and the checksums, by name.
            threads: the number of threads that compute checksums.
            on_bytes: called with each number of bytes that were read.

        Raises:
            CheckpointError: a shard cannot be read.
        """
        sums = {i: self._state.shards[s.name] for i, s in enumerate(self._shards) if s.name in self._state.shards}
        if not sums:
            return
        out = self.folder.published_path
        if self._state.publishing:
            self._moved = self.folder.single_file or self._published(small)
        if self._moved:
            self.finished = self._intact({i: out(self._shards[i].name) for i in sums}, sums, threads, on_bytes)
            self._moved = len(self.finished) == len(self._shards)  # otherwise the model was changed since
        if not self._moved:
            staged = self.folder.staged
            paths = {i: os.path.join(staged, self._shards[i].name) for i in sums}
            self.finished = self._intact(paths, sums, threads, on_bytes)
        self.findings = {i: self._state.findings[self._shards[i].name] for i in self.finished}
        if self._moved:
            self.folder.adopt()

    def _published(self, small: Mapping[str, bytes]) -> bool:
        """Returns whether `out` has the small files of this merge, and the checksums of its shards and of these files.

        What is text for people may differ, but it must be as the checksums say.
        """
        out = self.folder.published_path
        try:
            record = Record.decode(_content(out(CHECKSUMS)), out(CHECKSUMS))
            if record.files.keys() != small.keys() or record.shards != self._state.shards:
                return False
            for name, content in small.items():
                found = _content(out(name))
                if FileSum(len(found), crc32c(found)) != record.files[name]:
                    return False
                if found != content and name != CARD and not (name == RECORD and same_merge(found, content)):
                    return False
        except (OSError, CheckpointError):
            return False
        return repaired(_content(out(CHECKSUMS))) is None

    def _intact(
        self, paths: Mapping[int, str], sums: Mapping[int, ShardSum], threads: int, on_bytes: OnBytes
    ) -> dict[int, ShardSum]:
        """Returns those of `sums` whose file has them. `paths`: the files, all in one folder."""
        whole = [i for i, path in paths.items() if _has_size(path, sums[i].size)]
        layouts = [Layout(os.path.basename(paths[i]), sums[i].size, sums[i].size, []) for i in whole]
        measured = measure(os.path.dirname(next(iter(paths.values()))), layouts, threads, on_bytes)
        return {i: sums[i] for i, now in zip(whole, measured) if now.crc == sums[i].crc}

    def begin(self) -> None:
        """Keeps the finished shards, and removes all other files of the killed merge."""
        if self._moved:
            return
        self.folder.prepare({self._shards[i].name for i in self.finished})
        if not self.finished:
            self._state = State()
        self._journal = Journal(self.folder.journal, self._request, self._state, self.folder.staged)

    @property
    def recorded(self) -> int:
        """The bytes of the shards that the journal names, which `verify` reads."""
        return sum(found.size for found in self._state.shards.values())

    @property
    def left(self) -> int:
        """The bytes of the shards that are not finished."""
        return sum(shard.size for i, shard in enumerate(self._shards) if i not in self.finished)

    def needed(self, small: Mapping[str, bytes]) -> int:
        """Returns how many bytes of free disk space the rest needs, besides those that the work folder frees."""
        remains = self.folder.used_space() - sum(sums.size for sums in self.finished.values())
        return max(0, self.left + sum(map(len, small.values())) - max(0, remains))

    def finish(self, shard: int, sums: ShardSum, findings: Findings) -> None:
        """Records that the shard with this number is closed and synced. Any thread may call it."""
        self._sums[shard], self.findings[shard] = sums, findings
        self._journal.finished(self._shards[shard].name, sums, findings)

    def complete(self, small: Mapping[str, bytes]) -> None:
        """Writes the small files and the checksums, and records that everything is ready to be published."""
        if self._moved:
            return
        sums = {**self.finished, **self._sums}
        named = {shard.name: sums[i] for i, shard in enumerate(self._shards)}
        for name, content in self._with_checksums(small, named).items():
            self.folder.write_file(name, content)
        self._journal.publishing()

    def _with_checksums(self, small: Mapping[str, bytes], sums: Mapping[str, ShardSum]) -> dict[str, bytes]:
        """Returns all files of the model except the shards. An output that is one file has none."""
        if self.folder.single_file:
            return {}
        small = completed(small, weights_digest(sums[shard.name] for shard in self._shards))
        files = {name: FileSum(len(content), crc32c(content)) for name, content in small.items()}
        record = Record({shard.name: sums[shard.name] for shard in self._shards}, files)
        return {**small, CHECKSUMS: record.encode()}


def _has_size(path: str, size: int) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == size


def _content(path: str) -> bytes:
    """Returns the content of a file of the model.

    Raises:
        OSError: it cannot be read, or it is a link or no file.
    """
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise FileNotFoundError(path)
    with open(path, "rb") as file:
        return file.read()


def publish(folders: Sequence[OutputFolder]) -> None:
    """Publishes all folders or none. If one fails, the folders that were already published are withdrawn.

    The folders remove old models only after all are published, and their journals after that. If the process is killed
    in between, the same command finds the complete sweep.

    Raises:
        OSError: a folder cannot be published. The others were withdrawn.
        OutputError: a folder cannot be published and another one cannot be withdrawn, or an old model cannot be
            removed.
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
            except OSError:  # if only the sync after the renames failed, the folder is withdrawn
                stuck += [folder.given] if folder.published else []
        if stuck:
            why = problem(failure) if isinstance(failure, OSError) else getattr(failure, "problem", failure)
            raise OutputError(
                f"{why}; {', '.join(stuck)}: already published, and cannot be withdrawn",
                "Each of these folders is complete. To repeat the merge, remove them or pass `overwrite=True`.",
            ) from failure
        raise
    for folder in folders:
        folder.clean()
