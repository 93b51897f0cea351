"""Names that mean the same tensor, kinds of tensors that one model may lack, and the classes that tie by default."""

from __future__ import annotations

import itertools

import pytest

from mi_kernels.checkpoint import auxiliary
from mi_kernels.checkpoint.config import UNTIED_BY_DEFAULT, declared_tied
from mi_kernels.checkpoint.spelling import canonical, clean, renamed, summary
from mi_kernels.checkpoint.tensor import TensorInfo

SAME = [
    ["model.layers.3.mlp.up_proj.weight", "language_model.model.layers.3.mlp.up_proj.weight",
     "model.language_model.layers.3.mlp.up_proj.weight", "layers.3.mlp.up_proj.weight",
     "model.language_model.model.layers.3.mlp.up_proj.weight"],
    ["lm_head.weight", "language_model.lm_head.weight", "model.lm_head.weight", "embed_out.weight"],
    ["visual.blocks.0.attn.qkv.weight", "model.visual.blocks.0.attn.qkv.weight"],
    ["vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias", "model.vision_tower.encoder.layers.0.mlp.fc1.bias",
     "model.vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias", "vision_tower.encoder.layers.0.mlp.fc1.bias"],
    ["multi_modal_projector.linear_1.weight", "model.multi_modal_projector.linear_1.weight"],
    ["image_newline", "model.image_newline"],
    ["transformer.h.0.attn.c_attn.weight", "h.0.attn.c_attn.weight"],
    ["model.layers.0.block_sparse_moe.experts.2.w1.weight", "model.layers.0.mlp.experts.2.gate_proj.weight"],
    ["model.layers.0.block_sparse_moe.experts.2.w2.weight", "model.layers.0.mlp.experts.2.down_proj.weight"],
    ["model.layers.0.block_sparse_moe.experts.2.w3.weight", "model.layers.0.mlp.experts.2.up_proj.weight"],
    ["bert.encoder.layer.0.output.LayerNorm.gamma", "bert.encoder.layer.0.output.LayerNorm.weight"],
]  # fmt: skip


@pytest.mark.parametrize("names", SAME, ids=lambda names: names[0])
def test_the_same_tensor(names: list[str]) -> None:
    assert len({canonical(name) for name in names}) == 1
    for one, two in itertools.permutations(names, 2):
        assert renamed([one], [two]) == [(one, two)]


def test_different_tensors() -> None:
    firsts = [names[0] for names in SAME]
    towers = ["model.audio_tower.layers.3.mlp.up_proj.weight", "model.vision_tower.layers.3.mlp.up_proj.weight",
              "talker.model.layers.3.mlp.up_proj.weight", "model.decoder.layers.3.mlp.up_proj.weight",
              "model.encoder.layers.3.mlp.up_proj.weight"]  # fmt: skip
    assert len({canonical(name) for name in [*firsts, *towers]}) == len(firsts) + len(towers)


def test_ambiguous_names_are_left_alone() -> None:
    assert renamed(["a.w", "model.n.w", "language_model.n.w"], ["a.w", "n.w"]) == []
    assert renamed(["llm.n.w"], ["model.n.w", "language_model.n.w"]) == []
    assert renamed(["n.w"], ["n.w", "model.n.w"]) == []


def test_clean() -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    words = ["_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"]
    parts = name.split(".")
    for count in (1, 2):
        for chosen in itertools.permutations(words, count):
            for at in range(len(parts)):
                assert clean(".".join([*parts[:at], *chosen, *parts[at:]])) == name
    for kept in ("model.modules.0.weight", "modulelist.module_a.w", "model.my_module.w", "module"):
        assert clean(kept) == kept


def test_summary_names_prefixes() -> None:
    changes = renamed(
        [f"model.language_model.layers.{i}.w" for i in range(9)] + ["model.visual.p.w"],
        [f"model.layers.{i}.w" for i in range(9)] + ["visual.p.w"],
    )
    assert summary(changes) == "model.language_model. for model., model.visual. for visual."


def tensor(*shape: int) -> TensorInfo:
    return TensorInfo("t", "BF16", shape, 0, 0, 0)


def test_kinds() -> None:
    kinds = {
        "mtp.layers.0.self_attn.q_proj.weight": "prediction",
        "model.mtp.layers.0.mlp.up_proj.weight": "prediction",
        "model.mtp_layers.0.mlp.up_proj.weight": "prediction",
        "model.layers.61.mlp.up_proj.weight": "prediction",
        "model.layers.0.self_attn.rotary_emb.inv_freq": "buffer",
        "language_model.model.rotary_emb.inv_freq": "buffer",
        "transformer.h.0.attn.masked_bias": "buffer",
        "vision_model.embeddings.position_ids": "buffer",
        "rope.freqs": "buffer",
        "model.visual.patch_embed.proj.weight": "tower",
        "vision_tower.vision_model.post_layernorm.bias": "tower",
        "multi_modal_projector.linear_1.weight": "tower",
        "model.embed_vision.embedding.weight": "tower",
        "model.image_newline": "tower",
        "model.layers.60.mlp.up_proj.weight": None,
        "model.layers.0.self_attn.q_proj.bias": None,
        "model.embed_tokens.weight": None,
        "lm_head.weight": None,
        "model.norm.weight": None,
        "model.layers.0.mlp.gate.e_score_correction_bias": None,
        "score.weight": None,
        "model.layers.0.post_attention_layernorm.weight": None,
    }
    assert {n: auxiliary.kind_of(n, tensor(4, 4), {61}) for n in kinds} == kinds
    assert auxiliary.kind_of("h.0.attn.bias", tensor(1, 1, 8, 8), ()) == "buffer"
    assert auxiliary.kind_of("h.0.attn.bias", tensor(8), ()) is None


def test_classes_that_do_not_tie_by_default() -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    wrong = []
    for kind in ("llama", "qwen2", "qwen3", "qwen3_moe", "qwen3_next", "mistral", "mixtral", "deepseek_v3", "glm4_moe",
                 "gpt_oss", "llama4", "gemma", "gemma2", "gemma3", "gemma3_text", "gpt2", "cohere", "opt", "bloom",
                 "falcon", "t5", "bert", "phi3", "olmo2", "gpt_neox", "starcoder2", "smollm3"):  # fmt: skip
        if kind in CONFIG_MAPPING and CONFIG_MAPPING[kind]().tie_word_embeddings != declared_tied({"model_type": kind}):
            wrong.append(kind)
    assert not wrong, transformers.__version__
    assert len(UNTIED_BY_DEFAULT) > 150


def test_declared_tied() -> None:
    assert declared_tied({"tie_word_embeddings": True})
    assert not declared_tied({"tie_word_embeddings": False, "model_type": "gemma2"})
    assert declared_tied({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}})
    assert not declared_tied({"model_type": "qwen2_5_vl", "text_config": {"model_type": "qwen2_5_vl_text"}})
    assert declared_tied({"model_type": "llava", "text_config": {"tie_word_embeddings": True}})
    assert declared_tied({"model_type": "a class of somebody's own"})
    assert not declared_tied({})
