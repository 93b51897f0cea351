"""The stages and their steps: what is checked and measured, in which order, with which time budget.

A stage is what fits one command of ten minutes. A step runs in a process of its own (step.py), so that a fault of the
device or a hang ends that step and no other. Its function gets a `Setting` and returns figures; it calls `emit` with
what it has so far, which survives when the step is killed.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from . import checks

Result = dict[str, Any]
Emit = Callable[[Result], None]
TMPFS = Path("/dev/shm")
_FILES = 6  # checkpoints that the file steps hold at a time: two inputs, and outputs with their temporary files
_ROWS = ["0", "1", "16256", "32671", "32640", "32677", "32768", "48969", "65408"]  # bits of special values


class StepFailedError(RuntimeError):
    """A step's answer is no; `result` is what it found."""

    def __init__(self, message: str, result: Result | None = None) -> None:
        super().__init__(message)
        self.result = result


class StepSkippedError(RuntimeError):
    """A step cannot run here; the message is the reason. It fails nothing."""


class Setting(NamedTuple):
    """What a step gets.

    Attributes:
        dry: run with small CPU tensors, and measure nothing.
        backends: the backends to check or time: available, and not failed in an earlier step.
        emit: takes what is known so far.
        folder: where files may be written; None for the folder of temporary files.
    """

    dry: bool
    backends: Sequence[str]
    emit: Emit
    folder: Path | None = None

    def clock(self) -> Any:
        from .clock import CudaClock, DryClock

        return DryClock() if self.dry else CudaClock()

    def timed(self) -> list[str]:
        """The backends to time; the dry run has one that takes CPU tensors."""
        return ["reference"] if self.dry else list(self.backends)

    def rounds(self, number: int) -> int:
        return 1 if self.dry else number

    @property
    def limit(self) -> int | None:
        """The dry run uses the first tensors of a list."""
        return 40 if self.dry else None


class Step(NamedTuple):
    """One check or measurement.

    Attributes:
        name: unique in its stage.
        seconds: its budget; it is stopped after it.
        run: returns the figures.
        backend: the backend that it checks. If it fails, later steps leave that backend out.
        needs: steps of the same stage without which this one is not run.
        times: it times backends, and is not run if all of them failed.
    """

    name: str
    seconds: int
    run: Callable[[Setting], Result]
    backend: str | None = None
    needs: tuple[str, ...] = ()
    times: bool = False


def say(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)


# What a step runs.


