"""Shows the progress of a run: a bar on a terminal, otherwise one line per minute.

The time left counts tokens, those of responses in flight included: with a thousand in flight, the few that finish first
are short, and long ones have cost most of their time before they count as finished.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from mi_kernels.system.duration import show_left

_LINE_SECONDS = 60.0
_BAR_SECONDS = 1.0
_USUAL_SHARE = 0.25  # of the token limit, which the paper's models use on AIME'25: what is assumed before it is known


def mean_length(finished: Sequence[int], running: Sequence[int], limit: int, usual: float | None = None) -> float:
    """The expected tokens of a response, from finished ones and from the lengths that running ones have reached.

    The mean under the Kaplan-Meier estimate of the distribution of lengths: running responses are censored. Beyond the
    longest length seen, responses are assumed to end at `usual` tokens (by default a quarter of `limit`) while most
    have not ended, and soon once most have.
    """
    usual = _USUAL_SHARE * limit if usual is None else usual
    events = sorted([(n, True) for n in finished] + [(n, False) for n in running])
    alive, share, mean, at = len(events), 1.0, 0.0, 0
    for length, ended in events:
        mean += share * (length - at)
        at = length
        if ended:
            share *= 1 - 1 / alive
        alive -= 1
    early, late = max(usual - at, at / 4), at / 4
    return mean + share * min(share * early + (1 - share) * late, max(limit - at, 0))


class Progress:
    """Counts responses (up to `total`) and tokens. A context manager.

    Args:
        limit: of the tokens of a response. running: returns the tokens of each response in flight.
        title: of one run among several, such as "point 3 of 11".
        left: returns the tokens that are left; by default they follow from `limit` and the lengths so far.
        rest: returns the seconds that later runs take at so many tokens per second; None if there are none.
    """

    def __init__(
        self,
        total: int,
        shown: bool = True,
        limit: int = 0,
        running: Callable[[], Sequence[int]] = lambda: (),
        *,
        title: str = "",
        left: Callable[[], float] | None = None,
        rest: Callable[[float], float] | None = None,
    ) -> None:
        self._total = total
        self._lengths: list[int] = []
        self._sum = 0
        self._limit, self._running = limit, running
        self._title, self._left, self._rest = title, left, rest
        self._start = self._shown_at = time.monotonic()
        self._paused = 0.0
        self._shown = shown
        self._bar: Any = None

    def __enter__(self) -> Progress:
        self._show_bar()
        return self

    def _show_bar(self) -> None:
        if self._shown and sys.stderr.isatty():
            from tqdm import tqdm

            # tqdm's own time left counts responses
            shown = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} responses{postfix}"
            self._bar = tqdm(
                total=self._total,
                initial=len(self._lengths),
                dynamic_ncols=True,
                leave=False,
                file=sys.stderr,
                bar_format=shown,
            )
            self._bar.desc = f"{self._title}: " if self._title else ""

    def add(self, tokens: int) -> None:
        """Counts a finished response."""
        self._lengths.append(tokens)
        self._sum += tokens
        self.refresh()
        if self._bar is not None:
            self._bar.update()

    def refresh(self) -> None:
        """Shows the rate and the time left, if the last time is long enough ago."""
        since = time.monotonic() - self._shown_at
        if self._bar is not None and since >= _BAR_SECONDS:
            self._shown_at = time.monotonic()
            self._bar.set_postfix_str(self._rates())
        elif self._bar is None and self._shown and since >= _LINE_SECONDS:
            self._shown_at = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)

    def pause(self) -> float:
        """Removes the bar while something else is printed or asked; returns the time for `resume`."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        return time.monotonic()

    def resume(self, paused: float) -> None:
        """Shows the bar again. The time since `pause` does not count."""
        self._paused += time.monotonic() - paused
        self._show_bar()

    def line(self) -> str:
        """ "1,200 of 7,832 responses, 15,020 tokens/s, 12 min 40 s left". The time left assumes a constant rate."""
        title = f"{self._title}: " if self._title else ""
        return f"{title}{len(self._lengths):,} of {self._total:,} responses, {self._rates()}"

    def _rates(self) -> str:
        rate, left = self.estimate()
        text = f"{rate:,.0f} tokens/s, {show_left(left)} left"
        if self._rest is not None and rate:
            text += f", {show_left(left + self._rest(rate))} for all points"
        return text

    @property
    def seconds(self) -> float:
        """Seconds of generation."""
        return time.monotonic() - self._start - self._paused

    @property
    def tokens(self) -> int:
        """Generated tokens, those in flight included."""
        return self._sum + sum(self._running())

    def estimate(self) -> tuple[float, float]:
        """Tokens per second, and seconds left."""
        running = list(self._running())
        tokens = self._sum + sum(running)
        rate = tokens / max(self.seconds, 1e-9)
        if self._left is not None:
            left = self._left()
        else:
            left = max(0.0, self._total * mean_length(self._lengths, running, self._limit) - tokens)
        return rate, left / rate if rate else 0.0

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()
