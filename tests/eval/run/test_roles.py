"""What a model is, and how the paper samples it."""

from __future__ import annotations

import json

import pytest

from eval.errors import EvalError
from eval.run.roles import identify, paper_sampling
from eval.schema import Sampling

RECORD = {"method": "lerp", "lam": 0.8, "layers": None, "modules": None, "rules": []}


@pytest.mark.parametrize(
    ("role", "max_tokens", "sampling"),
    [
        ("instruct", 65536, Sampling(0.7, 0.8, 20, 65536)),
        ("thinking", 81920, Sampling(0.6, 0.95, 20, 81920)),
        ("merged", 1, Sampling(0.6, 0.95, 20, 1)),
    ],
)
def test_sampling_is_the_papers(role, max_tokens, sampling):
    assert paper_sampling(role, max_tokens) == sampling


@pytest.mark.parametrize(
    ("changes", "lam"),
    [
        ({}, 0.8),
        ({"lam": 1}, 1.0),
        ({"layers": "12:36"}, None),
        ({"modules": "ffn"}, None),
        ({"rules": [{"layers": "0", "lam": 0.1}]}, None),
        ({"lam": {"start": 0, "stop": 1}}, None),
        ({"method": "ties"}, None),
    ],
)
def test_a_merge_says_so_itself_and_only_a_plain_one_has_a_lam(tmp_path, changes, lam):
    record = {**RECORD, **changes}
    (tmp_path / "mi_kernels.json").write_text(json.dumps(record))
    found = identify("Thinking-Instruct", str(tmp_path))
    assert (found.role, found.lam, found.merge) == ("merged", lam, record)
    with pytest.raises(EvalError, match="says that the model is merged, but --role is instruct"):
        identify("m", str(tmp_path), "instruct")


@pytest.mark.parametrize(
    ("model", "asked", "role"),
    [
        ("Qwen/Qwen3-4B-Instruct-2507", None, "instruct"),
        ("./thinking/", None, "thinking"),
        ("/cache/models--Qwen--Qwen3-4B-Thinking-2507/snapshots/0a1b2c", None, "thinking"),
        ("Qwen/Qwen3-4B-Instruct-2507", "thinking", "thinking"),
        ("/instruct/base", "merged", "merged"),
    ],
)
def test_other_models_are_what_is_asked_or_what_their_name_says(tmp_path, model, asked, role):
    assert identify(model, str(tmp_path), asked).role == role
    assert identify(model, None, asked).role == role


@pytest.mark.parametrize("model", ["/instruct/base", "instruct-thinking-ties", "mi-0.8"])
def test_nothing_is_guessed(tmp_path, model):
    with pytest.raises(EvalError, match="the role is unknown") as caught:
        identify(model, str(tmp_path))
    assert "--role" in caught.value.remedy


def test_a_role_that_is_none_is_refused(tmp_path):
    with pytest.raises(EvalError, match="--role is 'chat'"):
        identify("m", str(tmp_path), "chat")
