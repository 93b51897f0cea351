"""A report: complete, the same each time, the paper's figures beside the right models, readable in a browser."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval import report
from eval.report import collect, labels, paper, tables
from eval.report.document import Row, Section, Table
from eval.report.page import render as page_of
from eval.schema import Interval, Sampling, Scores, Setting
from mi_kernels.errors import ArgumentError, MIKernelsError

from ...support.pictures import captured, text_problems
from ..support import simulated_runs as runs

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep on two benchmarks with ablations, a decoding grid and other methods; its report beside it."""
    folder = tmp_path_factory.mktemp("everything")
    runs.sweep(folder / "runs")
    runs.ablations(folder / "runs")
    runs.other_methods(folder / "runs")
    report.write(folder / "runs", folder / "report", max_tokens_per_answer=14000)
    return folder


def small(folder: Path, lams: tuple[float, ...] = (0.5,)) -> Path:
    runs.sweep(folder / "runs", ["aime25"], lams)
    return folder / "runs"


def test_every_file_is_there_and_says_the_same(everything: Path) -> None:
    made = everything / "report"
    stems = {"aime25-dynamics", "aime25-cost", "aime25-masks", "aime25-decoding1", "gpqa-dynamics", "gpqa-cost"}
    pictures = {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")}
    assert {p.name for p in made.iterdir()} == {"index.html", "report.md", "report.json", *pictures}
    markdown, page = (made / "report.md").read_text(), (made / "index.html").read_text()
    content = json.loads((made / "report.json").read_text())["families"][0]
    models = {m["name"]: m for m in content["benchmarks"]["aime25"]["models"]}
    assert set(models) >= {"Instruct", "MI-0.2", "MI-0.8", "Thinking", "TA", "TIES", "MI-0.8 no attn"}
    for name in ("Instruct", "MI-0.8", "Thinking", "TA"):
        shown = f"{100 * models[name]['mean']['value']:.1f}"
        assert re.search(rf"\| {name} \| {shown} \|", markdown)
        assert f"<td>{name}</td><td>{shown}</td>" in page
    for sentence in content["benchmarks"]["aime25"]["stages"]["sentences"]:
        assert sentence in markdown
    assert all(f"({stem}.svg)" in markdown for stem in stems)
    assert markdown.count("14,000 tokens per answer") == 3  # over all, and for each benchmark


def test_the_page_asks_for_nothing(everything: Path) -> None:
    page = (everything / "report" / "index.html").read_text()
    sources = re.findall(r'(?:src|href|srcset|action|data)\s*=\s*"([^"]*)"', page)
    assert len(sources) == 6
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert not re.search(r"https?:|url\(|@import|<script|<link|<iframe", page)
    assert "default-src 'none'" in page


def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    def digests(out: Path) -> dict[str, str]:
        report.write(folder, out)
        return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in out.iterdir()}

    folder = small(tmp_path)
    assert digests(tmp_path / "once") == digests(tmp_path / "again")


def test_nothing_but_counts_is_in_it(everything: Path) -> None:
    """Problems and answers of a private benchmark must not leave the runs' folder."""
    for path in (everything / "report").glob("*.[jhm]*"):
        text = path.read_text()
        assert '"problems": [' not in text
        assert "answers" not in json.dumps(json.loads(text)) if path.suffix == ".json" else "wrong 0" not in text


def entry(kind: str, lam: float | None = None, model: str = "m", merge: Any = None) -> collect.Entry:
    role = kind if kind in ("instruct", "thinking") else "merged"
    run = collect.Run(model, "any name", role, lam, merge, {}, {})
    return collect.Entry("any name", collect.model_name(model), kind, lam, run, {})


PAIR = ("Qwen3-4B-Instruct-2507", "Qwen3-4B-Thinking-2507")
LARGE = ("Qwen3-30B-A3B-Instruct-2507", "Qwen3-30B-A3B-Thinking-2507")
CACHE = "/c/models--Qwen--Qwen3-4B-Instruct-2507/snapshots/cdbee7/"


def method(name: str, base: str, **settings: float) -> dict[str, Any]:
    return {"method": name, "settings": settings, "base": {"source": base}}


