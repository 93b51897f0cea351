"""Reads the rows of a benchmark from a file, a folder or the Hub, and checks their digests.

A benchmark is searched in this order:

    what the user names              a file, a folder, or the id of a dataset on the Hub
    $MI_EVAL_DATA/FOLDER             the folder of each benchmark; $MI_EVAL_DATA/nltk_data for NLTK's models
    the Hub                          with huggingface_hub: its cache, its token, HF_HUB_OFFLINE
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mi_kernels.checkpoint import hub
from mi_kernels.errors import CheckpointError

from ..errors import DataError
from ..schema import Benchmark, Problem

LOG = logging.getLogger("eval")
DATA = "MI_EVAL_DATA"
POOL = ("pebble", "pebble")  # the processes that grade

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """The files of a benchmark.

    Attributes:
        name: of the benchmark. folder: its folder in $MI_EVAL_DATA.
        hub: the dataset on the Hub that is used by default.
        layouts: the files of the benchmark, in order; several if published copies differ. The first layout whose files
            are all in a folder is used.
        digests: sha256 of known files, and the copy that each belongs to.
        remedy: one line for the user if the files cannot be found; None means a general one.
    """

    name: str
    folder: str
    hub: str
    layouts: Sequence[Sequence[str]]
    digests: Mapping[str, str]
    remedy: str = ""

    @property
    def help(self) -> str:
        return self.remedy or (
            f"Pass --data {self.name}=PATH, put {self.layouts[-1][0]} into ${DATA}/{self.folder}, "
            f"or download {self.hub} on a machine with a network."
        )


def rows(source: Source, where: str | None) -> list[Row]:
    """The rows of a benchmark's files, in order.

    A file from `source.hub` must have a known digest. Any other copy may be a deliberate choice, such as a part of the
    benchmark: it is used with a warning.

    Raises:
        DataError: the files are missing, cannot be downloaded, are not JSON lines, JSON or CSV, or have a wrong digest.
    """
    paths, official = _find(source, where)
    for path in paths:
        _check_digest(source, path, official)
    return [row for path in paths for row in _read(path)]


def fields(benchmark: str, row: Row, number: int, *names: str) -> list[Any]:
    """The values of `names` in row `number` (from 1); a name may be several alternatives: "question|problem".

    Raises:
        DataError: the row has no value for a name.
    """
    values = []
    for name in names:
        found = [a for a in name.split("|") if row.get(a) is not None]
        if not found:
            # The message does not show the columns: in a file without a header line they are a question.
            raise DataError(
                f"{benchmark}: row {number} has no {name.replace('|', ' or ')}.",
                "Each row needs it. The first line of a CSV file must name the columns.",
            )
        values.append(row[found[0]])
    return values


def texts(benchmark: str, row: Row, number: int, *names: str) -> list[str]:
    """As `fields`, for values that must be text.

    Raises:
        DataError: the row has no value for a name, or one that is empty or not text.
    """
    values = fields(benchmark, row, number, *names)
    for name, value in zip(names, values):
        if not isinstance(value, str) or not value.strip():
            what = "is empty" if isinstance(value, str) else f"is not text but {type(value).__name__}"
            # The message does not show the value: it may be a question of a private benchmark.
            raise DataError(
                f"{benchmark}: row {number}: {name.replace('|', ' or ')} {what}.", "Correct the row in the file."
            )
    return values


def unique(name: str, problems: Sequence[Problem]) -> list[Problem]:
    """Returns `problems` after checking that there is at least one and that ids are unique.

    Raises:
        DataError: there is no problem, or two have the same id.
    """
    if not problems:
        raise DataError(f"{name}: the file has no problems.", "Check the path.")
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            raise DataError(f"{name}: two problems have the id {problem.id}.", "Ids must be unique.")
        seen.add(problem.id)
    return list(problems)


def require(benchmark: Benchmark) -> None:
    """Checks that the packages that grading needs are installed: before the engine starts, not after hours.

    Raises:
        DataError: some are not installed. Names all of them.
    """
    missing = [
        (module, package) for module, package in (*benchmark.needs, POOL) if importlib.util.find_spec(module) is None
    ]
    if missing:
        modules = ", ".join(module for module, _ in missing)
        packages = " ".join(f"'{package}'" for package in dict.fromkeys(package for _, package in missing))
        raise DataError(
            f"Grading {benchmark.name} needs {modules}, which cannot be imported here.",
            f"Run `python -m pip install {packages}`, or install mi_kernels with its extra eval.",
        )


def data_folder(name: str) -> str | None:
    """$MI_EVAL_DATA/name if it is a folder, otherwise None."""
    root = os.environ.get(DATA)
    path = os.path.join(root, name) if root else ""
    return path if os.path.isdir(path) else None


def _find(source: Source, where: str | None) -> tuple[list[str], bool]:
    """The files, and whether they come from the official dataset."""
    if where is None:
        where = data_folder(source.folder) or source.hub
    if os.path.isfile(where):
        return [where], False
    if os.path.isdir(where):
        return _in_folder(source, where), False
    if not hub.looks_like_id(where):
        raise DataError(f"{source.name}: {where} is neither a file, a folder nor a Hub id.", source.help)
    return _in_folder(source, _download(source, where)), where == source.hub


def _in_folder(source: Source, folder: str) -> list[str]:
    for layout in source.layouts:
        paths = [os.path.join(folder, name) for name in layout]
        if all(map(os.path.isfile, paths)):
            return paths
    wanted = " or ".join(" + ".join(layout) for layout in source.layouts)
    raise DataError(f"{source.name}: {folder} does not hold {wanted}.", source.help)


def _download(source: Source, hub_id: str) -> str:
    """The folder of the dataset in the Hub's cache."""
    names = sorted({name for layout in source.layouts for name in layout})
    try:
        return hub.download(hub_id, names, "dataset")[0]
    except CheckpointError as error:
        raise DataError(f"{source.name}: {hub_id} {_reason(error.__cause__)}.", source.help) from error


def _reason(error: BaseException | None) -> str:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):  # a kind of RepositoryNotFoundError
        return "is gated, and you do not have access to it"
    if isinstance(error, RepositoryNotFoundError):
        return "is not a dataset on the Hub"
    return f"cannot be downloaded and is not in the cache ({type(error).__name__})"


def _check_digest(source: Source, path: str, official: bool) -> None:
    with open(path, "rb") as file:
        found = hashlib.sha256(file.read()).hexdigest()
    if found in source.digests:
        return
    if official and source.digests:
        raise DataError(
            f"{source.name}: {path} has sha256 {found}, which is not a known copy of {source.hub}.",
            f"The file has changed or is damaged. Delete it, or pass --data {source.name}=PATH to use it anyway.",
        )
    LOG.warning("%s: %s (sha256 %s) is not a known copy of this benchmark: scores may differ", source.name, path, found)


def _read(path: str) -> list[Row]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            if path.endswith(".csv"):
                return list(csv.DictReader(file))
            if path.endswith(".jsonl"):
                content = [json.loads(line) for line in file if line.strip()]
            elif path.endswith(".json"):
                content = json.load(file)
            else:
                raise DataError(
                    f"{path}: the name does not end in .jsonl, .json or .csv.",
                    "Convert the file to one of these formats.",
                )
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {type(error).__name__}.", "The file must be UTF-8 text.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", "Check its permissions.") from error
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise DataError(f"{path} is not a list of JSON objects.", "Each problem must be one object.")
    return content
