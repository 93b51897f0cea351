"""Whole searches on a pair whose merges are known: what they find, and that a kill loses and changes nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")

from eval.errors import EngineError, EvalError
from eval.run.files import load_responses
from eval.run.settings import Choices
from eval.tune import recipe_files, report, search
from eval.tune.outcome import Outcome
from mi_kernels import Recipe, Rule, lerp_checkpoint, merge_checkpoint
from mi_kernels.errors import MIKernelsError
from mi_kernels.recipe.load import load

from ..support import landscape
from ..support.fakes import grade_here
from ..support.landscape import LandscapeEngine

SEARCH = """
import sys
sys.path.insert(0, ".")
from tests.eval.tune.test_search import searched_alone
searched_alone(*sys.argv[1:])
"""


@pytest.fixture(autouse=True)
def quick_grading(monkeypatch):
    monkeypatch.setattr("eval.run.grading.grade", grade_here)


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[str, str]:
    return landscape.pair(tmp_path_factory.mktemp("pair"))


def plan(pair: tuple[str, str], **changes: Any) -> search.Plan:
    given = {"evaluations": 10, "space": "layers", "sampler": "tpe", "lams": (0.0, 0.25, 0.5, 0.75, 1.0)}
    return search.Plan(*pair, **{**given, **changes})


def run(plan: search.Plan, out: Path | str, engine: LandscapeEngine | None = None, benchmarks=None) -> Outcome:
    prepared = search.prepare(plan, benchmarks or [landscape.benchmark()], str(out), Choices(seed=plan.seed))
    return search.run(prepared, engine or LandscapeEngine(), lambda line: None)


def searched_alone(instruct: str, thinking: str, out: str, kill_after: str) -> None:
    """In a process of its own, which dies after so many responses."""
    import eval.run.grading

    eval.run.grading.grade = grade_here
    run(plan((instruct, thinking)), out, LandscapeEngine(kill_after=int(kill_after)))


@pytest.fixture(scope="module")
def found(pair, tmp_path_factory) -> tuple[Outcome, LandscapeEngine]:
    """A search that finds the front, and what it asked."""
    patch = pytest.MonkeyPatch()
    patch.setattr("eval.run.grading.grade", grade_here)
    engine = LandscapeEngine()
    outcome = run(plan(pair, evaluations=24), tmp_path_factory.mktemp("found") / "out", engine)
    recipe_files.write(outcome)
    report.write(outcome)
    patch.undo()
    return outcome, engine


def study_of(out: Path | str) -> list[tuple[Any, ...]]:
    """What a study holds, without times."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    study = optuna.load_study(
        study_name="tune", storage=JournalStorage(JournalFileBackend(str(Path(out) / "study.journal")))
    )
    return [(t.number, t.state.name, t.params, t.values, t.user_attrs) for t in study.trials]


def test_it_finds_what_no_plain_interpolation_reaches(found):
    outcome, _ = found
    assert outcome.gain.low > 0
    assert not outcome.nothing_better
    assert outcome.volume.value > outcome.plain_volume.value + 0.05
    best = outcome.candidates[outcome.recommended]
    assert best.lam is None
    plain = outcome.candidates[outcome.best_plain]
    assert best.tokens.high < plain.tokens.low
    assert len(outcome.history) == outcome.evaluated == 29
    assert list(outcome.history) == pytest.approx(sorted(outcome.history), abs=1e-12)
    assert outcome.history[-1] > outcome.plain_history


def test_what_is_reported_is_of_problems_that_the_search_has_not_seen(found):
    outcome, _ = found
    (split,) = outcome.prepared.splits
    unseen = {p.id for p in split.validation}
    out = Path(outcome.prepared.out)
    for folder in (out / "candidates").iterdir():
        assert not {r.problem for r in load_responses(str(folder), "known")} & unseen
    validated = list((out / "validation").iterdir())
    assert len(validated) == len(outcome.candidates)
    for folder in validated:
        assert {r.problem for r in load_responses(str(folder), "known")} == unseen
    for candidate in outcome.candidates:
        scores = candidate.scores["known"]
        assert {p.id for p in scores.problems} == unseen
        right, all_of = sum(p.correct for p in scores.problems), sum(p.n for p in scores.problems)
        assert candidate.mean.value == pytest.approx(right / all_of)