@pytest.mark.parametrize(
    ("found", "pair", "name", "mean"),
    [
        (entry("instruct", 0, "Qwen/Qwen3-4B-Instruct-2507@main"), PAIR, "aime25", 46.6),
        (entry("instruct", 0, CACHE), PAIR, "ifeval", 83.5),
        (entry("thinking", 1, "/models/Qwen3-30B-A3B-Thinking-2507/"), LARGE, "gpqa", 69.13),
        (entry("instruct", 0, "Qwen/Qwen3-4B-Instruct-2507-FP8"), PAIR, "aime25", None),
        (entry("interpolation", 0.8), PAIR, "aime25", 80.5),
        (entry("interpolation", 0.95), LARGE, "ifeval", 87.92),
        (entry("interpolation", 0.95), PAIR, "aime25", None),
        (entry("interpolation", 0.8), ("Qwen3-4B-Base", PAIR[1]), "aime25", 67.7),
        (entry("interpolation", 0.8), ("mine", "yours"), "aime25", None),
        (entry("interpolation", 0.8), None, "aime25", None),
        (entry("interpolation", 0.8), PAIR, "another", None),
        (entry("ablation", merge=runs.record(lam=0.8, layers="12:24")), PAIR, "aime25", 54.69),
        (entry("ablation", merge=runs.record(lam=0.8, layers=":1/3")), PAIR, "aime25", 42.5),
        (entry("ablation", merge=runs.record(lam=0.7, layers="12:24")), PAIR, "aime25", None),
        (entry("ablation", merge=runs.record(lam=0.8, layers="0:12,24:36")), PAIR, "aime25", None),
        (entry("ablation", merge=runs.record(lam=0.8, layers="40:50")), PAIR, "aime25", None),
        (entry("ablation", merge=runs.record(lam=0.8, modules="ffn,norm,embed")), PAIR, "aime25", 71.46),
        (entry("ablation", merge=runs.record(lam=0.8, modules="ffn")), PAIR, "aime25", None),
        (entry("merge", merge=method("task_arithmetic", "Qwen/Qwen3-4B", scale=0.7)), PAIR, "gpqa", 57.4),
        (entry("merge", merge=method("ties", "Qwen/Qwen3-4B-Base", density=0.2, scale=0.5)), PAIR, "gpqa", 63.7),
        (entry("merge", merge=method("ties", "Qwen/Qwen3-4B-Base", density=0.3, scale=0.5)), PAIR, "gpqa", None),
    ],
)
def test_the_papers_figures_stand_beside_the_same_model_only(
    found: collect.Entry, pair: collect.Pair | None, name: str, mean: float | None
) -> None:
    theirs = paper.figures(found, pair, name)
    assert (theirs and theirs["mean"]) == mean


def test_tables_follow_the_papers_layout(everything: Path) -> None:
    (family,), _ = collect.families(str(everything / "runs"))
    assert family.pair == PAIR
    table = tables.overview(family)
    rows = [row.cells[0] for row in table.rows if not row.aside]
    assert rows == ["Instruct", *(f"MI-{lam:g}" for lam in runs.LAMS), "Thinking", "TA", "TIES"]
    labels_of = [label for _, label in table.columns]
    assert labels_of[1:5] == ["Mean@8", "Pass@8", "Token #N", "Think #R"]
    assert labels_of[6] == "Vote@8"  # GPQA's
    below = {a.cells[0]: b for a, b in zip(table.rows, table.rows[2:]) if b.cells[0] == "paper"}
    # Pass@64 of the paper does not compare with our Pass@8; Vote@8 of GPQA does.
    assert below["MI-0.8"].cells == ["paper", "80.5", "", "17,574", "99.9", "66.2", "70.2", "8,427", "99.9"]
    assert "MI-0.7" not in below
    layers = tables.ablations(family.views[0], family, "layers")
    assert layers is not None
    assert [row.cells[0] for row in layers.rows if not row.aside] == ["Instruct", "all", "Thinking", "0:12", "1/3:"]
    assert layers.rows[-1].cells[2] == "69.5"  # Table 3's [12, 35]
    modules = tables.ablations(family.views[0], family, "modules")
    assert modules is not None
    assert modules.rows[-1].cells[2] == "71.5"
    grid = tables.decoding(family.views[0].grid["MI-0.8"], "aime25")
    assert [label for _, label in grid.columns] == ["T", "0.8", "0.95", "1"]
    assert grid.rows[0].cells[3] == ""  # T 0.2 with top_p 1 was not run
    assert all(grid.rows[1].cells)


