"""One process of `bench.serving`: starts an engine, times what it is asked for, and prints the seconds as JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from eval.engines.imports import hide_cuda_extras

hide_cuda_extras()  # before vLLM is imported

from vllm import LLM, SamplingParams  # noqa: E402

import mi_kernels  # noqa: E402
from mi_kernels.integrations.vllm import LIVE, register, set_lam  # noqa: E402
from mi_kernels.recipe.interpolation import Recipe  # noqa: E402

LAM = 0.8
CONFIG = {
    "dtype": "bfloat16",
    "enforce_eager": True,
    "max_model_len": 256,
    "max_num_seqs": 4,
    "seed": 0,
    "kv_cache_memory_bytes": 1 << 28,
    "skip_tokenizer_init": True,
}


def main(what: str, instruct: str, thinking: str, rounds: str) -> dict[str, list[float]]:
    register()
    if what == "plain":
        return {"start": [seconds(lambda: LLM(instruct, **CONFIG))]}
    if what == "merged":
        return {"start": [seconds(lambda: merged(instruct, thinking, LAM))]}
    return change(merged(instruct, thinking, LAM), int(rounds))


def merged(instruct: str, thinking: str, lam: float) -> LLM:
    config = {"other": thinking, "lam": lam}
    return LLM(
        instruct,
        load_format="mi_kernels",
        model_loader_extra_config=config,
        worker_extension_cls=LIVE,
        **CONFIG,
    )


def change(llm: LLM, rounds: int) -> dict[str, list[float]]:
    """Seconds of set_lam, of vLLM reloading weights in memory, and of one pass of the kernels over both models."""
    started = tokens(llm)
    set_lam(llm, 0.3)
    if tokens(llm) == started:
        raise SystemExit("lam 0.3 and lam 0.8 give the same tokens: not timed")
    set_lam(llm, LAM)
    if tokens(llm) != started:
        raise SystemExit("lam 0.8 gives other tokens than at the start: not timed")
    live: Any = llm.collective_rpc(lambda worker: worker.get_model().mi_kernels_live)[0]
    a, b = (dict(live._resident.lerp(Recipe(lam))) for lam in (0.0, 1.0))
    outs = [tensor.clone() for tensor in a.values()]
    ways: dict[str, Callable[[], Any]] = {
        "set_lam": lambda: set_lam(llm, LAM),
        "reload": lambda: live.reload(iter(a.items())),
        "pass": lambda: mi_kernels.multi_lerp(list(a.values()), list(b.values()), LAM, outs),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(seconds(way))
    return found


def tokens(llm: LLM) -> list[int]:
    sampling = SamplingParams(temperature=0, max_tokens=8, detokenize=False, ignore_eos=True)
    prompt = {"prompt_token_ids": [i * 37 % 1000 for i in range(64)]}
    return list(llm.generate([prompt], sampling, use_tqdm=False)[0].outputs[0].token_ids)


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    kept = work()
    took = time.perf_counter() - began
    del kept
    return took


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
