"""How many answers vLLM should generate together on GPUs: as many as its KV cache holds.

vLLM 0.32 starts a waiting request as soon as the cache has room for its prompt, up to `max_num_seqs` (1,024 on GPUs of
70 GiB and more, otherwise 256), whatever length its answer will have (v1/core/sched/scheduler.py). When the answers
outgrow the cache, it preempts the request that started last: it frees all its blocks and sets its computed tokens to 0,
so that prompt and answer are computed again (`_preempt_request`). With long answers, 1,024 requests spend their time on
that. With as many as fit, preemption is rare.

An answer in flight holds E[L^2] / (2 E[L]) tokens on average, if answers of length L begin at different times: half of
the mean length if all are equally long, and the whole mean if lengths are exponential. We count the whole mean. While
all answers are young, more would fit; while all are old, fewer do, and vLLM preempts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

UTILIZATION = 0.92  # vLLM's default of gpu_memory_utilization
# The paper's longest mean against its limit: 22,813 of 81,920 tokens (Qwen3-4B-Thinking-2507 on AIME'25, Table 2).
MEAN_OF_LIMIT = 0.28
# What vLLM needs beside weights and cache: activations of 16,384 tokens, logits of all sequences in float32, CUDA
# graphs. Counted for a model like Qwen3-4B; not measured.
_RESERVED = 4 << 30
_LARGE = 70 << 30  # from this memory on, except on an A100, vLLM's default is 1,024

# Parts of a config that say that layers keep something else than the keys and values of every token.
_OTHER_CACHES = (
    "kv_lora_rank",
    "layers_block_type",
    "hybrid_override_pattern",
    "attn_layer_indices",
    "attn_type_list",
    "full_attention_interval",
    "ssm_cfg",
    "state_size",
    "mamba_d_state",
    "attention_chunk_size",
    "is_encoder_decoder",
)


@dataclass(frozen=True)
class Gpu:
    """`memory`: bytes of the whole GPU."""

    name: str
    memory: int

    @property
    def default_sequences(self) -> int:
        """vLLM's `max_num_seqs` if none is given (`EngineArgs.get_batch_defaults`)."""
        return 1024 if self.memory >= _LARGE and "a100" not in self.name.lower() else 256


