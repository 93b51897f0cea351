"""Shows the progress of a run: a bar on a terminal, otherwise one line per minute.

The time left counts tokens, those of responses in flight included: with a thousand in flight, the few that finish first
are short, and long ones have cost most of their time before they count as finished.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

_LINE_SECONDS = 60.0
_BAR_SECONDS = 1.0
_USUAL_SHARE = 0.25  # of the token limit, which the paper's models use on AIME'25: what is assumed before it is known


def mean_length(finished: Sequence[int], running: Sequence[int], limit: int) -> float:
    """The expected tokens of a response, from finished ones and from the lengths that running ones have reached.

    The mean under the Kaplan-Meier estimate of the distribution of lengths: running responses are censored. Beyond the
    longest length seen, responses are assumed to end at a quarter of `limit` while most have not ended, and soon once
    most have.
    """
    events = sorted([(n, True) for n in finished] + [(n, False) for n in running])
    alive, share, mean, at = len(events), 1.0, 0.0, 0
    for length, ended in events:
        mean += share * (length - at)
        at = length
        if ended:
            share *= 1 - 1 / alive
        alive -= 1
    early, late = max(_USUAL_SHARE * limit - at, at / 4), at / 4
    return mean + share * min(share * early + (1 - share) * late, max(limit - at, 0))


class Progress:
    """Counts responses (up to `total`) and tokens. A context manager.

    Args:
        limit: of the tokens of a response. running: returns the tokens of each response in flight.
    """

    def __init__(
        self,
        total: int,
        shown: bool = True,
        limit: int = 0,
        running: Callable[[], Sequence[int]] = lambda: (),
    ) -> None:
        self._total = total
        self._lengths: list[int] = []
        self._limit, self._running = limit, running
        self._start = self._shown_at = time.monotonic()
        self._shown = shown
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if self._shown and sys.stderr.isatty():
            from tqdm import tqdm

            shown = "{l_bar}{bar}| {n_fmt}/{total_fmt} responses, {elapsed}{postfix}"  # tqdm's time counts responses
            self._bar = tqdm(total=self._total, dynamic_ncols=True, leave=False, file=sys.stderr, bar_format=shown)
        return self

    def add(self, tokens: int) -> None:
        self._lengths.append(tokens)
        if self._bar is not None:
            if time.monotonic() - self._shown_at >= _BAR_SECONDS:
                self._shown_at = time.monotonic()
                rate, left = self._estimate()
                self._bar.set_postfix_str(f"{rate:,.0f} tokens/s, {_clock(left)} left", refresh=False)
            self._bar.update()
        elif self._shown and time.monotonic() - self._shown_at >= _LINE_SECONDS:
            self._shown_at = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """ "1,200 of 7,832 responses, 15,020 tokens/s, 0:12:40 left". The time left assumes a constant rate."""
        rate, left = self._estimate()
        return f"{len(self._lengths):,} of {self._total:,} responses, {rate:,.0f} tokens/s, {_clock(left)} left"

    def _estimate(self) -> tuple[float, float]:
        """Tokens per second, and seconds left."""
        running = list(self._running())
        tokens = sum(self._lengths) + sum(running)
        rate = tokens / max(time.monotonic() - self._start, 1e-9)
        expected = self._total * mean_length(self._lengths, running, self._limit)
        return rate, max(0.0, expected - tokens) / rate if rate else 0.0

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _clock(seconds: float) -> str:
    left = int(seconds)
    return f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
