"""The tables of a report: overview (the paper's Tables 2 and 5), each benchmark, ablations, decoding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..analysis import bootstrap
from ..schema import Interval, Scores
from . import paper
from .collect import Entry, Family, View
from .document import Row, Table

VOTED = ("gpqa",)  # benchmarks for which the paper reports Vote@n instead of Pass@n
_SHOWN = 0.01  # shares of cut or unparsed responses above this are reported
_TABLE_3 = (8, 32)  # the k of Pass@k it shows below n
_NONE = ""
_NORMAL = 1.96  # standard errors from the middle of a normal distribution to the ends of its central 95 %
SAMPLING = "sampling error"


def overview(family: Family) -> Table:
    """The layout of Tables 2 and 5: one row for each model, followed by the paper's figures; columns by benchmark."""
    columns = [("", "Model")]
    for view in family.views:
        columns += [
            (view.title, label) for label in (f"Mean@{view.setting.samples}", second(view), "Token #N", "Think #R")
        ]
    rows = []
    for entry in family.entries:
        if entry.kind == "ablation" or not any(entry in view.entries for view in family.views):
            continue
        ours, theirs = [entry.name], ["paper"]
        for view in family.views:
            ours += _ours(entry, view)
            theirs += _theirs(entry, family, view)
        rows.append(Row(ours))
        if any(theirs[1:]):
            rows.append(Row([SAMPLING, *(cell for v in family.views for cell in _errors(entry, v))], aside=True))
            rows.append(Row(theirs, aside=True))
    return Table(columns, rows)


def _ours(entry: Entry, view: View) -> list[str]:
    if entry not in view.entries:
        return [_NONE] * 4
    scores = entry.scores[view.benchmark]
    at_n = _at(seconds(scores), scores.samples)
    return [percent(scores.mean.value), at_n, count(scores.tokens.value), percent(scores.think.value)]


def _errors(entry: Entry, view: View) -> list[str]:
    """Half of the 95 % interval for new responses to the same problems. Pass@n and Vote@n are no means over responses,
    so their columns stay empty."""
    if entry not in view.entries:
        return [_NONE] * 4
    mean, tokens, think = (sampling_errors(entry.scores[view.benchmark])[key] for key in ("mean", "tokens", "think"))
    return [_within(mean, 100), _NONE, _NONE if tokens is None else f"\u00b1{count(tokens)}", _within(think, 100)]


def sampling_errors(scores: Scores) -> dict[str, float | None]:
    """1.96 standard errors of mean, tokens and think (see `bootstrap.sampling_error`); None with one response each."""
    parts = {"mean": bootstrap.correct_each, "tokens": bootstrap.tokens_each, "think": bootstrap.thinking_each}
    found = {key: bootstrap.sampling_error(scores.problems, of) for key, of in parts.items()}
    return {key: None if error is None else _NORMAL * error for key, error in found.items()}


def _within(error: float | None, unit: float) -> str:
    return _NONE if error is None else f"\u00b1{unit * error:.1f}"


def _theirs(entry: Entry, family: Family, view: View) -> list[str]:
    found = paper.figures(entry, family.pair, view.benchmark) if entry in view.entries else None
    if not found:
        return [_NONE] * 4
    same_n = view.setting.samples == paper.SETTINGS[view.benchmark][1]  # Pass@n and Vote@n depend on n
    return [
        _figure(found, "mean"),
        _figure(found, "vote" if view.benchmark in VOTED else "pass") if same_n else _NONE,
        _figure(found, "tokens"),
        _figure(found, "think"),
    ]


def _figure(found: Mapping[str, float], key: str) -> str:
    if key not in found:
        return _NONE
    return count(found[key]) if key == "tokens" else f"{found[key]:.1f}"


def second(view: View) -> str:
    """The metric in the column after Mean@n, such as "Pass@64"."""
    return f"{'Vote' if view.benchmark in VOTED else 'Pass'}@{view.setting.samples}"


def seconds(scores: Scores) -> Mapping[int, Interval]:
    return scores.votes if scores.benchmark in VOTED else scores.passes


def in_full(view: View) -> Table:
    """One benchmark: all scores with intervals, other gradings, and shares of cut and unparsed responses."""
    found = [(e.name, e.scores[view.benchmark]) for e in view.entries if e.kind != "ablation"]
    n = view.setting.samples
    columns: list[tuple[str, Callable[[Scores], str]]] = [(f"Mean@{n}", lambda s: spread(s.mean))]
    for other in sorted({name for _, s in found for name in s.others}):
        columns.append((f"{other} grading", lambda s, o=other: spread(s.others[o]) if o in s.others else _NONE))
    for label, table in (("Pass", "passes"), ("Vote", "votes")):
        if any(n in getattr(s, table) for _, s in found):
            columns.append(
                (f"{label}@{n}", lambda s, t=table: spread(getattr(s, t)[n]) if n in getattr(s, t) else _NONE)
            )
    columns += [
        ("Token #N", lambda s: counts(s.tokens)),
        ("Think #R", lambda s: spread(s.think)),
        ("median tokens", lambda s: count(s.tokens_median)),
        ("95th percentile", lambda s: count(s.tokens_p95)),
    ]
    for key in ("cut", "unparsed"):
        if any(getattr(s, key) > _SHOWN for _, s in found):
            columns.append((key, lambda s, k=key: percent(getattr(s, k)) if getattr(s, k) > _SHOWN else _NONE))
    rows = [Row([name, *(cell(s) for _, cell in columns)]) for name, s in found]
    return Table([("", "Model"), *(("", label) for label, _ in columns)], rows)


