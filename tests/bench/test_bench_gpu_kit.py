"""What makes bench.gpu run on a lent machine: a packed folder, a build in place, and results that survive a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bench import machine
from bench.gpu import build, pack, runner, steps
from bench.gpu import run as gpu

from ..support import ROOT, cuda_host

# A step of the tests: a program that writes the file for its figures, which is its first argument.
WRITE = "import json, pathlib, sys; write = lambda **x: pathlib.Path(sys.argv[1]).write_text(json.dumps(x)); "
PASS = WRITE + "print('some output'); write(status='passed', result={'ms': 3})"
FAIL = WRITE + "print('the whole story'); write(status='failed', reason='2 bits differ', result={'ms': 4}); sys.exit(1)"
CRASH = WRITE + "write(status='running', result={'ms': 5}); import os; os._exit(139)"
HANG = WRITE + "write(status='running', result={'ms': 6}); print('begun', flush=True); import time; time.sleep(600)"
MACHINE = WRITE + "write(status='passed', result={'device': 'X', 'backends': {'cuda': None, 'triton': None}})"


def step(name: str, seconds: int = 60, **options: Any) -> steps.Step:
    return steps.Step(name, seconds, lambda setting: {}, **options)


def run(
    out: Path, listed: Sequence[steps.Step], programs: dict[str, str], limit: float = 300, **options: Any
) -> tuple[bool, dict[str, Any], list[tuple[str, list[str]]]]:
    """Runs some steps. Returns whether none failed, the JSON file, and each started step with its backends."""
    started: list[tuple[str, list[str]]] = []

    def command(step: steps.Step, part: Path, backends: Sequence[str]) -> list[str]:
        started.append((step.name, list(backends)))
        return [sys.executable, "-c", programs[step.name], str(part)]

    about = {"commit": "0123abc", "measured": True}
    passed = runner.Runner(1, out, about, command, limit, **options).run(listed)
    return passed, json.loads((out / "stage-1.json").read_text()), started


def test_a_stage_writes_figures_and_log(tmp_path: Path) -> None:
    passed, report, _ = run(tmp_path, [step("one")], {"one": PASS})
    assert passed
    assert (report["stage"], report["commit"], report["measured"]) == (1, "0123abc", True)
    one = report["steps"]["one"]
    assert (one["status"], one["result"]) == ("passed", {"ms": 3})
    assert one["seconds"] > 0
    assert "some output" in (tmp_path / "stage-1.log").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["stage-1.json", "stage-1.log"]


def test_a_failure_stops_what_depends_on_it_and_keeps_its_log(tmp_path: Path) -> None:
    listed = [
        step("machine"),
        step("tests-cuda", backend="cuda"),
        step("tests-triton", backend="triton"),
        step("check"),
        step("methods", needs=("check",)),
        step("other", needs=("methods",)),
        step("memory", times=True),
    ]
    programs = dict.fromkeys(("tests-triton", "other", "memory"), PASS)
    programs |= {"machine": MACHINE, "tests-cuda": FAIL, "check": FAIL}
    passed, report, started = run(tmp_path, listed, programs)
    assert not passed
    assert report["steps"]["tests-cuda"]["reason"] == "2 bits differ"
    assert report["steps"]["methods"]["status"] == "skipped"
    assert report["steps"]["methods"]["reason"] == "check failed: wrong bits are not timed"
    assert dict(started)["memory"] == ["triton"], "a backend that failed its tests is not timed"
    assert "methods" not in dict(started)
    assert "the whole story" in (tmp_path / "stage-1.log").read_text()


def test_nothing_is_timed_without_a_backend_that_passed(tmp_path: Path) -> None:
    listed = [step("machine"), *(step(f"tests-{b}", backend=b) for b in ("cuda", "triton")), step("memory", times=True)]
    programs = {"machine": MACHINE, "tests-cuda": FAIL, "tests-triton": CRASH}
    _, report, started = run(tmp_path, listed, programs)
    assert report["steps"]["memory"]["reason"] == "no backend is available that passed its tests"
    assert "memory" not in dict(started)
    assert report["steps"]["tests-triton"]["reason"] == "the process ended with status 139"
    assert report["steps"]["tests-triton"]["result"] == {"ms": 5}, "what it had found is kept"


def test_a_step_is_stopped_after_its_time_and_the_next_one_runs(tmp_path: Path) -> None:
    passed, report, _ = run(tmp_path, [step("slow", seconds=1), step("next")], {"slow": HANG, "next": PASS})
    assert not passed
    slow = report["steps"]["slow"]
    assert (slow["status"], slow["result"]) == ("stopped", {"ms": 6})
    assert slow["reason"] == "not done after its 1 seconds"
    assert report["steps"]["next"]["status"] == "passed"


def test_a_stage_ends_with_its_time(tmp_path: Path) -> None:
    _, report, started = run(tmp_path, [step("one")], {}, limit=1)
    assert started == []
    assert report["steps"]["one"]["reason"] == "no time is left in this stage"


def test_the_log_of_a_step_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are too large do not come back from a lent machine."""
    monkeypatch.setattr(runner, "LOG_LIMIT", 1000)
    chatty = PASS + "; [print('x' * 99) for _ in range(100)]"
    run(tmp_path, [step("one"), step("two")], {"one": chatty, "two": PASS})
    text = (tmp_path / "stage-1.log").read_text()
    assert len(text) < 2500
    assert "further lines of this step are not kept" in text
    assert text.count("some output") == 2, "the next step has a limit of its own"