def test_every_recipe_is_evaluated_as_it_is_written(found):
    outcome, engine = found
    asked = {text for text, _ in engine.asked}
    assert {json.dumps(c.recipe.to_dict()) for c in outcome.candidates} <= asked


def test_halving_saves_responses(found):
    outcome, engine = found
    assert outcome.stopped > 0
    whole = outcome.evaluated * 24 * 4
    searching = len(engine.asked) - len(outcome.candidates) * 24 * 4
    assert searching < 0.9 * whole


def test_two_searches_with_one_seed_are_the_same(pair, tmp_path):
    first, second, other = LandscapeEngine(), LandscapeEngine(), LandscapeEngine()
    run(plan(pair), tmp_path / "first", first)
    run(plan(pair), tmp_path / "second", second)
    assert first.asked == second.asked
    assert study_of(tmp_path / "first") == study_of(tmp_path / "second")
    run(plan(pair, seed=1), tmp_path / "other", other)
    assert study_of(tmp_path / "first") != study_of(tmp_path / "other")


@pytest.mark.parametrize("kills", [(3,), (500,), (650, 30, 5)])
def test_a_killed_search_ends_as_if_it_had_not_been(pair, tmp_path, kills):
    """In the first candidate, in a later one, and three times."""
    out, calm = str(tmp_path / "killed"), str(tmp_path / "calm")
    undisturbed = LandscapeEngine()
    expected = run(plan(pair), calm, undisturbed)
    finished = 0
    for responses in kills:
        killed = subprocess.run([sys.executable, "-c", SEARCH, *pair, out, str(responses)], timeout=100)
        assert killed.returncode == -signal.SIGKILL
        finished += responses
        kept = sum(len(p.read_bytes().splitlines()) for p in Path(out).rglob("known.jsonl"))
        assert kept == finished, "no finished response is lost"
    engine = LandscapeEngine()
    outcome = run(plan(pair), out, engine)
    assert study_of(out) == study_of(calm)
    assert finished + len(engine.asked) == len(undisturbed.asked), "no response is generated twice"
    assert report.values(replace(outcome, prepared=expected.prepared)) == report.values(expected)