def test_runs_that_do_not_compare_are_set_aside_with_the_reason(tmp_path: Path) -> None:
    folder = small(tmp_path, (0.4, 0.6))
    runs.save(folder, "few", "merged", 0.7, [runs.at(0.7, "aime25", problems=10)], merge=runs.record())
    runs.save(folder, "hot", "merged", 0.8, [runs.at(0.8, "aime25")], merge=runs.record(), sampling=(1.0, 0.95))
    runs.save(folder, "twin", "merged", 0.6, [runs.at(0.6, "aime25")], merge=runs.record())
    (family,), _ = collect.families(str(folder))
    aside = dict(family.views[0].set_aside)
    assert aside == {
        "few": "problems 10, not 30",
        "hot": "sampled with T 1, top_p 0.95, top_k 20",
        "twin": "it repeats MI-0.6",
    }
    assert [e.name for _, e in family.views[0].sweep()] == ["Instruct", "MI-0.4", "MI-0.6", "Thinking"]
    report.write(folder, tmp_path / "out")
    assert "few is excluded: problems 10, not 30." in (tmp_path / "out" / "report.md").read_text()


def distinct(benchmark: str) -> Scores:
    """Scores of which no two figures are equal."""

    def around(percent: int) -> Interval:
        return Interval(percent / 100, (percent - 1) / 100, (percent + 1) / 100)

    return replace(
        runs.at(0.8, benchmark),
        mean=around(10),
        others={"paper": around(15)},
        passes={4: around(21), 8: around(22)},
        votes={4: around(31), 8: around(32)},
        think=around(40),
        tokens=Interval(5000.0, 4900.0, 5100.0),
        tokens_median=6000.0,
        tokens_p95=7000.0,
        cut=0.08,
        unparsed=0.09,
    )


def cells(table: tables.Table | None, name: str) -> dict[str, str]:
    """The row that begins with `name`, by the names of its columns."""
    assert table is not None
    (row,) = [row.cells for row in table.rows if row.cells[0] == name and not row.aside]
    return dict(zip((label for _, label in table.columns), row, strict=True))


def test_each_figure_stands_under_its_name(tmp_path: Path) -> None:
    runs.sweep(tmp_path, lams=())
    runs.save(tmp_path, "mine", "merged", 0.8, [distinct(b) for b in runs.SHAPES], merge=runs.record(lam=0.8))
    merge = runs.record(lam=0.8, layers="0:12")
    runs.save(tmp_path, "some", "merged", None, [distinct("aime25")], merge=merge)
    (family,), _ = collect.families(str(tmp_path))
    (row,) = [row.cells for row in tables.overview(family).rows if row.cells[0] == "mine"]
    assert row == ["mine", "10.0", "22.0", "5,000", "40.0", "10.0", "32.0", "5,000", "40.0"]
    for view in family.views:
        assert cells(tables.in_full(view), "mine") == {
            "Model": "mine",
            "Mean@8": "10.0 [9.0, 11.0]",
            "paper grading": "15.0 [14.0, 16.0]",
            "Pass@8": "22.0 [21.0, 23.0]",
            "Vote@8": "32.0 [31.0, 33.0]",
            "Token #N": "5,000 [4,900, 5,100]",
            "Think #R": "40.0 [39.0, 41.0]",
            "median tokens": "6,000",
            "95th percentile": "7,000",
            "cut": "8.0",
            "unparsed": "9.0",
        }
        shown = {label: cell for label, cell in cells(tables.by_k(view), "mine").items() if cell}
        assert shown == {"Model": "mine", "Pass@4": "21.0", "Pass@8": "22.0", "Vote@4": "31.0", "Vote@8": "32.0"}
    thinking = next(e for e in family.entries if e.kind == "thinking").scores["aime25"].tokens.value
    assert cells(tables.ablations(family.views[0], family, "layers"), "0:12") == {
        "Layers": "0:12",
        "lam": "0.8",
        "Mean@8": "10.0",
        "Pass@8": "22.0",
        "Vote@8": "32.0",
        "Token #N": "5,000",
        "of Thinking's": f"{100 * 5000 / thinking:.1f} %",
        "Think #R": "40.0",
    }


