"""python -m eval tune: what it writes, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("optuna")

from eval import engines
from eval.cli import program as cli
from eval.engines.live_pair import LivePair, NotLiveError
from eval.errors import EvalError
from eval.run import driver, files
from eval.run.settings import Choices, make_part
from eval.schema import Run, Sampling, Setting
from eval.sweep import sweep
from eval.tune import known, search
from mi_kernels.recipe.load import load

from ..support import landscape
from ..support.fakes import grade_here
from ..support.landscape import LandscapeEngine

QUICK = "--evaluations 3 --sampler random --space layers:2 --lam 0.25,0.75"


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    monkeypatch.setattr("eval.run.grading.grade", grade_here)
    monkeypatch.setattr("eval.benchmarks.names", lambda: ["known"])
    monkeypatch.setattr("eval.benchmarks.get", lambda name: landscape.benchmark())
    monkeypatch.setattr(engines, "create", lambda options: LandscapeEngine())
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[str, str]:
    return landscape.pair(tmp_path_factory.mktemp("pair"))


def test_it_writes_recipes_a_model_and_a_report(pair, tmp_path, capsys):
    command = ["tune", *pair, "--benchmark", "known", *QUICK.split(), "--write", "model", "--seed", "3"]
    assert cli.main(command) == 0
    printed = capsys.readouterr()
    assert "Recommended: " in printed.out
    assert "1 of 5: lam 0.25" in printed.err
    out = tmp_path / "runs" / "tune"
    for name in ("best.yml", "front", "report/index.html", "report/report.md", "study.journal", "tune.json"):
        assert (out / name).exists()
    assert load(out / "best.yml").models == pair
    assert "found by a search over `layers:2`" in (tmp_path / "model" / "README.md").read_text()


def test_budgets_end_with_what_is_known_and_the_same_command_goes_on(pair, tmp_path, capsys):
    """Sessions of few tokens find what one long session finds."""
    command = ["tune", *pair, "--benchmark", "known", *QUICK.split()]
    assert cli.main([*command, "--out", "calm"]) == 0
    calm = capsys.readouterr()
    assert (
        "to generate: 5 points, 480 responses" in calm.err
    )  # 24 problems, 4 samples, 5 candidates, if none stops early
    statuses, said = [], []
    while 0 not in statuses:
        statuses.append(cli.main([*command, "--out", "short", "--tokens", "9K"]))
        said.append(capsys.readouterr().err)
        assert len(statuses) < 20
    assert statuses[:-1] == [3] * (len(statuses) - 1)
    assert len(statuses) > 2
    assert "stopped: the budget of 9 k tokens is spent" in said[0]
    later = said[-2]
    assert "candidates have values. The front so far, on the problems of the search:" in later
    assert "lam 0.25: Mean " in later
    for name in ("best.yml", "report/report.md"):
        assert (tmp_path / "short" / name).read_text() == (tmp_path / "calm" / name).read_text()


def test_quiet_prints_nothing(pair, capsys):
    assert cli.main(["tune", *pair, "--benchmark", "known", *QUICK.split(), "-q"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("--benchmark nothing", "unknown benchmark 'nothing'"),
        ("--benchmark known --space layers:9", "9 blocks of layers"),
        ("--benchmark known --sampler best", "unknown sampler 'best'"),
        ("--benchmark known --evaluations -4", "--evaluations is -4"),
        ("--benchmark known --lam 0:2:1", "2"),
        ("--benchmark known --validation 0", "--validation is 0"),
        ("--benchmark known --url http://localhost:1/v1", "a search changes weights"),
        ("--benchmark known --limit 1", "known: has 1 problem, and"),
        ("--benchmark known --write {instruct}", "{instruct}"),
    ],
)
def test_refusals_are_two_lines_and_write_nothing(pair, tmp_path, capsys, words, problem):
    fill = {"instruct": pair[0]}
    assert cli.main(["tune", *pair, "--sampler", "random", *words.format(**fill).split()]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert problem.format(**fill) in lines[0]
    assert len(lines) == 2
    assert not (tmp_path / "runs").exists()


def test_help_imports_neither_optuna_nor_numpy():
    code = (
        "import sys; from eval.cli.program import main\n"
        "try: main(['tune', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'optuna', 'torch', 'scipy', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(cli.__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    assert "--max-tokens-per-answer" in done.stdout


def test_a_missing_optuna_is_named(monkeypatch, pair, capsys):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "optuna" else real(name))
    assert cli.main(["tune", *pair, "--benchmark", "known"]) == 2
    assert "pip install -e '.[tune]'" in capsys.readouterr().err


def swept(pair: tuple[str, str], out: Path, lam: float, **changes) -> None:
    """A point of an earlier sweep, with all problems."""
    sweep._claim(str(out), sweep.Pair(*pair))
    choices = Choices(**{"seed": 0, **changes})
    from mi_kernels import Recipe

    live = LivePair(*pair, Recipe(lam))
    driver.run(live, [landscape.benchmark()], str(out / f"lam-{lam:g}"), LandscapeEngine(), choices, progress=False)


def test_points_of_an_earlier_sweep_are_not_evaluated_again(pair, tmp_path):
    swept(pair, tmp_path / "sweep", 0.5)
    swept(pair, tmp_path / "sweep", 0.75, samples=2)  # too few samples
    plan = search.Plan(*pair, 2, "layers:2", "random", (0.25, 0.5, 0.75), sweep=str(tmp_path / "sweep"))
    prepared = search.prepare(plan, [landscape.benchmark()], str(tmp_path / "out"), Choices())
    assert list(prepared.known) == [0.5]
    engine = LandscapeEngine()
    outcome = search.run(prepared, engine, lambda line: None)
    asked = {text for text, _ in engine.asked}
    assert '{"lam": 0.25}' in asked
    assert '{"lam": 0.75}' in asked
    assert '{"lam": 0.5}' not in asked
    point = next(c for c in outcome.candidates if c.lam == 0.5)
    (split,) = prepared.splits
    whole = files.load_scores(str(tmp_path / "sweep" / "lam-0.5"), "known")
    wanted = {p.id for p in split.validation}
    mine = [p for p in whole.problems if p.id in wanted]
    assert point.mean.value == pytest.approx(sum(p.correct for p in mine) / sum(p.n for p in mine))
    assert {p.id for p in point.scores["known"].problems} == wanted


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"max_tokens": 20}, "other problems or another sampling"),
        ({"limit": 5}, "other problems or another sampling"),
        ({"samples": 1}, "has 1 samples"),
    ],
)
def test_a_sweep_with_other_settings_is_refused(pair, tmp_path, capsys, change, reason):
    swept(pair, tmp_path / "sweep", 0.5, **change)
    words = ["tune", *pair, "--benchmark", "known", "--lam", "0.5", "--sampler", "random", "--sweep", "sweep"]
    assert cli.main(words) == 2
    assert reason in capsys.readouterr().err


def test_a_sweep_of_another_pair_is_refused(pair, tmp_path):
    other = landscape.pair(tmp_path)
    swept(other, tmp_path / "sweep", 0.5)
    with pytest.raises(EvalError, match="holds a sweep of another pair"):
        known.load(str(tmp_path / "sweep"), *pair, [0.5], [])


def test_instruct_itself_is_no_point_of_a_search(tmp_path):
    setting = Setting(4, 1, "d", 0, Sampling(0.7, 0.8, 20, 400))
    files.save_run(str(tmp_path), Run("m", "Instruct", "instruct", 0.0, None, {}, {"known": setting}))
    part = make_part(landscape.benchmark(), "merged", Choices(), None)
    with pytest.raises(EvalError, match="is INSTRUCT with its own sampling"):
        known._point(str(tmp_path), part)


class Folders(LandscapeEngine):
    """An engine that holds no pairs: it reads what a merged folder is from its record."""

    def open(self, model, length):
        if isinstance(model, LivePair):
            raise NotLiveError("this engine cannot change weights", "Merge the pair into a folder, and evaluate that.")
        import json

        from mi_kernels import Recipe

        record = Path(model) / "mi_kernels.json"
        content = json.loads(record.read_text()) if record.exists() else {"lam": 1.0}
        self.recipe = Recipe.from_dict({k: content[k] for k in ("lam", "rules") if content.get(k)})
        self.opened += 1
        return {"name": "landscape", "version": "1", "settings": {}}


def test_an_engine_that_holds_no_pairs_gets_merged_folders(pair, tmp_path, caplog):
    plan = search.Plan(*pair, 2, "layers:2", "random", (0.5, 1.0))
    live, merged = LandscapeEngine(), Folders()
    outcomes = [
        search.run(
            search.prepare(plan, [landscape.benchmark()], str(tmp_path / name), Choices()), engine, lambda line: None
        )
        for name, engine in (("live", live), ("merged", merged))
    ]
    assert [c.scores for c in outcomes[0].candidates] == [c.scores for c in outcomes[1].candidates]
    assert outcomes[0].history == outcomes[1].history
    assert caplog.text.count("each candidate is merged into a folder") == 1
    assert not list((tmp_path / "merged").rglob("*.safetensors")), "no model is left"
