"""Progress: bars on terminals and in notebooks, lines in logs, calls of functions."""

from __future__ import annotations

import importlib.util
import sys
import threading
import warnings
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from mi_kernels import ArgumentError
from mi_kernels.system import progress as progress_room
from mi_kernels.system.duration import show_about, show_left
from mi_kernels.system.progress import Lines, Progress, progress_bar, say

from ..support.terminal import on_terminal, screen

GB = 10**9


class Clock:
    """A time that only a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_line_has_bytes_speed_and_time_left() -> None:
    clock = Clock()
    lines = Lines(8 * GB, "merging", clock=clock, wait=lambda seconds: True)
    assert lines.line() == "merging: 0 B of 8 GB (0 %)"
    clock.now += 5
    assert lines.line() == "merging: 0 B of 8 GB (0 %)"
    lines.update(2 * GB)
    assert lines.line() == "merging: 2 GB of 8 GB (25 %), 400 MB/s, 15 s left"
    clock.now += 5  # nothing moves
    assert lines.line() == "merging: 2 GB of 8 GB (25 %), 200 MB/s, 30 s left"
    lines.update(6 * GB)
    lines.relabel("syncing to disk")
    assert lines.line() == "syncing to disk: 8 GB of 8 GB (100 %)"


def test_what_was_done_before_is_no_speed() -> None:
    clock = Clock()
    lines = Lines(8 * GB, "merging", done=6 * GB, clock=clock, wait=lambda seconds: True)
    clock.now += 10
    lines.update(GB)
    assert lines.line() == "merging: 7 GB of 8 GB (87 %), 100 MB/s, 10 s left"


def test_the_first_line_comes_after_the_interval(capsys: pytest.CaptureFixture[str]) -> None:
    clock, waits = Clock(), []

    def wait(seconds: float) -> bool:
        assert len(capsys.readouterr().err.splitlines()) == (1 if waits else 0)
        waits.append(seconds)
        clock.now += seconds
        return len(waits) == 4

    Lines(GB, "verifying", clock=clock, wait=wait).run()
    assert waits == [5.0] * 4


def test_closing_ends_the_thread_and_a_short_step_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("lines", 10, "merging") as on_bytes:
        on_bytes(10)
        (thread,) = [t for t in threading.enumerate() if t.name == "mi-kernels-progress"]
    thread.join(60)
    assert not thread.is_alive()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("progress", [True, False])
def test_python_prints_nothing_in_a_log_unless_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], progress: bool
) -> None:
    monkeypatch.setattr(progress_room, "Lines", lambda *arguments: pytest.fail("asked for lines"))
    with progress_bar(progress, 10, "merging") as on_bytes:
        on_bytes(10)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("progress", [True, "lines"])
@pytest.mark.parametrize("columns", [80, 0])
def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, progress: Progress, columns: int) -> None:
    """A terminal that does not know its size, as in `script` or a container, has 0 columns."""
    with on_terminal(monkeypatch, columns) as terminal:
        with progress_bar(progress, 8 * GB, "merging", done=2 * GB, then="syncing to disk") as on_bytes:
            first = terminal.printed()
            on_bytes(6 * GB)
            last = terminal.printed()
        assert screen(first)[-1].startswith("merging:  25%|")
        assert "2.00GB of 8.00GB" in first
        assert "left" in first
        assert screen(last)[-1].startswith("syncing to disk: 100%|")
        assert len(screen(last)[-1]) <= 80
        assert screen(first + last + terminal.printed()) == [""]


def test_a_note_stands_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    with on_terminal(monkeypatch) as terminal:
        with progress_bar(True, 100, "merging") as on_bytes:
            on_bytes(50)
            say("mi-kernels: a worker died")
            seen = terminal.printed()
            assert screen(seen)[0] == "mi-kernels: a worker died"
            assert screen(seen)[1].startswith("merging:")
        assert screen(seen + terminal.printed()) == ["mi-kernels: a worker died", ""]


def interrupted(stop: type[BaseException]) -> None:
    with progress_bar(True, 100, "merging") as on_bytes:
        on_bytes(50)
        raise stop


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_the_terminal_clean(monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]) -> None:
    with on_terminal(monkeypatch) as terminal:
        with pytest.raises(stop):
            interrupted(stop)
        assert screen(terminal.printed()) == [""]


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(progress_room, "Lines", lambda *arguments: made.append(arguments) or SimpleNamespace(close=int))
    with on_terminal(monkeypatch) as terminal:
        monkeypatch.setenv("TERM", "dumb")
        with progress_bar("lines", 100, "merging"):
            pass
        assert terminal.printed() == ""
    assert made == [(100, "merging", 0)]


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # tqdm.auto warns where ipywidgets is missing
        yield


@pytest.mark.usefixtures("notebook")
def test_a_notebook_without_widgets_gets_a_bar_of_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with progress_bar(True, 100, "merging") as on_bytes:
        on_bytes(50)
    assert "merging:   0%|" in capsys.readouterr().err


@pytest.mark.usefixtures("notebook")
def test_a_notebook_with_widgets_gets_its_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    from tqdm.notebook import tqdm_notebook

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "ipywidgets" else None)
    assert progress_room._bar_class() is tqdm_notebook


def test_ipython_in_a_terminal_is_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = SimpleNamespace(config={"TerminalIPythonApp": {}})
    for found in (shell, None):
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda s=found: s))  # type: ignore[arg-type, misc]
        assert progress_room._bar_class() is None


def test_more_bytes_than_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo does not count headers."""
    seen: list[object] = []
    display = SimpleNamespace(update=seen.append, relabel=seen.append, close=lambda: seen.append("closed"))
    monkeypatch.setattr(progress_room, "Lines", lambda *arguments: display)
    with progress_bar("lines", 100, "merging", then="syncing") as on_bytes:
        for count in (60, 50, 7):
            on_bytes(count)
    assert seen == [60, 40, "syncing", 0, "closed"]


def test_a_function_gets_finished_and_total() -> None:
    calls: list[tuple[int, int]] = []
    with progress_bar(lambda done, total: calls.append((done, total)), 100, "merging", done=40, then="x") as on_bytes:
        on_bytes(20)
        on_bytes(40)
    assert calls == [(40, 100), (60, 100), (100, 100)]


@pytest.mark.parametrize("progress", ["bar", "", None, 1, 0])
def test_other_values_are_refused(progress: object) -> None:
    with pytest.raises(ArgumentError, match="progress is ") as refusal, progress_bar(progress, 1, "x"):  # type: ignore[arg-type]
        pass
    assert refusal.value.remedy == "Use True, False, 'lines' or a function."


def test_durations() -> None:
    assert [show_about(s) for s in (0, 4.4, 9.4, 9.6, 42, 87, 88, 89 * 60, 90 * 60, 10_000, 36_000)] == [
        *("about 1 s", "about 4 s", "about 9 s", "about 10 s", "about 40 s", "about 85 s", "about 2 min"),
        *("about 89 min", "about 1.5 h", "about 3 h", "about 10 h"),
    ]
    assert [show_left(s) for s in (0.4, 59.4, 60, 725, 9000)] == [
        "0 s",
        "59 s",
        "1 min 0 s",
        "12 min 5 s",
        "2 h 30 min",
    ]
