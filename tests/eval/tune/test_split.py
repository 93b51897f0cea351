"""The split of problems: by their ids and the seed, and by nothing else."""

from __future__ import annotations

import pytest

from eval.errors import EvalError
from eval.schema import Problem
from eval.tune.split import split

from ..support import landscape

PROBLEMS = [Problem(f"p{i}", f"Problem {i}", i) for i in range(60)]


def ids(problems) -> set[str]:
    return {p.id for p in problems}


def test_every_problem_is_on_one_side():
    made = split(landscape.benchmark(), PROBLEMS, 0.4, 0)
    assert ids(made.search) | ids(made.validation) == ids(PROBLEMS)
    assert not ids(made.search) & ids(made.validation)
    assert len(made.validation) == 24
    assert [p.id for p in made.validation] == [p.id for p in PROBLEMS if p.id in ids(made.validation)]


def test_it_depends_on_ids_and_seed_alone():
    made = split(landscape.benchmark(), PROBLEMS, 0.5, 3)
    turned = split(landscape.benchmark(), PROBLEMS[::-1], 0.5, 3)
    assert [p.id for p in made.search] == [p.id for p in turned.search]
    assert ids(made.validation) == ids(turned.validation)
    assert ids(made.validation) != ids(split(landscape.benchmark(), PROBLEMS, 0.5, 4).validation)
    assert ids(made.validation) != ids(split(landscape.benchmark("other"), PROBLEMS, 0.5, 3).validation)


def test_the_first_problems_of_the_search_are_a_sample_of_all():
    firsts = [int(split(landscape.benchmark(), PROBLEMS, 0.5, seed).search[0].reference) for seed in range(40)]
    assert min(firsts) < 20 < 40 <= max(firsts), "40 draws from 60 problems: all in one third by chance is 1e-7"


@pytest.mark.parametrize(("count", "share", "validation"), [(2, 0.5, 1), (3, 0.01, 1), (3, 0.99, 2), (30, 0.5, 15)])
def test_neither_side_is_empty(count, share, validation):
    made = split(landscape.benchmark(), PROBLEMS[:count], share, 0)
    assert (len(made.search), len(made.validation)) == (count - validation, validation)


def test_one_problem_cannot_be_split():
    with pytest.raises(EvalError, match="has 1 problem, and"):
        split(landscape.benchmark(), PROBLEMS[:1], 0.5, 0)


def test_benchmarks_of_a_split_have_its_problems():
    made = split(landscape.benchmark(), PROBLEMS, 0.5, 0)
    assert made.searched(7, 3).load(None) == made.search[:7]
    assert made.searched(7, 3).samples == 3
    assert made.validated(5).load(None) == made.validation
