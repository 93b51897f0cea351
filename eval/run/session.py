"""One command that evaluates one model or a sweep: what it will cost, what it may spend, and how far it is.

    session = Session(Budget(seconds=4 * 3600))
    driver.run("mi-0.8", ["aime25"], "runs/mi-0.8", engine, session=session)    # BudgetReached after four hours

The estimate comes from a burst: the first seconds of generation of the first run. Nothing is generated for it alone:
its responses are kept as all others. Only if somebody has to be asked, those in flight are dropped, so that the engine
does not work before the answer.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from .budget import Budget
from .estimate import Estimate, Lengths, Point, estimate, left_of
from .progress import Progress

BURST_SECONDS = 8.0
LONGEST_BURST = 60.0  # if no token is known before: of servers, only the finished responses are


class Confirmation(Protocol):
    """Decides whether somebody must confirm an estimate, and asks."""

    def needed(self, estimate: Estimate) -> bool: ...

    def ask(self, estimate: Estimate) -> None:
        """Returns if the estimate is confirmed.

        Raises:
            EvalError: it is not.
        """


class Session:
    """What a command plans and spends over all of its runs.

    Args:
        budget: stops generation when it is spent.
        confirmation: asked once, after the burst. None: there is no burst and no estimate of the time.
        shown: shows notes and progress on stderr.
    """

    def __init__(
        self, budget: Budget | None = None, confirmation: Confirmation | None = None, *, shown: bool = True
    ) -> None:
        self.budget = budget or Budget()
        self.confirmation = confirmation
        self.shown = shown
        self.lengths = Lengths()
        self._points: dict[str, Point] = {}
        self._complete: set[str] = set()
        self._folder, self._disk, self._more = ".", 0, 0
        self._rate: float | None = None  # generated tokens per second
        self.speed: float | None = None  # the same with the tokens of prompts
        self.generated = 0.0  # seconds of the runs before the one that generates now
        self._idle_since = time.monotonic()

    def announce(self, points: Sequence[Point], folder: str, *, disk: int = 0, more: int = 0) -> None:
        """Adds `points`, before the first of them begins.

        Args:
            folder: where they are written. disk: bytes of the models that will be merged.
            more: the number of points that may be added later.
        """
        first = not self._points
        self._points.update((point.folder, point) for point in points)
        self._folder, self._disk, self._more = folder, disk, more
        if first and points and self.shown:
            self.say("to generate", self.estimate())

    def begin(self, point: Point) -> None:
        """Announces `point` if it is not, with what it really misses.

        Raises:
            BudgetReached: the budget is spent.
        """
        if point.folder in self._points:
            self._points[point.folder] = point
        else:
            self.announce([point], self._folder if self._points else point.folder, more=max(0, self._more - 1))
        self.check()

    def check(self) -> None:
        """Raises:
        BudgetReached: the budget is spent.
        """
        if self.budget.over():
            raise self.budget.reached()

    @contextmanager
    def generating(self, point: Point, running: Callable[[], Sequence[int]]) -> Iterator[Generation]:
        """Context: the generation of the responses that `point` misses; see `begin`.

        Args:
            running: returns the tokens of each response in flight.
        """
        point.seconds = time.monotonic() - self._idle_since
        several = len(self._points) + self._more > 1
        progress = Progress(
            point.missing,
            self.shown,
            running=running,
            title=f"point {len(self._complete) + 1} of {len(self._points)}, {point.name}" if several else "",
            left=lambda: left_of([point], self.lengths, running()).tokens,
            rest=(lambda rate: self._rest(point, rate)) if several else None,
        )
        generation = Generation(self, point, progress, running)
        with progress:
            try:
                yield generation
            finally:
                generation.measure()
                self._rate = progress.estimate()[0] or self._rate
                self.generated += progress.seconds
                self._idle_since = time.monotonic()
        for work in point.works:
            if work.lengths and not work.missing:
                self.lengths.add(work.benchmark, point.lam, sum(work.lengths) / len(work.lengths))
        if not point.missing:
            self._complete.add(point.folder)

    def estimate(self, point: Point | None = None, running: Sequence[int] = (), rate: float | None = None) -> Estimate:
        """What is left of all points, `point` being the one that runs."""
        left = ([point] if point else []) + [p for p in self._left() if p is not point]
        return estimate(
            left,
            self.lengths,
            rate or self._rate,
            running,
            speed=self.speed,
            folder=self._folder,
            overhead=self._overhead(),
            disk=self._disk,
        )

    def say(self, word: str, found: Estimate) -> None:
        """Prints an estimate on stderr, after `word`."""
        more = f"; and up to {self._more} more points" if self._more else ""
        lines = [f"{word}: {found.text}{more}", f"  assumed: {'; '.join(found.assumed)}"]
        if found.disk > found.free:
            lines.append("  the disk does not have that much space")
        if self.budget.limited:
            lines.append(f"  the budget is {self.budget}{self._covers(found)}")
        print(*lines, sep="\n", file=sys.stderr, flush=True)

    def _covers(self, found: Estimate) -> str:
        if found.seconds is None and self.budget.seconds is not None:
            return ""
        share = self.budget.share(found.seconds, found.tokens)
        return ": enough for all of it" if share >= 1 else f": enough for about {100 * share:.0f} % of it"

    def complete_benchmarks(self, folder: str) -> list[str]:
        """The benchmarks of the run in `folder` that miss nothing."""
        point = self._points.get(folder)
        return [work.benchmark for work in point.works if not work.missing] if point else []

    def remaining(self) -> list[str]:
        """What is done and what is left, in a few lines, for the end of a session that stopped early."""
        left = self._left()
        lines = []
        if len(self._points) > 1:
            lines.append(f"{len(self._complete)} of {len(self._points)} points were completed in this session")
        for point in left:
            done = sum(len(work.lengths) for work in point.works)
            if done:
                lines.append(f"{point.folder}: {done:,} of {done + point.missing:,} responses")
        return [*lines, f"left: {self.estimate().text}"] if left else lines

    def _left(self) -> list[Point]:
        return [point for point in self._points.values() if point.missing]

    def _rest(self, now: Point, rate: float) -> float:
        """Seconds of the points after `now`."""
        later = [point for point in self._left() if point is not now]
        both = left_of([now, *later], self.lengths).work
        own = left_of([now], self.lengths).work
        return (both - own) / (self.speed or rate) + self._overhead() * len(later)

    def _overhead(self) -> float:
        """Seconds of a point outside of generation: those of later points, since the first starts the engine."""
        known = [point.seconds for point in self._points.values() if point.seconds is not None]
        known = known[1:] or known
        return sum(known) / len(known) if known else 0.0


class Generation:
    """The generation of one run: counts its responses, measures the burst, and stops when the budget is spent."""

    def __init__(
        self, session: Session, point: Point, progress: Progress, running: Callable[[], Sequence[int]]
    ) -> None:
        self._session, self._point, self._progress, self._running = session, point, progress, running
        self._works = {work.benchmark: work for work in point.works}
        self._read = 0.0  # tokens of the prompts of finished responses
        self._stopped: str | None = None
        self._in_flight = 0  # when it was stopped

    def add(self, benchmark: str, tokens: int) -> None:
        """Counts a finished response."""
        work = self._works[benchmark]
        work.lengths.append(tokens)
        work.missing -= 1
        self._read += work.prompt_tokens
        self._session.budget.spend(tokens)
        if self._stopped:
            self._in_flight -= tokens
        self._progress.add(tokens)

    def stop(self) -> bool:
        """Whether the engine shall drop the responses in flight and begin no others. Engines call it all the time."""
        if self._stopped:
            return True
        running = list(self._running())
        self.measure()
        if self._session.budget.over(sum(running)):
            self._stopped = "budget"
        elif self._session.confirmation is not None:
            self._burst(running)
        if self._stopped:
            self._in_flight = sum(running)
        self._progress.refresh()
        return self._stopped is not None

    def measure(self) -> None:
        """Tells the session how fast the engine reads and generates."""
        first = next((work for work in self._point.works if work.missing), None)
        read = self._read + (len(self._running()) * first.prompt_tokens if first else 0.0)
        if self._progress.seconds > 0 and self._progress.tokens:
            self._session.speed = (self._progress.tokens + read) / self._progress.seconds

    def _burst(self, running: Sequence[int]) -> None:
        """Shows the estimate when the burst is over."""
        rate = self._progress.estimate()[0]
        if self._session.generated + self._progress.seconds < (BURST_SECONDS if rate else LONGEST_BURST):
            return
        confirmation, self._session.confirmation = self._session.confirmation, None
        found = self._session.estimate(self._point, running, rate)
        if confirmation is not None and confirmation.needed(found):
            self._stopped, self._session.confirmation = "question", confirmation
            self._found = found
        elif self._session.shown:
            paused = self._progress.pause()
            self._session.say("estimate", found)
            self._progress.resume(paused)

    def proceed(self) -> bool:
        """Whether there is more to generate after the engine has ended. Call it then.

        Raises:
            BudgetReached: the budget is spent.
            EvalError: the estimate is not confirmed.
        """
        stopped, self._stopped = self._stopped, None
        if stopped is None or not self._point.missing:
            return False
        self._session.budget.spend(max(0, self._in_flight))
        if stopped == "budget":
            raise self._session.budget.reached()
        confirmation, self._session.confirmation = self._session.confirmation, None
        assert confirmation is not None
        paused = self._progress.pause()
        self._session.say("estimate", self._found)
        confirmation.ask(self._found)
        self._progress.resume(paused)
        return True