def test_what_departs_from_the_papers_setting_is_told() -> None:
    sampling = Sampling(0.6, 0.95, 20, 81920)
    assert paper.differences("aime25", Setting(64, 30, "d", 0, sampling)) == []
    assert paper.differences("aime25", Setting(8, 15, "d", 0, replace(sampling, max_tokens=100))) == [
        "Not the paper's setting: problems 15 (the paper: 30), samples 8 (the paper: 64), "
        "max_tokens 100 (the paper: 81,920)."
    ]


@pytest.mark.parametrize(
    ("part", "value", "reason"),
    [
        ("digest", "e", "other problems"),
        ("samples", 4, "samples 4, not 8"),
        ("problems", 10, "problems 10, not 30"),
        ("max_tokens", 100, "max_tokens 100, not 81920"),
    ],
)
def test_a_run_compares_where_nothing_of_its_setting_differs(
    tmp_path: Path, part: str, value: object, reason: str
) -> None:
    folder = small(tmp_path, (0.4, 0.6))
    path = folder / "MI-0.6" / "run.json"
    content = json.loads(path.read_text())
    setting = content["settings"]["aime25"]
    (setting["sampling"] if part == "max_tokens" else setting)[part] = value
    path.write_text(json.dumps(content))
    (family,), _ = collect.families(str(folder))
    assert family.views[0].set_aside == [("MI-0.6", reason)]
    assert [e.name for _, e in family.views[0].sweep()] == ["Instruct", "MI-0.4", "Thinking"]


def test_of_two_samplings_as_frequent_the_papers_is_the_usual_one(tmp_path: Path) -> None:
    folder = small(tmp_path, (0.5,))  # with Thinking: two
    for lam in (0.4, 0.6):
        merge = runs.record(lam=lam)
        runs.save(folder, f"hot {lam}", "merged", lam, [runs.at(lam, "aime25")], merge=merge, sampling=(1.0, 0.95))
    (family,), _ = collect.families(str(folder))
    assert [e.name for e in family.views[0].entries] == ["Instruct", "MI-0.5", "Thinking"]
    assert [name for name, _ in family.views[0].set_aside] == ["hot 0.4", "hot 0.6"]


def test_a_sweep_of_some_layers_starts_at_instruct_and_does_not_end_at_thinking(tmp_path: Path) -> None:
    folder = small(tmp_path, ())
    for lam in (0.4, 0.5, 1.0):
        merge = runs.record(lam=lam, layers="12:36")
        runs.save(folder, f"l-{lam:g}", "merged", None, [runs.at(lam, "aime25")], merge=merge)
    (family,), _ = collect.families(str(folder))
    found = [(lam, e.name) for lam, e in family.views[0].sweep()]
    assert found == [(0, "Instruct"), (0.4, "l-0.4"), (0.5, "l-0.5"), (1, "l-1")]


def masked(folder: Path, lams: tuple[float, ...] = (0.4, 0.6, 0.8), **mask: str) -> None:
    """A sweep with a mask, in the folders that `eval sweep` gives it."""
    (name,) = mask.values()
    for lam in lams:
        merge = runs.record(lam=lam, **mask)
        scores = [runs.at(lam / 2, "aime25")]
        runs.save(folder / name.replace(":", "-"), f"MI-{lam:g}", "merged", None, scores, merge=merge)