@dataclass(frozen=True)
class Cache:
    """What a model keeps for each sequence, in bytes on all GPUs together.

    Attributes:
        full: of each token, in the layers that keep all tokens. sliding: in those that keep the last `window`.
        heads: of keys and values. A GPU holds at least one, so more GPUs than heads hold copies.
    """

    full: int
    sliding: int
    window: int
    heads: int

    def sequence(self, tokens: float, gpus: int) -> float:
        """Bytes on one of `gpus` GPUs for `tokens` tokens."""
        whole = self.full * tokens + self.sliding * min(tokens, self.window)
        return whole * max(1, self.heads // gpus) / self.heads


@dataclass(frozen=True)
class Use:
    """How the cache is used.

    Attributes:
        weights: bytes of the weights on all GPUs together. gpus: of one engine.
        utilization: the share of a GPU's memory that vLLM takes. length: the limit of prompt and answer in tokens.
    """

    weights: int
    gpus: int
    utilization: float
    length: int


@dataclass(frozen=True)
class Choice:
    """`sequences`: None leaves vLLM's default. `why`: a sentence."""

    sequences: int | None
    why: str


def choose(gpu: Gpu | None, cache: Cache | str, use: Use) -> Choice:
    """The number of sequences whose expected tokens fit the KV cache, at least 1.

    Args:
        gpu: the smallest; None if it is unknown. cache: of the model, or why it is unknown.

    Example:
        >>> gpu = Gpu("NVIDIA H100 80GB HBM3", 80 << 30)
        >>> qwen3_4b = Cache(full=147456, sliding=0, window=0, heads=8)
        >>> choose(gpu, qwen3_4b, Use(weights=8 << 30, gpus=1, utilization=0.92, length=82432)).sequences
        19
    """
    if isinstance(cache, str):
        return Choice(None, f"max_num_seqs is vLLM's default: {cache}")
    if gpu is None:
        return Choice(None, "max_num_seqs is vLLM's default: the memory of the GPUs is unknown")
    room = use.utilization * gpu.memory - use.weights / use.gpus - _RESERVED
    expected = MEAN_OF_LIMIT * use.length
    fit = int(room // cache.sequence(expected, use.gpus))
    if fit >= gpu.default_sequences:
        return Choice(None, f"max_num_seqs is vLLM's default, {gpu.default_sequences:,}: the KV cache holds {fit:,}")
    return Choice(
        max(fit, 1),
        f"max_num_seqs is {max(fit, 1):,}: the KV cache of {gpu.name} holds about {max(fit, 0):,} answers of "
        f"{expected:,.0f} tokens, {MEAN_OF_LIMIT:.0%} of the limit (change it with --max-num-seqs)",
    )


def of_model(config: Mapping[str, Any], bytes_per_value: int = 2) -> Cache | str:
    """The cache of a model by its config.json (the part of its text model); a reason if the config does not say it."""
    other = next((key for key in _OTHER_CACHES if config.get(key)), None)
    if other is not None:
        return f"the model keeps more than keys and values in its layers ({other})"
    layers, heads = config.get("num_hidden_layers"), config.get("num_attention_heads")
    if not layers or not heads:
        return "config.json does not give the number of layers and heads"
    one = layer_bytes(config, bytes_per_value)
    if not one:
        return "config.json does not give the size of a head"
    kinds = _kinds(config, layers)
    if isinstance(kinds, str):
        return kinds
    sliding = kinds.count("sliding_attention")
    window = int(config["sliding_window"]) if sliding else 0
    return Cache(one * (len(kinds) - sliding), one * sliding, window, config.get("num_key_value_heads") or heads)


def layer_bytes(config: Mapping[str, Any], bytes_per_value: int = 2) -> int:
    """Bytes of the keys and values of one token in one layer; 0 if the config does not give the size of a head."""
    heads = config.get("num_attention_heads") or 1
    size = config.get("head_dim") or (config.get("hidden_size") or 0) // heads
    return int(2 * bytes_per_value * (config.get("num_key_value_heads") or heads) * size)


def _kinds(config: Mapping[str, Any], layers: int) -> Sequence[str] | str:
    """The kind of each layer, or why it is unknown."""
    given = config.get("layer_types")
    if given is not None:
        unknown = sorted(set(given) - {"full_attention", "sliding_attention"})
        if unknown:
            return f"the model has layers of the kind {unknown[0]}"
        if "sliding_attention" in given and not config.get("sliding_window"):
            return "config.json does not give the size of the sliding window"
        return list(given)
    if not config.get("sliding_window") or config.get("use_sliding_window") is False:
        return ["full_attention"] * layers
    if config.get("use_sliding_window") or config.get("sliding_window_pattern"):
        return "config.json does not name the layers with a sliding window"
    return ["sliding_attention"] * layers  # as in Mistral


def smallest_gpu() -> Gpu | None:
    """The visible GPU with the least memory; None if nvidia-smi does not tell."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"]
    return parsed(
        subprocess.run(query, capture_output=True, text=True, check=False).stdout,
        os.environ.get("CUDA_VISIBLE_DEVICES"),
    )


def parsed(listing: str, visible: str | None) -> Gpu | None:
    """The smallest GPU of nvidia-smi's `listing` (index, uuid, name, MiB) that CUDA_VISIBLE_DEVICES names."""
    chosen = None if visible is None else {name.strip() for name in visible.split(",")}
    found = []
    for line in listing.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) != 4 or not parts[3].isdecimal():  # "[N/A]" where CPU and GPU share the memory
            continue
        named = chosen is None or parts[0] in chosen or any(name and parts[1].startswith(name) for name in chosen)
        if named:
            found.append(Gpu(parts[2], int(parts[3]) << 20))
    return min(found, key=lambda gpu: gpu.memory, default=None)


def choose_for(config: Mapping[str, Any], options: Mapping[str, Any], weights: int, length: int) -> Choice:
    """`choose` for a model with `config` and the options of an engine (the fields of `Options`)."""
    extra = options["extra"] or {}
    taken = next(
        (key for key in ("kv_cache_dtype", "kv_cache_memory_bytes", "pipeline_parallel_size") if key in extra), ""
    )
    cache = f"{taken} is given" if taken else of_model(config, 4 if options["dtype"] in ("float32", "float") else 2)
    utilization = options["gpu_memory_utilization"]
    use = Use(weights, options["tensor_parallel"], UTILIZATION if utilization is None else utilization, length)
    return choose(smallest_gpu(), cache, use)
