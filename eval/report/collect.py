"""Loads the runs of a folder and groups those that can be compared.

A family is a pair of models and the models merged from them. Within a family and a benchmark, runs can be compared if
they have the same problems, the same number of samples and the same token limit. The usual temperature and top_p depend
on the role (the paper samples Instruct differently); runs with other values belong to the decoding grid.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mi_kernels.checkpoint.hub import cached_id
from mi_kernels.errors import ArgumentError

from .. import benchmarks
from ..errors import EvalError
from ..run import files
from ..run.roles import paper_sampling
from ..schema import Run, Sampling, Scores, Setting

Pair = tuple[str, str]

_ORDER = ("instruct", "interpolation", "thinking", "merge", "ablation")


@dataclass(frozen=True)
class Entry:
    """One run.

    Attributes:
        name: unique in the report. model: the last part of the model's folder or Hub id.
        kind: "instruct", "thinking", "interpolation" (of everything by one lam), "ablation" (of some layers or modules)
            or "merge" (by another method).
        lam: of an interpolation; 0 and 1 for Instruct and Thinking.
        scores: by benchmark.
    """

    name: str
    model: str
    kind: str
    lam: float | None
    run: Run
    scores: Mapping[str, Scores]

    @property
    def record(self) -> Mapping[str, Any]:
        """The content of mi_kernels.json; empty if the model has none."""
        return self.run.merge or {}

    @property
    def mask(self) -> str:
        """The merged layers and modules, in words; "" if all were merged."""
        return ", ".join(f"{part} {self.record[part]}" for part in ("layers", "modules") if self.record.get(part))

    def sampling(self, benchmark: str) -> Sampling:
        return self.run.settings[benchmark].sampling


@dataclass(frozen=True)
class View:
    """One benchmark of a family.

    Attributes:
        entries: the runs that can be compared, in the order of tables. set_aside: (name, reason) of the others.
        grid: by model, its runs with different temperature or top_p, including the usual one.
    """

    benchmark: str
    title: str
    entries: Sequence[Entry]
    set_aside: Sequence[tuple[str, str]]
    grid: Mapping[str, Sequence[Entry]]

    @property
    def setting(self) -> Setting:
        return self.entries[0].run.settings[self.benchmark]

    def sweep(self) -> list[tuple[float, Entry]]:
        """The interpolations with Instruct and Thinking, by lam.

        If all interpolations have the same mask, those with Instruct: they do not end at Thinking.
        """
        masked = self._masked()
        plain = [(e.lam, e) for e in self.entries if e.lam is not None]
        if masked and not any(e.kind == "interpolation" for _, e in plain) and len({e.mask for e in masked}) == 1:
            starts = [(lam, e) for lam, e in plain if e.kind == "instruct"]
            plain = list({**{float(e.record["lam"]): e for e in masked}, **dict(starts)}.items())
        return sorted(plain, key=lambda point: point[0])

    def masks(self) -> dict[str, list[tuple[float, Entry]]]:
        """By mask, its interpolations by lam. Those with several start at Instruct, as all masks do at lam 0."""
        found: dict[str, list[tuple[float, Entry]]] = {}
        for entry in self._masked():
            found.setdefault(entry.mask, []).append((float(entry.record["lam"]), entry))
        starts = [(0.0, e) for e in self.entries if e.kind == "instruct"][:1]
        for mask, points in found.items():
            if len(points) > 1 and all(lam > 0 for lam, _ in points):
                points += starts
            found[mask] = sorted(points, key=lambda point: point[0])
        return dict(sorted(found.items()))

    def _masked(self) -> list[Entry]:
        return [e for e in self.entries if e.kind == "ablation" and isinstance(e.record.get("lam"), (int, float))]


@dataclass(frozen=True)
class Family:
    """A pair of models with the models merged from it. `pair`: (instruct, thinking), or None if unknown."""

    pair: Pair | None
    entries: Sequence[Entry]
    views: Sequence[View]

    @property
    def title(self) -> str:
        return f"{self.pair[0]} to {self.pair[1]}" if self.pair else "All runs"


def families(*folders: str) -> tuple[list[Family], list[str]]:
    """Every family in `folders`, the largest first, and notes on scores that are missing.

    Args:
        folders: each is one run, or a folder that holds runs at any depth. A run that is in several counts once.

    Raises:
        ArgumentError: a folder does not exist, or none has a run with scores.
    """
    entries, notes = _load(folders)
    pairs = list(dict.fromkeys(pair for e in entries if (pair := _pair(e)) is not None))
    if not pairs:
        ends = [[e.model for e in entries if e.kind == kind] for kind in ("instruct", "thinking")]
        pair = (ends[0][0], ends[1][0]) if all(len(end) == 1 for end in ends) else None
        return [_family(pair, entries)], notes
    members: dict[Pair | None, list[Entry]] = {pair: [] for pair in pairs}
    for entry in entries:
        own = _pair(entry)
        homes: list[Pair | None] = [own] if own else [p for p in pairs if entry.model in p]
        for home in homes or ([pairs[0]] if len(pairs) == 1 else [None]):
            members.setdefault(home, []).append(entry)
    largest = sorted(members.items(), key=lambda member: -len(member[1]))
    return [_family(pair, found) for pair, found in largest], notes


def model_name(source: str) -> str:
    """The last part of a path or Hub id, without a revision. For a path in the Hub's cache, that of the id."""
    return (cached_id(source) or source).rstrip("/").rsplit("/", 1)[-1].split("@")[0]