def test_a_masked_sweep_and_the_plain_one_are_one_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one folder or in two, each mask is a curve of its own, the tables hold all, and nothing is said to repeat."""
    figures = captured(monkeypatch)
    folder = small(tmp_path, (0.4, 0.6, 0.8))
    masked(tmp_path / "masked", modules="ffn,norm,embed")
    masked(tmp_path / "masked", layers="12:24")
    masked(tmp_path / "masked", (0.8,), layers="24:36")
    (family,), _ = collect.families(str(folder), str(tmp_path / "masked"))
    (view,) = family.views
    assert view.set_aside == []
    assert [e.name for _, e in view.sweep()] == ["Instruct", "MI-0.4", "MI-0.6", "MI-0.8", "Thinking"]
    assert {mask: [lam for lam, _ in points] for mask, points in view.masks().items()} == {
        "modules ffn,norm,embed": [0, 0.4, 0.6, 0.8],
        "layers 12:24": [0, 0.4, 0.6, 0.8],
        "layers 24:36": [0.8],
    }
    layers = tables.ablations(view, family, "layers")
    assert layers is not None
    at = [(row.cells[0], row.cells[1]) for row in layers.rows if not row.aside]
    assert {("all", "0.8"), ("12:24", "0.4"), ("12:24", "0.8"), ("24:36", "0.8")} <= set(at)
    assert ("all", "0") not in at
    report.write([folder, tmp_path / "masked"], tmp_path / "two")
    shutil.copytree(tmp_path / "masked", folder, dirs_exist_ok=True)
    report.write(folder, tmp_path / "one")
    name = "aime25-masks.png"
    assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    (first, *_) = [f for f in figures if "layers and modules" in f.get_suptitle()]
    (legend,) = first.legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown == ["all", "layers 12:24", "modules ffn,norm,embed", "layers 24:36"]
    assert text_problems(first, bars=False) == []


def test_a_masked_run_that_repeats_another_is_set_aside(tmp_path: Path) -> None:
    folder = small(tmp_path)
    for name in ("once", "again"):
        masked(folder / name, (0.8,), layers="12:24")
    (family,), _ = collect.families(str(folder))
    ((name, why),) = family.views[0].set_aside
    assert why.startswith("it repeats MI-0.8, layers 12:24 (")
    assert name != why.removeprefix("it repeats ")


def test_a_run_that_is_in_two_of_the_folders_counts_once(tmp_path: Path) -> None:
    folder = small(tmp_path)
    (once,), _ = collect.families(str(folder))
    (twice,), _ = collect.families(str(folder), str(folder / "MI-0.5"))
    assert [e.name for e in twice.entries] == [e.name for e in once.entries]


def test_the_sampling_error_is_beside_the_papers_rows(everything: Path) -> None:
    (family,), _ = collect.families(str(everything / "runs"))
    rows = tables.overview(family).rows
    asides = [(a.cells[0], b.cells[0]) for a, b in itertools.pairwise(rows) if b.cells[0] == "paper"]
    assert asides == [(tables.SAMPLING, "paper")] * len(asides) != []
    at = next(i for i, row in enumerate(rows) if row.cells[0] == "MI-0.8")
    scores = next(e for e in family.entries if e.name == "MI-0.8").scores["aime25"]
    within = sum(p.correct * (p.n - p.correct) / (p.n**2 * (p.n - 1)) for p in scores.problems)
    wanted = 196 * within**0.5 / len(scores.problems)
    assert rows[at + 1].cells[:3] == [tables.SAMPLING, f"\u00b1{wanted:.1f}", ""]
    over_problems = 100 * (scores.mean.high - scores.mean.low) / 2
    assert 0 < wanted < over_problems


@pytest.mark.parametrize("stem", ["aime25-dynamics", "aime25-cost", "aime25-masks", "gpqa-dynamics", "gpqa-cost"])
def test_the_data_can_be_seen_in_every_plot(everything: Path, stem: str) -> None:
    """Nothing lies over the data: enough pixels have the colour of each line and of each marker's face."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb
    from matplotlib.image import imread

    pixels = imread(everything / "report" / f"{stem}.png")[:, :, :3]
    blue, orange, green, vermilion = "#0072B2", "#E69F00", "#009E73", "#D55E00"
    colors: dict[str, list[Any]] = {
        "dynamics": [blue, orange, green, vermilion],
        "cost": [vermilion] if "aime" in stem else [],  # TA and TIES
        "masks": [blue, vermilion, green, orange],
    }
    kind = stem.split("-")[1]
    wanted = [to_rgb(color) for color in colors[kind]]
    if kind == "cost":
        wanted += [colormaps["cividis"](0.92 * lam)[:3] for lam in (0, *runs.LAMS, 1)]
    for color in wanted:
        seen = (abs(pixels - color).max(2) < 0.02).sum()
        assert seen > 60, color


