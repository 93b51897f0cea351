"""Where a benchmark's rows come from, and what is said where they do not."""

from __future__ import annotations

import hashlib
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from eval import benchmarks
from eval.benchmarks import datasets
from eval.errors import DataError
from eval.schema import Benchmark, Problem

CONTENT = '{"a": 1}\n\n{"a": 2}\n'


def source(*digests: str) -> datasets.Source:
    known = dict.fromkeys(digests, "the known copy")
    return datasets.Source("toy", "toys", "them/toy", [["one.jsonl"], ["two.json"]], known)


def test_every_benchmark_can_be_got() -> None:
    assert {"aime25", "gpqa", "ifeval"} <= set(benchmarks.names())
    for name in benchmarks.names():
        benchmark = benchmarks.get(name)
        assert isinstance(benchmark, Benchmark)
        assert benchmark.name == name


def test_files_folders_and_the_data_folder(data: Path) -> None:
    folder = data / "toys"
    folder.mkdir()
    (folder / "one.jsonl").write_text(CONTENT)
    (folder / "other.jsonl").write_text("not of this benchmark")
    (folder / "two.csv").write_text("\ufeffa,b\n3,x\n")
    for where in (None, str(folder), str(folder / "one.jsonl")):
        assert datasets.rows(source(), where) == [{"a": 1}, {"a": 2}]
    assert datasets.rows(source(), str(folder / "two.csv")) == [{"a": "3", "b": "x"}]


def test_a_hub_id_is_loaded_from_its_folder(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = data / "snapshot"
    snapshot.mkdir()
    (snapshot / "two.json").write_text('[{"a": 1}]')
    asked = []

    def download(repo: str, *, repo_type: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repo, repo_type, allow_patterns))
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert datasets.rows(source(), None) == datasets.rows(source(), "us/copy") == [{"a": 1}]
    assert asked == [(repo, "dataset", ["one.jsonl", "two.json"]) for repo in ("them/toy", "us/copy")]

    with pytest.raises(DataError, match=r"sha256 [0-9a-f]{64}, which is not a known copy of them/toy"):
        datasets.rows(source("0" * 64), None)
    assert datasets.rows(source("0" * 64), "us/copy") == [{"a": 1}], "another copy is the user's choice"


@pytest.mark.parametrize(
    ("error", "problem"),
    [(GatedRepoError, "is gated"), (RepositoryNotFoundError, "them/toy is not a dataset")],
)
def test_the_hubs_refusals(data: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception], problem: str) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise error.__new__(error)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(DataError, match=rf"(?s){problem}.*--data toy=PATH.*MI_EVAL_DATA/toys"):
        datasets.rows(source(), None)


def test_offline_is_told(data: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)cannot be downloaded and is not in the cache.*--data toy="):
        datasets.rows(source(), None)


def test_a_digest_is_checked(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = data / "copy.jsonl"
    path.write_text(CONTENT)
    known = hashlib.sha256(CONTENT.encode()).hexdigest()
    datasets.rows(source(known), str(path))
    assert not caplog.records
    datasets.rows(source("0" * 64), str(path))
    assert known in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("x.parquet", "", "does not end in"),
        ("x.jsonl", '{"a": 1}\n{"a"', "cannot be read: JSONDecodeError"),
        ("x.jsonl", "[1]\n", "not a list of JSON objects"),
        ("x.json", '{"a": 1}', "not a list of JSON objects"),
        ("folder/x.txt", "", "does not hold one.jsonl or two.json"),
        (None, "", "neither a file, a folder nor a Hub id"),
    ],
)
def test_refusals(data: Path, name: str | None, content: str, problem: str) -> None:
    where = data / (name or "nothing/here/at/all")
    if name:
        where.parent.mkdir(exist_ok=True)
        where.write_text(content)
    with pytest.raises(DataError, match=problem):
        datasets.rows(source(), str(where.parent if where.suffix == ".txt" else where))


def test_problems_are_some_and_differ() -> None:
    one, two = Problem("1", "p", "r"), Problem("2", "p", "r")
    assert datasets.unique("toy", [one, two]) == [one, two]
    with pytest.raises(DataError, match="two problems have the id 1"):
        datasets.unique("toy", [one, one])
    with pytest.raises(DataError, match="no problems"):
        datasets.unique("toy", [])
