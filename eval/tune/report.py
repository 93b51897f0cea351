"""The report of a search: index.html, report.md, report.json and pictures, in DIR/report."""

from __future__ import annotations

import math
import os
from dataclasses import asdict
from typing import Any

from mi_kernels.checkpoint.names import MODULES, OTHER
from mi_kernels.system.atomic import write_file

from ..report import markdown, page
from ..report.document import Picture, Points, Row, Section, Table
from ..report.tables import count, counts, percent, spread
from ..run.files import write_json
from . import plots
from .outcome import Candidate, Outcome
from .space import by_place

TITLE = "A search for the weights of a merge"
HOW = (
    "Mean@k is in per cent, tokens are the mean of an answer; with several benchmarks, each counts equally. Square "
    "brackets and error bars are 95 % intervals from a bootstrap over problems. All numbers are on problems that the "
    "search has not seen, except where they are said to be on the problems of the search. The hypervolume of a front "
    "is the mean, over all budgets of tokens up to a limit, of the best Mean@k within the budget."
)


def write(outcome: Outcome) -> str:
    """Writes the report; returns the path of its page."""
    folder = os.path.join(outcome.prepared.out, "report")
    os.makedirs(folder, exist_ok=True)
    images = _images(outcome)
    sections = _sections(outcome)
    for stem, image in images.items():
        for kind, data in image.items():
            write_file(os.path.join(folder, f"{stem}.{kind}"), data)
    write_file(os.path.join(folder, "report.md"), markdown.render(TITLE, HOW, sections).encode())
    write_json(os.path.join(folder, "report.json"), values(outcome))
    path = os.path.join(folder, "index.html")
    write_file(path, page.render(TITLE, HOW, sections, images).encode())
    return path


def sentences(outcome: Outcome) -> list[str]:
    """What the search found, the most important first."""
    every, plain = outcome.candidates, outcome.candidates[outcome.best_plain]
    found, best = every[outcome.best], every[outcome.recommended]
    said = []
    if outcome.nothing_better:
        said.append("The search found nothing that is clearly better than plain lam.")
    said.append(f"Recommended: {best.name}, {spread(best.mean)} % with {counts(best.tokens)} tokens per answer.")
    if found is best and found is not plain:
        said.append(f"That is clearly better than the best plain interpolation: {_against(outcome)}")
    elif found is not plain:
        said.append(
            f"The search chose {found.name}, but on problems that it has not seen it is not clearly better: "
            f"{_against(outcome)}"
        )
    else:
        said.append("On the problems of the search, no candidate was preferred to this plain interpolation.")
    gain = outcome.gain
    verdict = "larger" if gain.low > 0 else "smaller" if gain.high < 0 else "not clearly different"
    said.append(
        f"Hypervolume up to {count(outcome.limit)} tokens: {_volume(outcome.volume)} of the front that the search "
        f"chose, {_volume(outcome.plain_volume)} of plain lam. Their difference is {gain.value:+.4f} "
        f"[{gain.low:+.4f}, {gain.high:+.4f}]: {verdict}."
    )
    if gain.low > 0 and best is plain:
        said.append(
            "So for smaller budgets of tokens the front is better: see front/, or give --max-tokens-per-answer."
        )
    budget = outcome.prepared.plan.budget
    if budget is not None and not outcome.within_budget:
        said.append(
            f"No candidate needs at most {count(budget)} tokens per answer on the problems of the search: the "
            "cheapest is recommended."
        )
    elif budget is not None and best.tokens.high > budget:
        said.append(
            f"{best.name} may exceed {count(budget)} tokens on other problems: its interval reaches "
            f"{count(best.tokens.high)}."
        )
    return said


def _against(outcome: Outcome) -> str:
    assert outcome.comparison is not None
    mean, tokens = outcome.comparison.mean, outcome.comparison.tokens
    plain = outcome.candidates[outcome.best_plain]
    return (
        f"{100 * mean.value:+.1f} [{100 * mean.low:+.1f}, {100 * mean.high:+.1f}] points and {tokens.value:+,.0f} "
        f"[{tokens.low:+,.0f}, {tokens.high:+,.0f}] tokens against {plain.name}, problem by problem."
    )


def _volume(value: Any) -> str:
    return f"{value.value:.4f} [{value.low:.4f}, {value.high:.4f}]"


def _sections(outcome: Outcome) -> list[Section]:
    prepared, plan = outcome.prepared, outcome.prepared.plan
    splits = [
        f"{s.benchmark.title}: {len(s.search)} problems to search on, {len(s.validation)} others to validate, "
        f"{prepared.samples[s.benchmark.name]} responses to each."
        for s in prepared.splits
    ]
    how = [
        f"{plan.instruct} (lam 0) and {plan.thinking} (lam 1).",
        f"Space {plan.space}: {len(prepared.space.blocks)} weights. Sampler {plan.sampler}, seed {plan.seed}.",
        f"{outcome.evaluated} candidates, of which {len(plan.lams)} are plain interpolations; {outcome.stopped} "
        "stopped early because another clearly dominated them.",
        *splits,
        "Every candidate is sampled as a merge and has Thinking's chat template, lam 0 included.",
        "The front and the recommendation were chosen on the problems of the search, so their numbers here are not "
        "favoured by the choice. Recommended is the cheapest candidate whose Mean@k is at most 2 points below the best "
        "and not significantly below it, if it is clearly better than the plain interpolation that this rule chooses.",
    ]
    every = outcome.candidates
    text = f"Mean@k against tokens of {len(every)} candidates."
    blocks: list[Any] = [Points(sentences(outcome)), Picture("front", text), _table(outcome)]
    best = _shown(outcome)
    return [
        Section("What was found", 2, blocks),
        Section(
            "Weights",
            2,
            [
                f"The mean weight of Thinking by module and layer in {best.name}.",
                Picture("weights", f"Weights of {best.name} by module and layer."),
            ],
        ),
        Section(
            "The search",
            2,
            [
                Points(how),
                Picture("hypervolume", "Hypervolume on the problems of the search after each candidate."),
            ],
        ),
    ]


