"""The content of a report, family by family: tables, pictures and sentences, and the same as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..analysis import advice, stages
from ..schema import Scores
from . import paper, plots, tables
from .collect import Entry, Family, View
from .document import Picture, Points, Section

HOW = (
    "Shares are in per cent. Square brackets and error bars are 95 % intervals from a bootstrap over problems. "
    "Token #N is the mean number of generated tokens of a response; Think #R is the share of responses with </think>. "
    "In stage 2 the fitted Think #R rises from 5 % to 95 % of its range; hatching shows the range of a boundary."
)


@dataclass
class Content:
    """The parts of a report, filled by `compose`."""

    sections: list[Section] = field(default_factory=list)
    images: dict[str, dict[str, bytes]] = field(default_factory=dict)
    values: list[dict[str, Any]] = field(default_factory=list)

    def draw(self, stem: str, text: str, image: dict[str, bytes]) -> Picture:
        self.images[stem] = image
        return Picture(stem, text)


def compose(families: Sequence[Family], notes: Sequence[str], budget: float | None) -> Content:
    content = Content()
    if notes:
        content.sections.append(Section("Missing from this report", 2, [Points(notes)]))
    for number, family in enumerate(families):
        prefix = "" if len(families) == 1 else f"family{number + 1}-"
        _family(content, family, prefix, budget)
    return content


def _family(content: Content, family: Family, prefix: str, budget: float | None) -> None:
    summary = tables.overview(family)
    blocks: list[Any] = [summary]
    if any(row.aside for row in summary.rows):
        blocks.append(f"Rows named paper are from {paper.CITATION}.")
        blocks.append(
            f"Rows named {tables.SAMPLING} are 95 % ranges of the row above for new responses of the same model to the "
            "same problems. The paper's figures have an error of their own, so two runs of one model differ by up to "
            "1.4 times as much."
        )
    content.sections.append(Section(family.title, 2, blocks))
    values: dict[str, Any] = {"family": family.title, "benchmarks": {}}
    content.values.append(values)
    views = [view for view in family.views if view.entries]
    if len(views) > 1:
        found = _advise(family.entries, views, budget)
        content.sections.append(
            Section("Advice over all benchmarks, with equal weights", 3, [Points(advice.sentences(found))])
        )
        values["advice"] = asdict(found)
    for view in views:
        values["benchmarks"][view.benchmark] = _benchmark(content, family, view, f"{prefix}{view.benchmark}", budget)


def _advise(entries: Sequence[Entry], views: Sequence[View], budget: float | None) -> advice.Advice:
    candidates = []
    for entry in entries:
        scores = {v.benchmark: entry.scores[v.benchmark] for v in views if entry in v.entries}
        if scores and entry.kind != "ablation":
            candidates.append(advice.Candidate(entry.name, entry.lam, scores))
    return advice.advise(candidates, budget=budget)


def _benchmark(content: Content, family: Family, view: View, stem: str, budget: float | None) -> dict[str, Any]:
    setting, name = view.setting, view.benchmark
    found = _advise(view.entries, [view], budget) if any(e.kind != "ablation" for e in view.entries) else None
    theirs = {e.name: f for e in view.entries if (f := paper.figures(e, family.pair, name))}
    said = [
        f"{setting.problems} problems, {setting.samples} responses to each, at most "
        f"{setting.sampling.max_tokens:,} tokens."
    ]
    said += paper.differences(name, setting) if theirs else []
    said += [f"{who} is excluded: {why}." for who, why in view.set_aside]
    said += tables.high_shares(view)
    blocks: list[Any] = [Points([*(advice.sentences(found) if found else []), *said])]
    values: dict[str, Any] = {
        "title": view.title,
        "setting": asdict(setting),
        "models": [
            {**_values(e, e.scores[name], theirs.get(e.name)), "sampling_error": tables.sampling_errors(e.scores[name])}
            for e in view.entries
        ],
        "set_aside": [{"name": who, "why": why} for who, why in view.set_aside],
        "advice": asdict(found) if found else None,
    }
    sweep = view.sweep()
    if len(sweep) > 1:
        values["stages"] = _stages(content, blocks, view, sweep, theirs, stem)
    masks = view.masks()
    curves: dict[str, Any] = {}
    if masks:
        curves = {mask: [(lam, e.scores[name]) for lam, e in points] for mask, points in masks.items()}
        if sweep and not any(sweep[-1][1].mask == mask for mask in masks):
            curves = {"all": [(lam, e.scores[name]) for lam, e in sweep], **curves}
    if curves and not (len(curves) == 1 and len(sweep) > 1):  # a sweep with one mask has its own picture
        text = f"{view.title}: accuracy, Think #R and tokens against lam, of merges of {'; '.join(curves)}."
        image = plots.masks(f"{view.title}: which layers and modules are merged", curves)
        blocks.append(content.draw(f"{stem}-masks", text, image))
    plain = [e for e in view.entries if e.kind != "ablation"]
    if len(plain) > 1:
        runs = [(e.name, e.kind, e.lam, e.scores[name]) for e in plain]
        front = [who for who, _ in found.front] if found else []
        text = f"{view.title}: accuracy against tokens per answer of {len(plain)} models."
        image = plots.scatter(f"{view.title}: accuracy and cost", runs, front)
        blocks.append(content.draw(f"{stem}-cost", text, image))
    content.sections.append(Section(view.title, 3, [*blocks, tables.in_full(view), *_present(tables.by_k(view))]))
    for part in ("layers", "modules"):
        table = tables.ablations(view, family, part)
        if table:
            title = f"{view.title}: which {part} are merged"
            content.sections.append(Section(title, 3, ["Other tensors keep Instruct's weights.", table]))
    values["decoding"] = _decoding(content, view, stem)
    return values


def _present(block: Any) -> list[Any]:
    return [] if block is None else [block]


def _stages(
    content: Content,
    blocks: list[Any],
    view: View,
    sweep: Sequence[tuple[float, Entry]],
    theirs: dict[str, Any],
    stem: str,
) -> dict[str, Any]:
    points = [(lam, e.scores[view.benchmark]) for lam, e in sweep]
    found = stages.fit(points)
    said = stages.sentences(found)
    text = f"{view.title}: accuracy, Think #R and tokens per answer at {len(points)} lam. {' '.join(said)}"
    papers = {lam: theirs[e.name] for lam, e in sweep if e.name in theirs}
    mask = sweep[-1][1].mask
    second = "Vote" if view.benchmark in tables.VOTED else "Pass"
    image = plots.dynamics(
        f"{view.title}: three stages of interpolation{mask and f' of {mask}'}", points, found, second, papers
    )
    blocks.insert(0, content.draw(f"{stem}-dynamics", text, image))
    blocks.insert(1, Points(said))
    curve = found.curve and {key: float(value[0]) for key, value in found.curve._asdict().items()}
    wanted = stages.next_lam(points, low=points[0][0], high=points[-1][0])
    if wanted is not None and found.method != "none":
        blocks.insert(2, f"To determine the boundaries better, evaluate lam = {wanted:g} next.")
    return {**asdict(found), "curve": curve, "next_lam": wanted, "sentences": said}


def _decoding(content: Content, view: View, stem: str) -> dict[str, Any]:
    values = {}
    for number, (model, entries) in enumerate(view.grid.items()):
        temperatures, top_ps, cells = tables.grid(entries, view.benchmark)
        title = f"{view.title}: decoding of {model}"
        image = plots.heat_map(title, temperatures, top_ps, cells)
        text = f"{title}: Mean@{view.setting.samples} by temperature and top_p."
        picture = content.draw(f"{stem}-decoding{number + 1}", text, image)
        content.sections.append(Section(title, 3, [picture, tables.decoding(entries, view.benchmark)]))
        values[model] = [
            {"temperature": t, "top_p": p, "mean": asdict(s.mean), "tokens": asdict(s.tokens)}
            for (t, p), s in sorted(cells.items())
        ]
    return values


def _values(entry: Entry, scores: Scores, theirs: Any) -> dict[str, Any]:
    """All scores of a run except the counts of each problem."""
    figures = {key: value for key, value in vars(scores).items() if key not in ("problems", "benchmark")}
    plain = {key: _plain(value) for key, value in figures.items()}
    about = {"name": entry.name, "model": entry.run.model, "kind": entry.kind, "lam": entry.lam}
    return {**about, "merge": entry.run.merge, "engine": entry.run.engine, **plain, "paper": theirs}


def _plain(value: Any) -> Any:
    if hasattr(value, "low"):
        return asdict(value)
    return {key: asdict(v) for key, v in value.items()} if isinstance(value, dict) else value
