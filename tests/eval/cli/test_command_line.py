"""The command line: what it hands on, and that every refusal is two lines without a traceback."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from eval import engines
from eval.cli import program as cli
from eval.cli.summary import summary
from eval.engines import Completion
from eval.run import driver, files
from eval.run.progress import Progress
from eval.run.settings import Choices
from eval.schema import Interval, Run
from eval.sweep import sweep
from mi_kernels.cli.shell import Terminated

from ..support import simulated
from ..support.fakes import FakeEngine, grade_here, mergeable, model, never, sums


@pytest.fixture(autouse=True)
def quick_grading(monkeypatch):
    monkeypatch.setattr("eval.run.grading.grade", grade_here)


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """The command line with the benchmark of sums and the engine that answers at once."""
    engine = FakeEngine()
    monkeypatch.setattr("eval.benchmarks.names", lambda: ["sums"])
    monkeypatch.setattr("eval.benchmarks.get", lambda name: sums())
    monkeypatch.setattr(engines, "create", lambda options: engine)
    monkeypatch.chdir(tmp_path)
    return engine


def test_run_evaluates_and_prints_the_scores(fake, tmp_path, capsys):
    folder = model(tmp_path / "tiny-instruct")
    assert cli.main(["run", folder, "--benchmark", "sums", "--samples", "2", "--limit", "3", "--seed", "5"]) == 0
    assert [r.seed for r in fake.asked] == list(range(5, 11))
    assert fake.asked[0].sampling.temperature == 0.7
    out = capsys.readouterr().out
    assert "tiny-instruct (instruct)" in out
    assert "Sums: Mean@2 66.7" in out
    assert (tmp_path / "runs" / "tiny-instruct" / "run.json").exists()


def test_the_summary_gives_each_number_under_its_name(fake, tmp_path):
    scores = replace(
        simulated.scores(0.8, 0.5, benchmark="sums", samples=8),
        mean=Interval(0.805, 0.7, 0.9),
        think=Interval(0.999, 0.99, 1.0),
        tokens=Interval(17574.2, 17000.0, 18000.0),
        cut=0.0125,
        unparsed=0.025,
    )
    files.save_run(str(tmp_path), Run("m", "MI-0.8", "merged", 0.8, None, {}, {}))
    files.save_scores(str(tmp_path), scores)
    first, second, _ = summary(str(tmp_path), ["sums"]).splitlines()
    assert first == "MI-0.8 (merged, lam 0.8)"
    assert second == ("  Sums: Mean@8 80.5 (70.0 to 90.0), Think #R 99.9, Token #N 17,574, cut 1.2, unparsed 2.5")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("run nowhere --benchmark sums", "nowhere: is not a folder"),
        ("run m --benchmark nothing --role instruct", "unknown benchmark 'nothing'"),
        ("run m --benchmark sums", "m: the role is unknown"),
        ("run m --benchmark sums --samples few", "--samples is 'few'"),
        ("run m --benchmark sums --role merged --samples 0", "samples is 0"),
        ("run m --benchmark sums --role merged --top-p 2", "top_p is 2.0"),
        ("run m --benchmark sums --data sums", "--data 'sums' is not NAME=PATH"),
        ("run m --benchmark sums --engines 0", "--engines is 0"),
        ("run m --benchmark sums --engine vllm --url http://x", "--url needs the engine openai"),
        ("run m", "the following arguments are required: --benchmark"),
        ("walk m", "unknown command 'walk'"),
        ("sweep m m --lam 0:1 --benchmark sums", "'0:1' is not START:STOP:STEP"),
        ("sweep m m --lam 0.5,2 --benchmark sums --out s", "lam is 2"),
        ("sweep m m --lam 0.5 --benchmark nothing --out s", "unknown benchmark 'nothing'"),
        ("sweep m m --lam 0.5 --benchmark sums --limit 0 --out s", "limit is 0"),
        ("run m --benchmark ,", "--benchmark names no benchmark"),
        ("sweep m m --lam 0.5 --benchmark sums --url http://x", "a sweep makes its models"),
        ("run m --benchmark sums --role merged --out m/config.json", "config.json"),
    ],
)
def test_refusals_are_two_lines(fake, tmp_path, capsys, arguments, problem):
    model(tmp_path / "m")
    try:
        status = cli.main(arguments.split())
    except SystemExit as stopped:  # argparse's own
        status = stopped.code
    error = capsys.readouterr().err
    assert status == 2
    assert error.startswith("python -m eval: ")
    assert problem in error
    assert len(error.splitlines()) <= 2


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (Terminated(), 143)])
def test_an_interrupt_says_that_everything_is_kept(fake, tmp_path, capsys, error, status):
    fake.fail_after, fake.error = 4, error
    folder = model(tmp_path / "tiny-instruct")
    command = ["run", folder, "--benchmark", "sums", "--quiet"]
    assert cli.main(command) == status
    assert "run the same command again to resume" in capsys.readouterr().err
    assert len((tmp_path / "runs/tiny-instruct/sums.jsonl").read_text().splitlines()) == 4
    fake.fail_after = None
    assert cli.main(command) == 0
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_progress_tells_rate_and_time_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with Progress(400, shown=False) as progress:
        for _ in range(100):
            progress.add(3000)
        now[0] += 1220
        assert progress.line() == "100 of 400 responses, 246 tokens/s, 1 h 1 min left"


@pytest.fixture
def merged(monkeypatch):
    """Merges that make nothing but a folder; the lists of lam that were asked for."""
    asked: list[list[float]] = []

    def merge(instruct, thinking, pattern, lams, **options):
        asked.append(list(lams))
        for lam in lams:
            folder = Path(pattern.replace("{lam}", f"{lam:g}"))
            model(folder)
            (folder / "mi_kernels.json").write_text(json.dumps({"method": "lerp", "lam": lam}))

    monkeypatch.setattr(sweep, "sweep_checkpoint", merge)
    monkeypatch.setattr(sweep, "plan_sweep", lambda *pair, **options: None)
    return asked


def test_a_sweep_merges_evaluates_and_goes_on(tmp_path, merged):
    pair = sweep.Pair(model(tmp_path / "a"), model(tmp_path / "b"))
    out = str(tmp_path / "out")

    def go(engine, keep="none", lams=(0.0, 0.25, 0.5, 1.0), pair=pair):
        return sweep.run(pair, sweep.Schedule(lams, keep), [sums()], out, engine, Choices(samples=1), progress=False)

    with pytest.raises(KeyboardInterrupt):
        go(FakeEngine(2, KeyboardInterrupt()), lams=(0.25,))
    assert (tmp_path / "out/models/mi-0.25").exists(), "an interrupted run is resumed with the same model"
    engine = FakeEngine()
    folders = go(engine)
    assert merged == [[0.25], [0.5]]
    assert [driver.load_run(f).lam for f in folders] == [0.0, 0.25, 0.5, 1.0]
    assert [driver.load_run(f).role for f in folders] == ["instruct", "merged", "merged", "thinking"]
    assert not list((tmp_path / "out/models").iterdir())
    again = FakeEngine()
    assert go(again) == folders
    assert not again.opened
    go(FakeEngine(), keep="all", lams=(0.1, 0.2))
    assert merged[2:] == [[0.1, 0.2]]
    assert len(list((tmp_path / "out/models").iterdir())) == 2
    with pytest.raises(driver.EvalError, match="max_tokens 100, now 200"):
        sweep.run(pair, sweep.Schedule((0.5,)), [sums()], out, FakeEngine(), Choices(samples=1, max_tokens=200))
    with pytest.raises(driver.EvalError, match="holds a sweep of another pair: thinking"):
        go(FakeEngine(), pair=sweep.Pair(pair.instruct, pair.instruct))


class Thinker(FakeEngine):
    """Thinks at random, ever more often between lam 0.4 and 0.6."""

    def generate(self, requests, stop=never):
        lam = {"a": 0.0, "b": 1.0}.get(Path(self.opened[-1]).name)
        share = ((float(self.opened[-1].rpartition("-")[2]) if lam is None else lam) - 0.4) / 0.2
        for i, request in enumerate(requests):
            thinks = (i + 0.5) / len(requests) < share
            yield Completion(request.index, "</think> 1" if thinks else "1", 5, "stop")


def test_an_adaptive_sweep_goes_on_where_thinking_begins(tmp_path, merged):
    pair = sweep.Pair(model(tmp_path / "a"), model(tmp_path / "b"))
    plan = sweep.Schedule((0.0, 0.5, 1.0), adaptive=True, points=7)
    folders = sweep.run(pair, plan, [sums()], str(tmp_path / "out"), Thinker(), progress=False)
    lams = [driver.load_run(folder).lam for folder in folders]
    assert lams[:3] == [0.0, 0.5, 1.0]
    assert len(lams) == len(set(lams)) == 7
    assert sum(0.2 <= lam <= 0.8 for lam in lams[3:]) >= 3, lams


@pytest.fixture
def pair(tmp_path):
    """Two models of one layer that can be merged."""
    folders = []
    for name in ("tiny-instruct", "tiny-thinking"):
        folders.append(mergeable(tmp_path / name))
    return folders


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("--layers 40:50", "layers"),
        ("--layers a:b", "layers"),
        ("--modules fnn", "fnn"),
        ("--lam 0,1.2", "lam is 1.2"),
    ],
)
def test_a_sweep_that_cannot_be_merged_is_refused_before_the_first_token(fake, pair, capsys, options, problem):
    command = ["sweep", *pair, "--benchmark", "sums", "--out", "out", "--lam", "0,0.5,1"]
    assert cli.main([*command, *options.split()]) == 2
    error = capsys.readouterr().err
    assert problem in error
    assert "--extrapolate" not in error
    assert len(error.splitlines()) <= 2
    assert not fake.opened, "nothing is evaluated"
    assert not Path("out").exists(), "the corrected command may use the folder"
    assert cli.main([*command, "-q"]) == 0


def test_masked_sweeps_share_a_folder_with_the_plain_one(fake, pair):
    """Each mask has runs of its own beside the shared Instruct, and one report is about all of them."""
    command = ["sweep", *pair, "--benchmark", "sums", "--out", "out", "--lam", "0,0.5,1", "-q"]
    masks = ([], ["--modules", "ffn"], ["--layers", ":1/2"], ["--layers", "0:1", "--modules", "ffn, embed"])
    for mask in masks:
        assert cli.main([*command, *mask]) == 0
    plain, ffn, half, both = "", "-ffn", "-layers--1of2", "-ffn+embed-layers-0-1"
    names = {"lam-0", *(f"lam-{lam}{mask}" for lam in ("0.5", "1") for mask in (plain, ffn, half, both))}
    assert {path.name for path in Path("out").glob("lam-*")} == names
    recorded = {name: driver.load_run(f"out/{name}").merge for name in names}
    assert (recorded["lam-1-ffn"]["modules"], recorded["lam-0.5-layers--1of2"]["layers"]) == ("ffn", ":1/2")
    found = json.loads(Path("out/report/report.json").read_text())["families"]
    assert len(found) == 1
    models = found[0]["benchmarks"]["sums"]["models"]
    assert len(models) == len({m["name"] for m in models}) == 9
    assert Path("out/report/sums-masks.png").exists()
    opened = len(fake.opened)
    assert cli.main([*command, *masks[1]]) == 0
    assert len(fake.opened) == opened, "the same command finds its own runs"


def test_a_folder_of_one_mask_only_is_refused(tmp_path, merged):
    """As written once, without the mask in the names of the runs."""
    pair = sweep.Pair(model(tmp_path / "a"), model(tmp_path / "b"), layers="0:1")
    (tmp_path / "sweep.json").write_text(
        json.dumps({"instruct": pair.instruct, "thinking": pair.thinking, "layers": "0:1", "modules": None})
    )
    with pytest.raises(driver.EvalError, match="layers 0:1 in all its runs"):
        sweep.run(pair, sweep.Schedule((0.5,)), [sums()], str(tmp_path), FakeEngine(), progress=False)


def test_models_that_do_not_fit_together_are_refused_before_the_first_token(fake, pair, tmp_path, capsys):
    other = mergeable(tmp_path / "other-thinking", width=6)
    assert cli.main(["sweep", pair[0], other, "--benchmark", "sums", "--out", "out", "--lam", "0,0.5"]) == 2
    assert "shape" in capsys.readouterr().err
    assert not fake.opened
    assert not Path("out").exists()
