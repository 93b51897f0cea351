"""Merges on a Ray cluster of several node processes: the same bytes as on one machine, even if processes die."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eval import engines
from eval.run.files import load_responses, load_run
from eval.run.settings import Choices
from eval.sweep import cluster as eval_cluster
from eval.sweep import sweep
from mi_kernels.checksums.record import NAME as CHECKSUMS
from mi_kernels.integrations.ray import cluster as ray_room
from mi_kernels.integrations.ray import merge as ray_merge
from mi_kernels.merge.journal import read
from mi_kernels.output.folder import OutputFolder

from ..eval.support.fakes import FakeEngine, grade_here, sums
from ..support import ray_deeds
from ..support.checks import World, assert_message, run_cli
from ..support.kills import Run, runner
from ..support.models import assert_same_tensors, load, merge_reference, save
from ..support.nonfinite import DOWN, INF, NAN, UP, finite, put

os.environ.update(ray_room.SETTINGS)
ray = pytest.importorskip("ray")

SHARDS = 5
_PROGRAM = (
    "import sys; from mi_kernels.cli import main; from mi_kernels.integrations.ray import merge as ray_merge; "
    "from tests.support import ray_deeds; ray_merge.write_shard = ray_deeds.write_shard; sys.exit(main())"
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head node without resources, and three nodes with a CPU and a fake GPU each. This process is connected."""
    from ray.cluster_utils import Cluster

    memory = {"object_store_memory": 80 << 20}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **memory})
    try:
        for _ in range(3):
            made.add_node(num_cpus=1, num_gpus=1, **memory)
        ray.init(made.address, log_to_driver=False, logging_level="ERROR")
        made.wait_for_nodes()
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


class Stage(World):
    """A world whose merge runs on the cluster. `deed` defines the failure, and the shard that it affects."""

    cluster: Any

    @property
    def work(self) -> Path:
        return Path(OutputFolder(self.out, overwrite=True).work)

    @property
    def journal(self) -> set[str]:
        return set(read(str(self.work / "journal")).shards)

    def deed(self, shard: int, what: str) -> Path:
        path = self.root / f"deed-{shard}"
        path.write_text(what)
        return path

    def on_ray(self, *extra: object) -> list[str]:
        return self.argv("--ray", self.cluster.address, *extra)

    def process(self, *extra: object) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", _PROGRAM, *self.on_ray(*extra)]
        return subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)

    def assert_right(self) -> None:
        """Checks that every output file has the bytes that one machine writes, and that there is no other file."""
        assert_same_tensors(load(self.out), merge_reference(self.a, self.b, 0.5))
        alone = self.root / "alone" / "out"
        assert run_cli(self.argv("--quiet", "-o", alone)) == 0
        assert contents(self.out) == contents(alone)
        shutil.rmtree(alone.parent)
        assert {p.name for p in self.root.iterdir() if "deed" not in p.name} == {"instruct", "thinking", "out"}


def contents(folder: Path) -> dict[str, object]:
    """Returns all files except the model card, which contains the command, and the checksums that depend on it."""
    found: dict[str, object] = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "README.md"}
    record = json.loads((folder / CHECKSUMS).read_bytes())
    assert {"self", "files", "shards"} <= record.keys()
    del record["self"], record["files"]["README.md"]
    return {**found, CHECKSUMS: record}


