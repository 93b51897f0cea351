"""bench.gpu without a GPU: what it measures and compares, what it refuses to time, and every step in a dry run."""

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

import mi_kernels
from bench.gpu import build, checks, contestants, device_state, goals, in_memory, sets, steps
from bench.gpu import run as gpu
from bench.gpu.clock import CudaClock, DryClock
from bench.models import MODELS
from bench.noise import spread

from ..support import ROOT


def results(of_xor: float, kernel: float) -> dict[str, Any]:
    ours = {"of_xor": spread([of_xor]), "kernel": spread([kernel])}
    theirs = {
        name: {"kernel": spread([s])} for name, s in (("naive", 3.0), ("foreach_lerp", 2.0), ("foreach_lerp_", 0.9))
    }
    return {"results": {"cuda": ours, **theirs}}


STEPS = {
    "memory-4B": results(0.96, 1.0),
    "quick-4B": results(0.1, 9.0),
    "quick-30B-A3B": results(0.84, 1.0),
    "pairs-cuda": {"differing": 0},
    "files-tmpfs": {"of_slowest": {"cuda": spread([0.81])}},
    "set-lam": {"set_lam": {"host": spread([0.012, 0.009, 0.011])}},
    "quick-methods": {"methods": {"ties": {"of_roofline": spread([0.5])}}},
}


def test_goals_are_compared_with_what_was_measured() -> None:
    rows = {row["what"]: (row["found"], row["met"]) for row in goals.wanted(STEPS, measured=True)}
    assert rows["cuda, Qwen3-4B: of two reads and a write"] == (0.96, True)
    assert rows["cuda, Qwen3-4B: times naive"] == (3.0, True)
    assert rows["cuda, Qwen3-4B: times _foreach_lerp"] == (0.9, False), "the faster of the two counts"
    assert rows["cuda, Qwen3-30B-A3B: of two reads and a write"] == (0.84, False), "0.90 are wanted"
    assert rows["cuda, all pairs of bf16: differing"] == (0, True)
    assert rows["cuda, file to file on tmpfs: of the slowest link"] == (0.81, True)
    assert rows["set_lam of Qwen3-4B, synchronised: ms"] == (pytest.approx(11.0), False), "at most 10"
    assert rows["TIES: of the roofline of its bytes"] == (0.5, True)
    assert {found for what, (found, _) in rows.items() if what.startswith("triton")} == {None}
    text = goals.table(goals.wanted(STEPS, measured=True))
    assert [line.split()[-1] for line in text.splitlines() if "30B" in line] == ["MET", "measured"]
    assert [line.rstrip()[-7:] for line in text.splitlines() if "set_lam" in line] == ["NOT MET"]


def test_a_dry_run_meets_no_goal() -> None:
    rows = goals.wanted(STEPS, measured=False)
    assert len(rows) == 14
    assert {(row["found"], row["met"]) for row in rows} == {(None, None)}


@pytest.mark.parametrize(("model", "tensors"), [("4B", 398), ("30B-A3B", 18_867)])
def test_a_model_that_is_too_large_keeps_all_its_tensors(model: str, tensors: int) -> None:
    whole = [math.prod(shape) for shape in MODELS[model]().values()]
    assert sets.tensor_list(model, 1 << 40)[1:] == (whole, 1.0)
    budget = 6 * sum(whole) // 7
    found = sets.tensor_list(model, budget)
    assert len(found.counts) == tensors
    assert min(found.counts) > 0
    assert found.shrink == pytest.approx(7, abs=0.01)
    assert 0.99 * budget < 6 * found.elements <= budget


def test_lists_of_equal_tensors_have_the_published_number() -> None:
    for name, elements in (("64KiB", 32768), ("4KiB", 2048)):
        found = sets.tensor_list(name, 1 << 40)
        assert (len(found.counts), set(found.counts)) == (18_867, {elements})