def _load(folders: Sequence[str]) -> tuple[list[Entry], list[str]]:
    for folder in folders:
        if not os.path.isdir(folder):
            raise ArgumentError(f"{folder}: is not a folder", "Give the folder that holds the runs.")
    runs = {os.path.realpath(path): (folder, path) for folder in reversed(folders) for path in _run_folders(folder)}
    loaded, notes = [], []
    for folder, path in sorted(runs.values(), key=lambda found: (folders.index(found[0]), found[1])):
        try:
            run = files.load_run(path)
        except (EvalError, OSError) as error:
            notes.append(f"{_reason(error, path)}: the run is left out.")
            continue
        scores = {}
        for name in sorted(run.settings):
            try:
                scores[name] = files.load_scores(path, name)
            except FileNotFoundError:
                notes.append(f"{run.name}: {name} is not scored yet.")
            except (EvalError, OSError) as error:
                notes.append(f"{run.name}: {_reason(error, path)}: {name} is left out.")
        if scores:
            place = os.path.relpath(path, folder) if path != folder else os.path.basename(os.path.abspath(path))
            if len(folders) > 1 and path != folder:
                place = os.path.join(os.path.basename(os.path.abspath(folder)), place)
            loaded.append((place, run, scores))
    if not loaded:
        what = "has no run with scores" if runs else "has no run.json, in it or in a folder below"
        what += f" ({notes[0]})" if notes else ""
        raise ArgumentError(f"{', '.join(folders)}: {what}", "Evaluate a model into it first, or finish its runs.")
    return sorted(_named(loaded), key=_position), notes


def _named(loaded: Sequence[tuple[str, Run, Mapping[str, Scores]]]) -> list[Entry]:
    """Runs with one name are distinguished by their masks, and then by their folders."""
    entries = []
    for _, run, scores in loaded:
        kind, lam = _kind(run)
        entries.append(Entry(run.name, model_name(run.model), kind, lam, run, scores))
    often = Counter(entry.name for entry in entries)
    entries = [
        replace(entry, name=f"{entry.name}, {entry.mask}") if often[entry.name] > 1 and entry.mask else entry
        for entry in entries
    ]
    often = Counter(entry.name for entry in entries)
    return [
        replace(entry, name=f"{entry.name} ({place})") if often[entry.name] > 1 else entry
        for entry, (place, _, _) in zip(entries, loaded)
    ]


def _reason(error: Exception, path: str) -> str:
    """Why a file cannot be used, without the path of the folder of runs."""
    text = error.problem if isinstance(error, EvalError) else f"{path}: {error}"
    return text.replace(os.path.join(os.path.dirname(path), ""), "")


