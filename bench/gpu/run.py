"""Checks and measures everything on a GPU, in stages of at most ten minutes.

    python -m bench.gpu                          # all stages, to bench/results/gpu-DEVICE-DATE.json
    python -m bench.gpu --stage 1 --out DIR      # checks and quick figures; 2: memory and variants;
                                                 # 3: files and all pairs of bf16; 4: sanitizers
    python -m bench.gpu --stage 1 --only plans --out DIR
    python -m bench.gpu --dry-run                # every step with small CPU tensors; nothing is measured
    python -m bench.gpu pack -o FOLDER           # for a machine without a network (`pack --help`)
    python -m bench.gpu collect DIR              # the files of all stages into one, and the goals

Extension modules that do not import are built first, with g++ and nvcc. Each step is a process with a time budget, and
what it finds is written as it is found. If a check fails, what depends on it is not timed. The exit status is 1 if a
step failed.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import machine, results
from . import build, device_state, goals, pack
from .part import write_json
from .runner import Command, Runner, step_command
from .steps import LIMITS, STAGES, say


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv[:1] == ["pack"]:
        return pack.main(argv[1:])
    if argv[:1] == ["collect"]:
        return collect_main(argv[1:])
    arguments = parsed(argv)
    try:
        built = build.build_missing(parts=["cpu"] if arguments.dry_run else build.PARTS)
    except build.BuildError as error:
        print(f"bench.gpu: {error}", file=sys.stderr)
        return 2
    for part, reason in built.items():
        say(f"built mi_kernels._{part} ({reason})")
    if not arguments.dry_run and (missing := no_gpu()):
        print(f"bench.gpu: {missing}; `--dry-run` runs without a GPU", file=sys.stderr)
        return 2
    stages = [arguments.stage] if arguments.stage else list(STAGES)
    passed = True
    with tempfile.TemporaryDirectory() as temporary:
        out = arguments.out or Path(temporary)
        for stage in stages:
            passed &= run_stage(stage, arguments, out)
        try:
            report = collected(out)
        except ValueError as error:  # earlier stages in DIR, of another commit
            say(str(error))
            return 0 if passed else 1
        say("", goals.table(report["goals"]))
        if arguments.dry_run:
            say("dry run: no figure above is a measurement")
        elif arguments.out is None:
            path = default_path(report["device"], report["machine"]["date"])
            write_json(path, report)
            say(f"written to {path}")
    return 0 if passed else 1


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stage", type=int, choices=STAGES, help="one stage (default: all)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="the folder of the results (default: bench/results gets one file)"
    )
    parser.add_argument("--only", metavar="STEPS", help="some steps of the stage, with commas between")
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="stop the stage after this time")
    parser.add_argument("--folder", type=Path, help="where files are written (default: that of temporary files)")
    parser.add_argument("--dry-run", action="store_true", help="run every step without a GPU")
    arguments = parser.parse_args(argv)
    arguments.only = arguments.only.split(",") if arguments.only else None
    if arguments.only and not arguments.stage:
        parser.error("--only needs --stage")
    for name in arguments.only or ():
        known = [step.name for step in STAGES[arguments.stage]]
        if name not in known:
            parser.error(f"stage {arguments.stage} has no step {name!r}; it has {', '.join(known)}")
    return arguments


def no_gpu() -> str | None:
    """Why nothing can be measured on this machine, or None."""
    from mi_kernels.backends import device

    found = device.found_gpus()
    return found if isinstance(found, str) else None


def run_stage(stage: int, arguments: argparse.Namespace, out: Path, command: Command | None = None) -> bool:
    """Runs a stage, or the steps of it that --only names. Returns whether no step failed.

    --only keeps the other steps of an earlier run of the same commit. Without it the stage starts afresh.
    """
    steps = STAGES[stage]
    about = {"commit": machine.commit(), "measured": not arguments.dry_run, "nvidia-smi": device_state.about()}
    earlier = {}
    path = out / f"stage-{stage}.json"
    if arguments.only:
        steps = [step for step in steps if step.name in ("machine", *arguments.only)]
        earlier = earlier_steps(path, about)
    else:
        (out / f"stage-{stage}.log").unlink(missing_ok=True)
    say(f"stage {stage}: {', '.join(step.name for step in steps)}")
    if command is None:
        command = step_command(stage, arguments.dry_run, arguments.folder)
    runner = Runner(stage, out, about, command, arguments.limit or LIMITS[stage], earlier)
    passed = runner.run(steps)
    report = {**runner.report, "goals": goals.wanted(passed_results([runner.report]), about["measured"])}
    write_json(path, report)
    return passed


def earlier_steps(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """The steps of a stage's file, if it is of the same commit, device and kind."""
    if not path.exists():
        return {}
    earlier = json.loads(path.read_text())
    same = all(earlier.get(key) == about[key] for key in ("commit", "measured", "nvidia-smi"))
    return dict(earlier["steps"]) if same else {}


def passed_results(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of all steps by name; of steps that failed only what stands for itself: the failed check's count."""
    found = {}
    for report in reports:
        for name, entry in report["steps"].items():
            if entry["result"] is not None and (entry["status"] == "passed" or name.startswith(("pairs", "methods"))):
                found[name] = entry["result"]
    return found


def collected(folder: Path) -> dict[str, Any]:
    """All stages in a folder as one report: device, machine, commit, goals, and the stages.

    Raises:
        FileNotFoundError: there is no stage's file.
        ValueError: the stages are of different commits or devices.
    """
    stages = [json.loads(path.read_text()) for path in sorted(folder.glob("stage-?.json"))]
    if not stages:
        raise FileNotFoundError(f"{folder} has no stage-N.json")
    about = [entry.get("result") or {} for stage in stages if (entry := stage["steps"].get("machine"))]
    kinds = {(stage["commit"], stage["measured"]) for stage in stages}
    devices = {found["device"] for found in about if "device" in found}
    if len(kinds) > 1 or len(devices) > 1:
        raise ValueError(f"{folder} has stages of different commits or devices: {sorted(map(str, kinds | devices))}")
    measured = stages[0]["measured"]
    return {
        "device": next(iter(devices), "unknown"),
        "measured": measured,
        "machine": {**(about[0].get("machine", {}) if about else {}), "commit": stages[0]["commit"]},
        "goals": goals.wanted(passed_results(stages), measured),
        "stages": stages,
    }


def collect_main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu collect", description="Puts the files of all stages into one, and shows the goals."
    )
    parser.add_argument("folder", type=Path, help="the folder with stage-1.json, stage-2.json, ...")
    parser.add_argument("-o", "--output", type=Path, help="the file (default: bench/results/gpu-DEVICE-DATE.json)")
    arguments = parser.parse_args(argv)
    try:
        report = collected(arguments.folder)
    except (FileNotFoundError, ValueError) as error:
        print(f"bench.gpu collect: {error}", file=sys.stderr)
        return 2
    say(goals.table(report["goals"]))
    path = arguments.output
    if path is None and report["measured"]:
        path = default_path(report["device"], report["machine"]["date"])
    if path is not None:
        write_json(path, report)
        say(f"written to {path}")
    return 0


def default_path(device: str, date: str) -> Path:
    """bench/results/gpu-h100-80gb-hbm3-2026-01-31.json"""
    name = re.sub(r"[^a-z0-9]+", "-", device.lower().replace("nvidia", "")).strip("-")
    return results.RESULTS / f"gpu-{name}-{date}.json"


if __name__ == "__main__":
    sys.exit(main())
