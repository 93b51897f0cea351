"""The file of the responses of one benchmark: one line each, appended when finished, and never lost after that."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import BinaryIO

from ..errors import EvalError
from ..schema import Response
from .files import defect, load_responses, writing

LOG = logging.getLogger("eval")

_SYNC_SECONDS = 1.0


class Journal:
    """Opens `folder`/`benchmark`.jsonl for appending.

    Each line is written without buffering, so a kill of this process loses none. The file is synced every second, so a
    crash of the machine loses at most one second. Opening removes a last line that a kill cut short.

    Attributes:
        responses: by (problem, sample). If a response is in the file twice, the first one counts. `append` adds to it.
            Those that cannot be counted (see `files.defect`) are not among them, with a warning: they are missing.

    Raises:
        EvalError: a complete line is not a response, or the file cannot be written.
    """

    def __init__(self, folder: str, benchmark: str) -> None:
        path = self._path = os.path.join(folder, f"{benchmark}.jsonl")
        self.responses = read(folder, benchmark, warn=True)
        with writing(path):
            _cut_partial_line(path)
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        self._synced = time.monotonic()

    def append(self, response: Response) -> None:
        """Raises:
        ValueError: `response` cannot be counted.
        EvalError: the file cannot be written, because the disk is full for example.
        """
        if (why := defect(response)) is not None:
            raise ValueError(why)
        line = json.dumps(asdict(response), ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        # As read from the file: half of a surrogate pair cannot be encoded, and has become a question mark.
        response = Response(**json.loads(line))
        with writing(self._path):
            while line:  # a full disk may accept a part, and raise on the next write
                line = line[self._file.write(line) :]
        self.responses.setdefault((response.problem, response.sample), response)
        if time.monotonic() - self._synced >= _SYNC_SECONDS:
            self._sync()

    def close(self) -> None:
        self._sync()
        self._file.close()

    def _sync(self) -> None:
        with writing(self._path):
            os.fsync(self._file.fileno())
        self._synced = time.monotonic()


def read(folder: str, benchmark: str, warn: bool = False) -> dict[tuple[str, int], Response]:
    """The responses in the file by (problem, sample). If one is in the file twice, the first counts.

    Responses that cannot be counted (see `files.defect`) are left out; `warn` names how many.

    Raises:
        EvalError: a complete line is not a response.
    """
    try:
        responses = load_responses(folder, benchmark)
    except ValueError as error:
        raise EvalError(
            f"{os.path.join(folder, benchmark)}.jsonl: holds a line that is not a response: {error}",
            "Remove that line and run the same command again: it generates only this response again.",
        ) from error
    found: dict[tuple[str, int], Response] = {}
    defects = []
    for response in responses:
        why = defect(response)
        if why is not None:
            defects.append(why)
            continue
        found.setdefault((response.problem, response.sample), response)
    if warn and defects:
        LOG.warning(
            "%s.jsonl: %d of %d responses cannot be counted (%s): they are generated again",
            os.path.join(folder, benchmark),
            len(defects),
            len(responses),
            defects[0],
        )
    return found


def _cut_partial_line(path: str) -> None:
    if not os.path.exists(path):
        return
    with open(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        whole = _whole_lines(file, size)
        if whole != size:
            file.truncate(whole)


def _whole_lines(file: BinaryIO, size: int) -> int:
    """The offset after the last complete line. Searches from the end, because these files are large."""
    position = size
    while position:
        start = max(0, position - (1 << 16))
        file.seek(start)
        newline = file.read(position - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        position = start
    return 0


@contextmanager
def locked(folder: str, benchmark: str) -> Iterator[None]:
    """Locks the files of one benchmark. Other processes may write the other benchmarks of the run.

    The system releases the lock when this process ends, in whatever way.

    Raises:
        EvalError: another process has the lock.
    """
    path = os.path.join(folder, f".{benchmark}.lock")
    with writing(path):
        os.makedirs(folder, exist_ok=True)
        file = open(path, "w")  # noqa: SIM115
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EvalError(
                f"{folder}: another process is writing to it", "Wait for it, or choose another folder with --out."
            ) from None
        yield


@contextmanager
def changing_run(folder: str) -> Iterator[None]:
    """Locks run.json while it is read and written again. Waits while another process has the lock."""
    path = os.path.join(folder, ".lock")
    with writing(path):
        file = open(path, "w")  # noqa: SIM115
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
