"""Run folders of simulated models, shaped like the paper's 4B series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.run import files
from eval.schema import Run, Sampling, Scores, Setting

from . import simulated

INSTRUCT, THINKING = "Qwen/Qwen3-4B-Instruct-2507", "Qwen/Qwen3-4B-Thinking-2507"
LAMS = (0.2, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9)
# By benchmark: problems; Mean, tokens at lam = 0, 0.4, 0.6, 0.8, 1, near Table 2's.
SHAPES: Mapping[str, tuple[int, Sequence[float], Sequence[float]]] = {
    "aime25": (30, (0.466, 0.558, 0.71, 0.805, 0.804), (15097, 12448, 12681, 17574, 22813)),
    "gpqa": (60, (0.413, 0.613, 0.662, 0.662, 0.658), (570, 5634, 8769, 8427, 9114)),
}
_AT = (0.0, 0.4, 0.6, 0.8, 1.0)


def record(**changes: Any) -> dict[str, Any]:
    """What mi_kernels.json holds of an interpolation of the pair."""
    pair = {"instruct": {"source": INSTRUCT}, "thinking": {"source": THINKING}}
    return {"mi_kernels": "0", "role": "merged", "method": "lerp", "layers": None, "modules": None, **pair, **changes}


def at(lam: float, benchmark: str, **changes: Any) -> Scores:
    import numpy as np

    problems, means, tokens = SHAPES[benchmark]
    options: dict[str, Any] = {
        "benchmark": benchmark,
        "problems": problems,
        "samples": 8,
        "mean": float(np.interp(lam, _AT, means)),
        "tokens": float(np.interp(lam, _AT, tokens)),
        "spread": 0.03,
        "hard": 0.4,
    }
    return simulated.scores(lam, lambda x: simulated.logistic(x, 0.42, 0.56), **{**options, **changes})


def setting(scores: Scores, sampling: tuple[float, float] = (0.6, 0.95), digest: str = "d") -> Setting:
    limit = 81920 if scores.benchmark == "aime25" else 65536
    return Setting(scores.samples, len(scores.problems), digest, 0, Sampling(*sampling, 20, limit))


def save(
    folder: Path,
    name: str,
    role: str,
    lam: float | None,
    scores: Sequence[Scores],
    *,
    model: str | None = None,
    merge: Any = None,
    sampling: tuple[float, float] = (0.6, 0.95),
) -> None:
    place = folder / name.replace(" ", "_")
    place.mkdir(parents=True)
    settings = {s.benchmark: setting(s, (0.7, 0.8) if role == "instruct" else sampling) for s in scores}
    files.save_run(str(place), Run(model or f"models/{name}", name, role, lam, merge, {"name": "simulated"}, settings))
    for s in scores:
        files.save_scores(str(place), s)


def sweep(folder: Path, benchmarks: Sequence[str] = ("aime25", "gpqa"), lams: Sequence[float] = LAMS) -> None:
    """Instruct, MI-lam for each lam, Thinking."""
    save(folder, "Instruct", "instruct", None, [at(0, b) for b in benchmarks], model=INSTRUCT)
    save(folder, "Thinking", "thinking", None, [at(1, b) for b in benchmarks], model=THINKING)
    for lam in lams:
        save(folder, f"MI-{lam:g}", "merged", lam, [at(lam, b) for b in benchmarks], merge=record(lam=lam))


def ablations(folder: Path) -> None:
    """Of MI-0.8 on AIME'25, as in Table 3 and Figure 5, and a decoding grid, as in Figure 4."""
    for layers, mean, tokens in (("0:12", 0.425, 32151), ("1/3:", 0.695, 13159)):
        scores = at(0.3, "aime25", mean=mean, tokens=tokens)
        name = f"MI-0.8 layers {layers}".replace("/", "-")
        save(folder, name, "merged", None, [scores], merge=record(lam=0.8, layers=layers))
    scores = at(0.79, "aime25", mean=0.715)
    save(folder, "MI-0.8 no attn", "merged", None, [scores], merge=record(lam=0.8, modules="ffn,norm,embed"))
    for t in (0.2, 0.6, 1.0):
        for p in (0.8, 0.95, 1.0):
            if (t, p) not in ((0.6, 0.95), (0.2, 1.0)):
                scores = at(0.8, "aime25", mean=0.8 - 0.1 * abs(t - 0.6) - 0.05 * (1 - p))
                name = f"MI-0.8 T{t} p{p}"
                save(
                    folder, name, "merged", 0.8, [scores], model="models/MI-0.8", merge=record(lam=0.8), sampling=(t, p)
                )


def other_methods(folder: Path) -> None:
    """TA and TIES as the paper made them."""
    for name, method, settings, mean, tokens in (
        ("TA", "task_arithmetic", {"scale": 0.7}, 0.617, 16594),
        ("TIES", "ties", {"density": 0.2, "scale": 0.5}, 0.615, 11159),
    ):
        merge = {
            "role": "merged",
            "method": method,
            "settings": settings,
            "base": {"source": "Qwen/Qwen3-4B"},
            "models": [{"source": INSTRUCT}, {"source": THINKING}],
        }
        save(folder, name, "merged", None, [at(0.5, b, mean=mean, tokens=tokens) for b in SHAPES], merge=merge)