def _shown(outcome: Outcome) -> Candidate:
    """Whose weights the heat map shows: those of a plain interpolation would say nothing where there are others."""
    best = outcome.candidates[outcome.recommended]
    others = [c for c in outcome.candidates if c.lam is None and c.on_search_front]
    if best.lam is None or not others:
        return best
    return max(others, key=lambda c: (c.searched[0], -c.searched[1]))


def _table(outcome: Outcome) -> Table:
    benchmarks = [s.benchmark for s in outcome.prepared.splits]
    columns = [("", "Candidate"), ("", "Mean@k"), ("", "Token #N"), ("", "on the front")]
    columns += [("problems of the search", "Mean@k"), ("problems of the search", "Token #N")]
    if len(benchmarks) > 1:
        for b in benchmarks:
            columns += [(b.title, "Mean@k"), (b.title, "Token #N")]
    rows = []
    for i in sorted(range(len(outcome.candidates)), key=lambda i: outcome.candidates[i].tokens.value):
        c = outcome.candidates[i]
        cells = [_named(c, i == outcome.recommended), spread(c.mean), counts(c.tokens)]
        cells += ["yes" if i in outcome.front else "", percent(c.searched[0]), count(c.searched[1])]
        if len(benchmarks) > 1:
            for b in benchmarks:
                cells += [spread(c.scores[b.name].mean), counts(c.scores[b.name].tokens)]
        rows.append(Row(cells))
    return Table(columns, rows)


def _named(candidate: Candidate, recommended: bool) -> str:
    own = candidate.lam is not None or candidate.name == f"candidate {candidate.number}"
    return candidate.name + f" (candidate {candidate.number})" * (not own) + " (recommended)" * recommended


def _images(outcome: Outcome) -> dict[str, dict[str, bytes]]:
    titles = " and ".join(s.benchmark.title for s in outcome.prepared.splits)
    best = _shown(outcome)
    modules, layers, table = _weights(outcome, best)
    return {
        "front": plots.fronts(f"{titles}: accuracy and cost", outcome),
        "hypervolume": plots.history(f"{titles}: hypervolume on the problems of the search", outcome),
        "weights": plots.heat_map(f"Weights of {best.name}", modules, layers, table),
    }


def _weights(outcome: Outcome, candidate: Candidate) -> tuple[list[str], list[str], list[list[float]]]:
    """The modules, the layers with one column for what is outside of them, and the mean weight of each cell."""
    found = by_place(candidate.recipe, outcome.prepared.names)
    modules = [m for m in (*MODULES, OTHER) if any(module == m for module, _ in found)]
    layers: list[int | None] = [*range(outcome.prepared.space.depth)]
    if any(layer is None for _, layer in found):
        layers.append(None)
    table = [[found.get((m, layer), math.nan) for layer in layers] for m in modules]
    return modules, ["outside" if layer is None else str(layer) for layer in layers], table


def values(outcome: Outcome) -> dict[str, Any]:
    """The outcome as plain values."""
    plan = asdict(outcome.prepared.plan)

    def plain(i: int) -> str:
        return outcome.candidates[i].name

    return {
        "plan": plan,
        "sentences": sentences(outcome),
        "nothing_better": outcome.nothing_better,
        "recommended": plain(outcome.recommended),
        "best": plain(outcome.best),
        "best_plain": plain(outcome.best_plain),
        "comparison": asdict(outcome.comparison) if outcome.comparison else None,
        "front": [plain(i) for i in outcome.front],
        "plain_front": [plain(i) for i in outcome.plain],
        "limit": outcome.limit,
        "hypervolume": asdict(outcome.volume),
        "plain_hypervolume": asdict(outcome.plain_volume),
        "gain": asdict(outcome.gain),
        "history": {
            "limit": outcome.search_limit,
            "hypervolume": list(outcome.history),
            "plain": outcome.plain_history,
        },
        "evaluated": outcome.evaluated,
        "stopped": outcome.stopped,
        "candidates": [
            {
                "number": c.number,
                "name": c.name,
                "lam": c.lam,
                "recipe": c.recipe.to_dict(),
                "searched": {"mean": c.searched[0], "tokens": c.searched[1]},
                "on_search_front": c.on_search_front,
                "mean": asdict(c.mean),
                "tokens": asdict(c.tokens),
                "benchmarks": {
                    name: {"mean": asdict(s.mean), "tokens": asdict(s.tokens), "think": asdict(s.think)}
                    for name, s in c.scores.items()
                },
            }
            for c in outcome.candidates
        ],
    }
