"""What a seed for each request costs: the tokens per second of vLLM with and without them.

    python -m eval.engines.seeds_cost MODEL --sequences 1,16,64

Every request of `eval` has a seed, so that a run does not depend on where it was interrupted. vLLM 0.32 then draws for
each token from the generator of its request, one request after the other (v1/sample/ops/topk_topp_sampler.py): on a CPU
one number, which seeds the noise of that token; on GPUs the noise for the whole vocabulary.
One engine generates the same prompts in both ways in turn; the figures are the medians of the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from typing import Any

WAYS = ("without seeds", "with seeds")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m eval.engines.seeds_cost", description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL", help="model folder")
    parser.add_argument("--sequences", default="1,16,64", metavar="LIST", help="requests together (default: 1,16,64)")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="of each response (default: 64)")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="of both ways in turn (default: 9)")
    arguments = parser.parse_args(argv)
    together = [int(count) for count in arguments.sequences.split(",")]
    llm = _engine(arguments.model, arguments.tokens, max(together))
    print("requests together   without seeds (min - max) tok/s   with seeds (min - max) tok/s   seconds with / without")
    for count in together:
        found = measure(llm, count, arguments.tokens, arguments.rounds)
        speeds = [[count * arguments.tokens / seconds for seconds in found[way]] for way in WAYS]
        shown = [f"{statistics.median(s):10,.0f} ({min(s):,.0f} - {max(s):,.0f})" for s in speeds]
        ratio = statistics.median(b / a for a, b in zip(*(found[way] for way in WAYS)))
        print(f"{count:17}   {'   '.join(shown)}   {ratio:.2f}", flush=True)


def measure(llm: Any, count: int, tokens: int, rounds: int) -> dict[str, list[float]]:
    """Seconds by way, of `rounds` rounds in which the ways alternate; one round before them is not counted."""
    from vllm import SamplingParams

    prompts = [{"prompt_token_ids": [5 + i % 7] * 8} for i in range(count)]
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds + 1):
        for way in WAYS if number % 2 else WAYS[::-1]:
            # The sampling of Thinking models and merges.
            common = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "max_tokens": tokens, "ignore_eos": True}
            sampling = [SamplingParams(**common, seed=i if way == WAYS[1] else None) for i in range(count)]
            began = time.perf_counter()
            llm.generate(prompts, sampling, use_tqdm=False)
            if number:
                found[way].append(time.perf_counter() - began)
    return found


def _engine(model: str, tokens: int, sequences: int) -> Any:
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_LOGGING_LEVEL="ERROR", HF_HUB_OFFLINE="1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    from .installed import vllm_on_cpu
    from .vllm_engine import llm_arguments

    on_cpu = vllm_on_cpu()
    if on_cpu:
        from .imports import hide_cuda_extras

        hide_cuda_extras()
    import vllm

    options = {
        "dtype": "bfloat16",
        "max_num_seqs": sequences,
        "gpu_memory_utilization": None,
        "on_cpu": on_cpu,
        "kv_cache_memory": 1 << 28,
        "tensor_parallel": 1,
        "extra": None,
    }
    return vllm.LLM(model=model, **llm_arguments(tokens + 64, options))


if __name__ == "__main__":
    main()
