"""Makes every system call of a command fail once, and checks what the user finds afterwards."""

from __future__ import annotations

import errno
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from ...support.checks import World, snapshot, without_announcements
from ...support.models import save, tiny
from .session import Outcome, Session

# Errors of each call on a disk that is full, failing, read-only, remote or unusual.
CALLS = {
    "create": (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO, errno.EDQUOT, errno.EMFILE, errno.ENAMETOOLONG),
    "open": (errno.EIO, errno.EACCES, errno.EMFILE, errno.ENOENT, errno.EINTR),
    "open-direct": (errno.EINVAL, errno.EIO),
    "readdir": (errno.EIO,),
    "read": (errno.EIO, errno.EINTR, errno.ESTALE),
    "write": (errno.ENOSPC, errno.EIO, errno.EINTR, errno.EDQUOT),
    "pwrite": (errno.ENOSPC, errno.EIO, errno.EINTR, errno.EDQUOT, errno.EFBIG),
    "pwrite-direct": (errno.EINVAL, errno.EIO),
    "fsync": (errno.EIO, errno.EINTR, errno.ENOSPC, errno.EDQUOT),
    "flock": (errno.ENOLCK, errno.EINTR, errno.EOPNOTSUPP),
    "close": (errno.EIO, errno.ENOSPC, errno.EINTR, errno.EDQUOT),
    "ftruncate": (errno.EIO, errno.EINTR),
    "fallocate": (errno.ENOSPC, errno.EOPNOTSUPP, errno.EINTR, errno.EDQUOT),
    "mmap": (errno.ENODEV, errno.ENOMEM),
    "mkdir": (errno.EACCES, errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.ENAMETOOLONG),
    "rename": (errno.EIO, errno.EROFS, errno.ENOSPC),
    "exchange": (errno.EINVAL, errno.ENOSYS, errno.EIO, errno.EROFS),
    "unlink": (errno.EIO, errno.EROFS, errno.EACCES),
    "stat": (errno.EIO, errno.EACCES),
}

# Errors that a disk repeats after the first one.
LASTING = {
    "create": (errno.ENOSPC, errno.EROFS),
    "pwrite": (errno.ENOSPC, errno.EIO),
    "write": (errno.ENOSPC,),
    "fsync": (errno.EIO,),
    "open-direct": (errno.EINVAL,),
    "pwrite-direct": (errno.EINVAL,),
    "fallocate": (errno.EOPNOTSUPP, errno.ENOSPC),
    "flock": (errno.ENOLCK,),
    "exchange": (errno.EINVAL, errno.ENOSYS),
    "unlink": (errno.EROFS,),
    "read": (errno.EIO,),
}

_NEEDED_TO_CLEAN_UP = ("unlink", "readdir", "open", "stat")
_WHOLE = "is complete, but"


class Command(NamedTuple):
    """The arguments, and whether OUT contains an old model."""

    argv: list[str]
    old: bool


class Tally(NamedTuple):
    """Outcomes of the injected faults: {call: count} for each outcome, and a list of violations."""

    refused: Counter[str]
    survived: Counter[str]
    violations: list[str]

    def as_dict(self) -> dict[str, object]:
        refused, survived = sum(self.refused.values()), sum(self.survived.values())
        return {
            "injected": refused + survived,
            "refused": refused,
            "survived": survived,
            "by_call": {
                call: {"refused": self.refused[call], "survived": self.survived[call]}
                for call in sorted(self.refused | self.survived)
            },
            "violations": self.violations,
        }


