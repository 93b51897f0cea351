"""What of an unfinished merge is finished: a file that only grows, for the same command to go on from.

Each line is the CRC-32 of its JSON, a space, and the JSON. The first line is the request: everything that decides the
bytes of the output. Then comes a line for each shard that is closed and synced, with its checksums; last, one that says
that the model is being published. A line is synced before anything that relies on it is done; a torn one, and whatever
follows it, counts as not written.
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
from .findings import Values

Request = dict[str, Any]  # plain values, as JSON gives them back


@dataclass
class State:
    """What a journal says.

    Attributes:
        request: what was asked; None where there is no journal that can be read.
        shards: checksums of the shards that are finished, by name.
        values: what was found in their values.
        publishing: whether all is finished, and the model may have its place already.
        length: bytes of the lines that are whole.
    """

    request: Request | None = None
    shards: dict[str, ShardSum] = field(default_factory=dict)
    values: dict[str, Values] = field(default_factory=dict)
    publishing: bool = False
    length: int = 0


def read(path: str) -> State:
    """The journal at `path`; an empty State where there is none.

    Raises:
        OSError: it is there and cannot be read.
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
                found, shards = Values.of_plain(entry["values"]), Record.decode(entry["sums"].encode(), path).shards
                state.values.update(dict.fromkeys(shards, found))
                state.shards.update(shards)
            else:
                state.publishing = entry["publishing"] is True
        except (CheckpointError, KeyError, TypeError, AttributeError, ValueError, RecursionError):
            break  # another version's
        state.length += len(line)
    return state


class Journal:
    """Appends to the journal at `path`.

    Args:
        state: what it says already; its torn end is cut off.
        staged: the folder of the shards, whose names are synced with each line.
    """

    def __init__(self, path: str, request: Request, state: State, staged: str) -> None:
        self._path, self._request, self._staged = path, request, staged
        self._length = state.length
        self._lock = threading.Lock()

    def finished(self, name: str, sums: ShardSum, values: Values) -> None:
        """The shard `name` is closed and synced."""
        self._append({"sums": Record({name: sums}, {}).encode().decode(), "values": values.plain()})

    def publishing(self) -> None:
        """Everything is finished, and the model will be moved to its place."""
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
    """The entry of a line; None where it is torn."""
    text = line[9:-1]
    if line != b"%08x %s\n" % (zlib.crc32(text), text):
        return None
    entry = json.loads(text)
    return entry if isinstance(entry, dict) else None
