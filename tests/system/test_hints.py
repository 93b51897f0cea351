"""The name that is meant by a misspelt one, or by the one of another tool."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mi_kernels.errors import OTHER_NAMES, did_you_mean, meant, nearest
from mi_kernels.merge.options import Options


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("modles", ["models", "modules"], "models"),  # one error each: the first known one
        ("modles", ["modules", "models"], "modules"),
        ("moduls", ["models", "modules"], "modules"),  # a letter is missing: likelier than a wrong one
        ("fsh", ["zsh", "fish"], "fish"),
        ("thinknig", ["thinking", "think"], "thinking"),
        ("Task-Arithmetic", ["ties", "task_arithmetic"], "task_arithmetic"),
        ("zzz", ["models", "modules"], None),
        ("", ["models"], None),
    ],
)
def test_the_fewest_typing_errors_win(word: str, known: list[str], expected: str | None) -> None:
    assert meant(word, known) == expected
    assert nearest(word, known, 1) == ([expected] if expected else [])


def test_two_neighbours_that_changed_places_are_one_error() -> None:
    """Against a word with one more letter and one letter changed, which difflib's ratio prefers."""
    for name in ("density", "overwrite", "instruct"):
        for i in range(1, len(name) - 2):
            wrong = name[:i] + name[i + 1] + name[i] + name[i + 2 :]
            if wrong != name:
                two_errors = wrong[: i + 1] + "z" + wrong[i + 1 :] + "q"
                assert nearest(wrong, [two_errors, name]) == [name], wrong


def test_long_words_take_no_time() -> None:
    rng = np.random.default_rng(5)
    words = ["".join(rng.choice(list("ab"), 5000)) for _ in range(200)]
    assert nearest(words[7] + "x", words) == [words[7]]  # compared by their first letters


@pytest.mark.parametrize("word", ["alpha", "lambda", "lambda_", "t", "weight", "ratio", "lerp_weight", "Merge-Ratio"])
def test_other_tools_names_of_lam(word: str) -> None:
    assert meant(word, ["scale", "lam", "layers"]) == "lam"
    assert meant(word, ["out", "lams"]) == "lams"
    assert did_you_mean(word, ["density", "base"], "none") == "none"


def test_a_near_name_comes_before_another_tools_name() -> None:
    assert meant("weights", ["lam", "weight"]) == "weight"
    assert meant("module", ["modules", "mask"]) == "modules"


def test_no_name_of_ours_stands_for_another() -> None:
    """Otherwise a hint would lead from one argument that exists to another."""
    assert not set(OTHER_NAMES) & {*Options.__dataclass_fields__, "instruct", "thinking", "out", "lam", "layers"}
    for one, other in itertools.product(OTHER_NAMES, OTHER_NAMES.values()):
        assert one != other