def test_a_kill_loses_nothing_that_was_found(tmp_path: Path) -> None:
    """The machine ends the whole command in the middle of the second step."""
    program = (
        "import sys; from pathlib import Path; from tests.bench.test_bench_gpu_kit import *\n"
        "run(Path(sys.argv[1]), [step('one'), step('two')], {'one': PASS, 'two': HANG})"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, env=environment)
    log = tmp_path / "stage-1.log"
    while not (log.exists() and "begun" in log.read_text()):
        assert child.poll() is None
        time.sleep(0.05)
    child.kill()
    child.wait()
    report = json.loads((tmp_path / "stage-1.json").read_text())
    assert report["steps"]["one"]["result"] == {"ms": 3}
    assert "some output" in log.read_text()
    assert json.loads((tmp_path / "stage-1.running.json").read_text())["result"] == {"ms": 6}
    for line in subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True).stdout.splitlines():
        if str(tmp_path) in line:  # the step itself, which a lent machine would end too
            os.kill(int(line.split()[0]), signal.SIGKILL)


def test_only_runs_one_step_and_keeps_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [step("machine"), step("one"), step("two")]
    monkeypatch.setitem(steps.STAGES, 1, listed)
    commands: list[str] = []

    def command(step: steps.Step, part: Path, backends: Sequence[str]) -> list[str]:
        commands.append(step.name)
        return [sys.executable, "-c", MACHINE if step.name == "machine" else PASS, str(part)]

    def stage(*words: str) -> dict[str, Any]:
        arguments = gpu.parsed(["--stage", "1", "--out", str(tmp_path), *words])
        assert gpu.run_stage(1, arguments, tmp_path, command)
        report: dict[str, Any] = json.loads((tmp_path / "stage-1.json").read_text())
        return report

    stage()
    assert commands == ["machine", "one", "two"]
    report = stage("--only", "two")
    assert commands[3:] == ["machine", "two"]
    assert set(report["steps"]) == {"machine", "one", "two"}
    assert len(report["goals"]) == 14
    monkeypatch.setattr(machine, "commit", lambda: "another")
    assert set(stage("--only", "two")["steps"]) == {"machine", "two"}, "figures of two commits are not mixed"


def test_an_unknown_step_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.parsed(["--stage", "1", "--only", "memory-5B"])
    assert "stage 1 has no step 'memory-5B'; it has machine, tests-cuda" in capsys.readouterr().err