def by_k(view: View) -> Table | None:
    """Pass@k and Vote@k for all k; None if there are fewer than two k."""
    found = [(e.name, e.scores[view.benchmark]) for e in view.entries if e.kind != "ablation"]
    ks = {kind: _ks([getattr(s, kind) for _, s in found]) for kind in ("passes", "votes")}
    columns = [(f"{label}@{k}", kind, k) for label, kind in (("Pass", "passes"), ("Vote", "votes")) for k in ks[kind]]
    if max(map(len, ks.values())) < 2:
        return None
    rows = [Row([name, *(_at(getattr(s, kind), k) for _, kind, k in columns)]) for name, s in found]
    return Table([("", "Model"), *(("", label) for label, _, _ in columns)], rows)


def _ks(found: Sequence[Mapping[int, Interval]]) -> list[int]:
    return sorted({k for table in found for k in table})


def ablations(view: View, family: Family, part: str) -> Table | None:
    """The layout of Table 3: merges of some layers or modules, with the full merge, Instruct and Thinking.

    Args:
        part: "layers" or "modules".
    """
    masked = [e for e in view.entries if e.kind == "ablation" and e.record.get(part)]
    if not masked:
        return None
    lams = {e.record.get("lam") for e in masked}
    whole = [e for e in view.entries if e.kind in ("instruct", "thinking") or e.lam in lams]
    scores = [e.scores[view.benchmark] for e in (*whole, *masked)]
    thinking = next((e.scores[view.benchmark].tokens.value for e in whole if e.kind == "thinking"), None)
    n = view.setting.samples
    passes = [k for k in _ks([s.passes for s in scores]) if k in (*_TABLE_3, n)]
    columns = [part.capitalize(), "lam", f"Mean@{n}", *(f"Pass@{k}" for k in passes), f"Vote@{n}", "Token #N"]
    columns += ["of Thinking's"] * (thinking is not None) + ["Think #R"]
    rows = []
    for entry, s in zip((*whole, *masked), scores):
        cells = [*_what(entry, part), percent(s.mean.value), *(_at(s.passes, k) for k in passes), _at(s.votes, n)]
        cells += [count(s.tokens.value)]
        cells += [percent(s.tokens.value / thinking) + " %"] if thinking else []
        rows.append(Row([*cells, percent(s.think.value)]))
        found = paper.figures(entry, family.pair, view.benchmark)
        if found:
            errors = sampling_errors(s)
            ours = [SAMPLING, _NONE, _within(errors["mean"], 100), *[_NONE] * (len(passes) + 1)]
            ours += [_NONE if errors["tokens"] is None else f"\u00b1{count(errors['tokens'])}"]
            ours += [*[_NONE] * (thinking is not None), _within(errors["think"], 100)]
            rows.append(Row(ours, aside=True))
            same_n = n == paper.SETTINGS[view.benchmark][1]
            keys = {8: "pass8", 32: "pass32", n if same_n else None: "pass"}
            theirs = ["paper", _NONE, _figure(found, "mean")]
            theirs += [_figure(found, keys[k]) if k in keys else _NONE for k in passes]
            theirs += [_figure(found, "vote") if same_n else _NONE, _figure(found, "tokens")]
            theirs += [_NONE] * (thinking is not None) + [_figure(found, "think")]
            rows.append(Row(theirs, aside=True))
    return Table([("", label) for label in columns], rows)


def _what(entry: Entry, part: str) -> list[str]:
    record = entry.record
    if entry.kind in ("instruct", "thinking"):
        return [entry.name, f"{entry.lam:g}"]
    if entry.kind == "interpolation":
        return ["all", f"{entry.lam:g}"]
    other = "modules" if part == "layers" else "layers"
    also = f", {other} {record[other]}" if record.get(other) else ""
    return [f"{record[part]}{also}", f"{record.get('lam'):g}" if record.get("lam") is not None else _NONE]


def grid(
    entries: Sequence[Entry], benchmark: str
) -> tuple[list[float], list[float], dict[tuple[float, float], Scores]]:
    """The temperatures, the top_p, and the scores of one model at each pair of them."""
    cells = {}
    for entry in entries:
        sampling = entry.sampling(benchmark)
        cells[sampling.temperature, sampling.top_p] = entry.scores[benchmark]
    return sorted({t for t, _ in cells}), sorted({p for _, p in cells}), cells


def decoding(entries: Sequence[Entry], benchmark: str) -> Table:
    """Mean@n with its interval, by temperature (rows) and top_p (columns)."""
    temperatures, top_ps, cells = grid(entries, benchmark)
    rows = [
        Row([f"{t:g}", *(spread(cells[t, p].mean) if (t, p) in cells else _NONE for p in top_ps)]) for t in temperatures
    ]
    return Table([("", "T"), *(("top_p", f"{p:g}") for p in top_ps)], rows)


def high_shares(view: View) -> list[str]:
    """Sentences on cut and unparsed responses, if their share is above 1 %."""
    found = []
    for what, key in (("cut by the token limit", "cut"), ("without a parsed answer", "unparsed")):
        shares = [(e.name, getattr(e.scores[view.benchmark], key)) for e in view.entries]
        shown = [f"{name} {percent(share)} %" for name, share in shares if share > _SHOWN]
        if shown:
            found.append(f"Responses {what}: {', '.join(shown)}.")
    return found


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def count(tokens: float) -> str:
    return f"{tokens:,.0f}"


def spread(value: Interval) -> str:
    return f"{percent(value.value)} [{percent(value.low)}, {percent(value.high)}]"


def counts(value: Interval) -> str:
    return f"{count(value.value)} [{count(value.low)}, {count(value.high)}]"


def _at(found: Mapping[int, Interval], k: int) -> str:
    return percent(found[k].value) if k in found else _NONE
