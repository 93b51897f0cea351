"""Reads responses that another program generated: OpenCompass's predictions, lm-eval's samples, JSON lines, JSON.

| written by      | looks like                                                                              |
| --------------- | --------------------------------------------------------------------------------------- |
| `eval`          | {"problem": "1", "sample": 0, "text": ...} per line                                     |
| lm-eval         | {"doc_id": 0, "arguments": ..., "resps": [["..."]]} per line (`--log_samples`)          |
| OpenCompass     | {"0": {"origin_prompt": ..., "prediction": "..."}, "1": ...} in one JSON file           |
| anything else   | one object per response, with one of `TEXTS` and one of `IDS`, or with "prompt"         |

A row belongs to the problem with its id; otherwise to the one whose prompt it holds; otherwise its number, from 0, is
that of the problem.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import DataError
from ..schema import Problem, Response

IDS = ("problem", "id", "key", "problem_id", "question_id")
TEXTS = ("text", "response", "prediction", "resps", "output", "outputs", "completion", "generation", "responses")
TOKENS = ("tokens", "completion_tokens", "num_tokens", "output_tokens")
PROMPTS = ("prompt", "origin_prompt", "arguments", "question", "input", "doc")
NUMBERS = ("doc_id", "index", "idx")

Row = Mapping[str, Any]


def read(path: str, problems: Sequence[Problem]) -> list[Response]:
    """The responses in the file `path`, numbered within each problem in the order of the file.

    `Response.tokens` is -1 where the file does not say it; `seed` and `prompt` are empty.

    Raises:
        DataError: the file cannot be read, or a row has no text or belongs to no problem.
    """
    finder = _Finder(problems)
    counts: defaultdict[str, int] = defaultdict(int)
    found = []
    for number, (row, place) in enumerate(_rows(path)):
        problem = finder.problem(row, number if place is None else place)
        if problem is None:
            raise DataError(
                f"{path}: row {number + 1} belongs to no problem of the benchmark",
                f"Give it an id ({', '.join(IDS)}) or the prompt; --data must name the data that was used.",
            )
        texts = _texts(row)
        if not texts:
            raise DataError(
                f"{path}: row {number + 1} has no response", f"It needs a text under one of: {', '.join(TEXTS)}."
            )
        for text in texts:
            sample = counts[problem]
            counts[problem] += 1
            found.append(Response(problem, sample, 0, "", text, _tokens(row), str(row.get("finish_reason") or "stop")))
    if not found:
        raise DataError(f"{path}: holds no responses", "Give a file of JSON lines, or JSON.")
    return found


def _rows(path: str) -> Iterator[tuple[Row, int | None]]:
    """The rows with their numbers, where the file names them."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            content = file.read()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text: {error}", "Convert the file to UTF-8.") from error
    try:
        whole = json.loads(content)
    except ValueError:
        whole = _lines(path, content)
    if isinstance(whole, dict) and all(key.isdecimal() and isinstance(value, dict) for key, value in whole.items()):
        yield from ((row, int(key)) for key, row in whole.items())  # OpenCompass
        return
    for number, row in enumerate([whole] if isinstance(whole, dict) else whole):
        if not isinstance(row, dict):
            raise DataError(f"{path}: row {number + 1} is not a JSON object", "Each response must be one object.")
        place = next((row[name] for name in NUMBERS if isinstance(row.get(name), int)), None)
        yield row, place


def _lines(path: str, content: str) -> list[Any]:
    rows = []
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise DataError(f"{path}: line {number} is not JSON: {error}", "Correct or remove it.") from error
    return rows


class _Finder:
    """Finds the problem that a row belongs to."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self._ids = [p.id for p in problems]
        self._known = set(self._ids)
        self._prompts = {p.prompt.strip(): p.id for p in problems}

    def problem(self, row: Row, number: int) -> str | None:
        for name in IDS:
            if str(row.get(name)) in self._known:
                return str(row[name])
        for name in PROMPTS:
            if row.get(name) and (found := self._with_prompt(row[name])) is not None:
                return found
        if any(row.get(name) is not None for name in IDS):
            return None  # it has an id, but not one of ours: its number would be a guess
        return self._ids[number] if number < len(self._ids) else None

    def _with_prompt(self, value: Any) -> str | None:
        texts = list(_strings(value))
        for text in texts:
            if text.strip() in self._prompts:
                return self._prompts[text.strip()]
        # With a chat template around it. The longest, because one prompt may be a part of another.
        held = [prompt for prompt in self._prompts if any(prompt in text for text in texts)]
        return self._prompts[max(held, key=len)] if held else None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _texts(row: Row) -> list[str]:
    """The responses of a row: a text, or a list of them, perhaps nested, as lm-eval has it."""
    return next((list(_strings(row[name])) for name in TEXTS if row.get(name) is not None), [])


def _tokens(row: Row) -> int:
    return next((row[n] for n in TOKENS if isinstance(row.get(n), int) and not isinstance(row[n], bool)), -1)
