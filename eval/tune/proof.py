"""python -m eval.tune.proof: whether a search finds more than a finer sweep of plain lam, on the tiny pair.

For each seed, on the same split of the problems:

    search   the 11 points of the plain sweep, then N candidates of a search over single layers
    lam      the same 11 points, then N further lam, evenly between them

Both choose their front on the problems of the search, and both fronts are scored on the others. The hypervolume of the
search minus that of lam is reported whichever way it comes out.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import date
from typing import Any

from mi_kernels.errors import MIKernelsError

from .. import engines
from ..engines import Engine
from ..run.files import write_json
from ..run.settings import Choices
from . import claim, report, samplers, search
from .outcome import Outcome
from .resampled import Resampled


def main() -> int:
    here = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tiny_pair")
    parser = argparse.ArgumentParser(prog="python -m eval.tune.proof", description=__doc__.splitlines()[0])
    parser.add_argument("pair", nargs="?", default=here, metavar="DIR", help="(default: the tiny pair)")
    parser.add_argument("--benchmark", default="chains", metavar="NAME")
    parser.add_argument("--seeds", default="0,1,2", metavar="LIST")
    parser.add_argument("--evaluations", type=int, default=48, metavar="N")
    parser.add_argument("--space", default="layers", metavar="SPACE")
    parser.add_argument("--sampler", default=samplers.DEFAULT, metavar="NAME")
    parser.add_argument("--samples", type=int, default=8, metavar="N")
    parser.add_argument("--out", default="runs/proof", metavar="DIR")
    parser.add_argument("--save", metavar="FILE", help="write the results as JSON")
    arguments = parser.parse_args()
    plan = search.Plan(
        os.path.join(arguments.pair, "instruct"),
        os.path.join(arguments.pair, "thinking"),
        arguments.evaluations,
        arguments.space,
        arguments.sampler,
    )
    results = []
    try:
        with engines.create(engines.Options(max_num_seqs=256)) as engine:
            for seed in map(int, arguments.seeds.split(",")):
                choices = Choices(samples=arguments.samples, seed=seed)
                out = os.path.join(arguments.out, str(seed))
                results.append(compared(replace(plan, seed=seed), arguments.benchmark, out, choices, engine))
                print(sentence(results[-1]), flush=True)
                if arguments.save:
                    write_json(arguments.save, {"machine": _machine(), "date": str(date.today()), "seeds": results})
    except MIKernelsError as error:
        print(f"{parser.prog}: {error.problem}\n  {error.remedy}", file=sys.stderr)
        return 2
    return 0


def compared(plan: search.Plan, benchmark: Any, out: str, choices: Choices, engine: Engine) -> dict[str, Any]:
    """Both arms for one seed. The same call again resumes."""
    found, seconds = _arm(plan, benchmark, os.path.join(out, "search"), choices, engine)
    finer = replace(plan, space="lam", sampler="random", tried=tuple(further(plan.lams, plan.evaluations)))
    plain, _ = _arm(finer, benchmark, os.path.join(out, "lam"), choices, engine, os.path.join(out, "search"))
    both = [*found.candidates, *plain.candidates]
    table = Resampled.of([c.scores for c in both])
    ours = [i for i, c in enumerate(found.candidates) if c.on_search_front]
    theirs = [len(found.candidates) + i for i, c in enumerate(plain.candidates) if c.on_search_front]
    sweep = [c for c in found.candidates if c.lam is not None]
    limit = max(c.tokens.value for c in sweep)
    return {
        "seed": plan.seed,
        "space": plan.space,
        "sampler": plan.sampler,
        "evaluations": plan.evaluations,
        "validation_problems": sum(len(s.validation) for s in found.prepared.splits),
        "samples": found.prepared.samples,
        "limit": limit,
        "search": asdict(table.hypervolume(ours, limit)),
        "lam": asdict(table.hypervolume(theirs, limit)),
        "sweep": asdict(found.plain_volume),
        "difference": asdict(table.hypervolume_difference(ours, theirs, limit)),
        "stopped": {"search": found.stopped, "lam": plain.stopped},
        "sentences": report.sentences(found),
        "seconds_of_search": round(seconds),
    }


def sentence(result: dict[str, Any]) -> str:
    difference = result["difference"]
    verdict = "more" if difference["low"] > 0 else "less" if difference["high"] < 0 else "not clearly different"
    return (
        f"seed {result['seed']}: hypervolume on validation problems {result['search']['value']:.4f} of the search, "
        f"{result['lam']['value']:.4f} of as many further lam: {difference['value']:+.4f} "
        f"[{difference['low']:+.4f}, {difference['high']:+.4f}], {verdict}"
    )


def further(lams: Sequence[float], count: int) -> list[float]:
    """`count` lam between those of `lams`, evenly: as many in each gap, one more in the first ones."""
    edges = sorted(lams)
    gaps = len(edges) - 1
    made = []
    for k in range(gaps):
        inside = count // gaps + (k < count % gaps)
        width = edges[k + 1] - edges[k]
        made += [round(edges[k] + width * (i + 1) / (inside + 1), 3) for i in range(inside)]
    return made


def _arm(
    plan: search.Plan, benchmark: Any, out: str, choices: Choices, engine: Engine, other: str | None = None
) -> tuple[Outcome, float]:
    """One arm. `other`: the folder of the other one, whose runs of the plain sweep it shares."""
    started = time.monotonic()
    prepared = search.prepare(plan, [benchmark], out, choices)
    claim.save(out, prepared.content)
    if other is not None:
        _share_sweep(other, out, len(plan.lams))
    outcome = search.run(prepared, engine)
    report.write(outcome)
    return outcome, time.monotonic() - started


def _share_sweep(source: str, target: str, points: int) -> None:
    """Copies the runs of the plain sweep from one arm to the other: they are the same recipes, problems and seeds."""
    folders = [os.path.join("candidates", f"{i:04d}") for i in range(points)]
    names = os.listdir(os.path.join(source, "validation"))
    folders += [os.path.join("validation", name) for name in names if name.startswith("lam-")]
    for folder in folders:
        place = os.path.join(target, folder)
        if not os.path.exists(os.path.join(place, "run.json")):
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(os.path.join(source, folder), place + ".partial", dirs_exist_ok=True)
            os.rename(place + ".partial", place)


def _machine() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{platform.machine()}, {cores} cores"


if __name__ == "__main__":
    sys.exit(main())
