"""bench.gpu without a GPU: what it runs, in which order, what it refuses to time, and what it writes."""

from __future__ import annotations

import ast
import json
import math
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.gpu import checks, in_memory
from bench.gpu import run as gpu
from bench.gpu.clock import CudaClock, DryClock
from bench.models import MODELS

from ..support import ROOT


def results(of_copy: float, kernel: float) -> dict[str, Any]:
    ours = {"of_copy_bandwidth": of_copy, "kernel": kernel}
    return {"results": {"cuda": ours, "naive": {"kernel": 3.0}, "foreach_lerp": {"kernel": 0.9}}}


REPORT = {
    "memory": {"4B": results(0.93, 1.0), "30B-A3B": results(0.84, 1.0)},
    "files": {"of_slowest": {"cuda": 0.81}},
}


def test_promises_are_compared_with_what_was_measured() -> None:
    rows = {row["what"]: (row["wanted"], row["found"], row["met"]) for row in gpu.wanted(REPORT, measured=True)}
    assert rows["cuda, Qwen3-4B: of copy bandwidth"] == (0.92, 0.93, True)
    assert rows["cuda, Qwen3-4B: times naive"] == (2.8, 3.0, True)
    assert rows["cuda, Qwen3-4B: times foreach_lerp"] == (1.0, 0.9, False)
    assert rows["cuda, Qwen3-30B-A3B: of copy bandwidth"] == (0.85, 0.84, False)
    assert rows["cuda, file to file: of the slowest link"] == (0.8, 0.81, True)
    assert {found for what, (_, found, _) in rows.items() if what.startswith("triton")} == {None}
    text = gpu.table(gpu.wanted(REPORT, measured=True))
    assert [line.split()[-1] for line in text.splitlines() if "30B" in line] == ["BELOW", "measured"]


def test_a_dry_run_meets_no_promise() -> None:
    rows = gpu.wanted(REPORT, measured=False)
    assert len(rows) == 10
    assert {(row["found"], row["met"]) for row in rows} == {(None, None)}


@pytest.mark.parametrize(("model", "tensors"), [("4B", 398), ("30B-A3B", 18_867)])
def test_a_model_that_is_too_large_keeps_all_its_tensors(model: str, tensors: int) -> None:
    whole = [math.prod(shape) for shape in MODELS[model]().values()]
    assert in_memory.counts_of(model, 1 << 40) == (whole, 1.0)
    budget = 6 * sum(whole) // 7
    counts, shrink = in_memory.counts_of(model, budget)
    assert len(counts) == tensors
    assert min(counts) > 0
    assert shrink == pytest.approx(7, rel=1e-6)
    assert 0.99 * budget < 6 * sum(counts) <= budget


def test_wrong_bits_are_never_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = in_memory.contestants

    def contestants(backends: Any) -> Any:
        def wrong(s: Any) -> None:
            real(backends)["reference"](s)
            s.outs[3].view(torch.int16)[-1] ^= 1

        return {**real(backends), "reference": wrong}

    def no_timing(*_: Any) -> float:
        raise AssertionError("timed")

    monkeypatch.setattr(in_memory, "contestants", contestants)
    monkeypatch.setattr(in_memory, "copy_bandwidth", lambda clock, rounds: 1.0)
    monkeypatch.setattr(DryClock, "kernel", no_timing)
    with pytest.raises(in_memory.WrongBitsError, match="backend reference: tensor 3 of "):
        in_memory.measure(DryClock(), "4B", ["reference"], 1, limit=5)


def test_outcomes_are_counted_by_backend(tmp_path: Path) -> None:
    file = tmp_path / "test_some.py"
    file.write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('backend', ['cuda', 'triton'])\n"
        "@pytest.mark.parametrize('lam', [0.3, 0.8])\n"
        "def test_one(lam, backend):\n"
        "    if backend == 'triton': pytest.skip('none')\n"
        "    assert lam == 0.3\n"
    )
    found = checks.run_tests([str(file)])
    assert found["outcomes"] == {"cuda failure": 1, "cuda passed": 1, "triton skipped": 2}
    assert not found["passed"]
    assert [name.partition("::")[2] for name in found["failed"]] == ["test_one[0.8-cuda]"]
    assert "assert 0.8 == 0.3" in found["output"]
    assert checks.run_tests([str(file), "-k", "cuda and 0.3"])["passed"]
    assert not checks.run_tests([str(file), "-k", "triton"])["passed"], "skipping everything proves nothing"


