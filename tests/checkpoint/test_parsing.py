"""Any header, index, config, recipe or argument is either parsed correctly or rejected in two lines."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ..hostile.attacks.case import SIZES, raw
from ..hostile.fuzz.seeds import SEEDS
from ..hostile.fuzz.targets import NAMES, TARGETS
from ..support import ROOT


@pytest.mark.parametrize("target", TARGETS)
def test_seeds(target: str) -> None:
    for seed in SEEDS[target]:
        TARGETS[target](seed)


@st.composite
def mutated(draw: st.DrawFn, target: str) -> bytes:
    """A seed in which a few pieces are removed, replaced, or copied from another seed."""
    seeds = SEEDS[target]
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 3))):
        begin = draw(st.integers(0, len(data)))
        end = draw(st.integers(begin, min(len(data), begin + 20)))
        other = draw(st.sampled_from(seeds))
        at = draw(st.integers(0, len(other)))
        piece = draw(st.one_of(st.binary(max_size=4), st.just(other[at : at + 30])))
        data = data[:begin] + piece + data[end:]
    return data


@pytest.mark.parametrize("target", TARGETS)
def test_mutated_seeds(target: str) -> None:
    @given(mutated(target))
    def holds(data: bytes) -> None:
        TARGETS[target](data)

    holds()


@pytest.mark.parametrize("target", TARGETS)
@given(data=st.one_of(st.binary(max_size=200), st.text(max_size=100).map(str.encode)))
def test_any_bytes(target: str, data: bytes) -> None:
    TARGETS[target](data)


NUMBERS = st.one_of(st.integers(-2, 40), st.sampled_from([2**31, 2**63, 2**64 - 1, 2**64, 1.5, True, None, "1"]))
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from([*SIZES, "F4", "F8_E8M0", "F64", "", None, 3]),
        "shape": st.one_of(st.lists(NUMBERS, max_size=4), NUMBERS),
        "data_offsets": st.one_of(st.lists(NUMBERS, max_size=3), st.tuples(st.integers(0, 8), st.integers(0, 40))),
        "more": NUMBERS,
    },
)


@given(
    st.dictionaries(st.one_of(st.sampled_from(["a", "b", "__metadata__"]), st.text(max_size=3)), ENTRIES, max_size=3),
    st.integers(0, 64),
)
def test_entries_of_a_header(entries: dict[str, Any], size: int) -> None:
    TARGETS["header"](raw(entries, bytes(size)))


@given(
    st.dictionaries(
        st.one_of(st.sampled_from(NAMES), st.text(max_size=3)),
        st.one_of(
            st.sampled_from(["model-00001-of-00002.safetensors", "../x.safetensors", None, 1]), st.text(max_size=20)
        ),
    )
)
def test_maps_of_an_index(weight_map: dict[str, Any]) -> None:
    TARGETS["index"](json.dumps({"weight_map": weight_map}).encode())


VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
        st.sampled_from(["lerp", "ties", "linear", "slerp", "0:1", "attn", "a", "1/2:", 0.5, 1, 10**400, "1" * 400]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["model", "filter", "value", "weight", "lam", "pattern", "layers", "source", "tokens", "rescale", "t"]
            ),
            inner,
        ),
    ),
    max_leaves=6,
)  # fmt: skip
KEYS = (
    "method",
    "models",
    "base",
    "lam",
    "layers",
    "modules",
    "rules",
    "weight",
    "density",
    "scale",
    "normalize",
    "seed",
)
KEYS += ("dtype", "copy_from", "extrapolate", "merge_method", "base_model", "slices", "parameters", "tokenizer_source")
KEYS += ("tokenizer", "chat_template", "name", "int8_mask")


@given(
    st.sampled_from(["lerp", "linear", "ties", "slerp", "dare_ties", "average"]),
    st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4),
    st.booleans(),
)
def test_values_of_a_recipe(method: str, changes: dict[str, Any], mergekit: bool) -> None:
    base: dict[str, Any] = {"method": method, "models": ["a", "b"], "lam": 0.5}
    if mergekit:
        base = {"merge_method": method, "base_model": "x", "models": [{"model": m} for m in "ab"]}
    TARGETS["recipe"](json.dumps({**base, **changes}).encode())


@given(
    st.dictionaries(st.sampled_from(["r", "lora_alpha", "rank_pattern", "alpha_pattern", "bias", "use_dora"]), VALUES)
)
def test_values_of_an_adapter(changes: dict[str, Any]) -> None:
    TARGETS["adapter"](json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4, **changes}).encode())


@given(st.dictionaries(st.sampled_from(["quant_method", "weight_block_size", "fmt", "activation_scheme"]), VALUES))
def test_values_of_a_quantization(changes: dict[str, Any]) -> None:
    content = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [2, 2], **changes}}
    TARGETS["fp8"](json.dumps(content).encode())


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="needs the fuzzer: pip install -e '.[fuzz]'")
@pytest.mark.parametrize("target", TARGETS)
def test_a_few_seconds_of_fuzzing(target: str, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "tests.hostile.fuzz", target, "--seconds", "5"]
    done = subprocess.run(
        argv, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "DONE" in done.stderr
