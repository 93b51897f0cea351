"""Sweeps in one engine: which models are opened, what is merged into folders and why, and how points are shared."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval.engines import Completion
from eval.engines.live_pair import LivePair, NotLiveError
from eval.errors import EngineError
from eval.run import driver
from eval.run.settings import Choices
from eval.sweep import sweep
from eval.sweep.cluster import Point, shared, slots
from mi_kernels import Recipe
from mi_kernels.integrations.ray.cluster import Node

from ..support.fakes import FakeEngine, grade_here, mergeable, sums


@pytest.fixture(autouse=True)
def quick_grading(monkeypatch):
    monkeypatch.setattr("eval.run.grading.grade", grade_here)


@pytest.fixture
def pair(tmp_path) -> sweep.Pair:
    return sweep.Pair(mergeable(tmp_path / "tiny-instruct"), mergeable(tmp_path / "tiny-thinking"))


class Holder(FakeEngine):
    """Holds pairs, apart from merges at the lam in `refused`."""

    def __init__(self, *args, refused=()) -> None:
        super().__init__(*args)
        self.refused = refused

    def refuses_pairs(self) -> str:
        return ""

    def open(self, model, length):
        if isinstance(model, LivePair) and model.recipe.lam in self.refused:
            raise NotLiveError("3 of 9 tensors differ", "Merge.")
        return super().open(model, length)


class Thinker(Holder):
    """Thinks at random, ever more often between lam 0.4 and 0.6."""

    def generate(self, requests):
        share = (self.opened[-1].recipe.lam - 0.4) / 0.2
        for i, request in enumerate(requests):
            yield Completion(request.index, "</think> 1" if (i + 0.5) / len(requests) < share else "1", 5, "stop")


def go(pair, tmp_path, engine, lams=(0.0, 0.25, 0.5, 1.0), **plan) -> list[str]:
    schedule = sweep.Schedule(lams, **plan)
    return sweep.run(pair, schedule, [sums()], str(tmp_path / "out"), engine, Choices(samples=1))


def models(tmp_path: Path) -> list[str]:
    folder = tmp_path / "out" / "models"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_sweep_opens_pairs_and_writes_only_runs(pair, tmp_path, capsys):
    engine = Holder()
    folders = go(pair, tmp_path, engine)
    both = (pair.instruct, pair.thinking)
    assert engine.opened == [
        LivePair(*both, Recipe(0.0), "instruct"),
        *(LivePair(*both, Recipe(lam)) for lam in (0.25, 0.5, 1.0)),
    ]
    runs = [driver.load_run(folder) for folder in folders]
    assert [run.role for run in runs] == ["instruct", "merged", "merged", "thinking"]
    assert [run.lam for run in runs] == [0.0, 0.25, 0.5, 1.0]
    assert [run.name for run in runs] == ["Instruct", "MI-0.25", "MI-0.5", "Thinking"]
    assert [run.model for run in runs][::3] == list(both)
    assert [run.merge and run.merge["lam"] for run in runs] == [None, 0.25, 0.5, None]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *(f"lam-{lam:g}" for lam in (0, 0.25, 0.5, 1)),
        "sweep.json",
    ]
    assert "note: a model is merged" not in capsys.readouterr().err
    again = Holder()
    go(pair, tmp_path, again)
    assert not again.opened


def test_a_masked_sweep_has_its_masks_in_every_run_and_its_own_lam_1(pair, tmp_path):
    masked = sweep.Pair(pair.instruct, pair.thinking, "1:", "ffn")
    engine = Holder()
    folders = go(masked, tmp_path, engine, lams=(0.0, 0.5, 1.0))
    assert [opened.recipe for opened in engine.opened] == [
        Recipe(0.0),
        *(Recipe(lam, layers="1:", modules="ffn") for lam in (0.5, 1.0)),
    ]
    for folder, lam in zip(folders[1:], (0.5, 1.0)):
        merge = driver.load_run(folder).merge
        assert merge is not None
        assert (merge["lam"], merge["layers"], merge["modules"]) == (lam, "1:", "ffn")
        assert driver.load_run(folder).role == "merged"


def test_an_adaptive_sweep_writes_no_model_either(pair, tmp_path):
    folders = go(pair, tmp_path, Thinker(), lams=(0.0, 0.5, 1.0), adaptive=True, points=6)
    assert len({driver.load_run(folder).lam for folder in folders}) == 6
    assert not models(tmp_path)


@pytest.mark.parametrize(("refused", "merged"), [((0.0,), 2), ((0.25,), 2), ((0.5,), 1)])
def test_what_an_engine_refuses_is_merged_from_there_on_with_one_note(pair, tmp_path, capsys, refused, merged):
    engine = Holder(refused=refused)
    folders = go(pair, tmp_path, engine)
    assert len(folders) == 4
    assert sum(isinstance(opened, str) and "mi-" in opened for opened in engine.opened) == merged
    assert capsys.readouterr().err.count("folder for each lam: 3 of 9 tensors differ") == 1
    assert not models(tmp_path), "each is removed after its run"


def test_an_engine_that_cannot_hold_pairs_says_so_once(pair, tmp_path, capsys):
    engine = FakeEngine()
    go(pair, tmp_path, engine)
    assert all(isinstance(opened, str) for opened in engine.opened)
    assert capsys.readouterr().err.count("folder for each lam: a fake engine holds no pair") == 1


def test_keep_all_evaluates_the_folders(pair, tmp_path, capsys):
    engine = Holder()
    folders = go(pair, tmp_path, engine, keep="all")
    assert models(tmp_path) == ["mi-0.25", "mi-0.5"]
    assert driver.load_run(folders[1]).model == str(tmp_path / "out/models/mi-0.25")
    assert "note: a model is merged" not in capsys.readouterr().err


@pytest.mark.parametrize("first", [FakeEngine, Holder])
def test_a_run_that_was_begun_with_a_folder_is_the_same_run(pair, tmp_path, first):
    second = Holder if first is FakeEngine else FakeEngine
    interrupted = first(2, EngineError("the engine broke", "Fix it."))
    with pytest.raises(EngineError):
        go(pair, tmp_path, interrupted, lams=(0.25,))
    (folder,) = go(pair, tmp_path, second(), lams=(0.25,))
    assert len(Path(folder, "sums.jsonl").read_text().splitlines()) == 5
    assert len(interrupted.asked) == 5
    assert not models(tmp_path), "the folder of the interrupted run is not needed any more"


def test_another_recipe_does_not_continue_a_run(pair, tmp_path):
    out = str(tmp_path / "run")
    driver.run(LivePair(pair.instruct, pair.thinking, Recipe(0.5)), [sums()], out, Holder(), Choices(samples=1))
    with pytest.raises(driver.EvalError, match="holds a run with other settings") as caught:
        driver.run(LivePair(pair.instruct, pair.thinking, Recipe(0.6)), [sums()], out, Holder(), Choices(samples=1))
    assert "lam 0.5, now 0.6" in caught.value.problem
    wrong = LivePair(pair.instruct, pair.thinking, Recipe(0.0), "instruct")
    with pytest.raises(driver.EvalError, match="the role is instruct, not merged"):
        driver.run(wrong, [sums()], out, Holder(), subject=driver.Subject("merged"))


def points(count: int, model: object) -> list[Point]:
    return [Point(model, sums(), f"lam-{i}", driver.Subject()) for i in range(count)]


def test_a_task_on_a_cluster_gets_points_from_the_whole_range():
    live = points(11, LivePair("a", "b", Recipe(0.5)))
    shares = shared(live, 3)
    assert [point.out for point in shares[0]] == ["lam-0", "lam-3", "lam-6", "lam-9"]
    assert sorted(point.out for share in shares for point in share) == sorted(point.out for point in live)
    assert len(shared(live, 40)) == 11
    folders = points(3, "folder")
    assert shared(folders, 2) == [[point] for point in folders]


def test_as_many_tasks_share_the_points_as_run_at_a_time():
    nodes = [Node("a", 16, 4), Node("b", 8, 8)]
    assert slots(nodes, cpus=1, gpus=1) == 12
    assert slots(nodes, cpus=2, gpus=4) == 3
    assert slots([Node("a", 8, 0), Node("b", 12, 0)], cpus=8, gpus=0) == 2
    assert slots([Node("a", 4, 0)], cpus=8, gpus=0) == 1
