"""The time left, when most responses are still in flight."""

from __future__ import annotations

import math

import numpy as np
import pytest

from eval.run.progress import Progress, mean_length


def test_without_any_in_flight_it_is_the_mean() -> None:
    assert mean_length([100, 200, 600], [], 81920) == pytest.approx(300)


def test_a_response_in_flight_is_at_least_as_long_as_it_is() -> None:
    assert mean_length([100], [1000, 1000], 2000) > (100 + 1000 + 1000) / 3
    assert mean_length([], [5000], 5000) == 5000, "nothing exceeds the limit"


# Lengths as in Table 2: AIME'25 of MI-0.8, and short answers to IFEval, with 1,024 in flight.
@pytest.mark.parametrize(
    ("mean", "limit", "part"),
    [
        *((17500, 81920, part) for part in (0.05, 0.1, 0.3, 0.6, 0.9)),
        *((1000, 65536, part) for part in (0.4, 0.6, 0.9)),
    ],
)
def test_the_time_left_is_near_the_truth_with_a_thousand_in_flight(
    monkeypatch: pytest.MonkeyPatch, mean: int, limit: int, part: float
) -> None:
    generator = np.random.default_rng(0)
    spread = 0.5
    lengths = generator.lognormal(math.log(mean) - spread**2 / 2, spread, 1920).clip(1, limit).astype(int)
    # One token per step for each of 1,024 slots; a second per step.
    ends = sorted(lengths[:1024].tolist())
    starts = [0] * 1024
    for length in lengths[1024:].tolist():
        free = min(ends[-1024:]) if len(ends) == 1024 else sorted(ends)[len(ends) - 1024]
        starts.append(free)
        ends.append(free + length)
    ends = [start + length for start, length in zip(starts, lengths.tolist())]
    now = part * max(ends)
    finished = [n for n, end in zip(lengths.tolist(), ends) if end <= now]
    running = [int(now - start) for start, end in zip(starts, ends) if start < now < end]
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    progress = Progress(1920, False, limit, lambda: running)
    for length in finished:
        progress.add(length)
    clock[0] = now
    left = progress.line().split(", ")[-1].removesuffix(" left")
    units = {"s": 1, "min": 60, "h": 3600}
    words = left.split()
    seconds = sum(int(number) * units[unit] for number, unit in zip(words[::2], words[1::2]))
    # Tokens left at the rate so far; the tail, in which slots are empty, is not foreseen.
    rate = (sum(finished) + sum(running)) / now
    whole, truth = lengths.sum() / rate, (lengths.sum() - sum(finished) - sum(running)) / rate
    # Wrong by at most a factor of 2 and a tenth of the whole.
    assert truth / 2 - whole / 10 <= seconds <= truth * 2 + whole / 10
