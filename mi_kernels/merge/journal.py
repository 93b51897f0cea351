"""The journal of an unfinished merge: a file that records which shards are finished, so that the merge can resume.

Lines are only appended. Each line is the CRC-32 of its JSON, a space, and the JSON. The first line is the request, that
is, everything that decides the bytes of the output. A line with checksums follows for each shard that is closed and
synced. The last line says that the model is being published. A line is synced before any step that relies on it. A
damaged line and all lines after it are ignored.
"""

from __future__ import annotations

import json
import os
import threading
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..checksums.record import Record, ShardSum
from ..errors import CheckpointError
from ..system.calls import sync_folder
from ..system.faults import naming
from .findings import Findings

MergeRequest = dict[str, Any]  # the values are as JSON returns them


@dataclass
class State:
    """The content of a journal.

    Attributes:
        request: what the merge was asked for; None if the journal is missing or its first line is damaged.
        shards: the checksums of the finished shards, by name.
        findings: the findings in the values of these shards, by name.
        publishing: True if all files are finished. The model may already be published.
        length: the number of bytes in the intact lines.
    """

    request: MergeRequest | None = None
    shards: dict[str, ShardSum] = field(default_factory=dict)
    findings: dict[str, Findings] = field(default_factory=dict)
    publishing: bool = False
    length: int = 0


def read(path: str) -> State:
    """Reads the journal at `path`. Returns an empty State if the file does not exist.

    Raises:
        OSError: the file exists and cannot be read.
    """
    state = State()
    try:
        with open(path, "rb") as file:
            content = file.read()
    except FileNotFoundError:
        return state
    for line in content.splitlines(keepends=True):
        try:
            entry = _decode(line)
            if entry is None or (state.request is None) != ("request" in entry):
                break
            if "request" in entry:
                state.request = dict(entry["request"])
            elif "sums" in entry:
                found, shards = Findings.from_plain(entry["values"]), Record.decode(entry["sums"].encode(), path).shards
                state.findings.update(dict.fromkeys(shards, found))
                state.shards.update(shards)
            else:
                state.publishing = entry["publishing"] is True
        except (CheckpointError, KeyError, TypeError, AttributeError, ValueError, RecursionError):
            break  # another version of mi_kernels wrote the line
        state.length += len(line)
    return state


class Journal:
    """Appends to the journal at `path`.

    Args:
        path: where the journal is, or where it is created.
        request: the request of the merge, for the first line of a new journal.
        state: the content of the journal, from `read`. The first append cuts off what follows the intact lines.
        staged: the folder of the shards. Each append syncs its file names.
    """

    def __init__(self, path: str, request: MergeRequest, state: State, staged: str) -> None:
        self._path, self._request, self._staged = path, request, staged
        self._length = state.length
        self._lock = threading.Lock()

    def finished(self, name: str, sums: ShardSum, findings: Findings) -> None:
        """Records that the shard `name` is closed and synced."""
        self._append({"sums": Record({name: sums}, {}).encode().decode(), "values": findings.to_plain()})

    def publishing(self) -> None:
        """Records that all files are finished. The model is published after this."""
        self._append({"publishing": True})

    def _append(self, entry: Mapping[str, Any]) -> None:
        with self._lock:
            new = self._length == 0
            lines = (_encode({"request": self._request}) if new else b"") + _encode(entry)
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            with naming(self._path):
                try:
                    os.ftruncate(fd, self._length)
                    at = self._length
                    while at < self._length + len(lines):
                        at += os.pwrite(fd, lines[at - self._length :], at)
                    os.fsync(fd)
                finally:
                    os.close(fd)
            self._length = at
            sync_folder(self._staged)
            if new:
                sync_folder(os.path.dirname(self._path))


def _encode(entry: Mapping[str, Any]) -> bytes:
    text = json.dumps(entry, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _decode(line: bytes) -> dict[str, Any] | None:
    """Returns the entry of a line, or None if the line is damaged."""
    text = line[9:-1]
    if line != b"%08x %s\n" % (zlib.crc32(text), text):
        return None
    entry = json.loads(text)
    return entry if isinstance(entry, dict) else None
