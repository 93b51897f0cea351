"""AIME'25: 30 problems whose answers are integers from 0 to 999.

Prompt and grading are OpenCompass's: its AIME 2025 configuration and its MATHVerifyEvaluator. "last box" is a second
grading of ours: it counts a corrected last box, and text, units or degrees around the number.
"""

from __future__ import annotations

import functools
import logging
import re
from decimal import Decimal
from typing import Any

from ..errors import DataError
from ..schema import Benchmark, Problem, Verdict
from . import datasets

PROMPT = "{question}\nPlease reason step by step, and put your final answer within \\boxed{}."

LAST_BOX = "last box"  # a second grading, beside the paper's

SOURCE = datasets.Source(
    name="aime25",
    folder="aime2025",
    hub="opencompass/AIME2025",
    layouts=[["aime2025-I.jsonl", "aime2025-II.jsonl"], ["test.jsonl"]],
    digests={
        "b91b3c96f05d9635d2a0692b124ebe023c1ff59cb19c074275e6c4b349d0659e": "opencompass/AIME2025, I",
        "16a2dcfbbf9db1b11f8a69a3ba5e4cac73e3641b19a37e2307e9c12240bbed5e": "opencompass/AIME2025, II",
        "2d2f44b7d9808c2ad3e4c4e81ad03e0faf3180b9283ce9411468a6c66a6449c5": "QwQ's, with ids and without its prompt",
    },
)


def load(where: str | None) -> list[Problem]:
    """Reads rows with question, answer and optionally id. For `where` see `datasets`."""
    datasets.require(BENCHMARK)
    problems = []
    for number, row in enumerate(datasets.rows(SOURCE, where), 1):
        (question,) = datasets.texts("aime25", row, number, "question|problem")
        (answer,) = datasets.fields("aime25", row, number, "answer")
        if not _is_number(str(answer)):
            raise DataError(
                f"aime25: row {number}: the answer is {str(answer)[:60]!r}, which is not a number.",
                "Every problem needs the number that a right answer equals: correct the row in the file.",
            )
        name = number if row.get("id") is None else row["id"]
        problems.append(Problem(str(name), PROMPT.replace("{question}", question), str(answer)))
    return datasets.unique("aime25", problems)


def _is_number(reference: str) -> bool:
    r"""Whether math-verify reads `reference` as a number, such as 70 or \frac{1}{2}."""
    if re.fullmatch(r"\s*-?\d+(\.\d+)?\s*", reference):  # all of AIME: math-verify takes seconds to import
        return True
    return any(getattr(value, "is_number", False) for value in _math_verify().gold(reference))


def grade(reference: str, text: str) -> Verdict:
    """Whether the content of the last box equals the reference, by math-verify.

    The calls are those of MATHVerifyEvaluator, with the same order of arguments, because `verify` is not symmetric.
    math-verify reads the last box. Boxes joined to it by a comma, a word or a line break of less than 70 characters
    are read with it, as a set. Its timeouts use SIGALRM, so this must run in a main thread.
    """
    math = _math_verify()
    others = {LAST_BOX: _last_box(reference, text)}
    predicted = math.predicted(text)
    if not predicted:
        return Verdict(correct=False, answer=None, others=others)
    correct = math.equal(predicted, math.gold(reference))
    return Verdict(correct, reference if correct else _canonical(predicted), others)


def _last_box(reference: str, text: str) -> bool:
    """Whether the last closed box alone equals the reference, with text, units and degrees around a number ignored."""
    content = _last_content(text)
    if content is None:
        return False
    number = _plain_number(content)
    if number is not None and re.fullmatch(r"\s*-?\d+(\.\d+)?\s*", reference):
        return number == Decimal(reference)
    math = _math_verify()
    predicted = math.predicted(rf"\boxed{{{content}}}")
    return bool(predicted) and math.equal(predicted, math.gold(reference))


def _last_content(text: str) -> str | None:
    """The content of the last \\boxed{...} that is closed; None if there is none."""
    for start in reversed([match.end() for match in re.finditer(r"\\boxed\s*\{", text)]):
        depth = 1
        for position, character in enumerate(text[start:], start):
            depth += (character == "{") - (character == "}")
            if depth == 0:
                return text[start:position]
    return None


_WRAPPED = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|boxed)\s*\{([^{}]*)\}")
_DEGREES = re.compile(r"\^?\s*\{?\s*\\(?:circ|degree)\s*\}?|\u00b0")
_NUMBER = re.compile(r"(-?\d[\d,]*(?:\.\d+)?)\s*(?:[A-Za-z]+(?:\s*\^\s*\{?\d\}?)?\s*){0,3}\.?")


def _plain_number(content: str) -> Decimal | None:
    """The one number in the content of a box: "070", "70^\\circ", "70 cm", "70 = m+n"; None if it is something else."""
    while (unwrapped := _WRAPPED.sub(r" \1 ", content)) != content:
        content = unwrapped
    for pattern in (_DEGREES, re.compile(r"\\[,;:! ]|\\%|%|\\?\$|~")):
        content = pattern.sub(" ", content)
    sides = [side.strip() for side in content.split("=")]
    found = {Decimal(m[1].replace(",", "")) for side in sides if (m := _NUMBER.fullmatch(side))}
    return found.pop() if len(found) == 1 else None


class _MathVerify:
    """math-verify with the settings of OpenCompass. OpenCompass also sets `equations`, which has no effect today."""

    def __init__(self) -> None:
        import math_verify
        from latex2sympy2_extended import NormalizationConfig

        # It warns about its own timeouts; the scores count those responses.
        logging.getLogger("math_verify").setLevel(logging.ERROR)
        self._library = math_verify
        self._reference = [math_verify.LatexExtractionConfig(), math_verify.ExprExtractionConfig()]
        self._prediction = [
            math_verify.LatexExtractionConfig(
                normalization_config=NormalizationConfig(
                    basic_latex=True, units=True, malformed_operators=False, nits=False, boxed="all"
                ),
                boxed_match_priority=0,
                try_extract_without_anchor=False,
            )
        ]

    def predicted(self, text: str) -> list[Any]:
        return self._library.parse(text, extraction_config=self._prediction, extraction_mode="first_match")

    def gold(self, reference: str) -> list[Any]:
        return self._library.parse(f"${reference}$", extraction_config=self._reference, extraction_mode="first_match")

    def equal(self, predicted: list[Any], gold: list[Any]) -> bool:
        return bool(self._library.verify(predicted, gold))


@functools.cache
def _math_verify() -> _MathVerify:
    return _MathVerify()


def _canonical(predicted: list[Any]) -> str:
    """A wrong answer, normalised for votes: m + n = 71, 71 and 71.0 are equal. Correct answers are the reference."""
    value = getattr(predicted[0], "rhs", predicted[0])
    try:
        whole = getattr(value, "is_Float", False) and float(value).is_integer()
        return str(int(value) if whole else value)
    except (ValueError, OverflowError):  # a number with more digits than Python prints
        return str(predicted[-1])


BENCHMARK = Benchmark(
    name="aime25",
    title="AIME'25",
    samples=64,
    max_tokens=81920,
    load=load,
    grade=grade,
    ks=(1, 2, 4, 8, 16, 32, 64),
    needs=[(name, "math-verify[antlr4_13_2]") for name in ("math_verify", "latex2sympy2_extended")],
)
