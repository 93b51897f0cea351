"""Measures everything on a GPU with one command: its tests, the sanitizer, the benchmarks. Writes one JSON file.

    python -m bench.gpu                     # everything, to bench/results/gpu-DEVICE-DATE.json
    python -m bench.gpu --quick             # fewer pairs of values, fewer rounds, a smaller checkpoint
    python -m bench.gpu --only tests,memory # some sections of: tests, sanitizer, memory, files
    python -m bench.gpu --dry-run           # every section with small CPU tensors; nothing is measured

If a test fails or a bit differs, nothing after it is timed, and the exit status is 1. The JSON file is written after
every section. `--only` adds to an existing file of the same device, commit and --quick.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from mi_kernels.backends import device as device_choice
from mi_kernels.backends import dispatch, gpu_runner
from mi_kernels.output.synthetic import Shapes, qwen3_shapes

from .. import machine, results
from ..models import MODELS
from . import checks, file_to_file, in_memory
from .clock import Clock, CudaClock, DryClock

SECTIONS = ("tests", "sanitizer", "memory", "files")
DENSE, EXPERTS = "4B", "30B-A3B"


def about(clock: Clock, backends: dict[str, str | None]) -> dict[str, Any]:
    """Device, driver, versions and commit, and for each backend the reason why it cannot run, or None."""
    found: dict[str, Any] = {"machine": machine.describe(), "torch_cuda": torch.version.cuda, "backends": backends}
    found["triton"] = _version("triton") or _version("pytorch-triton")
    found["wheel_cuda"] = _wheel_cuda()
    if isinstance(clock, DryClock):
        return {**found, "device": "none (dry run)"}
    properties = torch.cuda.get_device_properties(clock.device)
    return {
        **found,
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "l2_mib": round(getattr(properties, "L2_cache_size", 0) / 2**20, 1),
        **_nvidia_smi(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _wheel_cuda() -> str | None:
    try:
        from mi_kernels import _cuda
    except ImportError:
        return None
    return _cuda.CUDA_VERSION


def _nvidia_smi() -> dict[str, str]:
    """Driver, PCIe generation and width, and clocks, as nvidia-smi reports them."""
    fields = ["driver_version", "pcie.link.gen.max", "pcie.link.width.max", "clocks.max.mem", "clocks.max.sm"]
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", "-i", "0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return {"nvidia-smi": str(error)}
    return dict(zip(fields, map(str.strip, done.stdout.strip().split(","))))


def wanted(report: dict[str, Any], measured: bool) -> list[dict[str, Any]]:
    """Each goal: its name, the minimum, the measured value, and whether it is met. None if not measured."""
    rows: list[tuple[str, float, float | None]] = []
    memory, files = report.get("memory", {}), report.get("files")
    for name in in_memory.OURS:
        for model, share in ((DENSE, 0.92), (EXPERTS, 0.85)):
            ours = memory.get(model, {}).get("results", {}).get(name)
            rows.append((f"{name}, Qwen3-{model}: of copy bandwidth", share, ours and ours["of_copy_bandwidth"]))
            if model == DENSE:
                for other, least in (("naive", 2.8), ("foreach_lerp", 1.0)):
                    theirs = ours and memory[model]["results"][other]["kernel"]
                    rows.append((f"{name}, Qwen3-{model}: times {other}", least, ours and theirs / ours["kernel"]))
        rows.append((f"{name}, file to file: of the slowest link", 0.8, files and files["of_slowest"].get(name)))
    found = [(what, least, value if measured else None) for what, least, value in rows]
    return [
        {"what": what, "wanted": least, "found": value, "met": None if value is None else value >= least}
        for what, least, value in found
    ]


def table(rows: Sequence[dict[str, Any]]) -> str:
    text = [f"{'':<48}{'wanted':>8}{'measured':>14}"]
    for row in rows:
        value = "not measured" if row["found"] is None else f"{row['found']:.3f}"
        mark = {None: "", True: "  met", False: "  BELOW"}[row["met"]]
        text.append(f"{row['what']:<48}{row['wanted']:>8.2f}{value:>14}{mark}")
    return "\n".join(text)


class Bench:
    """One run: its settings, and the report, to which each section adds."""

    def __init__(self, arguments: argparse.Namespace, clock: Clock, backends: dict[str, str | None]) -> None:
        self.clock, self.dry, self.quick = clock, arguments.dry_run, arguments.quick or arguments.dry_run
        self.folder = arguments.folder
        self.backends = [name for name, reason in backends.items() if reason is None]
        self.report: dict[str, Any] = {"measured": clock.measured, "quick": self.quick, **about(clock, backends)}
        if arguments.commit:
            self.report["machine"]["commit"] = arguments.commit

    def resume(self, path: Path) -> None:
        """Copies the sections of an earlier run of the same device, commit and kind."""
        if not path.exists():
            return
        earlier = json.loads(path.read_text())
        kinds = [(r["measured"], r["quick"], r["device"], r["machine"]["commit"]) for r in (earlier, self.report)]
        if kinds[0] == kinds[1]:
            self.report |= {name: earlier[name] for name in SECTIONS if name in earlier}

    def tests(self) -> bool:
        if self.dry and find_spec("triton") is None:
            found = checks.run_tests(["tests/backends/test_gpu_runner.py"])
        elif self.dry:
            environment = {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
            found = checks.run_tests(["tests/gpu/test_launch.py"], environment)
        else:
            found = checks.run_tests(["tests/gpu", *(["-m", "not slow"] if self.quick else [])])
        self.report["tests"] = found
        say(f"tests: {', '.join(f'{n} {outcome}' for outcome, n in found['outcomes'].items())}")
        for name in found["failed"]:
            say(f"  FAILED {name}")
        return bool(found["passed"])

    def sanitizer(self) -> bool:
        tests = ["tests/gpu/test_bits.py", "-k", checks.SUBSET]
        found = checks.run_sanitizer(None if self.dry else checks.find_sanitizer(), tests)
        self.report["sanitizer"] = found
        if "missing" in found:
            say(f"sanitizer skipped: {'dry run' if self.dry else found['missing']}")
            return True
        for tool in checks.TOOLS:
            say(f"{tool}: {'clean' if found[tool]['clean'] else 'FAILED'}; {'; '.join(found[tool]['summary'])}")
        return all(found[tool]["clean"] for tool in checks.TOOLS)

    def memory(self) -> bool:
        self.report["memory"] = {}
        rounds, limit = (1, 40) if self.dry else (3 if self.quick else 9, None)
        for model in (DENSE, EXPERTS):
            backends = ["reference"] if self.dry and not interpreted() else self.backends
            found = in_memory.measure(self.clock, model, backends, rounds, limit)
            self.report["memory"][model] = found
            say(*in_memory.lines(found))
            if not self.dry:
                torch.cuda.empty_cache()
        return True

    def files(self) -> bool:
        shapes: Shapes = MODELS["0.6B" if self.quick else "1.7B"]()
        if self.dry:
            shapes = qwen3_shapes(hidden=64, layers=2, ffn=96, heads=2, kv_heads=1, head_dim=32, vocab=500)
        with tempfile.TemporaryDirectory(prefix="mi-kernels-bench-", dir=self.folder) as name:
            with pretended_gpu() if self.dry else nullcontext():
                found = file_to_file.measure(
                    self.clock, Path(name), shapes, self.backends, 1 if self.dry else 3 if self.quick else 5
                )
        self.report["files"] = found
        say(*file_to_file.lines(found))
        return True


def interpreted() -> bool:
    """Whether Triton's interpreter can replace a GPU in this process."""
    return os.environ.get("TRITON_INTERPRET") == "1" and find_spec("triton") is not None


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """A fake GPU of CPU tensors and the torch reference, for the dry run."""
    from tests.support.fake_gpu import FakeGpu

    with (
        mock.patch.object(device_choice, "found_gpus", return_value=["dry run"]),
        mock.patch.object(dispatch, "this_machine", return_value=dispatch.Machine(cuda=None, triton=None)),
        mock.patch.object(gpu_runner, "CudaGpu", side_effect=lambda name, backend: FakeGpu()),
    ):
        yield


