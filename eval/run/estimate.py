"""Estimates what runs cost before they are finished: tokens, time and disk, and what the numbers assume.

The tokens of a response are measured where responses are known: on this model, otherwise on models at other lam,
otherwise they are assumed to be as long as the paper's. Tokens per second come from a burst on the real engine.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mi_kernels.system.disk_space import free_space
from mi_kernels.system.duration import show_about
from mi_kernels.system.sizes import show_bytes, show_count

from ..errors import EvalError
from ..schema import Response
from .files import load_scores
from .progress import mean_length
from .settings import Part

# Token #N of MI-0.8 of the 4B pair in the paper's Table 2.
PAPER_LENGTHS = {"aime25": 17574, "ifeval": 1556, "gpqa": 8427}
_BYTES_PER_TOKEN = 4  # of English text and of mathematics, in JSON
_BYTES_PER_RESPONSE = 400  # of the other fields of a line, and of its verdict
_TEMPLATE_TOKENS = 20
_ENOUGH = 8  # responses of which fewer say little about the others


@dataclass
class Work:
    """One benchmark of one run: the responses that are missing.

    Attributes:
        benchmark: its name. missing: responses to generate. limit: of the tokens of each.
        prompt: mean bytes of a prompt in the journal.
        lengths: tokens of the finished responses, those of earlier sessions included.
    """

    benchmark: str
    missing: int
    limit: int
    prompt: float = 0.0
    lengths: list[int] = field(default_factory=list)

    @property
    def prompt_tokens(self) -> float:
        """Of a prompt in its chat template, roughly: reading them is work, too, and all of it for short answers."""
        return self.prompt / _BYTES_PER_TOKEN + _TEMPLATE_TOKENS

    def usual(self) -> float:
        """The tokens of a response if nothing is known: the paper's, otherwise a quarter of the limit."""
        return min(PAPER_LENGTHS.get(self.benchmark, self.limit / 4), self.limit)


@dataclass
class Point:
    """One run of a session: a model at `lam` (None if it has none), in `folder`.

    Attributes:
        seconds: spent on it outside of generation (merge, start of the engine); None if it has not begun.
    """

    folder: str
    lam: float | None
    works: Sequence[Work]
    seconds: float | None = None

    @property
    def name(self) -> str:
        return os.path.basename(os.path.abspath(self.folder))

    @property
    def missing(self) -> int:
        return sum(work.missing for work in self.works)


@dataclass(frozen=True)
class Estimate:
    """What is left to do.

    Attributes:
        points: runs. responses, tokens: to generate. seconds: None if the rate is not known.
        rate: tokens per second. disk: bytes to write. free: bytes on that file system.
        assumed: what the numbers rest on, a few words each.
    """

    points: int
    responses: int
    tokens: float
    rate: float | None
    seconds: float | None
    disk: int
    free: int
    assumed: Sequence[str]

    @property
    def text(self) -> str:
        """ "11 points, 2,640 responses, about 1.2 M tokens, about 12 min at 15,020 tokens/s, 6 MB on disk"."""
        parts = [f"{self.points} points"] if self.points > 1 else []
        parts += [f"{self.responses:,} responses", f"about {show_count(self.tokens)} tokens"]
        if self.seconds is not None and self.rate is not None:
            parts.append(f"{show_about(self.seconds)} at {self.rate:,.0f} tokens/s")
        return ", ".join([*parts, f"{show_bytes(self.disk)} on disk ({show_bytes(self.free)} free)"])


def work_of(part: Part, done: Mapping[tuple[str, int], Response]) -> Work:
    """The work that is left of `part`, of which a journal holds `done`."""
    missing = part.missing(done)
    prompt = sum(len(response.prompt.encode()) for response in missing) / max(len(missing), 1)
    lengths = [response.tokens for response in done.values()]
    return Work(part.benchmark.name, len(missing), part.setting.sampling.max_tokens, prompt, lengths)


class Lengths:
    """The mean tokens of a response by benchmark and lam: from runs that are finished."""

    def __init__(self) -> None:
        self._known: dict[str, dict[float, float]] = {}

    def add(self, benchmark: str, lam: float | None, mean: float) -> None:
        if lam is not None and mean >= 0:
            self._known.setdefault(benchmark, {})[lam] = mean

    def at(self, work: Work, lam: float | None) -> float | None:
        """Linear between the two nearest lam that are known. None if nothing is known.

        Outside of them, the nearest one or what is usual, whichever is longer: Instruct's answers can be much shorter
        than those of all others.
        """
        known = sorted(self._known.get(work.benchmark, {}).items())
        if not known or lam is None:
            return None
        below = [point for point in known if point[0] <= lam]
        above = [point for point in known if point[0] >= lam]
        if not below or not above:
            return max((below[-1:] or above)[0][1], work.usual())
        (x0, y0), (x1, y1) = below[-1], above[0]
        return y0 if x0 == x1 else y0 + (y1 - y0) * (lam - x0) / (x1 - x0)


