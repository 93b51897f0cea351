"""Long commands: what is asked on a terminal and off it, and how a budget ends them."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from eval import engines
from eval.cli import program as cli
from eval.sweep import sweep
from mi_kernels.cli.shell import Parser

from ...support.terminal import Terminal, on_terminal
from ..support.clock import Clock, SlowEngine
from ..support.fakes import FakeEngine, grade_here, mergeable, model, sums

LONG = ["--samples", "60"]  # of 5 problems at one token a second: 2,400 s


@pytest.fixture(autouse=True)
def fakes(monkeypatch, tmp_path):
    """The command line with the benchmark of sums."""
    monkeypatch.setattr("eval.run.grading.grade", grade_here)
    monkeypatch.setattr("eval.benchmarks.names", lambda: ["sums"])
    monkeypatch.setattr("eval.benchmarks.get", lambda name: sums())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO())


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def use(monkeypatch):
    """Makes the commands use an engine."""

    def use(engine: FakeEngine) -> FakeEngine:
        monkeypatch.setattr(engines, "create", lambda options: engine)
        return engine

    return use


@pytest.fixture
def slow(clock, use) -> SlowEngine:
    return use(SlowEngine(clock, width=1))


class Screen:
    """A terminal for stdin and stderr, read by a thread: a program blocks when nobody reads a terminal."""

    def __init__(self, terminal: Terminal) -> None:
        self.type = terminal.type
        self._terminal, self._text = terminal, ""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while not self._end.wait(0.01):
            self._text += self._terminal.printed()

    def printed(self) -> str:
        """Everything that was printed; call it once, at the end."""
        self.close()
        return self._text + self._terminal.printed()

    def close(self) -> None:
        self._end.set()
        self._thread.join()


@contextmanager
def at_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    with on_terminal(monkeypatch, columns=160) as terminal, open(os.dup(terminal.slave)) as keyboard:
        monkeypatch.setattr(sys, "stdin", keyboard)
        screen = Screen(terminal)
        try:
            yield screen
        finally:
            screen.close()


def run(tmp_path: Path, *words: str) -> int:
    return cli.main(["run", model(tmp_path / "m"), "--benchmark", "sums", "--role", "merged", "--out", "r", *words])


def kept(folder: str) -> int:
    path = Path(folder, "sums.jsonl")
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize("answer", ["y\n", "yes\n", "Y\n"])
def test_long_work_goes_on_after_a_yes(tmp_path, slow, answer, monkeypatch):
    with at_terminal(monkeypatch) as terminal:
        terminal.type(answer)
        assert run(tmp_path, *LONG) == 0
        text = terminal.printed()
        assert "estimate: 299 responses, about " in text
        assert "Continue? [y/N] " in text
        assert kept("r") == 300
        assert len(slow.asked) == 300 + 299


@pytest.mark.parametrize("answer", ["n\n", "\n", "maybe\n", "\x04"], ids=["no", "Enter", "maybe", "Ctrl-D"])
def test_long_work_stops_after_anything_else(tmp_path, slow, answer, monkeypatch):
    with at_terminal(monkeypatch) as terminal:
        terminal.type(answer)
        assert run(tmp_path, *LONG) == 2
        *_, problem, remedy = terminal.printed().strip().splitlines()
        assert problem.endswith("stopped, since it was not confirmed")
        assert remedy == "  The responses that are finished are kept. Run the same command again to resume."
        assert kept("r") == 1


def test_ctrl_c_at_the_question_is_a_no(tmp_path, slow, monkeypatch):
    class Interrupted(io.StringIO):
        def isatty(self):
            return True

        def readline(self, *size):
            raise KeyboardInterrupt

    with at_terminal(monkeypatch):
        monkeypatch.setattr(sys, "stdin", Interrupted())
        assert run(tmp_path, *LONG) == 130
    assert kept("r") == 1


def test_quiet_asks_too(tmp_path, slow, monkeypatch):
    with at_terminal(monkeypatch) as terminal:
        terminal.type("y\n")
        assert run(tmp_path, *LONG, "--quiet") == 0
        text = terminal.printed()
        assert "to generate" not in text
        assert "estimate: " in text
        assert "Continue?" in text


@pytest.mark.parametrize("words", [["--yes"], ["-y"], ["--time", "10h"], ["--tokens", "50M"]])
def test_who_has_confirmed_is_not_asked(tmp_path, slow, words, monkeypatch):
    with at_terminal(monkeypatch) as terminal:
        assert run(tmp_path, *LONG, *words) == 0
        assert "Continue?" not in terminal.printed()
        assert len(slow.asked) == 300, "and nothing is dropped"


def test_short_work_is_not_asked_about(tmp_path, slow, monkeypatch):
    with at_terminal(monkeypatch) as terminal:
        assert run(tmp_path) == 0
        text = terminal.printed()
        assert "estimate: 19 responses" in text
        assert "Continue?" not in text


def test_off_a_terminal_long_work_needs_yes_and_the_remedy_works(tmp_path, slow, capsys):
    assert run(tmp_path, *LONG) == 2
    *_, problem, remedy = capsys.readouterr().err.splitlines()
    assert problem.startswith("python -m eval: this takes long and is not confirmed: 299 responses, about ")
    assert remedy == "  Add --yes, or a budget such as --time 4h. The responses that are finished are kept."
    assert kept("r") == 1
    assert run(tmp_path, *LONG, "--yes") == 0
    assert len(slow.asked) == 300 + 299


def test_off_a_terminal_short_work_runs_as_always(tmp_path, slow, capsys):
    assert run(tmp_path) == 0
    assert "Sums: Mean@4" in capsys.readouterr().out


def test_many_tokens_are_asked_about_however_fast(tmp_path, clock, use, capsys, monkeypatch):
    monkeypatch.setattr("eval.cli.confirm.MANY_TOKENS", 100)
    engine = use(SlowEngine(clock))
    assert run(tmp_path) == 2
    assert "is not confirmed" in capsys.readouterr().err
    assert kept("r") == 4
    assert run(tmp_path, "--yes") == 0
    assert len(engine.asked) == 20 + 16


def test_a_run_that_its_budget_stops_says_what_is_left_and_is_resumed(tmp_path, slow, capsys):
    assert run(tmp_path, "--time", "20s") == 3
    lines = capsys.readouterr().err.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("stopped: "))
    assert lines[start] == "stopped: the budget of 20 s is spent: 20 s and 20 tokens in this session"
    # 5, 6 and 7 tokens are finished; two of the fourth are dropped, and 17 are left.
    assert lines[start + 1] == "  r: 3 of 20 responses"
    assert lines[start + 2].startswith("  left: 17 responses, about ")
    assert lines[start + 2].find(" at 1 tokens/s") > 0
    assert lines[start + 3] == "  Run the same command again to resume. Every session has a new budget."
    assert run(tmp_path, "--time", "10m") == 0
    assert kept("r") == 20


def test_a_budget_of_nothing_is_refused_before_anything_is_opened(tmp_path, slow, capsys):
    for words in (["--time", "0s"], ["--time", "5"], ["--tokens", "7"], ["--tokens", "lots"]):
        assert run(tmp_path, *words) == 2
        error = capsys.readouterr().err
        assert words[0] in error
        assert len(error.splitlines()) == 2
    assert not slow.opened
    assert Parser.last is not None


@pytest.fixture
def merged(monkeypatch):
    """Merges that make nothing but a folder."""

    def merge(instruct, thinking, pattern, lams, **options):
        for lam in lams:
            folder = Path(pattern.replace("{lam}", f"{lam:g}"))
            model(folder)
            (folder / "mi_kernels.json").write_text(json.dumps({"method": "lerp", "lam": lam}))

    monkeypatch.setattr(sweep, "sweep_checkpoint", merge)


def sweep_of(tmp_path: Path, *words: str) -> int:
    pair = [mergeable(tmp_path / name) for name in ("tiny-instruct", "tiny-thinking")]
    return cli.main(["sweep", *pair, "--benchmark", "sums", "--out", "s", *words])


def scored(folder: str = "s") -> list[str]:
    return sorted(path.parent.name for path in Path(folder).glob("lam-*/sums.scores.json"))


THREE = ["--lam", "0,0.5,1"]  # of 20 responses with 155 tokens each


@pytest.mark.parametrize("limit", [["--time", "200s"], ["--tokens", "1K"]], ids=["time", "tokens"])
def test_a_sweep_that_its_budget_stops_reports_what_is_complete(tmp_path, slow, merged, capsys, limit):
    tokens = limit == ["--tokens", "1K"]
    more = ["--samples", "24"] if tokens else []  # 120 responses of 8 tokens on average
    assert sweep_of(tmp_path, *THREE, *limit, *more) == 3
    out, err = capsys.readouterr()
    assert out.strip() == os.path.join("s", "report", "index.html")
    assert Path(out.strip()).exists()
    assert scored() == ["lam-0"]
    lines = err.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("stopped: the budget of "))
    assert lines[start + 1] == "  1 of 3 points were completed in this session"
    assert lines[start + 2].startswith(f"  {os.path.join('s', 'lam-0.5')}: {kept('s/lam-0.5')} of ")
    assert lines[start + 3].startswith("  left: 2 points, ")
    assert 0 < kept("s/lam-0.5") < 120
    assert not kept("s/lam-1")
    before = len(slow.asked)
    assert sweep_of(tmp_path, *THREE, *more, "--yes") == 0
    assert scored() == ["lam-0", "lam-0.5", "lam-1"]
    assert len(slow.asked) - before == sum(map(kept, ("s/lam-0.5", "s/lam-1"))) - int(lines[start + 2].split()[1])


def test_a_sweep_with_nothing_complete_writes_no_report(tmp_path, slow, merged, capsys):
    assert sweep_of(tmp_path, *THREE, "--time", "30s") == 3
    out, err = capsys.readouterr()
    assert not out
    assert not Path("s/report").exists()
    assert "  0 of 3 points were completed in this session" in err


def test_a_sweep_is_asked_about_as_a_whole(tmp_path, slow, merged, capsys):
    # About 900 s a point: one is not long, three are.
    assert sweep_of(tmp_path, *THREE, "--samples", "30") == 2
    assert "is not confirmed: 3 points, 449 responses, about " in capsys.readouterr().err
    assert kept("s/lam-0") == 1
    assert sweep_of(tmp_path, "--lam", "0", "--samples", "30") == 0


def test_an_adaptive_sweep_says_that_points_may_be_added_and_stops_when_the_budget_is_spent(
    tmp_path, clock, use, merged, capsys
):
    class Thinker(SlowEngine):
        """Thinks from lam 0.5 on."""

        def answer(self, request):
            lam = {"tiny-instruct": 0.0, "tiny-thinking": 1.0}.get(Path(self.opened[-1]).name)
            lam = float(self.opened[-1].rpartition("-")[2]) if lam is None else lam
            return replace(super().answer(request), text="</think> 1" if lam > 0.5 else "1")

    use(Thinker(clock, width=1))
    words = ["--lam", "0,0.5,1", "--adaptive", "--points", "6", "--time", "600s"]
    assert sweep_of(tmp_path, *words) == 3
    err = capsys.readouterr().err
    assert "; and up to 3 more points" in err
    assert len(scored()) == 3
    assert len(list(Path("s").glob("lam-*"))) == 4
    assert "stopped: the budget of 10 min 0 s is spent" in err


def test_budgets_and_clusters_do_not_go_together(tmp_path, slow, capsys):
    assert sweep_of(tmp_path, *THREE, "--time", "1h", "--ray", "local") == 2
    assert "--time and --tokens do not work with --ray" in capsys.readouterr().err