def say(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)


def default_path(device: str, date: str) -> Path:
    """bench/results/gpu-h100-80gb-hbm3-2026-01-31.json"""
    name = re.sub(r"[^a-z0-9]+", "-", device.lower().replace("nvidia", "")).strip("-")
    return results.RESULTS / f"gpu-{name}-{date}.json"


def gpu_backends() -> dict[str, str | None]:
    found = dispatch.this_machine("cuda")
    return {"cuda": found.cuda, "triton": found.triton}


def main(argv: Sequence[str] | None = None) -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--json", type=Path, help="write the results to this file (default: in bench/results; a dry run writes none)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer pairs of values, fewer rounds, a smaller checkpoint"
    )
    parser.add_argument(
        "--only", default=",".join(SECTIONS), help=f"the sections to run (default: {','.join(SECTIONS)})"
    )
    parser.add_argument("--folder", help="the working folder of the section files; needs 20 GB, with --quick 6 GB")
    parser.add_argument("--commit", help="the commit that is measured, if this is not a git checkout")
    parser.add_argument("--dry-run", action="store_true", help="run every section without a GPU")
    arguments = parser.parse_args(argv)
    sections = arguments.only.split(",")
    if unknown := set(sections) - set(SECTIONS):
        parser.error(f"unknown sections: {', '.join(sorted(unknown))}")
    if arguments.dry_run:
        bench = Bench(arguments, DryClock(), {"cuda": "a dry run", "triton": None})
    elif isinstance(found := device_choice.found_gpus(), str):
        print(f"bench.gpu: {found}; `--dry-run` runs without a GPU", file=sys.stderr)
        return 2
    else:
        bench = Bench(arguments, CudaClock(), gpu_backends())
    path = arguments.json
    if path is None and not arguments.dry_run:
        path = default_path(bench.report["device"], bench.report["machine"]["date"])
    for name, value in bench.report.items():
        say(f"{name:<18}{value}")
    if path is not None and set(sections) != set(SECTIONS):
        bench.resume(path)
    if arguments.dry_run:
        say("dry run: no figure below is a measurement")
    for section in sections:
        try:
            passed = getattr(bench, section)()
        except in_memory.WrongBitsError as error:
            passed, bench.report["wrong"] = False, str(error)
            say(f"WRONG BITS: {error}")
        bench.report["passed"] = passed
        bench.report["wanted"] = wanted(bench.report, bench.clock.measured)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(bench.report, indent=1) + "\n")
        if not passed:
            say(f"{section} failed: the sections after it are skipped")
            return 1
    say("", table(bench.report["wanted"]), *([f"written to {path}"] if path else []))
    return 0


if __name__ == "__main__":
    sys.exit(main())