def test_runs_are_found_in_folders_below(tmp_path: Path) -> None:
    """`eval report runs/` after `eval demo`, which writes into runs/demo; equal names are told apart by their path."""
    small(tmp_path / "demo", (0.5,))
    small(tmp_path / "again", (0.5,))
    (demo, again) = (next(path.parent for path in tmp_path.glob(f"{n}/**/MI-0.5")) for n in ("demo", "again"))
    families, _ = collect.families(str(tmp_path))
    names = {entry.name for family in families for entry in family.entries}
    assert {f"MI-0.5 ({run.relative_to(tmp_path)}/MI-0.5)" for run in (demo, again)} <= names
    assert [entry.name for entry in collect.families(str(demo))[0][0].entries] == ["Instruct", "MI-0.5", "Thinking"]


def test_two_families_do_not_mix(tmp_path: Path) -> None:
    folder = small(tmp_path)
    other = {"instruct": {"source": "Org/A-Instruct"}, "thinking": {"source": "Org/A-Thinking"}}
    runs.save(folder, "other", "merged", 0.3, [runs.at(0.3, "aime25")], merge=runs.record(**other))
    found, _ = collect.families(str(folder))
    names = {family.title: [e.name for e in family.entries] for family in found}
    assert names == {
        f"{PAIR[0]} to {PAIR[1]}": ["Instruct", "MI-0.5", "Thinking"],
        "A-Instruct to A-Thinking": ["other"],
    }
    report.write(folder, tmp_path / "out")
    assert (tmp_path / "out" / "family1-aime25-dynamics.png").exists()


def test_one_run_alone_makes_a_report(tmp_path: Path) -> None:
    runs.save(tmp_path, "alone", "merged", 0.5, [runs.at(0.5, "aime25", cut=2)], merge=runs.record())
    made = report.write(tmp_path / "alone", tmp_path / "out", max_tokens_per_answer=1)
    assert [Path(p).name for p in made] == ["index.html", "report.md", "report.json"]
    said = (tmp_path / "out" / "report.md").read_text()
    assert "Only alone was evaluated: a choice needs at least two models." in said
    assert "No model needs at most 1 tokens per answer" in said
    assert "Responses cut by the token limit: alone 25.0 %." in said


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    name = "a|b<img src=x>$x^2$"
    runs.save(tmp_path, "r1", "merged", 0.5, [runs.at(0.5, "aime25")])
    runs.save(tmp_path, "r2", "merged", None, [runs.at(0.6, "aime25")])
    path = tmp_path / "r2" / "run.json"
    path.write_text(path.read_text().replace('"name": "r2"', f'"name": "{name}"'))
    report.write(tmp_path, tmp_path / "out")
    assert "<img src=x>" not in (tmp_path / "out" / "index.html").read_text()
    assert "| a\\|b\\<img src=x>$x^2$ |" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    ("prepare", "options", "words"),
    [
        (lambda folder: None, {}, "is not a folder"),
        (lambda folder: folder.mkdir(), {}, "has no run.json"),
        (lambda folder: runs.save(folder, "r", "merged", 0.5, []), {}, "has no run with scores"),
        (lambda folder: None, {"max_tokens_per_answer": 0}, "a budget of 0 tokens"),
    ],
)
def test_refusals(tmp_path: Path, prepare: Any, options: dict[str, float], words: str) -> None:
    prepare(tmp_path / "runs")
    with pytest.raises(ArgumentError, match=words) as caught:
        report.write(tmp_path / "runs", tmp_path / "out", **options)
    assert caught.value.remedy
    assert not (tmp_path / "out").exists()


def test_an_unwritable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MIKernelsError, match="cannot be written"):
        report.write(small(tmp_path), tmp_path / "file" / "out")