def test_stages_are_collected_into_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about = {"commit": "0123abc", "measured": True}
    device = {"device": "X100", "machine": {"date": "2026-01-31", "commit": "0123abc"}}
    entries = {
        1: {"machine": device, "pairs-cuda": {"differing": 5}},
        2: {"machine": device, "set-lam": {"set_lam": {"host": {"median": 0.004}}}},
    }
    for number, found in entries.items():
        listed = {name: {"status": "passed", "result": result} for name, result in found.items()}
        listed["pairs-cuda"] = {"status": "failed", "result": {"differing": 5}}
        (tmp_path / f"stage-{number}.json").write_text(json.dumps({"stage": number, **about, "steps": listed}))
    output = tmp_path / "all.json"
    assert gpu.main(["collect", str(tmp_path), "-o", str(output)]) == 0
    report = json.loads(output.read_text())
    assert (report["device"], report["machine"]["commit"]) == ("X100", "0123abc")
    found = {row["what"]: (row["found"], row["met"]) for row in report["goals"]}
    assert found["set_lam of Qwen3-4B, synchronised: ms"] == (4.0, True)
    assert found["cuda, all pairs of bf16: differing"] == (5, False), "a failed check is a measured one"
    (tmp_path / "stage-3.json").write_text(json.dumps({"stage": 3, **about, "commit": "other", "steps": {}}))
    assert gpu.main(["collect", str(tmp_path)]) == 2
    assert "different commits" in capsys.readouterr().err


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed folder without extension modules, inside a repository of somebody else."""
    home = tmp_path_factory.mktemp("lent")
    subprocess.run(["git", "init", "--quiet", str(home)], check=True)
    folder = home / "kit"
    assert pack.pack(folder, None, "cu130") < pack.LIMIT
    return folder


def test_the_packed_folder_has_sources_tests_and_the_commit(packed: Path) -> None:
    for name in ("mi_kernels/ops/linear.py", "csrc/cuda/kernels.cu", "csrc/cuda/nvrtc/cstdint",
                 "tests/gpu/test_bits.py",
                 "tests/support/fake_gpu.py", "bench/gpu/run.py", "tools/fatbin.py", "setup.py", "pyproject.toml",
                 "vendor/yaml/__init__.py"):  # fmt: skip
        assert (packed / name).is_file(), name
    assert not list(packed.rglob("*.so"))
    assert not list(packed.rglob("__pycache__"))
    assert (packed / "COMMIT").read_text().strip() == machine.commit()


def test_the_packed_folder_knows_its_commit_and_its_packages(packed: Path, tmp_path: Path) -> None:
    """From another working directory, and with what its own Python lacks."""
    shutil.copy2(next((ROOT / "mi_kernels").glob("_cpu*.so")), packed / "mi_kernels")
    code = (
        "import sys; sys.modules['yaml'] = None; from bench import machine; from bench.gpu import checks\n"
        "print(machine.commit(), machine.__file__, checks.environment_of()['PYTHONPATH'])"
    )
    environment = {**os.environ, "PYTHONPATH": str(packed)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    commit, file, path = done.stdout.split()
    assert commit == machine.commit()
    assert file.startswith(str(packed))
    assert path.split(os.pathsep) == [str(packed), str(packed / "vendor")]
    (packed / "mi_kernels").joinpath(next((ROOT / "mi_kernels").glob("_cpu*.so")).name).unlink()


def test_a_folder_in_use_or_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("")
    assert gpu.main(["pack", "-o", str(tmp_path), "--no-build"]) == 2
    assert "is not empty" in capsys.readouterr().err
    monkeypatch.setattr(pack, "LIMIT", 1 << 20)
    assert gpu.main(["pack", "-o", str(tmp_path / "large"), "--no-build"]) == 2
    assert "are meant to travel" in capsys.readouterr().err
    assert gpu.main(["pack", "-o", str(tmp_path / "other"), "--python", "python9.9"]) == 2
    assert "no interpreter 'python9.9' on PATH" in capsys.readouterr().err


needs_gxx = pytest.mark.skipif(cuda_host.GXX is None, reason=cuda_host.NO_GXX)
FAKE_NVCC = """#!/bin/sh
echo "$@" >> {folder}/calls
[ "$1" = --version ] && echo "Cuda compilation tools, release 13.0, V13.0.88" && exit
while [ "$1" != -o ]; do shift; done
printf '\\272U\\355P\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0' > "$2"
"""


@needs_gxx
@pytest.mark.parametrize("nvcc", ["fake", pytest.param("real", marks=pytest.mark.slow)])
def test_the_cuda_module_is_built_in_place(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nvcc: str
) -> None:
    """With g++ and nvcc, without nvFatbin, setuptools or pip."""
    pytest.importorskip("pybind11")
    if nvcc == "fake":
        (tmp_path / "nvcc").write_text(FAKE_NVCC.format(folder=tmp_path))
        (tmp_path / "nvcc").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    elif shutil.which("nvcc") is None:
        pytest.skip("no nvcc on PATH")
    monkeypatch.setattr(build, "capability", lambda: "9.0")
    assert build.why_missing("cuda", packed) is not None
    built = build.build_missing(packed, ["cuda"])
    assert list(built) == ["cuda"]
    assert build.why_missing("cuda", packed) is None
    (module,) = (packed / "mi_kernels").glob("_cuda*.so")
    if nvcc == "fake":
        code = (
            f"import sys; sys.path.insert(0, {str(packed)!r}); from mi_kernels import _cuda; print(_cuda.CUDA_VERSION)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "cu130"
        compiled = (tmp_path / "calls").read_text()
        assert "-gencode=arch=compute_90,code=sm_90" in compiled, "the chip of this machine"
        assert "-gencode=arch=compute_75,code=compute_75" in compiled
        assert "--fmad=false" in compiled
        assert "--ftz=false" in compiled
    assert build.build_missing(packed, ["cuda"]) == {}, "what imports is not built again"
    module.unlink()


def test_a_build_uses_the_flags_of_every_other_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file of the CPU part is compiled as setup.py compiles it."""
    pytest.importorskip("pybind11")
    commands: list[list[str]] = []

    def record(command: Sequence[Any]) -> str:
        commands.append([str(word) for word in command])
        Path(commands[-1][-1]).write_text("")
        return ""

    root = tmp_path / "tree"
    for name in ("tools", "csrc"):
        shutil.copytree(ROOT / name, root / name)
    (root / "mi_kernels").mkdir()
    monkeypatch.setattr(build, "_run", record)
    build.build("cpu", root)
    by_file = {Path(c[c.index("-c") + 1]).name: c for c in commands if "-c" in c}
    assert set(by_file) == {path.name for path in (ROOT / "csrc" / "cpu").glob("*.cpp")}
    for command in by_file.values():
        assert {"-ffp-contract=off", "-fno-fast-math", "-O3"} <= set(command)
    if "x86" in os.uname().machine:
        assert "-mavx512bw" in by_file["avx512.cpp"]
        assert "-mavx512bw" not in by_file["avx2.cpp"]
    assert not set(by_file["scalar.cpp"]) & {"-mavx2", "-mfma", "-march=native"}


def test_a_missing_compiler_is_named(
    packed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build, "CUDA_HOME", tmp_path)
    with pytest.raises(build.BuildError, match=r"g\+\+ is neither on PATH nor in"):
        build.build("cpu", packed)
    monkeypatch.setattr(build, "why_missing", lambda part, root: "no module")
    assert gpu.main(["--stage", "1"]) == 2
    assert capsys.readouterr().err.startswith("bench.gpu: g++ is neither")


def test_a_whole_stage_runs_in_processes(tmp_path: Path) -> None:
    """From another working directory, with the command that a lent machine gets."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-m", "bench.gpu", "--stage", "4", "--dry-run", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no figure above is a measurement" in done.stdout
    report = json.loads((tmp_path / "out" / "stage-4.json").read_text())
    assert report["measured"] is False
    assert report["commit"] == machine.commit()
    assert {name: entry["status"] for name, entry in report["steps"].items()} == {
        "machine": "passed", "memcheck": "skipped", "racecheck": "skipped", "initcheck": "skipped",
    }  # fmt: skip
    assert all(row["found"] is None for row in report["goals"])
