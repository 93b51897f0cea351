"""Reads and writes the files of a run. JSON files are written atomically; responses are read from JSON lines."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, TypeVar

from mi_kernels.system.atomic import write_file
from mi_kernels.system.faults import problem, remedy

from ..errors import EvalError
from ..schema import ROLES, Interval, ProblemScore, Response, Run, Sampling, Scores, Setting, Verdict

FORMAT = 1  # of run.json and of scores; files without one have it, too

_SIZE_LIMIT = "The file exceeds a size limit: raise `ulimit -f`."

T = TypeVar("T")


@contextmanager
def writing(path: str) -> Iterator[None]:
    """Context: a system call that fails while `path` is written becomes an EvalError with the path and a remedy."""
    try:
        yield
    except OSError as error:
        what = _SIZE_LIMIT if error.errno == errno.EFBIG else remedy(error)
        raise EvalError(
            f"{path}: cannot be written: {problem(error)}",
            f"{what} Finished responses are kept: then run the same command again.",
        ) from error


def write_whole(path: str, content: bytes) -> None:
    """Writes `content`, whole or not at all.

    Raises:
        EvalError: it cannot be written, because the disk is full for example.
    """
    with writing(path):
        write_file(path, content)


def write_json(path: str, content: Any) -> None:
    """Writes `content` as JSON, as `write_whole` does."""
    write_whole(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def save_run(folder: str, run: Run) -> None:
    write_json(os.path.join(folder, "run.json"), {"format": FORMAT, **asdict(run)})


def load_run(folder: str) -> Run:
    """Raises:
    EvalError: run.json is not the record of a run, or that of a newer version.
    FileNotFoundError: `folder` has none.
    """
    restore = "Restore it from a backup, or choose another folder with --out."
    return _loaded(os.path.join(folder, "run.json"), _run, restore)


def save_scores(folder: str, scores: Scores) -> None:
    write_json(os.path.join(folder, f"{scores.benchmark}.scores.json"), {"format": FORMAT, **asdict(scores)})


def load_scores(folder: str, benchmark: str) -> Scores:
    """Raises:
    EvalError: the file does not hold scores, or those of a newer version.
    FileNotFoundError: there is none.
    """
    again = "Remove it and run the same command again: it grades the responses again."
    return _loaded(os.path.join(folder, f"{benchmark}.scores.json"), _scores, again)


def _loaded(path: str, make: Callable[[dict[str, Any]], T], what_to_do: str) -> T:
    with open(path, encoding="utf-8") as file:
        try:
            content = json.load(file)
            version = content.pop("format", 1)
            if isinstance(version, int) and version > FORMAT:
                raise EvalError(
                    f"{path}: has the format {version}, and this version reads up to {FORMAT}",
                    "Use the version of eval that wrote it, or a newer one.",
                )
            return make(content)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise EvalError(f"{path}: cannot be read: {type(error).__name__}: {error}", what_to_do) from error


def _run(content: dict[str, Any]) -> Run:
    settings = {
        name: Setting(**{**setting, "sampling": Sampling(**setting["sampling"])})
        for name, setting in content.pop("settings").items()
    }
    run = Run(**content, settings=settings)
    if run.role not in ROLES or not isinstance(run.name, str) or not isinstance(run.model, str):
        raise ValueError(f"the role is {run.role!r}, the name {run.name!r}, the model {run.model!r}")
    return run


def _scores(content: dict[str, Any]) -> Scores:
    for key in ("mean", "think", "tokens"):
        content[key] = Interval(**content[key])
    for key in ("passes", "votes"):
        content[key] = {int(k): Interval(**v) for k, v in content[key].items()}
    content["others"] = {k: Interval(**v) for k, v in content["others"].items()}
    content["histogram"] = tuple(content["histogram"])
    content["problems"] = [ProblemScore(**p) for p in content["problems"]]
    scores = Scores(**content)
    numbers = [scores.mean.value, scores.think.value, scores.tokens.value, scores.cut, scores.unparsed]
    if not scores.problems or not all(isinstance(number, (int, float)) for number in numbers):
        raise ValueError("a score is not a number, or there are no problems")
    wrong = [p.id for p in scores.problems if not isinstance(p.n, int) or p.n < 1 or p.n != len(p.tokens)]
    if wrong:
        raise ValueError(f"problem {wrong[0]} does not have as many responses as it says")
    return scores


def load_responses(folder: str, benchmark: str) -> list[Response]:
    """The responses of all complete lines. A last line that a kill cut short is ignored.

    Raises:
        ValueError: a complete line is not a response; the message starts with its number.
    """
    path = os.path.join(folder, f"{benchmark}.jsonl")
    if not os.path.exists(path):
        return []
    found = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n"):
                try:
                    found.append(Response(**json.loads(line)))
                except (ValueError, TypeError) as error:
                    raise ValueError(f"line {number}: {error}") from error
    return found


def defect(response: Response) -> str | None:
    """Why `response` cannot be counted: what a server sent may not be a response. None if it can."""
    if not isinstance(response.text, str):
        return f"its text is {response.text!r}"
    if not isinstance(response.tokens, int) or isinstance(response.tokens, bool) or response.tokens < 0:
        return f"its number of tokens is {response.tokens!r}"
    if response.finish_reason not in ("stop", "length"):
        return f"its finish reason is {response.finish_reason!r}, not stop or length"
    return None


def save_verdicts(folder: str, benchmark: str, responses: Iterable[Response], verdicts: Iterable[Verdict]) -> None:
    lines = [
        json.dumps({"problem": r.problem, "sample": r.sample, **asdict(v)}, ensure_ascii=False) + "\n"
        for r, v in zip(responses, verdicts)
    ]
    write_whole(os.path.join(folder, f"{benchmark}.verdicts.jsonl"), "".join(lines).encode())
