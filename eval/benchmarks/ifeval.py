"""IFEval: 541 prompts with instructions that a program can check; the score is prompt-level strict.

Beside it stand the other three of its paper (arXiv 2311.07911): "loose" also accepts a response without its first or
last line or without asterisks; "instructions" and "instructions loose" are shares of instructions instead of prompts.

The checks are lm-eval's copy of google-research's, like those of OpenCompass. Two of them are random in every public
copy but not here: langdetect gets a fixed seed; and for "#" and "!" (two prompts) letter_frequency counts that
character instead of a random letter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mi_kernels.errors import did_you_mean

from ..errors import DataError
from ..schema import Benchmark, Problem, Verdict
from . import datasets

SOURCE = datasets.Source(
    name="ifeval",
    folder="ifeval",
    hub="google/IFEval",
    layouts=[["ifeval_input_data.jsonl"], ["input_data.jsonl"]],
    digests={
        "67ffeee0fcb87c317c5b08a2de85557b4a7e96ada6178aa645b4954fe4b53d49": "google-research's input_data.jsonl",
        "6a85310ca8ce15eff755aa08a3a4ff931c7e273e7515ebb3c492ea85fd8288f2": "google/IFEval's",
    },
)

# NLTK's sentence model, which number_sentences and capital_word_frequency use.
MODEL = "tokenizers/punkt_tab/english"


def load(where: str | None) -> list[Problem]:
    """Reads rows with key, prompt, instruction_id_list and kwargs. For `where` see `datasets`."""
    datasets.require(BENCHMARK)
    _need_model()
    problems = []
    for number, row in enumerate(datasets.rows(SOURCE, where), 1):
        (prompt,) = datasets.texts("ifeval", row, number, "prompt")
        key, ids, arguments = datasets.fields("ifeval", row, number, "key", "instruction_id_list", "kwargs")
        _check_lists(number, ids, arguments)
        if len(ids) != len(arguments):
            raise DataError(
                f"ifeval: row {number} has {len(ids)} instructions and {len(arguments)} kwargs.",
                "Each instruction needs its own kwargs.",
            )
        # The Hub's copy lists every argument for every instruction, with null for those it does not have.
        given = [{name: value for name, value in a.items() if value is not None} for a in arguments]
        for name, values in zip(ids, given):
            _check_instruction(number, name, values)
        problems.append(Problem(str(key), prompt, {"prompt": prompt, "ids": list(ids), "arguments": given}))
    return datasets.unique("ifeval", problems)


def _check_lists(number: int, ids: Any, arguments: Any) -> None:
    lists = isinstance(ids, list) and isinstance(arguments, list)
    if not lists or not ids or not all(isinstance(a, dict) for a in arguments):
        raise DataError(
            f"ifeval: row {number}: instruction_id_list is not a list of names, or kwargs not one of objects.",
            "Correct the row in the file.",
        )


def _check_instruction(number: int, name: str, arguments: Mapping[str, Any]) -> None:
    checks = _checks()
    if name not in checks:
        raise DataError(
            f"ifeval: row {number}: unknown instruction {name}.",
            did_you_mean(str(name), checks, f"Known: {', '.join(sorted(checks))}."),
        )
    try:
        checks[name](name).build_description(**arguments)
    except Exception as error:  # the checkers raise whatever their arguments lead to
        raise DataError(
            f"ifeval: row {number}: {name} cannot be checked with these kwargs ({type(error).__name__}: {error}).",
            "Correct the row in the file.",
        ) from error


def grade(reference: Mapping[str, Any], text: str) -> Verdict:
    """Whether the text follows every instruction of its prompt. The verdict has no answer for votes."""
    strict = followed(reference, text)
    loose = followed_loosely(reference, text, strict)
    counts = {"instructions": (sum(strict), len(strict)), "instructions loose": (sum(loose), len(loose))}
    return Verdict(all(strict), None, {"loose": all(loose)}, counts)


def followed(reference: Mapping[str, Any], text: str) -> list[bool]:
    """For each instruction, whether `text` follows it. An empty text follows none.

    Raises:
        DataError: the checker does not know an instruction.
    """
    if not text.strip():
        return [False] * len(reference["ids"])
    instructions = zip(reference["ids"], reference["arguments"])
    return [_follows(name, arguments, reference["prompt"], text) for name, arguments in instructions]


def followed_loosely(reference: Mapping[str, Any], text: str, strict: Sequence[bool]) -> list[bool]:
    """As `followed`, for `text` or a variant: without its first line, its last, both, and these without asterisks.

    Args:
        strict: the result of `followed`.
    """
    lines = text.split("\n")
    cut = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    variants = [v for v in [*cut[1:], *(c.replace("*", "") for c in cut)] if v.strip()]
    found = []
    for name, arguments, done in zip(reference["ids"], reference["arguments"], strict):
        found.append(done or any(_follows(name, arguments, reference["prompt"], v) for v in variants))
    return found


def _follows(name: str, arguments: Mapping[str, Any], prompt: str, text: str) -> bool:
    checks = _checks()
    if name not in checks:
        raise DataError(f"ifeval: unknown instruction {name}.", f"Known: {', '.join(sorted(checks))}.")
    letter = arguments.get("letter", "")
    if name == "keywords:letter_frequency" and letter and not (letter.isascii() and letter.isalpha()):
        return _counted(text.lower().count(letter), arguments)
    check = checks[name](name)
    check.build_description(**arguments)
    if "prompt" in (check.get_instruction_args() or ()):
        check.build_description(prompt=prompt)
    return bool(check.check_following(text))


def _counted(count: int, arguments: Mapping[str, Any]) -> bool:
    wanted = arguments["let_frequency"]
    return count < wanted if arguments["let_relation"] == "less than" else count >= wanted


@functools.cache
def _checks() -> Mapping[str, Callable[[str], Any]]:
    """The checkers by instruction."""
    _need_model()  # first, because lm-eval would try to download it, and ignore a failure
    import langdetect
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    langdetect.DetectorFactory.seed = 0
    return INSTRUCTION_DICT


def _need_model() -> None:
    """Adds $MI_EVAL_DATA/nltk_data to NLTK's path and checks that the sentence model is installed.

    Raises:
        DataError: the model is missing.
    """
    import nltk

    folder = datasets.data_folder("nltk_data")
    if folder and folder not in nltk.data.path:
        nltk.data.path.insert(0, folder)
    try:
        nltk.data.find(f"{MODEL}/")
    except LookupError as error:
        raise DataError(
            f"ifeval: NLTK's sentence model, {MODEL}, is missing.",
            "Run `python -m nltk.downloader punkt_tab`. Without a network, copy the nltk_data folder from another "
            f"machine and set NLTK_DATA to it, or put it into ${datasets.DATA}.",
        ) from error


BENCHMARK = Benchmark(
    name="ifeval",
    title="IFEval",
    samples=8,
    max_tokens=65536,
    load=load,
    grade=grade,
    ks=(1, 2, 4, 8),
    votes=False,
    needs=[(name, "lm-eval[ifeval]") for name in ("lm_eval", "langdetect", "nltk", "immutabledict")],
)