def test_the_sanitizer_runs_every_tool_and_reports_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "compute-sanitizer"
    program.write_text(
        "#!/bin/sh\n"
        f'echo "$@ cache=$PYTORCH_NO_CUDA_MEMORY_CACHING" >> {tmp_path}/calls\n'
        'echo "========= ERROR SUMMARY: 0 errors"\n'
        '[ "$2" = racecheck ] && exit 99\n'
        "exit 0\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert checks.find_sanitizer() == str(program)
    found = checks.run_sanitizer(str(program), ["tests/gpu/test_bits.py"])
    assert {tool: found[tool]["clean"] for tool in checks.TOOLS} == {
        "memcheck": True, "racecheck": False, "initcheck": True,
    }  # fmt: skip
    assert found["memcheck"]["summary"] == ["ERROR SUMMARY: 0 errors"]
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[1] for call in calls] == list(checks.TOOLS)
    assert all(call.endswith("tests/gpu/test_bits.py cache=1") for call in calls)


def test_a_machine_without_the_sanitizer_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "not installed" in checks.run_sanitizer(None, [])["missing"]


def test_the_sanitizers_subset_has_tests_of_both_backends() -> None:
    """-k matches names, and a test that is renamed would silently fall out."""
    module = ast.parse((ROOT / "tests" / "gpu" / "test_bits.py").read_text())

    tests = [node.name for node in module.body if isinstance(node, ast.FunctionDef)]
    names = [f"{name}[{backend}]" for name in tests for backend in ("cuda", "triton")]
    wanted = ("all_sizes", "unaligned", "in_place", "scalars")
    assert all(word in checks.SUBSET for word in wanted)
    assert all(sum(word in name for name in names) == 2 for word in wanted)


def test_a_dry_run_goes_through_every_section(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "deep" / "report.json"
    assert gpu.main(["--dry-run", "--json", str(path), "--folder", str(tmp_path), "--commit", "0123abc"]) == 0
    report = json.loads(path.read_text())
    assert report["measured"] is False
    assert report["passed"] is True
    assert report["machine"]["commit"] == "0123abc"
    assert report["tests"]["passed"]
    assert "missing" in report["sanitizer"]
    for model in (gpu.DENSE, gpu.EXPERTS):
        found = report["memory"][model]
        assert found["shrink"] > 1
        assert {"naive", "torch.lerp", "foreach_lerp"} < set(found["results"])
    files = report["files"]
    assert set(files["seconds"]) == {"disk write", "PCIe in", "PCIe out", "cpu", "triton"}
    assert files["seconds"][files["slowest"]] == max(files["seconds"][k] for k in ("disk write", "PCIe in", "PCIe out"))
    assert all(row["found"] is None for row in report["wanted"])
    assert "no figure below is a measurement" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["deep"]


def test_nothing_is_timed_after_a_failed_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = {"passed": False, "outcomes": {"cuda failure": 1}, "failed": ["test_bits::test_one"]}
    monkeypatch.setattr(checks, "run_tests", lambda *_: failing)
    path = tmp_path / "report.json"
    assert gpu.main(["--dry-run", "--json", str(path)]) == 1
    report = json.loads(path.read_text())
    assert report["passed"] is False
    assert not {"memory", "files"} & set(report)


def test_a_section_alone_adds_to_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passing = {"passed": True, "outcomes": {"cuda passed": 1}, "failed": []}
    monkeypatch.setattr(checks, "run_tests", lambda *_: passing)
    path = tmp_path / "report.json"
    for section in ("tests", "sanitizer"):
        assert gpu.main(["--dry-run", "--json", str(path), "--only", section]) == 0
    report = json.loads(path.read_text())
    assert report["tests"] == passing
    assert "sanitizer" in report
    report["machine"]["commit"] = "another"
    path.write_text(json.dumps(report))
    assert gpu.main(["--dry-run", "--json", str(path), "--only", "sanitizer"]) == 0
    assert "tests" not in json.loads(path.read_text())


def test_without_a_gpu_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu.device_choice, "found_gpus", lambda: "no GPU: no NVIDIA driver")
    assert gpu.main([]) == 2
    assert "no NVIDIA driver; `--dry-run`" in capsys.readouterr().err


def test_results_are_named_by_device_and_date() -> None:
    path = gpu.default_path("NVIDIA H100 80GB HBM3", "2026-01-31")
    assert path.name == "gpu-h100-80gb-hbm3-2026-01-31.json"
    assert path.parent.name == "results"


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a CudaClock does to the device, in order; events are 8 ms apart."""
    done: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            done.append("record")

        def synchronize(self) -> None:
            done.append("wait")

        def elapsed_time(self, other: Event) -> float:
            return 8.0

    class Buffer:
        def zero_(self) -> None:
            done.append("flush")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: done.append("synchronize"))
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: done.append("hold"), raising=False)

    @contextmanager
    def buffers() -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(torch, "empty", lambda *_, **__: Buffer())
            yield

    with buffers():
        done.append("clock")
        clock = CudaClock()
    done.clear()
    assert clock.kernel(lambda: done.append("work")) == 0.008
    return done


def test_a_kernel_is_timed_alone_and_from_a_cold_cache(queue: list[str]) -> None:
    first = ["flush", "synchronize", "work", "synchronize"]
    assert queue == [*first, "flush", "hold", "record", "work", "record", "wait"]