def mean_of(work: Work, lengths: Lengths, lam: float | None, running: Sequence[int] = ()) -> tuple[float, str]:
    """The expected tokens of a response, and what it is based on.

    Args:
        running: the tokens that responses in flight have reached, if they are of this work.
    """
    elsewhere = lengths.at(work, lam)
    usual = work.usual() if elsewhere is None else elsewhere
    count = len(work.lengths) + len(running)
    if count:
        based = f"from {len(work.lengths):,} finished" + (f" and {len(running):,} in flight" if running else "")
        weight = min(count / _ENOUGH, 1.0)
        return weight * mean_length(work.lengths, running, work.limit, usual) + (1 - weight) * usual, based
    if elsewhere is not None:
        return elsewhere, "as at other lam"
    if work.benchmark in PAPER_LENGTHS:
        return usual, "as in the paper"
    return usual, "a quarter of the limit"


class Left(NamedTuple):
    """Tokens to generate, tokens to read and to generate, bytes to write, and what they rest on."""

    tokens: float
    work: float
    disk: float
    assumed: Sequence[str]


def left_of(points: Sequence[Point], lengths: Lengths, running: Sequence[int] = ()) -> Left:
    """What `points` still need.

    Args:
        points: the first of them may have begun; `running` are the tokens of its responses in flight.
    """
    first: dict[str, float] = {}  # by benchmark: of the first point
    bases: dict[str, str] = {}
    tokens, read, written, others = 0.0, 0.0, 0.0, False
    for i, point in enumerate(points):
        flying = list(running) if i == 0 else []
        for work in point.works:
            if not work.missing:
                continue
            own, flying = flying, []  # responses in flight belong to the first benchmark that has any missing
            mean, base = mean_of(work, lengths, point.lam, own)
            if i and not work.lengths and lengths.at(work, point.lam) is None:
                mean, others = max(mean, first.get(work.benchmark, 0.0)), True
            first.setdefault(work.benchmark, mean)
            bases.setdefault(work.benchmark, f"{work.benchmark} {mean:,.0f} tokens per response ({base})")
            # Finished responses are the short ones: what is left is the whole less what they had.
            whole = (len(work.lengths) + work.missing) * mean
            tokens += max(0.0, whole - sum(work.lengths) - sum(own))
            read += max(0, work.missing - len(own)) * work.prompt_tokens
            written += work.missing * (mean * _BYTES_PER_TOKEN + work.prompt + _BYTES_PER_RESPONSE)
    also = ["the other points have as many, or the usual number if that is larger"] if others else []
    return Left(tokens, tokens + read, written, [*bases.values(), *also])


def estimate(
    points: Sequence[Point],
    lengths: Lengths,
    rate: float | None,
    running: Sequence[int] = (),
    *,
    speed: float | None = None,
    folder: str,
    overhead: float = 0.0,
    disk: int = 0,
) -> Estimate:
    """What `points` still cost, see `left_of`.

    Args:
        rate: generated tokens per second, None if it is not known. speed: the same with those of prompts.
        folder: where they are written. overhead: seconds outside of generation of each point that has not begun.
        disk: bytes of merged models.
    """
    left = left_of(points, lengths, running)
    waiting = sum(point.seconds is None for point in points)
    spent = left.work / speed if speed else left.tokens / rate if rate else None
    seconds = None if spent is None else spent + overhead * waiting
    responses = sum(point.missing for point in points)
    size = int(left.disk) + disk
    return Estimate(len(points), responses, left.tokens, rate, seconds, size, free_space(folder), left.assumed)


def known_lengths(folders: Iterable[tuple[float, str]], benchmark: str) -> list[tuple[float, float]]:
    """(lam, mean tokens) of the runs in `folders`, each a pair (lam, folder), that have scores on `benchmark`."""
    found = []
    for lam, folder in folders:
        try:
            found.append((lam, load_scores(folder, benchmark).tokens.value))
        except (OSError, EvalError):  # it is not finished, or is reported elsewhere
            continue
    return found