def test_a_set_has_random_inputs_and_aligned_tensors() -> None:
    s = sets.Set([1000, 3, 0, 129], "cpu", seed=1)
    for tensors in (s.a, s.b):
        assert all(t.unique().numel() > 0.5 * t.numel() for t in tensors if t.numel()), "constants compress"
        assert not any(t.isnan().any() for t in tensors)
    assert not torch.equal(s.a[0], s.b[0])
    assert all(start % sets.ALIGNMENT == 0 for start in s.starts)
    assert s.moved == 3 * 2 * 1132
    assert sets.Set([10, 10], "cpu", seed=1, offset=1).starts == [1, 129]


def test_a_written_gap_between_tensors_is_noticed() -> None:
    s = sets.Set([1000, 3, 129], "cpu", seed=1)
    contestants.multi_lerp_of("reference")(s)()
    s.check("some", contestants.LAM)
    s.flat[2][s.starts[1] + 3] = 1.0
    with pytest.raises(sets.WrongBitsError, match=r"some: tensor 1 of 3 elements .* in the gap beside it"):
        s.check("some", contestants.LAM)


def test_wrong_bits_are_never_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = contestants.multi_lerp_of

    def wrong(backend: str) -> contestants.Make:
        def make(s: sets.Set) -> contestants.Work:
            def work() -> None:
                real(backend)(s)()
                s.outs[3].view(torch.int16)[-1] ^= 1

            return work

        return make

    def no_timing(*_: Any) -> float:
        raise AssertionError("timed")

    monkeypatch.setattr(in_memory, "multi_lerp_of", wrong)
    monkeypatch.setattr(DryClock, "measure", no_timing)
    with pytest.raises(sets.WrongBitsError, match="backend reference: tensor 3 of "):
        in_memory.measure(DryClock(), "4B", ["reference"], 1, lambda found: None, limit=5)


def test_every_figure_is_min_median_and_max_over_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contestants, "naive_compiled", unavailable("no compiler"))
    seen: list[dict[str, Any]] = []
    found = in_memory.measure(DryClock(), "4B", ["reference"], 3, seen.append, limit=5)
    assert len(seen) == 3, "each round is written when it is done"
    assert {"copy", "xor", "reference", "naive", "torch.lerp", "foreach_lerp", "foreach_lerp_"} <= set(found["results"])
    for name, figures in found["results"].items():
        for kind in ("kernel", "queued", "host", "bytes_per_second", "of_copy", "of_xor"):
            value = figures[kind]
            assert value["min"] <= value["median"] <= value["max"], (name, kind)
            assert value["rounds"] == 3
    assert found["results"]["xor"]["of_xor"] == {"min": 1.0, "median": 1.0, "max": 1.0, "rounds": 3}
    assert found["unavailable"]["naive compiled"] == "no compiler"
    assert "need a GPU" in found["unavailable"]["naive graph"]
    text = "\n".join(in_memory.lines(found))
    assert "naive compiled: not measured, no compiler" in text


def unavailable(reason: str) -> contestants.Make:
    def make(s: sets.Set) -> contestants.Work:
        raise contestants.UnavailableError(reason)

    return make


def test_the_state_of_the_device_is_read_while_it_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [{"sm_mhz": mhz, "busy_percent": busy} for mhz, busy in ((345.0, 0.0), (1980.0, 90.0), (1800.0, 99.0))]
    assert device_state.summary(samples)["sm_mhz"] == {"min": 1800.0, "median": 1890.0, "max": 1980.0, "rounds": 2}
    assert device_state.summary(samples[:1])["sm_mhz"]["median"] == 345.0
    assert device_state.summary([]) == {}
    executable(
        tmp_path / "nvidia-smi",
        f'echo "$@" >> {tmp_path}/calls\n'
        "case $1 in *name*) echo NVIDIA H100, 580.1, 5, 16, 1980 MHz, 2619 MHz, 700 W, 81559 MiB; exit;; esac\n"
        "echo 1755, 2619, 420.5, [N/A], 97\nexec sleep 60",
    )
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert device_state.about()["driver_version"] == "580.1"
    monitor = device_state.Monitor()
    while not monitor._samples:
        pass
    found = monitor.stop()
    assert found["watts"] == spread([420.5])
    assert "celsius" not in found, "a card without this sensor"
    calls = (tmp_path / "calls").read_text()
    assert all(call.startswith("--query-gpu=") for call in calls.splitlines()), "the card is asked, never set"


