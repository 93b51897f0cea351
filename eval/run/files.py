"""Reads and writes the files of a run. JSON files are written atomically; responses are read from JSON lines."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from mi_kernels.system.atomic import write_file

from ..schema import Interval, ProblemScore, Response, Run, Sampling, Scores, Setting, Verdict


def write_json(path: str, content: Any) -> None:
    """Writes `content` as JSON, whole or not at all."""
    write_file(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def save_run(folder: str, run: Run) -> None:
    write_json(os.path.join(folder, "run.json"), asdict(run))


def load_run(folder: str) -> Run:
    with open(os.path.join(folder, "run.json"), encoding="utf-8") as file:
        content = json.load(file)
    settings = {
        name: Setting(**{**setting, "sampling": Sampling(**setting["sampling"])})
        for name, setting in content.pop("settings").items()
    }
    return Run(**content, settings=settings)


def save_scores(folder: str, scores: Scores) -> None:
    write_json(os.path.join(folder, f"{scores.benchmark}.scores.json"), asdict(scores))


def load_scores(folder: str, benchmark: str) -> Scores:
    with open(os.path.join(folder, f"{benchmark}.scores.json"), encoding="utf-8") as file:
        content = json.load(file)
    for key in ("mean", "think", "tokens"):
        content[key] = Interval(**content[key])
    for key in ("passes", "votes"):
        content[key] = {int(k): Interval(**v) for k, v in content[key].items()}
    content["others"] = {k: Interval(**v) for k, v in content["others"].items()}
    content["histogram"] = tuple(content["histogram"])
    content["problems"] = [ProblemScore(**p) for p in content["problems"]]
    return Scores(**content)


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
    write_file(os.path.join(folder, f"{benchmark}.verdicts.jsonl"), "".join(lines).encode())