def test_names_beside_points_do_not_cover_each_other() -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    figure = Figure(figsize=(6, 5))
    canvas = FigureCanvasAgg(figure)
    axis = figure.subplots()
    points = [(f"MI-0.{i}", (0.3 + 0.03 * (i % 3), 0.3 + 0.04 * (i // 3))) for i in range(9)]
    axis.plot(*zip(*(point for _, point in points)), "o")
    axis.set(xlim=(0, 1), ylim=(0, 1))
    labels.place(figure, axis, points, size=9)
    canvas.draw()
    boxes = [Text.get_window_extent(text) for text in axis.texts]  # an annotation's own holds its line, too
    assert len(boxes) == 9
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]


LONG = "Qwen3-235B-A22B-Instruct-2507-a-very-long-name-of-a-merge"


def test_texts_of_the_plots_are_inside_and_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With many points, few points, long names, and missing cells. Error bars may run behind the names of points."""
    figures = captured(monkeypatch)
    runs.sweep(tmp_path / "many")
    runs.ablations(tmp_path / "many")
    runs.other_methods(tmp_path / "many")
    runs.sweep(tmp_path / "few", ["aime25"], (0.5,))
    merge = {"role": "merged", "method": "ties", "settings": {}, "base": {"source": "b"}, "models": []}
    for number, mean in enumerate((0.6, 0.601)):
        scores = [runs.at(0.5, "aime25", mean=mean, tokens=15000 + number)]
        runs.save(tmp_path / "few", f"{LONG}-{number}", "merged", None, scores, merge=merge)
    for p in (0.8, 1.0):
        scores = [runs.at(0.5, "aime25")]
        runs.save(
            *(tmp_path / "few", f"{LONG} p{p}", "merged", 0.5, scores),
            model=f"models/{LONG}",
            merge=runs.record(lam=0.5),
            sampling=(0.2, p),
        )
    for folder in ("many", "few"):
        report.write(tmp_path / folder, tmp_path / f"{folder} report")
    assert len(figures) == 9
    for figure in figures:
        assert text_problems(figure, bars=False) == [], figure.get_suptitle()


def test_missing_cells_are_hatched_and_others_are_not(everything: Path) -> None:
    from matplotlib.image import imread

    pixels = imread(everything / "report" / "aime25-decoding1.png")[:, :, :3]
    cells = pixels[100:-200, 150 : int(0.75 * pixels.shape[1])]  # without the axes and the colour bar
    coloured = cells.max(2) - cells.min(2) > 0.2  # cividis is blue at one end and yellow at the other
    assert 0.4 < coloured.mean() < 0.95  # seven of nine cells, one of them grey


def test_a_table_says_that_it_scrolls(everything: Path) -> None:
    """In every window that is too narrow for it: a wide table in all, a narrow one in none but the narrowest."""
    page = (everything / "report" / "index.html").read_text()
    assert page.count('<div class="table"') == page.count('<p class="scrolls below-') > 3
    assert ".below-9999 { display: block; }" in page
    columns = [("", "Model"), *(("AIME", f"Mean@{i}") for i in range(20))]
    wide = Table(columns, [Row(["MI-0.8", *["12.3 [11.2, 13.4]"] * 20])])
    assert [rendered(table) for table in (wide, Table(columns[:2], [Row(["a", "1"])]))] == ["9999", "24"]
    assert rendered(Table(columns, [])) == "9999"


def rendered(table: Table) -> str:
    found = re.search(r"scrolls below-(\d+)", page_of("t", "h", [Section("s", 2, [table])], {}))
    assert found is not None
    return found[1]


@pytest.mark.skipif(not CHROMIUM, reason="no chromium on this machine")
def test_a_browser_shows_the_page(everything: Path, tmp_path: Path) -> None:
    """Every picture is decoded and drawn: its own colours are on the screen, at a desk's and at a phone's width."""
    from matplotlib.image import imread

    for width in (1000, 390):
        shot = tmp_path / f"{width}.png"
        arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        arguments += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},9000", f"--screenshot={shot}"]
        page = (everything / "report" / "index.html").as_uri()
        subprocess.run([CHROMIUM, *arguments, page], check=True, capture_output=True, timeout=120)
        pixels = (imread(shot)[:, :, :3] * 255).round().astype(int)
        for name in ("#0072B2", "#E69F00", "#009E73", "#D55E00"):
            color = [int(name[i : i + 2], 16) for i in (1, 3, 5)]
            seen = (abs(pixels - color).max(2) <= 8).any(1).nonzero()[0]
            assert len(seen) > 40, f"{name} at width {width}"
            assert seen[-1] - seen[0] > 1000  # of both benchmarks
