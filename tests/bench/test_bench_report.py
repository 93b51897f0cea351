"""README says what the committed results hold, and the report can be made from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import results
from bench.instructions import BAND, CannotCountError, compiler, measure, off, stored
from bench.noise import spread
from bench.registry import benchmarks
from bench.report import markdown as report
from bench.report import plots, readme

from ..support.pictures import captured, text_problems

COMMITTED = sorted(path for path in results.RESULTS.glob("*.json") if not path.name.startswith("gpu-"))


@pytest.mark.parametrize(("page", "content"), readme.pages(), ids=["README", "results"])
def test_pages_say_what_the_results_hold(page: Path, content: str) -> None:
    text = page.read_text()
    assert text == readme.with_figures(text, content), "run `python -m bench.report --readme`"


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_results_are_of_the_one_form(path: Path) -> None:
    found = results.load(path)
    assert found["rows"]
    assert found["bench"] in benchmarks()
    assert not any(word in path.read_text() for word in ("/tmp", "/home", "/root"))


def test_figures_follow_the_results(tmp_path: Path) -> None:
    row = {
        "cpu": spread([1.0]),
        "anonymous": spread([42e6]),
        "of_cp": spread([0.5]),
        "seconds": spread([1.0, 3.0, 1.25]),
    }
    rows = [
        {"group": "m, warm", "name": "ours", **row, "differing": 0.0},
        {"group": "m, warm", "name": "cp", **row, "differing": None},
        {"group": "m, cold", "name": "ours", **row, "seconds": spread([99.0]), "differing": 0.0},
    ]
    settings = {"model": "m", "bytes": 2e9, "mergekit": None}
    results.save(tmp_path / "merge-0.6B.json", results.record("merge", "python -m some", settings, rows))
    text = " ".join(readme.summary(tmp_path).split())
    assert "two checkpoints of 2.00 GB with the shapes of m:" in text
    assert "| 1.25 (1.00 - 3.00) |" in text
    assert "| 42 MB | none |" in text
    assert "99.00" not in text, "cold rows are not README's"
    assert "sweep" not in text, "no result, no sentence"


def test_readme_without_markers_is_refused() -> None:
    whole = f"a\n{readme.BEGIN}\nold\n{readme.END}\nb\n"
    assert readme.with_figures(whole, "new") == f"a\n{readme.BEGIN}\nnew\n{readme.END}\nb\n"
    for text in ("no markers", whole * 2, f"{readme.END}{readme.BEGIN}"):
        with pytest.raises(ValueError, match="README needs"):
            readme.with_figures(text, "new")


def test_the_report_shows_every_result_and_its_plots(tmp_path: Path) -> None:
    for path in COMMITTED:
        (tmp_path / path.name).write_text(path.read_text())
    ours = {"kernel": spread([1e-3]), "host": spread([2e-3]), "of_xor": spread([0.9])}
    memory = {"list": "Qwen3-4B", "tensors": 398, "shrink": 1, "results": {"cuda": ours}}
    results_of = {"machine": {"device": "some GPU"}, "memory-4B": memory, "plans": None}
    results_of["files-disk"] = {"seconds": {"cpu": spread([1.5])}}
    gpu = {
        "device": "some GPU",
        "machine": {"commit": "0123abc"},
        "goals": [
            {"what": "set_lam: ms", "at_most": 10, "found": None, "met": None},
            {"what": "times naive", "at_least": 2.5, "found": 3.0, "met": True},
        ],
        "stages": [{"steps": {name: {"result": result} for name, result in results_of.items()}}],
    }
    (tmp_path / "gpu-some.json").write_text(json.dumps(gpu))
    text = report.write(tmp_path).read_text()
    for path in COMMITTED:
        assert f"## {path.stem}\n" in text
    assert "Qwen3-4B, 398 tensors" in text
    assert "0.900 |" in text
    goal = next(line for line in text.splitlines() if line.startswith("| set_lam: ms"))
    assert [cell.strip() for cell in goal.split("|")[2:4]] == ["at most 10", "not measured"]
    drawn = report.draw(report.load_all(tmp_path), tmp_path / "plots")
    assert set(drawn) == set(report.all_plots())
    for name in drawn:
        assert f"plots/{name}.png" in text
        for kind, start in (("png", b"\x89PNG"), ("svg", b"<?xml")):
            assert (tmp_path / "plots" / f"{name}.{kind}").read_bytes().startswith(start)


def test_counts_beyond_the_band_are_told() -> None:
    rows = [
        {"name": name, "instructions_per_element": value} for name, value in (("a", 1.019), ("b", 0.97), ("c", 1.0))
    ]
    assert BAND == 0.02
    assert [line.split(":")[0] for line in off(rows, {"a": 1.0, "b": 1.0})] == ["b", "c"]


def test_the_hot_kernels_take_as_many_instructions_as_before() -> None:
    try:
        wanted = stored(compiler()[1])
        rows = measure(only=["lerp bf16", "lerp float32", "ties bf16 x3"])
    except CannotCountError as error:
        pytest.skip(str(error))
    assert rows
    assert not off(rows, wanted)


def test_texts_of_the_plots_are_inside_and_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the committed results, and with long names, wide error bars and many threads."""
    figures = captured(monkeypatch)
    found = report.load_all(results.RESULTS)
    drawn = report.draw(found, tmp_path)
    assert len(figures) == len(drawn) > 5
    for record in found.values():
        record["command"] += " --with-an-option=that-is-long" * 6
        for row in record["rows"]:
            row["of_roofline"] = {**row.get("of_roofline", {}), "min": 0.1, "max": 3.0, "median": 0.9}
            if "model" in record["settings"]:
                record["settings"]["model"] = "Qwen3-235B-A22B-Instruct-2507-with-a-long-suffix"
                row["seconds"] = {key: 1234.5 * value for key, value in row["seconds"].items()}
    rows = found["memory"]["rows"]
    rows += [
        {**row, "threads": row["threads"] * n}
        for row in rows
        if row["group"].startswith("threads")
        for n in (4, 16, 64)
    ]
    report.draw(found, tmp_path)
    assert len(figures) == 2 * len(drawn)
    for name, figure in zip(drawn * 2, figures):
        assert text_problems(figure) == [], name


def test_no_number_stands_on_the_line_of_the_loop() -> None:
    """Of the committed results, and with medians and maxima at every height near the line."""
    from matplotlib.figure import Figure

    found = results.load(results.RESULTS / "memory.json")
    moved = 0
    for near in (False, True):
        for i, row in enumerate(row for row in found["rows"] if near and "of_roofline" in row):
            middle = 0.85 + 0.01 * (i % 20)
            row["of_roofline"] = {"min": 0.8, "median": middle, "max": middle + 0.005}
        draw = plots.memory_sizes(found)
        assert draw is not None
        figure = Figure(figsize=(8, 3.5), layout="constrained")
        draw(figure)
        figure.draw_without_rendering()
        (axis,) = figure.axes
        line = axis.transData.transform((0, 1))[1]
        boxes = [(text.get_text(), text.get_window_extent()) for text in axis.texts]
        assert [name for name, box in boxes if box.y0 < line < box.y1] == []
        moved += sum(line < box.y0 < line + 5 for _, box in boxes)  # just above it
    assert moved > 5
