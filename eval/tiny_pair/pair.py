"""Writes the pair as two model folders, with a record of its training."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict

import torch
import transformers
from transformers import GenerationConfig, Qwen3ForCausalLM

from ..run.files import write_json
from . import tokenizer
from .train import BASE, INSTRUCT, THINKING, Phase, Reached, Say, train_pair

RECORD = "MADE.json"


def make(
    out: str,
    seed: int,
    say: Say,
    base: Sequence[Phase] = BASE,
    instruct: Phase = INSTRUCT,
    thinking: Phase = THINKING,
) -> None:
    """Trains the pair and writes OUT/instruct, OUT/thinking and OUT/MADE.json. Takes minutes on one core."""
    write(out, seed, *train_pair(seed, say, base, instruct, thinking))


def write(
    out: str, seed: int, instruct: Qwen3ForCausalLM, thinking: Qwen3ForCausalLM, reached: Sequence[Reached]
) -> None:
    """Writes the two model folders and the record."""
    folders = {"instruct": instruct, "thinking": thinking}
    for name, model in folders.items():
        save(model, os.path.join(out, name))
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    record = {
        "command": f"python -m eval.tiny_pair train --seed {seed}",
        "seed": seed,
        "versions": {"python": platform.python_version(), **versions, "machine": platform.machine()},
        "parameters": instruct.num_parameters(),
        "seconds": round(sum(r.seconds for r in reached), 1),
        "cpu_seconds": round(sum(r.cpu_seconds for r in reached), 1),
        "phases": [asdict(r) for r in reached],
        "sha256": {f"{name}/model.safetensors": digest(weights(os.path.join(out, name))) for name in folders},
    }
    write_json(os.path.join(out, RECORD), record)


def weights(folder: str) -> str:
    return os.path.join(folder, "model.safetensors")


def digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def save(model: Qwen3ForCausalLM, folder: str) -> None:
    """Writes a complete model folder: bf16 weights, configs and tokenizer."""
    end = model.config.eos_token_id
    model.generation_config = GenerationConfig(
        eos_token_id=end, pad_token_id=end, do_sample=True, temperature=0.6, top_p=0.95, top_k=20
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save(folder)
