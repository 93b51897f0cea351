"""How many answers fit a GPU's KV cache: made-up GPUs and the configs of real models."""

from __future__ import annotations

from typing import Any

import pytest

from eval.engines import kv_cache
from eval.engines.kv_cache import Cache, Gpu, Use

H100 = Gpu("NVIDIA H100 80GB HBM3", 80 << 30)
SMALL = Gpu("NVIDIA GeForce RTX 4090", 24 << 30)
QWEN3_4B = {
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_size": 2560,
    "sliding_window": None,
    "use_sliding_window": False,
}
LONG = Use(weights=8 << 30, gpus=1, utilization=0.92, length=82432)


def cache(**changes: Any) -> Cache | str:
    return kv_cache.of_model({**QWEN3_4B, **changes})


def test_long_answers_of_a_4b_on_an_h100() -> None:
    """2 * 2 bytes * 36 layers * 8 heads * 128 = 147,456 a token; 61.6 GiB beside weights and 4 GiB of work."""
    found = kv_cache.choose(H100, cache(), LONG)
    room = 0.92 * 80 * 2**30 - 12 * 2**30
    assert found.sequences == int(room / (147456 * 0.28 * 82432)) == 19
    assert "max_num_seqs is 19" in found.why
    assert "--max-num-seqs" in found.why


def test_short_answers_leave_vllms_default() -> None:
    """More than vLLM would generate together: 1,024 on an H100, 256 on small GPUs and on an A100."""
    short = Use(8 << 30, 1, 0.92, 1000)
    assert kv_cache.choose(H100, cache(), short).sequences is None
    assert kv_cache.choose(SMALL, cache(), Use(8 << 30, 1, 0.92, 600)).sequences is None
    a100 = Gpu("NVIDIA A100-SXM4-80GB", 80 << 30)
    between = Use(8 << 30, 1, 0.92, 4000)  # 400 fit
    assert kv_cache.choose(a100, cache(), between).sequences is None
    found = kv_cache.choose(H100, cache(), between).sequences
    assert found is not None
    assert 256 < found < 1024


def test_more_memory_fewer_weights_and_shorter_answers_make_more_room() -> None:
    def fit(gpu: Gpu = H100, **changes: Any) -> int:
        values = {"weights": LONG.weights, "gpus": 1, "utilization": 0.92, "length": LONG.length, **changes}
        found = kv_cache.choose(gpu, cache(), Use(**values)).sequences
        assert found is not None
        return found

    assert fit(SMALL) < fit() < fit(Gpu("H200", 141 << 30))
    assert fit(weights=60 << 30) < fit() < fit(weights=1 << 30)
    assert fit(utilization=0.5) < fit()
    assert fit(length=2 * LONG.length) < fit() < fit(length=LONG.length // 2)


def test_gpus_of_one_engine_share_weights_and_heads() -> None:
    """On two, each holds half of the weights and half of the heads; on 16, two hold a copy of each of 8 heads."""
    model = cache()
    assert isinstance(model, Cache)
    assert [model.sequence(1000, gpus) for gpus in (1, 2, 8, 16)] == [147456e3, 73728e3, 18432e3, 18432e3]
    two = kv_cache.choose(H100, model, Use(LONG.weights, 2, 0.92, LONG.length)).sequences
    assert two == int((0.92 * 80 - 4 - 4) * 2**30 / (73728 * 0.28 * 82432))


def test_a_model_that_leaves_no_room_gets_one_sequence() -> None:
    """vLLM then explains what does not fit; 0 would be refused as an argument."""
    assert kv_cache.choose(SMALL, cache(), Use(60 << 30, 1, 0.92, 82432)).sequences == 1


def test_layers_with_a_window_keep_no_more_than_it() -> None:
    kinds = ["sliding_attention", "sliding_attention", "full_attention"] * 12
    model = cache(layer_types=kinds, sliding_window=4096)
    assert model == Cache(full=12 * 4096, sliding=24 * 4096, window=4096, heads=8)
    assert model.sequence(1000, 1) == 147456e3
    assert model.sequence(10000, 1) == 12 * 4096 * 10000 + 24 * 4096 * 4096
    mistral = cache(use_sliding_window=None, sliding_window=4096)
    assert mistral == Cache(full=0, sliding=36 * 4096, window=4096, heads=8)
    assert cache(sliding_window=4096) == cache()  # Qwen names a window that it does not use


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"kv_lora_rank": 512}, "kv_lora_rank"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "linear_attention"),
        ({"layer_types": ["sliding_attention"]}, "size of the sliding window"),
        ({"use_sliding_window": True, "sliding_window": 4096}, "does not name the layers"),
        ({"num_hidden_layers": None}, "number of layers"),
        ({"head_dim": None, "hidden_size": None}, "size of a head"),
    ],
)
def test_what_the_config_does_not_say_leaves_the_default(changes: dict[str, Any], why: str) -> None:
    found = kv_cache.choose(H100, cache(**changes), LONG)
    assert found.sequences is None
    assert found.why.startswith("max_num_seqs is vLLM's default: ")
    assert why in found.why


def test_a_gpu_that_is_not_known_leaves_the_default() -> None:
    found = kv_cache.choose(None, cache(), LONG)
    assert (found.sequences, found.why) == (
        None,
        "max_num_seqs is vLLM's default: the memory of the GPUs is unknown",
    )


LISTING = """0, GPU-aaaa, NVIDIA H100 80GB HBM3, 81559
1, GPU-bbbb, NVIDIA L4, 23034
2, GPU-cccc, NVIDIA GB10, [N/A]
"""


@pytest.mark.parametrize(
    ("visible", "memory"),
    [(None, 23034), ("0", 81559), ("GPU-aaaa", 81559), ("0, 1", 23034), ("2", None), ("", None)],
)
def test_the_smallest_visible_gpu_counts(visible: str | None, memory: int | None) -> None:
    found = kv_cache.parsed(LISTING, visible)
    assert (found and found.memory >> 20) == memory


@pytest.mark.parametrize(
    ("options", "sequences"),
    [
        ({}, 19),
        ({"gpu_memory_utilization": 0.5}, 8),
        ({"dtype": "float32"}, 9),
        ({"extra": {"kv_cache_dtype": "fp8"}}, None),
    ],
)
def test_the_options_of_an_engine(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], sequences: int | None
) -> None:
    monkeypatch.setattr(kv_cache, "smallest_gpu", lambda: H100)
    given = {"extra": None, "dtype": "auto", "gpu_memory_utilization": None, "tensor_parallel": 1, **options}
    assert kv_cache.choose_for(QWEN3_4B, given, 8 << 30, 82432).sequences == sequences
