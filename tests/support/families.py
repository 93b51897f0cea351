"""Tiny models of real architectures, made and saved by transformers, and what it says when it loads a folder."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from mi_kernels import lerp_checkpoint

Tensors = dict[str, torch.Tensor]
LAM = 0.3
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"

_TEXT: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GEMMA = {**_TEXT, "sliding_window": 32, "layer_types": ["full_attention"] * 2}


def _qwen3(**kw: Any) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**{**_TEXT, "tie_word_embeddings": False, **kw}))


def _qwen3_moe(**kw: Any) -> Any:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**{**_TEXT, "tie_word_embeddings": False, **experts, **kw}))


def _qwen3_next(**kw: Any) -> Any:
    from transformers import Qwen3NextConfig, Qwen3NextForCausalLM

    linear = {"num_key_heads": 2, "num_value_heads": 4, "key_head_dim": 16, "value_head_dim": 16}
    config = {
        **_TEXT,
        **{f"linear_{key}": value for key, value in linear.items()},
        "tie_word_embeddings": False,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
        "decoder_sparse_step": 1,
        "layer_types": ["linear_attention", "full_attention"],
    }
    return Qwen3NextForCausalLM(Qwen3NextConfig(**{**config, **kw}))


def _mixtral(**kw: Any) -> Any:
    from transformers import MixtralConfig, MixtralForCausalLM

    return MixtralForCausalLM(MixtralConfig(**{**_TEXT, "num_local_experts": 4, "tie_word_embeddings": False, **kw}))


def _gemma2(**kw: Any) -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    return Gemma2ForCausalLM(Gemma2Config(**{**_TEXT, "sliding_window": 64, **kw}))


def _gemma3_text(**kw: Any) -> Any:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    return Gemma3ForCausalLM(Gemma3TextConfig(**{**_GEMMA, **kw}))


def _gemma3(**kw: Any) -> Any:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
        "vision_use_head": False,
    }
    tokens = {"boi_token_index": 250, "eoi_token_index": 251, "image_token_index": 252}
    return Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=_GEMMA, vision_config=vision, mm_tokens_per_image=4, **tokens, **kw)
    )


def _qwen2_5_vl(**kw: Any) -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    rope = {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3], "rope_type": "default"}}
    text = {k: v for k, v in _TEXT.items() if k != "head_dim"} | rope | {"tie_word_embeddings": False}
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 64,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "fullatt_block_indexes": [1],
    }
    tokens = {"image_token_id": 250, "video_token_id": 251, "vision_start_token_id": 252, "vision_end_token_id": 253}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **tokens, **kw)
    return Qwen2_5_VLForConditionalGeneration(config)


def _llava(**kw: Any) -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    text = LlamaConfig(**_TEXT)
    return LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=250, **kw)
    )


def _gpt2(**kw: Any) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": 256, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
    return GPT2LMHeadModel(GPT2Config(**{**sizes, **kw}))


_SIDES, _DEPTH = ("encoder", "decoder"), {"layers": 1, "attention_heads": 2}


def _whisper(**kw: Any) -> Any:
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    sizes = {
        f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 1), ("attention_heads", 2))
    }
    config = WhisperConfig(
        vocab_size=256, d_model=32, encoder_ffn_dim=48, decoder_ffn_dim=48, num_mel_bins=8, max_source_positions=16,
        max_target_positions=16, decoder_start_token_id=1, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        **sizes, **kw,
    )  # fmt: skip
    return WhisperForConditionalGeneration(config)


def _t5(**kw: Any) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"vocab_size": 256, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4}
    return T5ForConditionalGeneration(T5Config(**{**sizes, "num_decoder_layers": 3, **kw}))


def _roberta(**kw: Any) -> Any:
    from transformers import RobertaConfig, RobertaForMaskedLM

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    return RobertaForMaskedLM(RobertaConfig(vocab_size=256, max_position_embeddings=40, **sizes, **kw))


_MAKERS = {
    "whisper": _whisper,
    "t5": _t5,
    "roberta": _roberta,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "qwen3_next": _qwen3_next,
    "mixtral": _mixtral,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3_text,
    "gemma3": _gemma3,
    "qwen2_5_vl": _qwen2_5_vl,
    "llava": _llava,
    "gpt2": _gpt2,
}


def new_gemma(name: str) -> str:
    """Returns the name of a tensor of Gemma 3 in the module tree of transformers 5."""
    name = re.sub(r"^language_model\.model\.", "model.language_model.", name)
    return re.sub(r"^(vision_tower|multi_modal_projector)\.", r"model.\1.", name)


def mtp(hidden: int = 64) -> Tensors:
    """Returns a part of a layer for multi-token prediction, under the names of Qwen3-Next."""
    shapes = {
        "fc.weight": (hidden, 2 * hidden),
        "norm.weight": (hidden,),
        "layers.0.self_attn.q_proj.weight": (64, hidden),
    }
    return {f"mtp.{n}": torch.randn(shape).bfloat16() for n, shape in shapes.items()}


def make(kind: str, seed: int, dtype: torch.dtype = torch.bfloat16, **config: Any) -> Any:
    """Returns a tiny model with random weights of the architecture `kind`."""
    torch.manual_seed(seed)
    model = _MAKERS[kind](**config).to(dtype)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.05)
    model.tie_weights()
    return model.eval()


def saved(kind: str, folder: Path, seed: int, **config: Any) -> Path:
    """Saves `make(kind, seed)` with transformers."""
    make(kind, seed, **config).save_pretrained(folder)
    return folder


def respelled(folder: Path, out: Path, rename: Any) -> Path:
    """Copies a model folder with a single file. `rename` returns the new name of each tensor."""
    tensors = {rename(name): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    return with_tensors(folder, out, tensors)


def with_tensors(folder: Path, out: Path, tensors: Tensors) -> Path:
    """Copies a model folder with a single file, and replaces its tensors."""
    shutil.copytree(folder, out)
    save_file(
        {n: t.contiguous().clone() for n, t in tensors.items()}, out / "model.safetensors", metadata={"format": "pt"}
    )
    return out


def tensors_of(folder: Path) -> Tensors:
    return load_file(folder / "model.safetensors")


def loaded(folder: Path) -> Any:
    """Loads `folder` with the class that its config.json names. Fails if a tensor is missing or unexpected."""
    import json

    import transformers

    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    model, info = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def interpolated(a: torch.Tensor, b: torch.Tensor, lam: float) -> torch.Tensor:
    """The numerics contract, by torch."""
    return torch.lerp(a.float(), b.float(), lam).to(a.dtype)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(3, 19)[None]).logits


def merged(a: Path, b: Path, out: Path, lam: float = LAM, **options: object) -> tuple[Tensors, list[str]]:
    """Merges two folders. Returns the tensors of the output and the notes."""
    report = lerp_checkpoint(a, b, out, lam, progress=False, **options)  # type: ignore[arg-type]
    return tensors_of(out), report.notes


def assert_interpolated(found: Tensors, a: Tensors, b: Tensors, lam: float = LAM) -> None:
    """`a` and `b` have the names of the output; what only one of them has is kept."""
    assert found.keys() == a.keys() | b.keys()
    for name, tensor in found.items():
        expected = interpolated(a[name], b[name], lam) if name in a and name in b else a.get(name, b.get(name))
        assert torch.equal(tensor, expected), name  # type: ignore[arg-type]


def deepseek(number: int, marked: bool) -> Tensors:
    """Returns a part of decoder layer `number` for multi-token prediction. `marked`: it has the tensor eh_proj."""
    names = ["self_attn.q_proj.weight", "mlp.up_proj.weight", *(["eh_proj.weight", "enorm.weight"] if marked else [])]
    return {f"model.layers.{number}.{n}": torch.randn(8, 8).bfloat16() for n in names}
