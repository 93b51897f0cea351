"""The driver with engines that answer at once: what is asked, what is kept, what is refused."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from eval.errors import EngineError, EvalError
from eval.run import driver, files
from eval.run.driver import Subject
from eval.run.files import load_responses, load_run, load_scores
from eval.run.journal import Journal, changing_run, locked
from eval.run.settings import Choices
from eval.schema import Response, Sampling
from mi_kernels.cli.shell import guarded

from ..support.fakes import PROBLEMS, FakeEngine, grade_here, model, never, sums

HOLD = """
import sys
sys.path.insert(0, ".")
from eval.run.journal import locked
with locked(sys.argv[1], "sums"):
    print("held", flush=True)
    sys.stdin.read()
"""
RUN_SLOWLY = """
import sys
sys.path.insert(0, ".")
from eval.run import driver
from eval.engines import Options
from eval.engines.processes import Processes
from tests.eval.support.fakes import sums
with Processes(Options(kind="transformers"), backend="tests.eval.support.fakes:SlowBackend") as engine:
    driver.run(sys.argv[1], [sums()], sys.argv[2], engine, subject=driver.Subject("merged"))
"""
ALL = len(PROBLEMS) * 4


@pytest.fixture(autouse=True)
def quick_grading(monkeypatch):
    monkeypatch.setattr("eval.run.grading.grade", grade_here)


def evaluate(tmp_path: Path, engine: FakeEngine, *benchmarks, choices=None, role="merged", out="out", **subject):
    folder = model(tmp_path / "model")
    chosen = benchmarks or (sums(),)
    subject = Subject(role, **subject)
    return driver.run(folder, chosen, str(tmp_path / out), engine, choices, subject, progress=False)


class Other(FakeEngine):
    """An engine of another kind."""

    def open(self, model, length):
        return {**super().open(model, length), "name": "other"}


class Newer(FakeEngine):
    """The same engine after an update."""

    def open(self, model, length):
        return {**super().open(model, length), "version": "2"}


class Meanwhile(FakeEngine):
    """Does `deed` while it opens, as another process may."""

    def __init__(self, deed):
        super().__init__()
        self.deed = deed

    def open(self, model, length):
        self.deed()
        return super().open(model, length)


def contents(folder: str) -> dict[str, object]:
    """What the files of a run say, whatever order the responses came in."""
    found: dict[str, object] = {}
    for path in sorted(Path(folder).iterdir()):
        text = path.read_text()
        found[path.name] = sorted(text.splitlines()) if path.name == "sums.jsonl" else text
    return found


def test_a_run_asks_for_every_sample_with_its_own_seed_and_the_papers_sampling(tmp_path):
    engine = FakeEngine()
    out = evaluate(tmp_path, engine, choices=Choices(seed=1000), lam=0.8, name="MI-0.8")
    assert [r.seed for r in engine.asked] == list(range(1000, 1000 + ALL))
    assert [r.prompt for r in engine.asked] == [p.prompt for p in PROBLEMS for _ in range(4)]
    run = load_run(out)
    assert asdict(run.settings["sums"].sampling) == {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "max_tokens": 100}
    assert (run.role, run.lam, run.name, run.engine["name"]) == ("merged", 0.8, "MI-0.8", "fake")
    scores = load_scores(out, "sums")
    # The fakes answer wrongly where the seed is a multiple of 3, and think where it is odd.
    assert scores.mean.value == sum(s % 3 != 0 for s in range(1000, 1000 + ALL)) / ALL
    assert scores.think.value == 0.5


def test_zero_is_a_choice(tmp_path):
    engine = FakeEngine()
    out = evaluate(tmp_path, engine, choices=Choices(temperature=0.0, top_k=0))
    assert {r.sampling for r in engine.asked} == {Sampling(0.0, 0.95, 0, 100)}
    assert load_run(out).settings["sums"].sampling == Sampling(0.0, 0.95, 0, 100)


@pytest.mark.parametrize(
    ("fail_after", "error"),
    [(0, EngineError("no memory", "")), (1, KeyboardInterrupt()), (7, SystemExit(143)), (ALL - 1, EngineError("", ""))],
)
def test_an_interrupted_run_goes_on_and_ends_as_one_that_was_not(tmp_path, fail_after, error):
    whole = evaluate(tmp_path, FakeEngine(), out="whole")
    with pytest.raises(type(error)):
        evaluate(tmp_path, FakeEngine(fail_after, error))
    assert len(load_responses(str(tmp_path / "out"), "sums")) == fail_after
    second = FakeEngine()
    out = evaluate(tmp_path, second)
    assert len(second.asked) == ALL - fail_after
    assert contents(out) == contents(whole)
    third = FakeEngine()
    evaluate(tmp_path, third)
    assert not third.opened, "nothing is missing: no engine is started"


def test_a_killed_process_has_kept_what_it_finished(tmp_path):
    whole = evaluate(tmp_path, FakeEngine(), out="whole")
    path = tmp_path / "out" / "sums.jsonl"
    command = [sys.executable, "-c", RUN_SLOWLY, str(tmp_path / "model"), str(path.parent)]
    killed = subprocess.Popen(command, env={**os.environ, "TMPDIR": str(tmp_path)})
    while killed.poll() is None and (not path.exists() or path.read_bytes().count(b"\n") < 3):
        time.sleep(0.02)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    kept = len(load_responses(str(path.parent), "sums"))
    assert 3 <= kept < ALL
    engine = FakeEngine()
    out = evaluate(tmp_path, engine)
    assert len(engine.asked) == ALL - kept
    for name in ("sums.jsonl", "sums.verdicts.jsonl", "sums.scores.json"):
        assert contents(out)[name] == contents(whole)[name]


def test_a_failed_engine_says_where_the_responses_are(tmp_path):
    with pytest.raises(EngineError) as caught:
        evaluate(tmp_path, FakeEngine(3))
    assert caught.value.problem == "the engine broke"
    assert caught.value.remedy.startswith("Fix it. Finished responses are kept in")


def test_a_line_that_a_kill_cut_is_cut_off_and_made_again(tmp_path):
    whole = evaluate(tmp_path, FakeEngine(), out="whole")
    lines = (Path(whole) / "sums.jsonl").read_bytes().splitlines(keepends=True)
    for left in (1, len(lines[3]) - 1):  # of the fourth line; the last is one short of its newline
        out = tmp_path / f"cut-{left}"
        out.mkdir()
        (out / "run.json").write_bytes((Path(whole) / "run.json").read_bytes())
        (out / "sums.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:left])
        engine = FakeEngine()
        evaluate(tmp_path, engine, out=out.name)
        assert len(engine.asked) == ALL - 3
        assert contents(str(out)) == contents(whole)


def test_a_long_last_line_is_found_however_long(tmp_path):
    Journal(str(tmp_path), "b").close()
    path = tmp_path / "b.jsonl"
    line = json.dumps(asdict(Response("p", 0, 0, "q", "x" * 200_000, 1, "stop"))).encode() + b"\n"
    path.write_bytes(line + line[:150_000])
    Journal(str(tmp_path), "b").close()
    assert path.read_bytes() == line
    path.write_bytes(line[:150_000])
    Journal(str(tmp_path), "b").close()
    assert path.read_bytes() == b""


def test_a_damaged_line_is_refused_not_skipped(tmp_path):
    evaluate(tmp_path, FakeEngine())
    path = tmp_path / "out" / "sums.jsonl"
    path.write_bytes(path.read_bytes().replace(b'{"problem"', b'\0"problem"', 1))
    with pytest.raises(EvalError, match=r"sums\.jsonl: holds a line that is not a response: line 1: "):
        evaluate(tmp_path, FakeEngine())


def test_a_response_that_is_there_twice_counts_once_and_as_it_was_first(tmp_path):
    whole = evaluate(tmp_path, FakeEngine(), out="whole")
    out = tmp_path / "out"
    with pytest.raises(SystemExit):
        evaluate(tmp_path, FakeEngine(3, SystemExit()))
    lines = (out / "sums.jsonl").read_text().splitlines(keepends=True)
    again = [json.dumps({**json.loads(line), "text": "</think>It is 7", "tokens": 99}) + "\n" for line in lines]
    (out / "sums.jsonl").write_text("".join([*lines, *again]))
    engine = FakeEngine()
    evaluate(tmp_path, engine)
    assert len(engine.asked) == ALL - 3
    for name in ("sums.verdicts.jsonl", "sums.scores.json"):
        assert contents(str(out))[name] == contents(whole)[name]


def test_a_response_that_comes_twice_counts_as_it_does_when_the_run_is_read_again(tmp_path):
    class Stutters(FakeEngine):
        def generate(self, requests, stop=never):
            for completion in super().generate(requests, stop):
                yield completion
                yield replace(completion, text="It is 7", tokens=99)

    whole = evaluate(tmp_path, FakeEngine(), out="whole")
    for engine in (Stutters(), FakeEngine()):
        out = evaluate(tmp_path, engine)
        for name in ("sums.verdicts.jsonl", "sums.scores.json"):
            assert contents(out)[name] == contents(whole)[name]


def test_what_no_file_can_hold_is_graded_as_it_will_be_read(tmp_path):
    class Halves(FakeEngine):
        def generate(self, requests, stop=never):
            for completion in super().generate(requests, stop):
                yield replace(completion, text="It is \ud83d")  # half of a pair of surrogates

    out = evaluate(tmp_path, Halves())
    before = contents(out)
    assert '"answer": "?"' in str(before["sums.verdicts.jsonl"])
    evaluate(tmp_path, FakeEngine())
    assert contents(out) == before


def test_a_disk_that_takes_a_part_gets_the_rest(tmp_path, monkeypatch):
    class Narrow(io.FileIO):
        def write(self, content):
            return super().write(bytes(content)[:10])

    whole = evaluate(tmp_path, FakeEngine(), out="whole")
    opened = lambda path, mode="r", **options: Narrow(path, mode) if mode == "ab" else open(path, mode, **options)  # noqa: E731, SIM115
    monkeypatch.setattr("eval.run.journal.open", opened, raising=False)
    assert contents(evaluate(tmp_path, FakeEngine())) == contents(whole)


def test_responses_are_synced_every_second_and_at_the_end(tmp_path, monkeypatch):
    now, synced = [100.0], []
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("os.fsync", lambda file: synced.append((tmp_path / "b.jsonl").read_bytes().count(b"\n")))
    journal = Journal(str(tmp_path), "b")
    for sample in range(4):
        journal.append(Response("p", sample, 0, "q", "x", 1, "stop"))
        now[0] += 0.5
    assert synced == [3]
    journal.close()
    assert synced == [3, 4]


def test_a_file_that_cannot_be_written_whole_leaves_the_one_before(tmp_path):
    path = tmp_path / "run.json"
    files.write_json(str(path), {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(str(path), {"a": 2, "b": object()})
    assert json.loads(path.read_text()) == {"a": 1}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"choices": Choices(samples=3)}, "sums samples 4, now 3"),
        ({"choices": Choices(seed=1)}, "sums seed 0, now 1"),
        ({"choices": Choices(temperature=1.0, top_k=5)}, "sums temperature 0.6, now 1.0; sums top_k 20, now 5"),
        ({"choices": Choices(max_tokens=7)}, "sums max_tokens 100, now 7"),
        ({"choices": Choices(limit=2)}, "sums problems 5, now 2; sums digest"),
        ({"role": "instruct"}, "role merged, now instruct"),
        ({"lam": 0.5}, "lam None, now 0.5"),
    ],
)
def test_other_settings_do_not_mix(tmp_path, change, named):
    with pytest.raises(SystemExit):
        evaluate(tmp_path, FakeEngine(3, SystemExit()))
    before = contents(str(tmp_path / "out"))
    with pytest.raises(EvalError) as caught:
        evaluate(tmp_path, FakeEngine(), **change)
    assert named in caught.value.problem
    assert contents(str(tmp_path / "out")) == before


@pytest.mark.parametrize("lost", ["whole", "settings"])
def test_responses_without_their_settings_are_refused(tmp_path, lost):
    path = Path(evaluate(tmp_path, FakeEngine())) / "run.json"
    if lost == "whole":
        path.unlink()
    else:
        path.write_text(json.dumps({**json.loads(path.read_text()), "settings": {}}))
    with pytest.raises(EvalError, match=r"sums\.jsonl: holds responses, but run\.json does not record"):
        evaluate(tmp_path, FakeEngine())


@pytest.mark.parametrize("change", [{"reference": 1}, {"prompt": "What is 4 + 4?"}, {"id": "sum-5"}])
def test_changed_problems_do_not_mix(tmp_path, change):
    evaluate(tmp_path, FakeEngine())
    changed = sums(load=lambda path: [*PROBLEMS[:4], replace(PROBLEMS[4], **change)])
    with pytest.raises(EvalError, match="sums digest"):
        evaluate(tmp_path, FakeEngine(), changed)


def test_another_kind_of_engine_does_not_mix(tmp_path):
    with pytest.raises(SystemExit):
        evaluate(tmp_path, FakeEngine(3, SystemExit()))
    with pytest.raises(EvalError, match="engine fake, now other"):
        evaluate(tmp_path, Other())


def test_another_model_does_not_mix(tmp_path):
    out = evaluate(tmp_path, FakeEngine())
    other = model(tmp_path / "other")
    with pytest.raises(EvalError, match=r"model .*, now .*"):
        driver.run(other, [sums()], out, FakeEngine(), subject=Subject("merged"), progress=False)


def test_a_model_that_was_merged_again_in_the_same_folder_does_not_mix(tmp_path):
    record = tmp_path / "model" / "mi_kernels.json"
    model(record.parent)
    record.write_text(json.dumps({"method": "ties", "settings": {"density": 0.2}}))
    with pytest.raises(SystemExit):
        evaluate(tmp_path, FakeEngine(3, SystemExit()))
    record.write_text(json.dumps({"method": "ties", "settings": {"density": 0.3}}))
    with pytest.raises(EvalError, match=r"merge .*, now .*"):
        evaluate(tmp_path, FakeEngine())


def test_run_json_names_the_engine_that_generated_last(tmp_path):
    with pytest.raises(SystemExit):
        evaluate(tmp_path, FakeEngine(3, SystemExit()))
    assert load_run(evaluate(tmp_path, Newer())).engine["version"] == "2"
    assert load_run(evaluate(tmp_path, FakeEngine())).engine["version"] == "2", "nothing was missing"


def test_a_benchmark_that_another_process_adds_meanwhile_is_kept(tmp_path):
    engine = Meanwhile(lambda: evaluate(tmp_path, FakeEngine(), sums("more")))
    out = evaluate(tmp_path, engine)
    assert set(load_run(out).settings) == {"sums", "more"}
    assert len(load_responses(out, "sums")) == len(load_responses(out, "more")) == ALL


def test_an_engine_of_another_kind_that_starts_meanwhile_does_not_mix(tmp_path):
    engine = Meanwhile(lambda: evaluate(tmp_path, Other(), sums("more")))
    with pytest.raises(EvalError, match="engine other, now fake"):
        evaluate(tmp_path, engine)
    assert not engine.asked
    run = load_run(str(tmp_path / "out"))
    assert (run.engine["name"], list(run.settings)) == ("other", ["more"])


def test_a_run_that_only_grades_leaves_the_engine_that_another_process_started_meanwhile(tmp_path, monkeypatch):
    evaluate(tmp_path, FakeEngine())

    def open_journal(folder, name):
        monkeypatch.setattr(driver, "Journal", Journal)
        evaluate(tmp_path, Newer(), sums("more"))
        return Journal(folder, name)

    monkeypatch.setattr(driver, "Journal", open_journal)
    run = load_run(evaluate(tmp_path, FakeEngine()))
    assert (run.engine["version"], list(run.settings)) == ("2", ["sums", "more"])


def test_run_json_is_read_and_written_under_one_lock(tmp_path, monkeypatch):
    evaluate(tmp_path, FakeEngine())
    steps = []

    def noting(name, step):
        def noted(folder, *arguments):
            with open(os.path.join(folder, ".lock"), "w") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    steps.append((name, "free"))
                except BlockingIOError:
                    steps.append((name, "locked"))
            return step(folder, *arguments)

        return noted

    monkeypatch.setattr(driver, "load_run", noting("load", load_run))
    monkeypatch.setattr(driver, "save_run", noting("save", files.save_run))
    evaluate(tmp_path, FakeEngine(), sums("more"))
    assert steps[-2:] == [("load", "locked"), ("save", "locked")]
    with changing_run(str(tmp_path / "out")):
        pass


def test_only_a_whole_run_with_the_same_settings_is_complete(tmp_path):
    out = tmp_path / "out"
    wanted = ([sums()], Choices(), 4096)
    assert not driver.complete(str(out), *wanted)
    evaluate(tmp_path, FakeEngine())
    assert driver.complete(str(out), *wanted)
    assert not driver.complete(str(out), [sums(), sums("more")], Choices(), 4096)
    with pytest.raises(EvalError, match="sums seed 0, now 1"):
        driver.complete(str(out), [sums()], Choices(seed=1), 4096)
    journal = (out / "sums.jsonl").read_bytes()
    (out / "sums.jsonl").write_bytes(journal[:-1])
    assert not driver.complete(str(out), *wanted), "the last line is not whole"
    (out / "sums.jsonl").write_bytes(journal)
    (out / "sums.scores.json").unlink()
    assert not driver.complete(str(out), *wanted)


def test_benchmarks_are_added_to_a_run_and_share_the_engine(tmp_path):
    evaluate(tmp_path, FakeEngine())
    engine = FakeEngine()
    out = evaluate(tmp_path, engine, sums(), sums("more", samples=2), sums("most", samples=1))
    assert len(engine.opened) == 1
    assert len(engine.asked) == 3 * len(PROBLEMS)
    assert list(load_run(out).settings) == ["sums", "more", "most"]


def test_private_questions_are_written_nowhere(tmp_path):
    engine = FakeEngine()
    out = evaluate(tmp_path, engine, sums(private=True))
    assert engine.asked[0].prompt == PROBLEMS[0].prompt
    written = b"".join(path.read_bytes() for path in Path(out).iterdir())
    assert b"What is" not in written
    assert load_responses(out, "sums")[0].prompt.startswith("sha256:")
    digests = {"sha256:" + hashlib.sha256(p.prompt.encode()).hexdigest() for p in PROBLEMS}
    assert {r.prompt for r in load_responses(out, "sums")} == digests


@pytest.mark.parametrize(
    "config",
    [{"max_position_embeddings": 64}, {"text_config": {"max_position_embeddings": 64}}],
    ids=["text", "images"],
)
def test_the_context_limits_the_tokens_and_says_so(tmp_path, capsys, config):
    folder = model(tmp_path / "short-instruct", **config)
    engine = FakeEngine()
    out = driver.run(folder, [sums()], str(tmp_path / "out"), engine)
    assert load_run(out).settings["sums"].sampling.max_tokens == 64
    assert load_run(out).engine["settings"] == {"length": 64}
    assert "note: sums: the token limit is 64, the paper's is 100" in capsys.readouterr().err


def test_two_processes_do_not_write_one_run(tmp_path):
    out = tmp_path / "out"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(EvalError, match="another process is writing to it"):
        evaluate(tmp_path, FakeEngine())
    evaluate(tmp_path, FakeEngine(), sums("more"))  # another benchmark of the run is free
    holder.kill()
    holder.communicate()
    with locked(str(out), "sums"):
        pass


def test_an_answer_that_is_neither_whole_nor_cut_is_an_error(tmp_path):
    class Filtered(FakeEngine):
        def generate(self, requests, stop=never):
            for completion in super().generate(requests, stop):
                yield replace(completion, finish_reason="content_filter")

    with pytest.raises(EngineError, match="'content_filter'"):
        evaluate(tmp_path, Filtered())
    assert load_responses(str(tmp_path / "out"), "sums") == []


@pytest.mark.parametrize(
    "change", [{"finish_reason": "content_filter"}, {"finish_reason": None}, {"tokens": None}, {"text": None}]
)
def test_one_answer_that_cannot_be_counted_costs_only_itself(tmp_path, change):
    class Once(FakeEngine):
        def generate(self, requests, stop=never):
            for completion in super().generate(requests, stop):
                yield replace(completion, **change) if completion.index == 3 else completion

    whole = evaluate(tmp_path, FakeEngine(), out="whole")
    with pytest.raises(EngineError, match=f"1 of {ALL} responses cannot be counted"):
        evaluate(tmp_path, Once())
    assert len(load_responses(str(tmp_path / "out"), "sums")) == ALL - 1
    second = FakeEngine()
    assert contents(evaluate(tmp_path, second)) == contents(whole)
    assert len(second.asked) == 1


@pytest.mark.parametrize("change", [{"tokens": None}, {"finish_reason": "content_filter"}, {"text": None}])
def test_a_bad_answer_that_an_older_version_kept_is_made_again(tmp_path, caplog, change):
    whole = evaluate(tmp_path, FakeEngine(), out="whole")
    path = Path(evaluate(tmp_path, FakeEngine())) / "sums.jsonl"
    first, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([json.dumps({**json.loads(first), **change}) + "\n", *rest]))
    assert not driver.complete(str(tmp_path / "out"), [sums()], Choices(), 4096)
    engine = FakeEngine()
    out = evaluate(tmp_path, engine)
    assert len(engine.asked) == 1
    assert "1 of 20 responses cannot be counted" in caplog.text
    for name in ("sums.verdicts.jsonl", "sums.scores.json"):
        assert contents(out)[name] == contents(whole)[name]
    assert driver.complete(out, [sums()], Choices(), 4096)


def test_more_samples_extend_a_run(tmp_path):
    first = FakeEngine()
    evaluate(tmp_path, first, choices=Choices(samples=2))
    with pytest.raises(SystemExit):
        evaluate(tmp_path, FakeEngine(3, SystemExit()), choices=Choices(samples=8))
    out = tmp_path / "out"
    assert not (out / "sums.scores.json").exists(), "run.json describes other scores by now"
    second = FakeEngine()
    evaluate(tmp_path, second, choices=Choices(samples=8))
    assert len(second.asked) == len(PROBLEMS) * 6 - 3
    assert load_run(str(out)).settings["sums"].samples == load_scores(str(out), "sums").samples == 8
    responses = load_responses(str(out), "sums")
    assert {(r.problem, r.sample) for r in responses} == {(p.id, s) for p in PROBLEMS for s in range(8)}
    assert {r.seed for r in responses if r.sample < 2} == {r.seed for r in first.asked}
    for problem in PROBLEMS:
        assert len({r.seed for r in responses if r.problem == problem.id}) == 8, "no response comes twice"
    # As if it had not been interrupted.
    for samples in (2, 8):
        evaluate(tmp_path, FakeEngine(), choices=Choices(samples=samples), out="other")
    for name in ("sums.jsonl", "sums.scores.json"):
        assert contents(str(tmp_path / "other"))[name] == contents(str(out))[name]


def test_more_problems_extend_a_run_to_what_it_is_in_one(tmp_path):
    whole = evaluate(tmp_path, FakeEngine(), out="whole")
    evaluate(tmp_path, FakeEngine(), choices=Choices(limit=2))
    engine = FakeEngine()
    out = evaluate(tmp_path, engine)
    assert len(engine.asked) == ALL - 8
    assert contents(out) == contents(whole)


def test_a_complete_run_of_fewer_samples_is_not_complete(tmp_path):
    out = evaluate(tmp_path, FakeEngine(), choices=Choices(limit=2))
    assert driver.complete(out, [sums()], Choices(limit=2), 4096)
    assert not driver.complete(out, [sums()], Choices(), 4096)
    assert not driver.complete(out, [sums()], Choices(samples=8, limit=2), 4096)


@pytest.mark.parametrize("content", ["{", "[]", '{"settings": 1}', "{}", '{"format": 2, "what": "else"}'])
def test_a_broken_or_newer_run_json_is_refused_by_name(tmp_path, content):
    path = Path(evaluate(tmp_path, FakeEngine())) / "run.json"
    path.write_text(content)
    with pytest.raises(EvalError, match=r"run\.json: (cannot be read|has the format 2)"):
        evaluate(tmp_path, FakeEngine())


def test_a_full_disk_is_told_with_the_file_and_what_to_do(tmp_path, monkeypatch, capsys):
    class Full(io.FileIO):
        def write(self, content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    opened = lambda path, mode="r", **options: Full(path, mode) if mode == "ab" else open(path, mode, **options)  # noqa: E731, SIM115
    monkeypatch.setattr("eval.run.journal.open", opened, raising=False)
    status = guarded("eval", lambda: int(evaluate(tmp_path, FakeEngine())), "")
    assert status == 2
    assert capsys.readouterr().err.splitlines() == [
        f"eval: {tmp_path / 'out' / 'sums.jsonl'}: cannot be written: No space left on device",
        "  The disk is full: free some space or choose another disk. Finished responses are kept: then run the same "
        "command again.",
    ]