def machine(setting: Setting) -> Result:
    """Versions and device, and for each backend the reason why it cannot run, or None."""
    from .. import machine as description

    found: Result = {"machine": description.describe(), "versions": {}}
    for name in ("torch", "triton", "pytorch-triton", "numpy", "pybind11", "pytest", "hypothesis", "safetensors"):
        try:
            found["versions"][name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    setting.emit(found)
    found["extensions"] = {"cuda": _extension_version()}
    if setting.dry:
        found |= {"device": "none (dry run)", "backends": {"cuda": "a dry run", "triton": None}}
    else:
        found |= _device()
    for name, value in found.items():
        say(f"{name:<12}{value}")
    return found


def _device() -> Result:
    import torch

    from mi_kernels.backends import dispatch

    properties = torch.cuda.get_device_properties(0)
    available = dispatch.this_machine("cuda")
    return {
        "device": properties.name,
        "torch_cuda": torch.version.cuda,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "l2_mib": round(getattr(properties, "L2_cache_size", 0) / 2**20, 1),
        "backends": {"cuda": available.cuda, "triton": available.triton},
    }


def _extension_version() -> str | None:
    """The version of CUDA that compiled mi_kernels._cuda, or None without it."""
    try:
        from mi_kernels import _cuda
    except ImportError:
        return None
    return str(_cuda.CUDA_VERSION)


_LERP_TESTS = ("test_bits.py", "test_launch.py", "test_pairs.py")


def tests_of(backend: str, files: Sequence[str], setting: Setting) -> Result:
    """The GPU tests of one backend. The dry run has those of Triton's interpreter."""
    paths = [f"tests/gpu/{file}" for file in files]
    if setting.dry and backend == "cuda":
        raise StepSkippedError("the CUDA kernels need a GPU")
    if setting.dry:
        return _interpreted(["tests/gpu/test_launch.py", "-k", backend])
    if backend not in setting.backends:
        raise StepSkippedError(f"backend {backend} is not available: see the step machine")
    return _passed(checks.run_tests([*paths, "-k", backend, "-m", "not slow"]))


def other_tests(files: Sequence[str], setting: Setting) -> Result:
    if setting.dry:
        return _interpreted([f"tests/gpu/{file}" for file in files])
    return _passed(checks.run_tests([f"tests/gpu/{file}" for file in files]))


def _interpreted(arguments: Sequence[str]) -> Result:
    if find_spec("triton") is None:
        raise StepSkippedError("without Triton there is no interpreter")
    environment = {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    found = checks.run_tests(arguments, environment)
    only_skipped = (
        not found["failed"] and set(found["outcomes"]) and all(k.endswith("skipped") for k in found["outcomes"])
    )
    if only_skipped:
        raise StepSkippedError("these tests need a GPU")
    return _passed(found)


def _passed(found: Result) -> Result:
    for name in found["failed"]:
        say(f"  FAILED {name}")
    if not found["passed"]:
        raise StepFailedError(f"{len(found['failed'])} tests failed, or none passed", found)
    return found


def pairs(backend: str, lams: Sequence[float], setting: Setting) -> Result:
    """Every pair of bf16 values; a few rows in Triton's interpreter in the dry run."""
    command = [sys.executable, "tests/gpu/all_pairs.py", "--backend", backend, "--lam", *map(str, lams)]
    environment = {}
    if setting.dry:
        if backend == "cuda" or find_spec("triton") is None:
            raise StepSkippedError("the CUDA kernels need a GPU" if backend == "cuda" else "Triton is not installed")
        command += ["--device", "cpu", "--rows", *_ROWS[:1]]
        environment = {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    elif backend not in setting.backends:
        raise StepSkippedError(f"backend {backend} is not available, or failed its tests")
    status, output = checks.run(command, environment)
    counts = [found.groups() for found in re.finditer(r"^lam .*: ([\d,]+) of .* and ([\d,]+) in", output, re.MULTILINE)]
    differing = sum(int(count.replace(",", "")) for both in counts for count in both)
    found: Result = {"lams": list(lams), "differing": differing if len(counts) == len(lams) else None}
    found["lines"] = [line for line in output.splitlines() if line.startswith("lam ")]
    if status != 0 or found["differing"] != 0:
        raise StepFailedError(f"bits differ, or the program failed with status {status}", found)
    return found


_SLOW_TO_MAKE = ("naive compiled",)  # the compiler may take longer than a quick step has


def memory(name: str, rounds: int, setting: Setting, leave_out: Sequence[str] = ()) -> Result:
    from . import in_memory

    found = in_memory.measure(
        setting.clock(), name, setting.timed(), setting.rounds(rounds), setting.emit, setting.limit, leave_out
    )
    say(*in_memory.lines(found))
    return found


def variants(setting: Setting) -> Result:
    from . import variants as module

    lists = ("4B",) if setting.dry else ("4B", "30B-A3B")
    found = {
        "rows": module.measure(setting.clock(), lists, setting.timed(), setting.rounds(5), setting.emit, setting.limit)
    }
    say(*module.lines(found))
    return found


def set_lam(setting: Setting) -> Result:
    from ..models import MODELS
    from . import live

    shapes = _tiny_shapes() if setting.dry else MODELS["4B"]()
    found = live.measure_knob(setting.clock(), shapes, setting.rounds(9), setting.emit)
    say(*live.knob_lines(found))
    return found


def plans(setting: Setting) -> Result:
    from . import live
    from .contestants import UnavailableError

    lists = ("4B", "30B-A3B", "4KiB")
    try:
        found = live.measure_plans(
            setting.clock(), lists, setting.timed(), setting.rounds(9), setting.emit, setting.limit
        )
    except UnavailableError as error:
        raise StepFailedError(str(error)) from error
    say(*live.plan_lines(found))
    return found


def methods(elements: int, rounds: int, setting: Setting) -> Result:
    from . import methods as module

    found = module.measure(setting.clock(), 1 << 14 if setting.dry else elements, setting.rounds(rounds), setting.emit)
    say(*module.lines(found))
    failed = [name for name, row in found["methods"].items() if "failed" in row]
    if failed:
        raise StepFailedError(f"wrong or refused: {', '.join(failed)}", found)
    return found


def files(on_tmpfs: bool, setting: Setting) -> Result:
    """File to file through each backend. On tmpfs no disk is in the way of the links to the GPU."""
    from ..models import MODELS, size_of
    from . import file_to_file

    where = TMPFS if on_tmpfs else setting.folder or Path(tempfile.gettempdir())
    if on_tmpfs and not os.access(where, os.W_OK):
        raise StepSkippedError(f"{where} cannot be written")
    shapes = _tiny_shapes()
    if not setting.dry:
        room = shutil.disk_usage(where).free
        fitting = [name for name in ("1.7B", "0.6B") if _FILES * size_of(MODELS[name]()) < room]
        if not fitting:
            raise StepSkippedError(f"{where} has only {room / 1e9:.0f} GB free")
        shapes = MODELS[fitting[0]]()
    backends = ["triton"] if setting.dry else list(setting.backends)
    with tempfile.TemporaryDirectory(prefix="mi-kernels-bench-", dir=where) as folder:
        with pretended_gpu() if setting.dry else nullcontext():
            found = file_to_file.measure(
                setting.clock(), Path(folder), shapes, backends, setting.rounds(5), setting.emit
            )
    say(*file_to_file.lines(found))
    return found


def sanitizer(tool: str, setting: Setting) -> Result:
    program = None if setting.dry else checks.find_sanitizer()
    if program is None:
        raise StepSkippedError(
            "a dry run" if setting.dry else "compute-sanitizer is not installed (it comes with the CUDA toolkit)"
        )
    tests = ["tests/gpu/test_bits.py", "tests/gpu/test_combine.py", "-k", checks.SUBSET]
    found = checks.run_sanitizer(program, tool, tests)
    if not found["clean"]:
        raise StepFailedError("; ".join(found["summary"]) or f"exit status {found['status']}", found)
    return found


def _tiny_shapes() -> dict[str, tuple[int, ...]]:
    from mi_kernels.output.synthetic import qwen3_shapes

    return qwen3_shapes(hidden=64, layers=2, ffn=96, heads=2, kv_heads=1, head_dim=32, vocab=500)


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """A fake GPU of CPU tensors and the torch reference, for the dry run."""
    from mi_kernels.backends import device, dispatch, gpu_runner
    from tests.support.fake_gpu import FakeGpu

    with (
        mock.patch.object(device, "found_gpus", return_value=["dry run"]),
        mock.patch.object(dispatch, "this_machine", return_value=dispatch.Machine(cuda=None, triton=None)),
        mock.patch.object(gpu_runner, "CudaGpu", side_effect=lambda name, backend: FakeGpu()),
    ):
        yield


# The stages.


def _lerp_tests(files: Sequence[str], prefix: str, seconds: Mapping[str, int]) -> list[Step]:
    return [
        Step(f"{prefix}-{backend}", budget, partial(tests_of, backend, files), backend)
        for backend, budget in seconds.items()
    ]


_MACHINE = Step("machine", 40, machine)
_BITS = _lerp_tests(["test_bits.py"], "bits", {"cuda": 30, "triton": 40})
# Special cases first: 0.8 is what the paper uses, then both forms of the formula, their boundary, and extrapolation.
_LAMS = (0.8, 0.3, 0.5, 0.49999997, 1e-40, -0.25, 1.7)

STAGES: dict[int, list[Step]] = {
    1: [
        _MACHINE,
        *_lerp_tests(_LERP_TESTS, "tests", {"cuda": 60, "triton": 70}),
        Step("tests-combine", 40, partial(other_tests, ["test_combine.py"])),
        Step("tests-streaming", 30, partial(other_tests, ["test_streaming.py"])),
        Step("quick-4B", 45, partial(memory, "4B", 3, leave_out=_SLOW_TO_MAKE), times=True),
        Step("set-lam", 25, set_lam, times=True),
        Step("plans", 40, plans, times=True),
        Step("quick-30B-A3B", 60, partial(memory, "30B-A3B", 3, leave_out=_SLOW_TO_MAKE), times=True),
        Step("quick-methods", 30, partial(methods, 1 << 26, 3), needs=("tests-combine",)),
        Step("pairs-cuda", 20, partial(pairs, "cuda", _LAMS[:1]), "cuda"),
        Step("pairs-triton", 20, partial(pairs, "triton", _LAMS[:1]), "triton"),
    ],
    2: [
        _MACHINE,
        *_BITS,
        Step("memory-4B", 70, partial(memory, "4B", 9), times=True),
        Step("memory-30B-A3B", 120, partial(memory, "30B-A3B", 9), times=True),
        Step("memory-64KiB", 60, partial(memory, "64KiB", 9), times=True),
        Step("memory-4KiB", 60, partial(memory, "4KiB", 9), times=True),
        Step("methods", 60, partial(methods, 1 << 28, 7)),
        Step("variants", 80, variants, times=True),
    ],
    3: [
        _MACHINE,
        *_BITS,
        Step("pairs-cuda", 60, partial(pairs, "cuda", _LAMS), "cuda"),
        Step("pairs-triton", 60, partial(pairs, "triton", _LAMS), "triton"),
        Step("files-tmpfs", 120, partial(files, True), times=True),
        Step("files-disk", 200, partial(files, False), times=True),
    ],
    4: [_MACHINE, *(Step(tool, 165, partial(sanitizer, tool)) for tool in checks.TOOLS)],
}
LIMITS = {1: 480, 2: 570, 3: 570, 4: 570}  # seconds: all of a stage, with the start of its processes


def step_of(stage: int, name: str) -> Step:
    """The step of this name.

    Raises:
        KeyError: the stage has none.
    """
    return {step.name: step for step in STAGES[stage]}[name]