class Disk:
    """Two models to merge in `root`/world, and the output that every command must finally produce."""

    def __init__(self, root: Path, session: Session) -> None:
        self._session, self.root, self._old = session, root / "world", root / "old"
        self.root.mkdir()
        ids = {"model.position_ids": torch.arange(3000)}  # its tensors are read twice before the merge starts
        self.world = World(self.root, {**tiny(1), **ids}, {**tiny(2), **ids})
        save(self._old, tiny(3), files={"stale.txt": "old"})
        self._inputs = snapshot(self.root)
        self._whole: dict[str, dict[str, object]] = {}

    def commands(self) -> dict[str, Command]:
        recipe = self.root.parent / "ties.yml"
        recipe.write_text(
            f"merge_method: ties\nbase_model: {self.world.instruct}\nmodels:\n"
            f"  - model: {self.world.thinking}\n    parameters: {{weight: 1.0, density: 0.5}}\ndtype: bfloat16\n"
        )
        # One worker and the smallest chunk, so that every run makes the same calls in the same order.
        common = ["--quiet", "--threads", "1", "--max-memory", "4096B", "--overwrite"]
        out = ["--out", str(self.world.out)]
        return {
            "overwrite": Command(self.world.argv(*common), True),
            "new": Command(self.world.argv(*common, "--out", self.root / "a" / "out"), False),
            "sweep": Command(
                [
                    *("sweep", str(self.world.instruct), str(self.world.thinking), "--lam", "0.25,0.75"),
                    *("--out", str(self.root / "mi-{lam}"), *common, "--max-memory", "8192B"),
                ],
                False,
            ),
            "ties": Command(["merge", str(recipe), *out, *common], False),
            "compare": Command(
                ["compare", str(self.world.instruct), str(self.world.thinking), "--threads", "1"], False
            ),
        }

    def fail_each(
        self, name: str, call: str, codes: Sequence[int], tally: Tally, lasting: bool = False, **odd: object
    ) -> None:
        """For n = 1, 2, ... makes the n-th such call fail with the next of `codes`, until there are fewer than n calls.

        Args:
            odd: further settings of the disk. `lacks` names a call that it does not support.
        """
        n = 1
        while self.inject(
            name, {"call": call, "nth": n, "errno": codes[n % len(codes)], "sticky": int(lasting), **odd}, tally
        ):
            n += 1

    def inject(self, name: str, faults: Mapping[str, object], tally: Tally) -> bool:
        """Runs the command with `faults`, then without. Returns False if no fault occurred."""
        command = self.commands()[name]
        self._reset(command)
        before = self._state()
        outcome = self._session.run(command.argv, {"path": self.root, **faults})
        if not outcome.hit and "nth" in faults:
            if outcome.status != 0:
                tally.violations.append(f"{name}: without a fault met: {outcome}")
            return False
        shown = f"{name} under { ({**faults, 'errno': errno.errorcode.get(int(str(faults.get('errno', 0))), '-')}) }"
        tally.violations.extend(f"{shown}: {what}" for what in self._wrong(name, command, faults, outcome, before))
        if outcome.status != 0:
            again = self._session.run(command.argv)
            if again.status != 0 or self._state() != self._expected(name, command):
                tally.violations.append(f"{shown}: the same command again: {again}, {sorted(self._state())}")
        (tally.survived if outcome.status == 0 else tally.refused)[str(faults.get("call", "odd"))] += 1
        return True

    def _wrong(
        self, name: str, command: Command, faults: Mapping[str, object], outcome: Outcome, before: dict[str, object]
    ) -> Iterator[str]:
        if {path: value for path, value in snapshot(self.root).items() if path in self._inputs} != self._inputs:
            yield "the inputs have changed"
        if outcome.status not in (0, 2):
            yield f"ended with {outcome}"
        elif outcome.status == 2 and not _friendly(outcome.stderr):
            yield f"not two friendly lines: {outcome.stderr}"
        whole = outcome.status == 0 or _WHOLE in outcome.stderr
        wanted = self._expected(name, command) if whole else before
        state = self._state()
        left = sorted(path for path in state if path not in wanted)
        if (
            left
            and faults.get("call") in _NEEDED_TO_CLEAN_UP
            and all(".mi-kernels-work" in p or p == "a" for p in left)
        ):
            state = {path: value for path, value in state.items() if path in wanted}
        if state != wanted:
            yield f"{outcome}; not as it should be: {sorted(_differing(state, wanted))}"

    def _expected(self, name: str, command: Command) -> dict[str, object]:
        """Returns the files after a run without faults."""
        if name not in self._whole:
            self._reset(command)
            outcome = self._session.run(command.argv)
            assert outcome.status == 0, outcome
            self._whole[name] = self._state()
        return self._whole[name]

    def _state(self) -> dict[str, object]:
        """Returns kinds and contents of all files except the inputs."""
        return {
            path: value[0] if isinstance(value, tuple) else value
            for path, value in snapshot(self.root).items()
            if path not in self._inputs
        }

    def _reset(self, command: Command) -> None:
        for path in self.root.iterdir():
            if path.name not in self._inputs:
                shutil.rmtree(path)
        if command.old:
            shutil.copytree(self._old, self.world.out)


def _friendly(text: str) -> bool:
    lines = without_announcements(text).splitlines()
    return (
        len(lines) == 2
        and lines[0].startswith("mi-kernels: /")
        and lines[1].startswith("  ")
        and bool(lines[1].strip())
    )


def _differing(state: Mapping[str, object], wanted: Mapping[str, object]) -> Iterator[str]:
    for path in {*state, *wanted}:
        if state.get(path) != wanted.get(path):
            yield f"{path} ({'missing' if path not in state else 'left' if path not in wanted else 'differs'})"


def odd_disks() -> Iterator[dict[str, object]]:
    """Disks that are slow, or that read and write only a few bytes at a time."""
    for seed in range(1, 6):
        yield {"short": seed}
    yield {"delay": 500}


def campaign(disk: Disk, commands: Sequence[str], tally: Tally, every_errno: bool) -> None:
    """Makes every call of every command fail once (`every_errno`: with each errno), then permanently; odd disks."""
    for name in commands:
        for call, codes in CALLS.items():
            for some in [(code,) for code in codes] if every_errno else [codes]:
                disk.fail_each(name, call, some, tally)
        for call, codes in LASTING.items() if every_errno else ():
            for code in codes:
                disk.fail_each(name, call, (code,), tally, lasting=True)
        for odd in odd_disks():
            disk.inject(name, odd, tally)
