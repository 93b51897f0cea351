"""GPQA-Diamond: 198 multiple-choice questions of biology, physics and chemistry.

Its authors ask not to publish the questions as plain text. So no message, log, report or file of a run contains one.
Prompt, order of options and the paper's grading are OpenCompass's (its simple-evals configuration).
"""

from __future__ import annotations

import re

from ..schema import Benchmark, Problem, Verdict
from . import datasets

PROMPT = (
    "Answer the following multiple choice question. The last line of your response should be of the following format: "
    "'ANSWER: $LETTER' (without quotes) where LETTER is one of ABCD. Think step by step before answering.\n\n"
    "{question}\n\nA) {A}\nB) {B}\nC) {C}\nD) {D}"
)
ORDERS = ("ABCD", "BCDA", "CDAB", "DABC")
COLUMNS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")

SOURCE = datasets.Source(
    name="gpqa",
    folder="gpqa",
    hub="Idavidrein/gpqa",
    layouts=[["gpqa_diamond.csv"]],
    digests={"41d1213cd7a4998605a26c2798500652572007161b3a92817ba46b35befcd305": "gpqa_diamond.csv"},
    remedy=(
        "Accept its terms at huggingface.co/datasets/Idavidrein/gpqa and run `hf auth login`, or unpack dataset.zip of "
        "github.com/idavidrein/gpqa (its README holds the password) and pass --data gpqa=PATH/gpqa_diamond.csv."
    ),
)

# The paper's grading: the first match, whatever follows; the letter is compared as written.
PAPER = re.compile(r"(?i)ANSWER\s*:\s*([A-D])")

# Markup around the letter: **Answer:** $\boxed{\text{D}}$, ANSWER: (d), Answer: option D.
MARKUP = r"(?:[\s*_`'\"$({\[\\]|(?:text|textbf|mathrm|mathbf|boxed)(?=\s*\{)|(?:option|choice)\b)*"
# A small letter counts at the end of a line only: "Answer: a photon".
LETTER = re.compile(rf"(?i:{MARKUP})([A-D](?![A-Za-z])|[a-d](?=[\W_]*$))", re.MULTILINE)
# The form that the prompt asks for; then others, which count only if a response has none of that form.
ASKED = re.compile(r"(?i)\banswer[\s*_`'\"]*[:\uff1a]")
STATED = re.compile(
    r"(?i)\\boxed\s*(?=\{)|\b(?:answer|option|choice)(?:\s+(?!is\b)\w+){0,3}\s+(?:is|would\s+be|must\s+be|should\s+be)\b\s*:?"
)
# "A or D", "B, C", and the article of "A photon".
SEVERAL = re.compile(
    rf"[\W_]*(?:\b(?:or|and)\b|[,/&])(?i:{MARKUP})[A-D](?![A-Za-z])(?=[\W_]*(?:$|\bor\b|\band\b|,))", re.M
)
ARTICLE = re.compile(r"[ \t]+(?!(?:is|as|because|since|for|by|due|with|given|but|and|or)\b)[A-Za-z]+")


def load(where: str | None) -> list[Problem]:
    """Reads the rows of the CSV file in order. For `where` see `datasets`."""
    problems = []
    for number, row in enumerate(datasets.rows(SOURCE, where), 1):
        question, *options = datasets.texts("gpqa", row, number, "Question", *COLUMNS)
        problems.append(Problem(str(number), *_prompt(question, options, ORDERS[number % 4])))
    return datasets.unique("gpqa", problems)


def grade(reference: str, text: str) -> Verdict:
    """Grades the last "ANSWER: X", with markup allowed, otherwise the last "the answer is X" or boxed letter.

    A text that ends by naming two letters has no answer. "paper" grades the first match of the paper's pattern.
    """
    found = _last_letter(ASKED, text)
    answer = (_last_letter(STATED, text) if found is None else found) or None
    first = PAPER.search(text)
    return Verdict(answer == reference, answer, {"paper": first is not None and first[1] == reference})


def _last_letter(opening: re.Pattern[str], text: str) -> str | None:
    """The letter after the last match of `opening` that has one; "" if it has several; None if none has any."""
    for match in reversed(list(opening.finditer(text))):
        letter = LETTER.match(text, match.end())
        if letter is None:
            continue
        if SEVERAL.match(text, letter.end()):
            return ""
        if letter[1] == "A" and ARTICLE.match(text, letter.end()):
            continue
        return letter[1].upper()
    return None


def _prompt(question: str, options: list[str], order: str) -> tuple[str, str]:
    """The prompt, and the letter of the right option, which is options[0]."""
    shown = [options["ABCD".index(letter)] for letter in order]
    parts = {"{question}": question, **{f"{{{letter}}}": option for letter, option in zip("ABCD", shown)}}
    # One pass, because a question may contain "{A}".
    prompt = re.sub("|".join(map(re.escape, parts)), lambda match: parts[match[0]], PROMPT)
    return prompt, "ABCD"[shown.index(options[0])]


BENCHMARK = Benchmark(
    name="gpqa",
    title="GPQA-Diamond",
    samples=8,
    max_tokens=65536,
    load=load,
    grade=grade,
    ks=(1, 2, 4, 8),
    private=True,
)
