"""What commands say before they start: bytes, free space and time. A dry run refuses what the merge would refuse."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from mi_kernels.merge.forecast import Forecast
from mi_kernels.merge.space import Space
from mi_kernels.output import upload
from mi_kernels.output.folder import OutputFolder
from mi_kernels.system import progress
from mi_kernels.system.sizes import show_bytes

from ..support.checks import PROGRAM, World, run_cli, snapshot
from ..support.terminal import Terminal, screen


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


TWICE = r" \([\d.]+ kB twice, first for computing thresholds\)"


def line(world: World, rest: str = "", twice: str = "") -> str:
    """The pattern of the line of a command that writes."""
    root = re.escape(str(world.root))
    return rf"mi-kernels: reads [\d.]+ kB{twice}, writes [\d.]+ kB{rest} to {root} \([\d.]+ [GT]B free\)\n"


def recipe(world: World, method: str = "ties") -> list[str]:
    path = world.root / f"{method}.json"
    content = {"method": method, "base": str(world.instruct), "models": [str(world.thinking)]}
    path.write_text(json.dumps({**content, **({"density": 0.5} if method == "ties" else {})}))
    return ["merge", str(path), "-o", str(world.out)]


def sweep(world: World) -> list[str]:
    return ["sweep", str(world.instruct), str(world.thinking), "-o", str(world.root / "mi-{lam}"), "--lam", "0.2,0.5"]


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_every_merge_says_what_it_will_do(world: World, capsys: pytest.CaptureFixture[str], dry: list[str]) -> None:
    for words, rest, twice in (
        (world.argv(), "", ""),
        (sweep(world), r" \(2 outputs\)", ""),
        ([*recipe(world, "task_arithmetic"), "--overwrite"], "", ""),
        ([*recipe(world), "--overwrite"], "", TWICE),
    ):
        assert run_cli([*words, *dry]) == 0
        assert re.fullmatch(line(world, rest, twice), capsys.readouterr().err)


def test_a_comparison_says_what_it_will_read(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def summed(*arguments: object) -> None:
        size = sum(t.nbytes for t in [*world.a.values(), *world.b.values()])
        assert capsys.readouterr().err == f"mi-kernels: reads {show_bytes(size)}, about 3 s at the speed of this disk\n"
        raise KeyboardInterrupt

    monkeypatch.setattr(Forecast, "measured", lambda self: replace(self, seconds=3))
    monkeypatch.setattr("mi_kernels.compare.similarity._summed", summed)
    assert run_cli(["compare", str(world.instruct), str(world.thinking)]) == 130


def test_a_comparison_as_json_says_nothing(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["compare", str(world.instruct), str(world.thinking), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["bytes_read"] > 0
    assert err == ""


def test_a_method_that_reads_first_says_it_before(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def thresholds(*arguments: object) -> None:
        assert re.fullmatch(line(world, "", TWICE), capsys.readouterr().err)
        raise KeyboardInterrupt

    monkeypatch.setattr("mi_kernels.merge.combined.combined_sources", thresholds)
    assert run_cli(recipe(world)) == 130


def test_no_space_is_refused_by_a_dry_run_as_by_the_merge(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OutputFolder, "free_space", lambda self: 1 << 19)
    before = snapshot(world.root)
    for words in (world.argv(), sweep(world), recipe(world)):
        before.update(snapshot(world.root))
        assert run_cli(words) == 2
        real = capsys.readouterr()
        assert real.out == ""
        assert re.match(
            r"mi-kernels: .*: the disk of .* needs 16\.8 MB of free space.* 16\.3 MB are missing\n", real.err
        )
        assert run_cli([*words, "--dry-run"]) == 2
        dry = capsys.readouterr()
        assert dry.err.endswith(real.err)
        assert run_cli([*words, "--dry-run", "--quiet"]) == 2
        assert capsys.readouterr().err == real.err
        assert snapshot(world.root) == before


def test_a_dry_run_without_space_still_shows_the_plan(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OutputFolder, "free_space", lambda self: 1 << 19)
    assert run_cli(world.argv("--dry-run")) == 2
    out, err = capsys.readouterr()
    assert "lam = 0.5" in out
    assert "(524 kB free, 16.3 MB too little)" in err.splitlines()[0]
    assert run_cli(world.argv("--dry-run", "--nodes", "2")) == 0  # a plan for other machines
    assert "16.3 MB too little" in capsys.readouterr().err


def test_json_has_the_numbers(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_cli(world.argv("--json", "--dry-run")) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["dry_run"] is True
    assert [output["out"] for output in plan["outputs"]] == [str(world.out)]
    assert run_cli(world.argv("--json")) == 0
    out, err = capsys.readouterr()
    assert err == ""
    report = json.loads(out)
    for found in (plan["forecast"], report["forecast"]):
        assert found["bytes_read"] == report["bytes_read"]
        assert report["bytes_written"] < found["bytes_written"]  # small files
        assert (found["bytes_uploaded"], found["seconds"]) == (0, None)
        (disk,) = found["disks"]
        assert set(disk) == {*Space._fields, "missing"}
        assert (disk["folder"], disk["missing"]) == (str(world.root), 0)
    monkeypatch.setattr(OutputFolder, "free_space", lambda self: 1 << 19)
    assert run_cli(world.argv("--json", "--dry-run", "--overwrite")) == 2
    found = json.loads(capsys.readouterr().out)["forecast"]["disks"][0]
    assert found["needed"] - found["free"] == found["missing"] > 0


def test_an_upload_is_announced(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "check_access", lambda repo: None)
    monkeypatch.setattr(upload, "push", lambda folder, repo, private: f"https://hub/{repo}")
    assert run_cli(world.argv("--push", "org/mi")) == 0
    first, second = capsys.readouterr().err.splitlines()
    assert re.search(r", then uploads [\d.]+ kB$", first)
    assert re.fullmatch(rf"mi-kernels: uploading {world.out} to org/mi \([\d.]+ kB\)", second)
    for extra in ("--quiet", "--json"):
        assert run_cli(world.argv("--push", "org/mi", "--overwrite", extra)) == 0
        assert capsys.readouterr().err == ""


@pytest.mark.parametrize("stderr", ["2>/dev/full", "2>&-", "2> >(exit)"])
def test_a_stderr_that_nobody_reads_does_not_end_a_merge(world: World, stderr: str) -> None:
    words = shlex.join([*PROGRAM, *map(str, world.argv())])
    done = subprocess.run(
        ["bash", "-c", f"sleep 0.3; exec {words} {stderr}"], stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 0
    assert (world.out / "config.json").exists()
    assert "mi-kernels: reads" not in done.stdout


def test_verify_says_what_it_reads(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*words: object) -> str:
        assert run_cli(["verify", str(world.out), *map(str, words)]) == 0
        return capsys.readouterr().err

    def amount(text: str) -> float:
        found = re.fullmatch(r"mi-kernels: reads ([\d.]+) kB\n", text)
        assert found is not None, text
        return float(found[1])

    assert run_cli(world.argv("--quiet")) == 0
    folder = sum(p.stat().st_size for p in world.out.iterdir()) / 1e3
    shards = sum(
        p.stat().st_size for root in (world.out, world.instruct, world.thinking) for p in root.glob("*.safetensors")
    )
    assert amount(said()) == pytest.approx(folder, rel=0.01)
    assert amount(said("--record", "--overwrite")) == pytest.approx(folder, rel=0.01)
    again = [amount(said("--recompute")), amount(said("--recompute", world.instruct, world.thinking))]
    assert again == pytest.approx([folder + shards / 1e3] * 2, rel=0.01)
    assert said("--quiet") == said("--json") == ""


def test_verify_announces_nothing_that_it_refuses(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["missing"], [str(world.root / "recipe")], [str(world.instruct), "--overwrite"]):
        assert run_cli(["verify", *words]) == 2
        assert "reads" not in capsys.readouterr().err


def test_the_demo_needs_four_models_at_a_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=10**9))
    assert run_cli(["demo", "--size", "400MB", "--folder", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"mi-kernels: {tmp_path}: the disk of {tmp_path} needs 1.54 GB of free space, but has 1 GB")
    assert list(tmp_path.iterdir()) == []


class Recorder:
    """Takes the place of `Lines`: what each step is called, and how many bytes it has."""

    steps: list[tuple[str, bool]]

    def __init__(self, total: int, label: str, done: int) -> None:
        self._label, self._left = label, total - done

    def update(self, count: int) -> None:
        self._left -= count

    def relabel(self, label: str) -> None:
        self._label += f", {label}"

    def close(self) -> None:
        self.steps.append((self._label, self._left == 0))


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """The steps that are shown from now on, and whether each counted up to its last byte."""
    found: list[tuple[str, bool]] = []
    monkeypatch.setattr(Recorder, "steps", found, raising=False)
    monkeypatch.setattr(progress, "Lines", Recorder)
    return found


def test_every_slow_step_has_a_label(
    world: World, capsys: pytest.CaptureFixture[str], steps: list[tuple[str, bool]]
) -> None:
    """stderr is no terminal here, so the command line asks for lines."""

    def taken(*words: object) -> list[str]:
        steps.clear()
        assert run_cli([str(word) for word in words]) == 0
        assert all(complete for _, complete in steps)
        return [label for label, _ in steps]

    assert taken(*world.argv()) == ["merging, syncing to disk"]
    assert taken(*sweep(world)) == ["merging 2 models, syncing to disk"]
    assert taken(*world.argv("--sigma", "--overwrite")) == ["measuring sigma", "merging, syncing to disk"]
    assert taken("verify", world.out) == ["verifying"]
    assert taken("verify", world.out, "--record", "--overwrite") == ["recording checksums"]
    assert taken("verify", world.out, "--recompute") == ["verifying", "merging again to compare"]
    assert taken("compare", world.instruct, world.thinking) == ["measuring sigma"]
    assert taken(*recipe(world), "--overwrite") == ["computing thresholds", "merging, syncing to disk"]
    again = ["verifying", "computing thresholds", "merging again to compare"]
    assert taken("verify", world.out, "--recompute") == again
    for extra in ("--quiet", "--json"):
        assert taken(*world.argv("--overwrite", extra)) == taken("verify", world.out, extra) == []
    capsys.readouterr()


def test_the_demo_shows_its_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], steps: list[tuple[str, bool]]
) -> None:
    assert run_cli(["demo", "--size", "34MB", "--folder", str(tmp_path)]) == 0
    rounds = [
        f"{what} {i} of 3{then}" for i in (1, 2, 3) for what, then in (("merge", ", syncing to disk"), ("copy", ""))
    ]
    assert [label for label, _ in steps] == ["writing two models", *rounds, "checking every element"]
    assert all(complete for _, complete in steps)


@pytest.mark.parametrize("columns", [80, 0])
def test_a_merge_on_a_terminal(world: World, columns: int) -> None:
    terminal = Terminal(columns)
    environment = {**os.environ, "TERM": "xterm"}
    done = subprocess.run(
        [*PROGRAM, *world.argv()], stdout=subprocess.PIPE, stderr=terminal.slave, timeout=120, env=environment
    )
    printed = terminal.printed()
    terminal.close()
    assert done.returncode == 0
    assert "merging:" in printed
    assert "syncing to disk: 100%" in printed
    first, last = screen(printed)
    assert re.fullmatch(line(world), first + "\n")
    assert last == ""