def executable(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_a_machine_without_nvidia_smi_has_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert device_state.Monitor().stop() == {}
    assert "nvidia-smi" in device_state.about()


def test_outcomes_are_counted_by_backend(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    assert "assert 0.8 == 0.3" in capsys.readouterr().out, "the log of the step has the whole failure"
    assert checks.run_tests([str(file), "-k", "cuda and 0.3"])["passed"]
    assert not checks.run_tests([str(file), "-k", "triton"])["passed"], "skipping everything proves nothing"


def test_the_callers_python_path_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its packages are found in the processes of the tests too, after those of this tree."""
    (tmp_path / "lent_package.py").write_text("VALUE = 3\n")
    (tmp_path / "bench").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    file = tmp_path / "test_some.py"
    file.write_text(
        "def test_one():\n"
        "    import lent_package, bench.gpu\n"
        "    assert lent_package.VALUE == 3\n"
        f"    assert bench.gpu.__file__.startswith({str(ROOT)!r})\n"
    )
    found = checks.run_tests(["--rootdir", str(tmp_path), "--import-mode=importlib", str(file)])
    assert found["passed"], found


def test_the_sanitizer_runs_a_tool_and_reports_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable(
        tmp_path / "compute-sanitizer",
        f'echo "$@ cache=$PYTORCH_NO_CUDA_MEMORY_CACHING" >> {tmp_path}/calls\n'
        'echo "========= ERROR SUMMARY: 0 errors"\n'
        '[ "$2" = racecheck ] && exit 99\n'
        "exit 0",
    )
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    program = checks.find_sanitizer()
    assert program == str(tmp_path / "compute-sanitizer")
    found = {tool: checks.run_sanitizer(program, tool, ["tests/gpu/test_bits.py"]) for tool in checks.TOOLS}
    assert {tool: found[tool]["clean"] for tool in checks.TOOLS} == {
        "memcheck": True, "racecheck": False, "initcheck": True,
    }  # fmt: skip
    assert found["memcheck"]["summary"] == ["ERROR SUMMARY: 0 errors"]
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[1] for call in calls] == list(checks.TOOLS)
    assert all(call.endswith("tests/gpu/test_bits.py cache=1") for call in calls)
    setting = steps.Setting(False, ["cuda"], lambda found: None)
    with pytest.raises(steps.StepFailedError, match="0 errors"):
        steps.step_of(4, "racecheck").run(setting)
    monkeypatch.setattr(checks, "find_sanitizer", lambda: None)
    with pytest.raises(steps.StepSkippedError, match="not installed"):
        steps.step_of(4, "memcheck").run(setting)


def test_the_sanitizers_subset_has_tests_of_both_backends() -> None:
    """-k matches names, and a test that is renamed would silently fall out."""
    module = ast.parse((ROOT / "tests" / "gpu" / "test_bits.py").read_text())

    tests = [node.name for node in module.body if isinstance(node, ast.FunctionDef)]
    names = [f"{name}[{backend}]" for name in tests for backend in ("cuda", "triton")]
    wanted = ("all_sizes", "unaligned", "in_place", "scalars")
    assert all(word in checks.SUBSET for word in wanted)
    assert all(sum(word in name for name in names) == 2 for word in wanted)
    assert (ROOT / "tests" / "gpu" / "test_combine.py").exists()
    assert "test_combine" in checks.SUBSET


def test_stages_fit_their_time() -> None:
    """A command of ten minutes holds all steps of a stage at their budgets; stage 1 takes eight."""
    assert steps.LIMITS[1] <= 480
    for stage, listed in steps.STAGES.items():
        names = [step.name for step in listed]
        assert len(set(names)) == len(names)
        assert sum(step.seconds for step in listed) <= steps.LIMITS[stage] < 600, stage
        assert names[0] == "machine"
        assert all(set(step.needs) <= set(names) for step in listed)
        first_timed = next((i for i, step in enumerate(listed) if step.times), len(listed))
        assert all(i < first_timed for i, step in enumerate(listed) if step.name.startswith(("tests-", "bits-")))


NEED_MORE = ("tests-triton", "tests-streaming", "pairs-triton", "memcheck", "files-tmpfs")  # Triton, a GPU, /dev/shm
DRY = ["machine", "tests-triton", "tests-streaming", "quick-4B", "set-lam", "plans", "quick-methods", "pairs-triton"]


@pytest.mark.parametrize("name", [*DRY, "variants", "files-tmpfs", "files-disk", "memcheck"])
def test_every_step_has_a_dry_run(name: str, tmp_path: Path) -> None:
    """Each kind of step, with small CPU tensors. What needs a GPU or Triton says so."""
    step = next(step for listed in steps.STAGES.values() for step in listed if step.name == name)
    seen: list[dict[str, Any]] = []
    setting = steps.Setting(True, ["triton"], seen.append, tmp_path)
    if name == "plans" and not hasattr(mi_kernels, "prepare"):
        with pytest.raises(steps.StepFailedError, match="mi_kernels has no prepare"):
            step.run(setting)
        return
    try:
        found = step.run(setting)
    except steps.StepSkippedError:
        if name not in NEED_MORE:
            raise
        return
    assert json.loads(json.dumps(found)) is not None
    assert seen or name.startswith(("tests", "pairs"))
    if name.startswith("files"):
        assert set(found["seconds"]) == {"disk write", "PCIe in", "PCIe out", "cpu", "triton"}
        middle = {name: seconds["median"] for name, seconds in found["seconds"].items()}
        assert middle[found["slowest"]] == max(middle[k] for k in ("disk write", "PCIe in", "PCIe out"))
    if name == "quick-methods":
        assert {"linear", "task_arithmetic", "ties", "dare_linear", "slerp", "model_stock"} <= set(found["methods"])
        assert not [row for row in found["methods"].values() if "failed" in row]


def test_a_wrong_method_fails_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    real = mi_kernels.combine

    def wrong(tensors: Any, method: str, *, out: Any = None, **parameters: Any) -> Any:
        made = real(tensors, method, out=out, **parameters)
        if method == "ties" and out is not None:
            out[5] += 1
        return made

    monkeypatch.setattr(mi_kernels, "combine", wrong)
    with pytest.raises(steps.StepFailedError, match="wrong or refused: ties") as caught:
        steps.step_of(1, "quick-methods").run(steps.Setting(True, [], lambda found: None))
    assert caught.value.result is not None
    methods = caught.value.result["methods"]
    assert methods["ties"] == {"failed": "ties: 1 of 16,384 elements differ from the CPU's, the first at 5"}
    assert "host" in methods["linear"]


def test_without_a_gpu_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mi_kernels.backends import device

    monkeypatch.setattr(build, "build_missing", lambda parts: {})
    monkeypatch.setattr(device, "found_gpus", lambda: "no GPU: no NVIDIA driver")
    assert gpu.main(["--stage", "1"]) == 2
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
    times = clock.measure(lambda: done.append("work"))
    assert times.kernel == 0.008
    assert 0 <= times.queued <= times.host
    return done


def test_a_kernel_is_timed_alone_and_from_a_cold_cache(queue: list[str]) -> None:
    first = ["flush", "synchronize", "work", "synchronize"]
    assert queue == [*first, "flush", "hold", "record", "work", "record", "wait"]
