"""Shows the progress of a run: a bar on a terminal, otherwise one line per minute."""

from __future__ import annotations

import sys
import time
from typing import Any

_LINE_SECONDS = 60.0


class Progress:
    """Counts responses (up to `total`) and tokens. A context manager."""

    def __init__(self, total: int, shown: bool = True) -> None:
        self._total, self._done, self._tokens = total, 0, 0
        self._start = self._shown_at = time.monotonic()
        self._shown = shown
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if self._shown and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self._total, unit="response", dynamic_ncols=True, leave=False, file=sys.stderr)
        return self

    def add(self, tokens: int) -> None:
        self._done += 1
        self._tokens += tokens
        if self._bar is not None:
            self._bar.set_postfix_str(f"{self._rate():,.0f} tokens/s", refresh=False)
            self._bar.update()
        elif self._shown and time.monotonic() - self._shown_at >= _LINE_SECONDS:
            self._shown_at = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """ "1,200 of 7,832 responses, 15,020 tokens/s, 0:12:40 left". The time left assumes a constant rate."""
        elapsed = time.monotonic() - self._start
        left = int(elapsed / self._done * (self._total - self._done)) if self._done else 0
        clock = f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
        return f"{self._done:,} of {self._total:,} responses, {self._rate():,.0f} tokens/s, {clock} left"

    def _rate(self) -> float:
        return self._tokens / max(time.monotonic() - self._start, 1e-9)

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()