def _run_folders(folder: str) -> Iterator[str]:
    """The runs in `folder` at any depth, in the order of their paths."""
    if os.path.isfile(os.path.join(folder, "run.json")):
        yield folder
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        link_to_run = entry.is_symlink() and os.path.isfile(os.path.join(entry.path, "run.json"))
        if link_to_run or (entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")):
            yield from _run_folders(entry.path)


def _position(entry: Entry) -> tuple[float, ...] | tuple[object, ...]:
    lam = entry.lam if entry.lam is not None else 2.0
    return (lam, _ORDER.index(entry.kind), entry.name)


def _kind(run: Run) -> tuple[str, float | None]:
    if run.role in ("instruct", "thinking"):
        return run.role, 0.0 if run.role == "instruct" else 1.0
    record = run.merge or {}
    if record.get("method") == "lerp" and (record.get("layers") or record.get("modules")):
        return "ablation", None
    return ("interpolation", run.lam) if run.lam is not None else ("merge", None)


def _pair(entry: Entry) -> Pair | None:
    """The two models that an entry was merged from."""
    record = entry.record
    models = [record.get("instruct"), record.get("thinking")]
    if not all(models):
        models = list(record.get("models") or [])
    named = [model_name(str(m["source"])) for m in models if isinstance(m, dict) and m.get("source")]
    return (named[0], named[1]) if len(named) == 2 else None


def _family(pair: Pair | None, entries: Sequence[Entry]) -> Family:
    names = sorted({name for e in entries for name in e.scores})
    return Family(pair, entries, [_view(name, [e for e in entries if name in e.scores]) for name in names])


def _view(benchmark: str, entries: Sequence[Entry]) -> View:
    keys = [_compared(e, benchmark) for e in entries]
    usual = Counter(keys).most_common(1)[0][0]
    aside = [(e.name, _difference(key, usual)) for e, key in zip(entries, keys) if key != usual]
    same = [e for e, key in zip(entries, keys) if key == usual]
    usual_sampling = {which: _usual_sampling(same, benchmark, which) for which in (True, False)}
    grids = _grids(same, benchmark)
    kept: list[Entry] = []
    for entry in same:
        drawn = _decoding(entry.sampling(benchmark))
        twin = next((k for k in kept if _same_model(k, entry)), None)
        if drawn != usual_sampling[entry.kind == "instruct"]:
            if not any(entry in runs for runs in grids.values()):
                aside.append((entry.name, f"sampled with {_said(drawn)}"))
        elif twin is not None:
            aside.append((entry.name, f"it repeats {twin.name}"))
        else:
            kept.append(entry)
    return View(benchmark, title(benchmark), kept, aside, grids)


def _same_model(a: Entry, b: Entry) -> bool:
    """Whether two runs are of the same point of a sweep, with or without a mask."""
    if a.kind == b.kind == "ablation":
        lams = a.record.get("lam"), b.record.get("lam")
        return a.mask == b.mask and lams[0] == lams[1] is not None and a.record.get("rules") == b.record.get("rules")
    return a.kind == b.kind and a.lam == b.lam is not None


def _grids(entries: Sequence[Entry], benchmark: str) -> dict[str, list[Entry]]:
    """The runs of each model that was sampled in more than one way."""
    by_model: dict[str, list[Entry]] = {}
    for entry in entries:
        by_model.setdefault(entry.run.model, []).append(entry)
    return {
        _grid_name(runs): runs
        for runs in by_model.values()
        if len({_decoding(e.sampling(benchmark)) for e in runs}) > 1
    }


def _grid_name(runs: Sequence[Entry]) -> str:
    return min((e.run.name for e in runs), key=len)


def title(benchmark: str) -> str:
    """The title of a benchmark; its name if its module, or an import of it, is missing."""
    if benchmark not in benchmarks.names():
        return benchmark
    try:
        return benchmarks.get(benchmark).title
    except ImportError:
        return benchmark


Compared = tuple[int, int, str, int]


def _compared(entry: Entry, benchmark: str) -> Compared:
    setting = entry.run.settings[benchmark]
    return (setting.problems, setting.samples, setting.digest, setting.sampling.max_tokens)


def _difference(key: Compared, usual: Compared) -> str:
    names = ("problems", "samples", "problem set", "max_tokens")
    shown = [
        "other problems" if name == "problem set" else f"{name} {mine}, not {theirs}"
        for name, mine, theirs in zip(names, key, usual)
        if mine != theirs
    ]
    # A different number of problems implies a different problem set: the first is enough.
    return ", ".join(s for s in shown if s != "other problems" or len(shown) == 1)


def _decoding(sampling: Sampling) -> tuple[float, float, int]:
    return (sampling.temperature, sampling.top_p, sampling.top_k)


def _said(decoding: tuple[float, float, int]) -> str:
    return f"T {decoding[0]:g}, top_p {decoding[1]:g}, top_k {decoding[2]}"


def _usual_sampling(entries: Sequence[Entry], benchmark: str, instruct: bool) -> tuple[float, float, int] | None:
    """The most frequent sampling of Instruct models, or of the others; the paper's if several are equally frequent."""
    found = Counter(_decoding(e.sampling(benchmark)) for e in entries if (e.kind == "instruct") == instruct)
    papers = paper_sampling("instruct" if instruct else "merged", 0)
    paper = (papers.temperature, papers.top_p)
    return max(found, key=lambda d: (found[d], d[:2] == paper, d)) if found else None
