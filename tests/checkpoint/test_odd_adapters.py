"""Adapters whose names or modules are not those of the base: tied heads and embeddings, other spellings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mi_kernels import CheckpointError, StrictError, lerp_checkpoint
from mi_kernels.checkpoint.open import open_checkpoint

from ..support.families import loaded, logits, make, saved, tensors_of, with_tensors

peft = pytest.importorskip("peft")
pytest.importorskip("transformers")

Q = ["q_proj"]


def adapter(kind: str, folder: Path, **options: Any) -> torch.Tensor:
    """Saves a random adapter of `make(kind, 1)` in float32, and returns the logits of the live PEFT model."""
    torch.manual_seed(3)
    base = make(kind, 1, torch.float32, **BASES.get(kind, {}))
    model = peft.get_peft_model(base, peft.LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, **options))
    for name, parameter in model.named_parameters():
        if "modules_to_save" in name:
            parameter.data.add_(torch.randn_like(parameter) * 0.02)
    model.save_pretrained(folder)
    return logits(model.eval())


def assert_close(found: torch.Tensor, live: torch.Tensor) -> None:
    """PEFT adds B A x to W x, and a merge adds B A to W: both are float32: 64 roundings are enough."""
    assert (found - live).abs().max() <= 64 * 2**-24 * max(1.0, float(live.abs().max()))


BASES: dict[str, dict[str, Any]] = {"qwen3": {"tie_word_embeddings": True}}
TOUCHING: dict[str, tuple[dict[str, Any], bool]] = {  # options of PEFT, and whether the output stays tied
    "head": ({"target_modules": [*Q, "lm_head"]}, False),
    "embedding": ({"target_modules": [*Q, "embed_tokens"]}, False),
    "head and embedding": ({"target_modules": [*Q, "embed_tokens", "lm_head"]}, False),
    "saved head": ({"target_modules": Q, "modules_to_save": ["lm_head"]}, False),
    "saved embedding": ({"target_modules": Q, "modules_to_save": ["embed_tokens"]}, False),
    "both saved": ({"target_modules": Q, "modules_to_save": ["embed_tokens", "lm_head"]}, False),
    "embedding, tied": ({"target_modules": [*Q, "embed_tokens"], "ensure_weight_tying": True}, True),
    "saved embedding, tied": (
        {"target_modules": Q, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        True,
    ),
    "neither": ({"target_modules": Q}, True),
}


@pytest.mark.parametrize("kind", ["qwen3", "gemma2", "gemma3"])
@pytest.mark.parametrize("case", TOUCHING)
@pytest.mark.parametrize("first", [True, False])
def test_a_tied_base(tmp_path: Path, kind: str, case: str, first: bool) -> None:
    options, tied = TOUCHING[case]
    config = BASES.get(kind, {})
    base = saved(kind, tmp_path / "base", 1, dtype=torch.float32, **config)
    other = saved(kind, tmp_path / "other", 2, dtype=torch.float32, **config)
    live = adapter(kind, tmp_path / "adapter", **options)
    pair = [f"{base}+{tmp_path}/adapter", str(other)]
    report = lerp_checkpoint(*(pair if first else pair[::-1]), tmp_path / "out", 0.0 if first else 1.0, progress=False)
    model = loaded(tmp_path / "out")
    assert_close(logits(model), live)
    head, embedding = model.lm_head.weight, model.get_input_embeddings().weight
    assert model.config.tie_word_embeddings == tied == torch.equal(head, embedding)
    assert sum("merged as two tensors" in note for note in report.notes) == (not tied)
    assert len(tensors_of(tmp_path / "out")) == len(tensors_of(base)) + (not tied)


@pytest.mark.parametrize("modules", [["c_attn", "lm_head"], ["lm_head", "c_attn", "c_fc", "c_proj"], ["wte", "c_attn"]])
def test_linear_and_transposed_modules_in_one_adapter(tmp_path: Path, modules: list[str]) -> None:
    """GPT-2 stores the weights of its layers transposed, and its head not. fan_in_fan_out is one flag for all."""
    base, other = (saved("gpt2", tmp_path / n, i, dtype=torch.float32) for i, n in ((1, "base"), (2, "other")))
    live = adapter("gpt2", tmp_path / "adapter", target_modules=modules)
    lerp_checkpoint(f"{base}+{tmp_path}/adapter", other, tmp_path / "out", 0.0, progress=False)
    assert_close(logits(loaded(tmp_path / "out")), live)


def test_names_of_the_module_tree(tmp_path: Path) -> None:
    """The adapter says model.language_model.layers, and the release language_model.model.layers."""
    base, other = (saved("gemma3", tmp_path / n, i, dtype=torch.float32) for i, n in ((1, "base"), (2, "other")))
    live = adapter("gemma3", tmp_path / "adapter", target_modules=r".*(language_model|vision_tower).*\.(q_proj|fc1)")
    report = lerp_checkpoint(f"{base}+{tmp_path}/adapter", other, tmp_path / "out", 0.0, progress=False)
    assert any("other names than in" in note for note in report.notes)
    assert_close(logits(loaded(tmp_path / "out")), live)
    factors = load_file(tmp_path / "adapter/adapter_model.safetensors")
    stem = "base_model.model.model.vision_tower.encoder.layers.0.mlp.fc1.lora_"
    a, b = (next(t for n, t in factors.items() if "layers.0.mlp.fc1" in n and f"lora_{s}" in n) for s in "AB")
    assert stem
    name = next(n for n in tensors_of(base) if n.endswith("layers.0.mlp.fc1.weight"))
    assert torch.allclose(tensors_of(tmp_path / "out")[name], tensors_of(base)[name] + 2 * b @ a, atol=1e-6)


@pytest.mark.parametrize("wrap", ["_orig_mod.{}", "module.{}", "{}"])
def test_names_under_wrappers_and_of_a_raw_state_dict(tmp_path: Path, wrap: str) -> None:
    base, other = (saved("qwen3", tmp_path / n, i, dtype=torch.float32) for i, n in ((1, "base"), (2, "other")))
    BASES["qwen3"] = {"tie_word_embeddings": False}
    try:
        live = adapter("qwen3", tmp_path / "adapter", target_modules=Q)
    finally:
        BASES["qwen3"] = {"tie_word_embeddings": True}
    path = tmp_path / "adapter/adapter_model.safetensors"
    names = {n: wrap.format(n).replace(".lora_A.", ".lora_A.default.") for n in load_file(path)}
    save_file({names[n]: t for n, t in load_file(path).items()}, path)
    lerp_checkpoint(f"{base}+{tmp_path}/adapter", other, tmp_path / "out", 0.0, progress=False)
    assert_close(logits(loaded(tmp_path / "out")), live)


def test_weights_beside_an_adapter_are_named(tmp_path: Path) -> None:
    base, other = (saved("gemma2", tmp_path / n, i, dtype=torch.float32) for i, n in ((1, "base"), (2, "other")))
    adapter("gemma2", tmp_path / "adapter", target_modules=Q)
    folder = tmp_path / "adapter"
    for name in ("optimizer.pt", "rng_state_0.pth", "training_args.bin", "scheduler.pt"):
        (folder / name).write_bytes(b"state")
    pair = (f"{base}+{folder}", other)
    quiet = lerp_checkpoint(*pair, tmp_path / "quiet", 0.5, strict=True, progress=False)
    assert not [note for note in quiet.notes if "beside the adapter" in note]
    for name in ("non_lora_trainables.bin", "new_embeddings.safetensors", "mm_projector.bin"):
        (folder / name).write_bytes(b"weights")
    report = lerp_checkpoint(*pair, tmp_path / "out", 0.5, progress=False)
    (note,) = [note for note in report.notes if "beside the adapter" in note]
    assert all(name in note for name in ("mm_projector.bin", "new_embeddings.safetensors", "non_lora_trainables.bin"))
    with pytest.raises(StrictError, match="beside the adapter"):
        lerp_checkpoint(*pair, tmp_path / "strict", 0.5, strict=True, progress=False)
    assert not (tmp_path / "strict").exists()


def test_two_entries_for_one_tensor_are_refused(tmp_path: Path) -> None:
    base = saved("qwen3", tmp_path / "base", 1)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    q = "layers.0.self_attn.q_proj"
    a, b, norm = torch.ones(4, 64), torch.ones(64, 4), torch.ones(64)
    stem = "base_model.model."
    pair = {f"{stem}model.{q}.lora_A.weight": a, f"{stem}model.{q}.lora_B.weight": b}
    cases = (
        {f"{stem}{q}.lora_A.weight": a, f"{stem}{q}.lora_B.weight": b},
        {f"module.{stem}model.{q}.lora_A.weight": a},
        {f"{stem}model.{q}.lora_A.default.weight": a},
        {f"{stem}model.norm.weight": norm, f"{stem}norm.weight": norm},
    )
    for number, more in enumerate(cases):
        folder = tmp_path / f"adapter{number}"
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps(config))
        save_file({n: t.clone() for n, t in {**pair, **more}.items()}, folder / "adapter_model.safetensors")
        with pytest.raises(CheckpointError, match="mean the same tensor"):
            open_checkpoint(f"{base}+{folder}")


@pytest.mark.parametrize("modules", [["embed_tokens"], ["proj_out"]])
def test_a_head_of_another_name(tmp_path: Path, modules: list[str]) -> None:
    base, other = (saved("whisper", tmp_path / n, i, dtype=torch.float32) for i, n in ((1, "base"), (2, "other")))
    torch.manual_seed(3)
    config = peft.LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, target_modules=[*Q, *modules])
    peft.get_peft_model(make("whisper", 1, torch.float32), config).save_pretrained(tmp_path / "adapter")
    lerp_checkpoint(f"{base}+{tmp_path}/adapter", other, tmp_path / "out", 0.0, progress=False)
    model = loaded(tmp_path / "out")
    assert not torch.equal(model.proj_out.weight, model.model.decoder.embed_tokens.weight)


def test_an_adapter_beside_its_own_base(tmp_path: Path) -> None:
    """The weights of the base are merged, so they are no weights beside the adapter."""
    other = saved("gemma2", tmp_path / "other", 2, dtype=torch.float32)
    base = saved("gemma2", tmp_path / "base", 1, dtype=torch.float32)
    adapter("gemma2", base, target_modules=Q)
    (base / "pytorch_model.bin").write_bytes(b"pickle")
    (base / "trainer_1.bin").write_bytes(b"state")
    for model in (base, base / "model.safetensors"):
        pair = (f"{model}+{base}", other)
        report = lerp_checkpoint(*pair, tmp_path / "out", 0.5, strict=True, overwrite=True, progress=False)
        assert not [note for note in report.notes if "beside the adapter" in note]
    (base / "mm_projector.bin").write_bytes(b"weights")
    [risk] = open_checkpoint(f"{base}+{base}").risks
    assert "mm_projector.bin beside the adapter is not merged" in risk


# DeepSpeed ZeRO-3.


def test_empty_weights_are_those_of_zero_3(tmp_path: Path) -> None:
    plain = saved("qwen3", tmp_path / "plain", 1)
    for case in ("weight", "matrices", "all"):
        tensors = {
            n: torch.empty(0, dtype=t.dtype)
            if case == "all" or (case == "matrices" and t.ndim == 2) or n == "model.norm.weight"
            else t
            for n, t in tensors_of(plain).items()
        }
        folder = with_tensors(plain, tmp_path / case, tensors)
        for pair in ((plain, folder), (folder, plain), (folder, folder)):
            with pytest.raises(CheckpointError, match=r"ZeRO-3.*zero_to_fp32\.py"):
                lerp_checkpoint(*pair, tmp_path / "out", 0.5, progress=False)


@pytest.mark.parametrize("case", ["factors", "saved", "none"])
def test_empty_adapters_are_those_of_zero_3(tmp_path: Path, case: str) -> None:
    base = saved("qwen3", tmp_path / "base", 1)
    folder = tmp_path / "adapter"
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": Q}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    stem = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    tensors = {
        "factors": {f"{stem}{s}.weight": torch.empty(0) for s in "AB"},
        "saved": {
            f"{stem}A.weight": torch.ones(4, 64),
            f"{stem}B.weight": torch.ones(64, 4),
            "base_model.model.model.embed_tokens.weight": torch.empty(0),
        },
        "none": {},
    }[case]
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"ZeRO-3.*stage3_gather_16bit_weights_on_model_save"):
        open_checkpoint(f"{base}+{folder}")
    shutil.rmtree(folder)
