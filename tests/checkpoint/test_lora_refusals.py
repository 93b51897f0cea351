"""Adapters that are rejected before any work, with a message of two lines that names the problem."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mi_kernels.cli import main

from ..support.adapters import EMBED, NORM, PREFIX, Q, Tensors, make_pair, write_adapter
from ..support.fp8_models import write


def refused(tmp_path: Path, model: str, other: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Asserts that a merge of `model` is rejected, and returns the two lines of the message."""
    assert main(["lerp", model, str(other), "-o", str(tmp_path / "o"), "--lam", "0.5"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert not (tmp_path / "o").exists()
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "IA3"}, "peft_type is IA3"),
        ({"peft_type": None}, "peft_type is None"),
        ({"use_dora": True}, "use_dora is set"),
        ({"lora_bias": True}, "lora_bias is set"),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "target_parameters is set"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices is set"),
        ({"layer_replication": [[0, 2]]}, "layer_replication is set"),
        ({"bias": "lora_only"}, "bias is 'lora_only'"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'"),
        ({"r": 0}, "r is 0, lora_alpha 7"),
        ({"lora_alpha": None}, "lora_alpha None"),
        ({"lora_alpha": float("nan")}, "lora_alpha nan"),
        ({"lora_alpha": 10**400}, "lora_alpha 1000"),
        ({"rank_pattern": [4]}, "rank_pattern: "),
        ({"alpha_pattern": {"(": 4}}, "alpha_pattern: "),
    ],
)
def test_other_kinds_of_adapters_are_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = make_pair(tmp_path, **changes)
    text = refused(tmp_path, pair.name, pair.folder, capsys)
    assert text.startswith(f"mi-kernels: {pair.adapter_folder}/adapter_config.json: ")
    assert said in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({f"{Q}.lora_magnitude_vector": torch.ones(70)}, f"for {PREFIX}{Q}.lora_magnitude_vector"),
        ({"lm_head.lora_A.weight": torch.ones(4, 20)}, f"for {PREFIX}lm_head.lora_A.weight"),
        ({"model.other.weight": torch.ones(4)}, f"for {PREFIX}model.other.weight"),
        ({f"{NORM}.weight": torch.ones(20, dtype=torch.int32)}, f"for {PREFIX}{NORM}.weight"),
        ({f"{EMBED}.weight": torch.ones(40, 20)}, f"{EMBED}.weight has shape [40, 20], but [33, 20] in the base"),
        ({f"{EMBED}.lora_embedding_A": torch.ones(4, 33)}, f"lacks lora_A or lora_B of {EMBED}"),
        ({f"{Q}.lora_embedding_A": torch.ones(4, 300)}, f"for {PREFIX}{Q}.lora_embedding_A"),
        ({f"{Q}.lora_A.weight": torch.ones(5, 300)}, f"{Q} has lora_A [5, 300] and lora_B [70, 4] for a weight of"),
        ({f"{Q}.lora_A.weight": torch.ones(4, 301)}, f"{Q} has lora_A [4, 301] and lora_B [70, 4] for a weight of"),
        ({f"{NORM}.lora_A.weight": torch.ones(4, 20), f"{NORM}.lora_B.weight": torch.ones(20, 4)}, "a weight of [20]"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    tmp_path: Path, changes: Tensors, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = make_pair(tmp_path)
    bad = write_adapter(tmp_path / "bad", {**pair.adapter, **changes})
    text = refused(tmp_path, f"{pair.folder}+{bad}", pair.folder, capsys)
    assert text.startswith(f"mi-kernels: {bad}/adapter_model.safetensors: ")
    assert said in text


def test_invalid_pairs_of_base_and_adapter_are_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = make_pair(tmp_path)

    def ask(model: str) -> str:
        return refused(tmp_path, model, pair.folder, capsys)

    assert f"{pair.adapter_folder}: is an adapter, not a model" in ask(str(pair.adapter_folder))
    assert f"Write BASE+{pair.adapter_folder}" in ask(str(pair.adapter_folder))
    assert "no such folder, and not BASE+ADAPTER" in ask(f"{pair.folder}+{tmp_path}/nowhere")
    assert f"{pair.folder}/adapter_config.json: missing" in ask(f"{pair.folder}+{pair.folder}")
    gptq = write(tmp_path / "gptq", pair.base, {"quantization_config": {"quant_method": "gptq"}})
    assert f"{gptq}: is quantised (gptq)" in ask(f"{gptq}+{pair.adapter_folder}")
    empty = write_adapter(tmp_path / "empty", {f"{NORM}.weight": torch.ones(20)})
    assert "has no LoRA weights" in ask(f"{pair.folder}+{empty}")
    (pair.adapter_folder / "adapter_model.safetensors").rename(pair.adapter_folder / "adapter_model.bin")
    assert "is a pickle, and pickles are never opened" in ask(pair.name)
    (pair.adapter_folder / "adapter_model.bin").unlink()
    assert "adapter_model.safetensors: missing" in ask(pair.name)
