"""IFEval: 541 prompts with instructions that a program can check; the score is prompt-level strict.

The checks are lm-eval's copy of google-research's, as are OpenCompass's. Two things in every public copy are random,
and are not here: langdetect draws a seed of its own, and letter_frequency counts a random letter where the one asked
for is "#" or "!" (two prompts), which here is counted itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

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

# NLTK's sentence model: number_sentences and capital_word_frequency cut text with it.
MODEL = "tokenizers/punkt_tab/english"


def load(where: str | None) -> list[Problem]:
    """Rows of key, prompt, instruction_id_list and kwargs; see `datasets` for `where`."""
    datasets.need("lm_eval", "lm-eval[ifeval]")
    datasets.need("langdetect", "lm-eval[ifeval]")
    _need_model()
    problems = []
    for number, row in enumerate(datasets.rows(SOURCE, where), 1):
        key, prompt, ids, arguments = datasets.fields(
            "ifeval", row, number, "key", "prompt", "instruction_id_list", "kwargs"
        )
        if len(ids) != len(arguments):
            raise DataError(
                f"ifeval: row {number} has {len(ids)} instructions and {len(arguments)} kwargs.", "Each needs its own."
            )
        # The Hub's copy writes every argument of every instruction, null where it has none.
        given = [{name: value for name, value in a.items() if value is not None} for a in arguments]
        problems.append(Problem(str(key), prompt, {"prompt": prompt, "ids": list(ids), "arguments": given}))
    return datasets.unique("ifeval", problems)


def grade(reference: Mapping[str, Any], text: str) -> Verdict:
    """Whether the text follows every instruction of its prompt. There is no answer that votes could count."""
    return Verdict(correct=all(followed(reference, text)), answer=None)


def followed(reference: Mapping[str, Any], text: str) -> list[bool]:
    """Which instructions `text` follows; an empty text follows none.

    Raises:
        DataError: an instruction that the checker does not know.
    """
    if not text.strip():
        return [False] * len(reference["ids"])
    instructions = zip(reference["ids"], reference["arguments"])
    return [_follows(name, arguments, reference["prompt"], text) for name, arguments in instructions]


def _follows(name: str, arguments: Mapping[str, Any], prompt: str, text: str) -> bool:
    checks = _checks()
    if name not in checks:
        raise DataError(f"ifeval: there is no instruction {name}.", f"Known: {', '.join(sorted(checks))}.")
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
    _need_model()  # first: lm-eval tries to download it otherwise, and goes on without
    import langdetect
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    langdetect.DetectorFactory.seed = 0
    return INSTRUCTION_DICT


def _need_model() -> None:
    """Makes NLTK's models under $MI_EVAL_DATA known, and looks for the one needed.

    Raises:
        DataError: it is not there.
    """
    datasets.need("nltk", "lm-eval[ifeval]")
    import nltk

    folder = datasets.data_folder("nltk_data")
    if folder and folder not in nltk.data.path:
        nltk.data.path.insert(0, folder)
    try:
        nltk.data.find(f"{MODEL}/")
    except LookupError as error:
        raise DataError(
            f"ifeval: NLTK's sentence model, {MODEL}, is in none of its folders.",
            "python -m nltk.downloader punkt_tab. Without a network: copy the nltk_data folder it makes elsewhere, "
            f"and set NLTK_DATA to it or lay it into ${datasets.DATA}.",
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
)
