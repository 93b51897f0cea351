"""One process of `bench.serving.efforts`: what vLLM answers for model folders, as JSON."""

from __future__ import annotations

import json
import sys

from eval.engines.imports import hide_cuda_extras

hide_cuda_extras()  # before vLLM is imported

from vllm import LLM, SamplingParams  # noqa: E402


def main(folders: list[str], prompts: list[str], tokens: int) -> list[list[str]]:
    """The response of each folder to each prompt, as a user turn, without sampling."""
    found = []
    for folder in folders:
        llm = LLM(
            folder,
            dtype="bfloat16",
            enforce_eager=True,
            max_model_len=384,
            seed=0,
            kv_cache_memory_bytes=1 << 27,
            enable_chunked_prefill=False,
        )
        turns = [[{"role": "user", "content": prompt}] for prompt in prompts]
        answers = llm.chat(turns, SamplingParams(temperature=0, max_tokens=tokens), use_tqdm=False)
        found.append([answer.outputs[0].text for answer in answers])
        del llm
    return found


if __name__ == "__main__":
    print(json.dumps(main(**json.load(sys.stdin))))