def wait_for(what: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def stage(tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr(ray_merge, "write_shard", ray_deeds.write_shard)
    made = Stage(tmp_path, shards=SHARDS)
    made.cluster = cluster
    return made


def test_the_bytes_are_those_of_one_machine(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(stage.on_ray("--json")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["shards"] == SHARDS
    assert any("of a Ray cluster" in note for note in report["notes"])
    stage.assert_right()


def test_relative_paths_mean_the_drivers_folder(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(stage.root)
    words = ["lerp", "instruct", "thinking", "-o", "out", "--lam", "0.5", "--ray", "auto", "--quiet"]
    assert run_cli(words) == 0
    assert_same_tensors(load(stage.out), merge_reference(stage.a, stage.b, 0.5))


def test_a_recipe_with_a_base(stage: Stage) -> None:
    recipe = stage.root / "ties.json"
    models = [str(stage.thinking), {"model": str(stage.instruct), "density": 0.5}]
    recipe.write_text(json.dumps({"method": "ties", "base": str(stage.instruct), "models": models}))
    for name, extra in (("one", ["--ray", stage.cluster.address]), ("two", [])):
        assert run_cli(["merge", str(recipe), "-o", str(stage.root / name / "out"), "--quiet", *extra]) == 0
    assert contents(stage.root / "one" / "out") == contents(stage.root / "two" / "out")


def test_findings_of_the_workers_are_reported_as_on_one_machine(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = put(finite(1), UP, (0, NAN), (5, INF)), put(finite(2), DOWN, (7, 1e5))
    a["model.norm.weight"] = b["model.norm.weight"]
    for folder, tensors in ((stage.instruct, a), (stage.thinking, b)):
        shutil.rmtree(folder)
        save(folder, tensors, SHARDS)
    reports = {}
    for name, extra in (("together", ["--ray", stage.cluster.address]), ("alone", [])):
        out = ["-o", str(stage.root / name / "mi-{lam}"), "--lam", "0.5,0.75", "--dtype", "float16"]
        assert run_cli(["sweep", *stage.argv("--json", *out, *extra)[1:]]) == 0
        reports[name] = json.loads(capsys.readouterr().out)
    for together, alone in zip(reports["together"], reports["alone"]):
        assert together["values"] == alone["values"]
        assert together["notes"][:-1] == alone["notes"]
    low, high = (report["values"] for report in reports["together"])
    assert [(f["tensor"], f["nan"], f["inf"]) for f in low["nonfinite"]] == [(UP, 1, 1)]
    assert [f["tensors"] for f in low["identical"]] == [["model.norm.weight"]]
    assert low["overflowed"] == []
    assert high["overflowed"] == [{"tensor": DOWN, "elements": 1}]

    assert run_cli(stage.on_ray("--strict")) == 2
    assert_message(capsys.readouterr().err, "1 NaN and 1 inf", UP, "--strict")
    assert not stage.out.exists()
    assert not stage.work.exists()


def test_a_sweep_resumes_outputs_with_missing_shards(stage: Stage) -> None:
    def words(folder: str) -> list[str]:
        out = ["-o", str(stage.root / folder / "mi-{lam}"), "--lam", "0.25,0.5"]
        return ["sweep", *stage.argv("--max-memory", "8192B", *out)[1:]]

    assert run_cli([*words("alone"), "--quiet"]) == 0
    with runner() as run:
        events = len(run(Run(words("undisturbed"))).events)
        assert run(Run(words("runs"), event=events // 2)).status == -signal.SIGKILL
    staged = stage.root / "runs" / ".mi-0.25.mi-kernels-work"
    finished = sorted(read(str(staged / "journal")).shards)
    assert 1 <= len(finished) < SHARDS
    (staged / "model" / finished[0]).unlink()  # only the other output has it
    assert run_cli([*words("runs"), "--quiet", "--ray", stage.cluster.address]) == 0
    for lam in ("0.25", "0.5"):
        assert contents(stage.root / "runs" / f"mi-{lam}") == contents(stage.root / "alone" / f"mi-{lam}")
    assert len(list((stage.root / "runs").iterdir())) == 2


def test_a_worker_that_dies_is_replaced(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.deed(2, "die once")
    assert run_cli(stage.on_ray()) == 0
    assert "model-00002-of-00005.safetensors: its worker died" in capsys.readouterr().err
    stage.assert_right()


def test_the_merge_continues_without_a_node_that_dies(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    deed = stage.deed(3, "wait")

    def kill_node() -> None:
        wait_for(lambda: deed.read_text() not in ("wait", ""))
        victim = deed.read_text()
        deed.unlink()
        node = next(n for n in stage.cluster.list_all_nodes() if n.node_id == victim)
        stage.cluster.remove_node(node, allow_graceful=False)

    killer = threading.Thread(target=kill_node)
    killer.start()
    try:
        assert run_cli(stage.on_ray()) == 0
    finally:
        killer.join()
        stage.cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=80 << 20)
    assert "attempt 2 of 4" in capsys.readouterr().err
    stage.assert_right()


def test_one_machine_resumes_after_workers_died_too_often(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    deed = stage.deed(4, "die")
    assert run_cli(stage.on_ray("--quiet")) == 2
    assert_message(capsys.readouterr().err, "model-00004-of-00005.safetensors", "died 4 times", "resumes")
    assert not stage.out.exists()
    finished = stage.journal
    assert 1 <= len(finished) < SHARDS
    deed.unlink()
    assert run_cli(stage.argv("--json")) == 0
    assert json.loads(capsys.readouterr().out)["shards"] == SHARDS - len(finished)
    stage.assert_right()


def test_one_machine_resumes_after_a_killed_driver(stage: Stage) -> None:
    stage.deed(5, "slowly")
    driver = stage.process("--max-memory", "8192B")
    try:
        wait_for(lambda: (stage.root / "deed-5").read_text() == "begun" and len(stage.journal) >= 2)
    finally:
        driver.kill()
        driver.communicate()
    finished = stage.journal
    assert 2 <= len(finished) < SHARDS
    before = {name: (stage.work / "model" / name).stat().st_ino for name in finished}
    assert run_cli(stage.argv("--quiet")) == 0
    assert {name: (stage.out / name).stat().st_ino for name in finished} == before
    stage.assert_right()


def test_the_cluster_resumes_after_a_killed_merge_on_one_machine(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    with runner() as run:
        small = ["--max-memory", "4096B"]
        events = len(run(Run(stage.argv(*small, "-o", stage.root / "elsewhere"))).events)
        shutil.rmtree(stage.root / "elsewhere")
        assert run(Run(stage.argv(*small), event=events // 2)).status == -signal.SIGKILL
    finished = stage.journal
    assert run_cli(stage.on_ray("--json")) == 0
    assert json.loads(capsys.readouterr().out)["shards"] == SHARDS - len(finished) < SHARDS
    stage.assert_right()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_ends_the_workers_and_leaves_nothing(stage: Stage, number: int, status: int) -> None:
    deeds = [stage.deed(shard, "slowly") for shard in range(1, SHARDS + 1)]
    driver = stage.process("--max-memory", "8192B")
    wait_for(lambda: any(deed.read_text() == "begun" for deed in deeds))
    driver.send_signal(number)
    _, err = driver.communicate(timeout=60)
    assert driver.returncode == status, err
    assert "no output is half-done" in err
    assert "Traceback" not in err
    assert {deed.read_text() for deed in deeds} <= {"slowly", "ended"}, "a worker still writes"
    assert {path.name for path in stage.root.iterdir() if "deed" not in path.name} == {"instruct", "thinking"}


REFUSED = {
    "no storage": ("does not see", "storage that all nodes share"),
    "other storage": ("but this node sees no file", "all nodes share"),
    "other input": ("is a different file on", "mtime_ns"),
    "other version": ("has mi_kernels", "uses 0.0.1"),
}


@pytest.mark.parametrize(("what", "words"), REFUSED.items(), ids=REFUSED.keys())
def test_a_node_with_other_files_or_versions_is_rejected(
    stage: Stage, capsys: pytest.CaptureFixture[str], what: str, words: tuple[str, ...]
) -> None:
    for shard in range(1, SHARDS + 1):
        stage.deed(shard, what)
    assert run_cli(stage.on_ray()) == 2
    assert_message(capsys.readouterr().err, *words)
    left = {path.name for path in stage.root.iterdir() if "deed" not in path.name}
    assert left - {"elsewhere"} == {"instruct", "thinking"}


def test_more_cpus_than_any_node_has(
    stage: Stage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_room.Cluster, "patience", 0.0)
    assert run_cli(stage.on_ray("--threads", "64")) == 2
    assert_message(capsys.readouterr().err, "no node of the cluster has 64 CPUs", "1 CPUs")
    assert not stage.out.exists()
    assert not stage.work.exists()


def test_a_dry_run_shows_the_nodes(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(stage.on_ray("--dry-run")) == 0
    assert "5 shards by 3 workers of 1 thread" in capsys.readouterr().out
    assert not stage.out.exists()


@pytest.mark.parametrize("keep", ["none", "all"])
def test_a_sweep_is_evaluated_by_lam_and_benchmark(stage: Stage, monkeypatch: pytest.MonkeyPatch, keep: str) -> None:
    """The results are those without a cluster, although a worker dies during its work."""
    monkeypatch.setattr(eval_cluster, "evaluate", ray_deeds.evaluate)
    monkeypatch.setattr("eval.run.grading.grade", grade_here)
    for folder in (stage.instruct, stage.thinking):
        (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 4096}))
    benchmarks, plan = [sums("sums"), sums("more")], sweep.Schedule((0.0, 0.5, 1.0), keep)
    pair, choices = sweep.Pair(str(stage.instruct), str(stage.thinking)), Choices(samples=2)
    stage.deed(0, "")
    told: list[str] = []
    with ray_room.Cluster(stage.cluster.address, told.append) as connected:
        workers = eval_cluster.Workers(connected, engines.Options())
        together, alone = str(stage.root / "together"), str(stage.root / "alone")
        folders = sweep.run(pair, plan, benchmarks, together, None, choices, progress=False, workers=workers)
    assert told[0] == f"waiting for the Ray cluster at {stage.cluster.address}"
    assert len(told) == 2
    lost = "lam-0 sums and 1 more" if keep == "none" else "lam-0.5 more"
    assert f"{lost}: its worker died" in told[1]
    expected = sweep.run(pair, plan, benchmarks, alone, FakeEngine(), choices, progress=False)
    for found, wanted in zip(folders, expected):
        assert load_run(found).settings == load_run(wanted).settings
        assert load_run(found).engine == load_run(wanted).engine
        for name in ("sums", "more"):
            assert _by_key(found, name) == _by_key(wanted, name)
            scores = f"{name}.scores.json"
            assert Path(found, scores).read_bytes() == Path(wanted, scores).read_bytes()
    assert {path.name for path in (stage.root / "together").glob("models/*")} == (
        {"mi-0.5"} if keep == "all" else set()
    )
    gpus = (stage.root / "deed-0").read_text().split()
    # Six points, one of them twice. With an engine that holds the pair, three workers share them.
    assert len(gpus) == (7 if keep == "all" else 4)
    assert set(gpus) == {"0"}


def _by_key(folder: str, name: str) -> dict[tuple[str, int], str]:
    return {(r.problem, r.sample): r.text for r in load_responses(folder, name)}