def test_a_kill_between_two_candidates_and_in_the_middle_of_one_being_drawn(pair, tmp_path, monkeypatch):
    """The journal ends anywhere: after each of its lines, and in the middle of one."""
    calm = tmp_path / "calm"
    run(plan(pair, evaluations=6), calm)
    expected, lines = study_of(calm), (calm / "study.journal").read_bytes().splitlines(keepends=True)
    for cut in range(2, len(lines), 9):
        out = tmp_path / f"cut-{cut}"
        prepared = search.prepare(plan(pair, evaluations=6), [landscape.benchmark()], str(out), Choices())
        out.mkdir()
        (out / "tune.json").write_bytes((calm / "tune.json").read_bytes())
        (out / "study.journal").write_bytes(b"".join(lines[:cut]) + lines[cut][: len(lines[cut]) // 2])
        search.run(prepared, LandscapeEngine(), lambda line: None)
        assert study_of(out) == expected


def test_a_finished_search_asks_nothing_again(pair, tmp_path):
    first = run(plan(pair), tmp_path / "out")
    engine = LandscapeEngine()
    again = run(plan(pair), tmp_path / "out", engine)
    assert engine.opened == 0
    assert report.values(again) == report.values(first)


def test_more_evaluations_continue_a_search(pair, tmp_path):
    run(plan(pair, evaluations=6), tmp_path / "out")
    run(plan(pair, evaluations=9), tmp_path / "out")
    run(plan(pair, evaluations=9), tmp_path / "at once")
    assert study_of(tmp_path / "out") == study_of(tmp_path / "at once")


def test_two_processes_share_one_search(pair, tmp_path):
    out = str(tmp_path / "out")
    script = SEARCH.replace("searched_alone(*", "searched_alone(*")
    both = [subprocess.Popen([sys.executable, "-c", script, *pair, out, "100000"]) for _ in range(2)]
    assert [p.wait(timeout=200) for p in both] == [0, 0]
    trials = study_of(out)
    assert len(trials) == 15
    assert {state for _, state, *_ in trials} == {"COMPLETE"}
    folders = sorted(p.name for p in (Path(out) / "candidates").iterdir())
    assert folders == [f"{i:04d}" for i in range(15)]
    for folder in (Path(out) / "candidates").iterdir():
        lines = [json.loads(line) for line in (folder / "known.jsonl").read_text().splitlines()]
        keys = [(line["problem"], line["sample"]) for line in lines]
        assert len(keys) == len(set(keys)), "no response is generated by both"


def test_an_engine_that_fails_loses_nothing(pair, tmp_path):
    class Failing(LandscapeEngine):
        def generate(self, requests, stop=lambda: False):
            for done in super().generate(requests, stop):
                if len(self.asked) == 333:
                    raise EngineError("the engine broke", "Fix it.")
                yield done

    with pytest.raises(EngineError, match="the engine broke"):
        run(plan(pair), tmp_path / "out", Failing())
    run(plan(pair), tmp_path / "out")
    run(plan(pair), tmp_path / "calm")
    assert study_of(tmp_path / "out") == study_of(tmp_path / "calm")


@pytest.mark.parametrize("sampler", ["nsga2", "random"])
def test_other_samplers(pair, tmp_path, sampler):
    outcome = run(plan(pair, sampler=sampler, evaluations=6), tmp_path / "out")
    assert outcome.evaluated == 11


def test_gaussian_processes_find_the_front_with_few_candidates(pair, tmp_path):
    pytest.importorskip("scipy")
    pytest.importorskip("torch")
    outcome = run(plan(pair, sampler="gp", evaluations=9, space="layers:2"), tmp_path / "out")
    assert outcome.gain.low > 0
    assert run(plan(pair, sampler="gp", evaluations=9, space="layers:2"), tmp_path / "again").history == outcome.history


class Flat(LandscapeEngine):
    """A pair on which depth does not matter: only the mean weight does."""

    def open(self, model, length):
        opened = super().open(model, length)
        mean = sum(landscape.weights(model.recipe)) / 4
        self.recipe = Recipe(mean)
        return opened


def test_it_says_when_nothing_is_better_than_plain_lam(pair, tmp_path):
    outcome = run(plan(pair, evaluations=6, lams=tuple(i / 20 for i in range(21))), tmp_path / "out", Flat())
    assert outcome.nothing_better
    assert outcome.candidates[outcome.recommended].lam is not None
    said = report.sentences(outcome)
    assert said[0] == "The search found nothing that is clearly better than plain lam."
    recipe_files.write(outcome)
    recipe = load(tmp_path / "out" / "best.yml")
    front = [c for c in outcome.candidates if c.lam is None and c.on_search_front]
    assert report._shown(outcome) in (front or [outcome.candidates[outcome.recommended]])
    assert recipe.pair == Recipe(outcome.candidates[outcome.recommended].lam)


def test_a_budget_limits_what_is_recommended(pair, tmp_path):
    run(plan(pair, evaluations=16), tmp_path / "out")
    outcome = run(plan(pair, evaluations=16, budget=36), tmp_path / "out")
    best = outcome.candidates[outcome.best]
    assert best.searched[1] <= 36
    assert outcome.limit == 36
    within = [c.searched[0] for c in outcome.candidates if c.searched[1] <= 36]
    assert best.searched[0] >= max(within) - 0.02
    assert not any("No candidate" in s for s in report.sentences(outcome))
    low = run(plan(pair, evaluations=16, budget=3), tmp_path / "out")
    assert not low.within_budget
    assert any("No candidate needs at most 3 tokens" in s for s in report.sentences(low))


def test_two_benchmarks_count_equally(pair, tmp_path):
    both = [landscape.benchmark(), landscape.benchmark("small", load=lambda path: landscape.PROBLEMS[:20], samples=2)]
    outcome = run(plan(pair, evaluations=4), tmp_path / "out", benchmarks=both)
    for c in outcome.candidates:
        assert c.mean.value == pytest.approx(sum(s.mean.value for s in c.scores.values()) / 2)
    assert "Small Mean@k" in report.markdown.render("", "", report._sections(outcome))


def test_recipes_load_and_merge(found, pair, tmp_path):
    outcome, _ = found
    out = Path(outcome.prepared.out)
    best = outcome.candidates[outcome.recommended]
    front = sorted((out / "front").iterdir())
    assert len(front) == sum(c.on_search_front for c in outcome.candidates)
    for path in (out / "best.yml", *front):
        assert load(path).models == pair
    assert load(out / "best.yml").pair.to_dict() == best.recipe.to_dict()
    merge_checkpoint(out / "best.yml", tmp_path / "merged", progress=False)
    lerp_checkpoint(*pair, tmp_path / "same", best.recipe, progress=False)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("merged", "same")]
    assert weights[0] == weights[1]


def test_the_model_says_how_it_was_found(found, pair, tmp_path):
    outcome, _ = found
    recipe_files.write_model(outcome, str(tmp_path / "out"), progress=False)
    card = (tmp_path / "out" / "README.md").read_text()
    best, plain = outcome.candidates[outcome.recommended], outcome.candidates[outcome.best_plain]
    assert "found by a search over `layers` with the sampler `tpe` (seed 0): 29 candidates" in card
    assert f"Mean@k is {100 * best.mean.value:.1f}" in card
    assert plain.name in card
    assert "24 problems to search on, 24 others to validate" in card


def test_the_report_shows_the_numbers(found):
    outcome, _ = found
    folder = Path(outcome.prepared.out) / "report"
    names = {p.name for p in folder.iterdir()}
    pictures = {f"{stem}.{kind}" for stem in ("front", "hypervolume", "weights") for kind in ("png", "svg")}
    assert names == {"index.html", "report.md", "report.json", *pictures}
    page, text = (folder / "index.html").read_text(), (folder / "report.md").read_text()
    values = json.loads((folder / "report.json").read_text())
    best = outcome.candidates[outcome.recommended]
    for written in (page, text):
        assert f"{100 * best.mean.value:.1f}" in written
        assert best.name in written
        assert "24 problems to search on, 24 others to validate" in written
    assert page.count("data:image/svg+xml") == 3
    assert values["recommended"] == best.name
    assert values["gain"]["low"] > 0
    assert len(values["candidates"]) == len(outcome.candidates)
    report.write(outcome)
    assert (folder / "index.html").read_text() == page, "the same search gives the same page"


REFUSED = [
    ({"space": "layers:9"}, "9 blocks of layers, and the model has 4 layers"),
    ({"sampler": "cmaes"}, "unknown sampler 'cmaes'"),
    ({"evaluations": -1}, "--evaluations is -1"),
    ({"lams": ()}, "--lam names no point"),
    ({"lams": (0.5, 1.2)}, "1.2"),
    ({"validation": 1.0}, "--validation is 1"),
    ({"budget": 0.0}, "--max-tokens-per-answer is 0"),
    ({"thinking": "/nowhere/at/all"}, "/nowhere/at/all"),
    ({"sweep": "/nowhere"}, "/nowhere/sweep.json"),
]


@pytest.mark.parametrize(("change", "problem"), REFUSED, ids=[str(list(c)) for c, _ in REFUSED])
def test_what_cannot_be_searched_is_refused_before_anything_is_written(pair, tmp_path, change, problem):
    with pytest.raises(MIKernelsError) as error:
        search.prepare(replace(plan(pair), **change), [landscape.benchmark()], str(tmp_path / "out"), Choices())
    assert problem in str(error.value)
    assert not (tmp_path / "out").exists()


def test_an_unknown_benchmark_and_bad_data_are_refused(pair, tmp_path):
    with pytest.raises(EvalError, match="unknown benchmark 'nope'"):
        search.prepare(plan(pair), ["nope"], str(tmp_path / "out"), Choices())
    with pytest.raises(EvalError, match="the problems of chains are generated"):
        search.prepare(plan(pair), ["chains"], str(tmp_path / "out"), Choices(data={"chains": "x"}))


def test_a_pair_that_cannot_be_merged_is_refused(pair, tmp_path):
    other = landscape.model(tmp_path / "other")
    with pytest.raises(MIKernelsError):
        search.prepare(plan((pair[0], other)), [landscape.benchmark()], str(tmp_path / "out"), Choices())


def test_the_folder_of_another_search_is_refused(pair, tmp_path):
    run(plan(pair, evaluations=1), tmp_path / "out")
    with pytest.raises(EvalError, match="holds another search: space layers, now layers:2; seed 0, now 5"):
        run(plan(pair, space="layers:2", seed=5), tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(EvalError, match="is not the folder of a search"):
        run(plan(pair), tmp_path / "full")


def test_rules_of_a_recipe_reach_the_engine(pair, tmp_path):
    engine = LandscapeEngine()
    run(plan(pair, evaluations=5), tmp_path / "out", engine)
    drawn = [Recipe.from_dict(json.loads(text)) for text, _ in engine.asked]
    assert any(isinstance(rule, Rule) and rule.layers == "3:4" for recipe in drawn for rule in recipe.rules)
