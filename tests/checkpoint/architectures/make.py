"""Makes the lists of tensor names in this folder: `python make.py`, with torch and transformers installed.

transformers builds a small model of each architecture on torch's meta device. The module of a tensor is decided by the
classes that contain it (Qwen3MoeAttention, LlamaRMSNorm, JambaMambaMixer), never by its name, so the lists are an
oracle independent of `checkpoint.names`. If transformers stores other names than it has in memory (fused experts), its
own conversion provides the stored names as well.

A line is MODULE WHERE PATTERN. WHERE: "memory", "stored" or "both". In a pattern {layer} is the number of a decoder
layer and {n} any other number; a pattern without {layer} belongs to no decoder layer.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig
from transformers.core_model_loading import revert_weight_conversion

HERE = Path(__file__).parent
SMALL: dict[str, Any] = {"num_hidden_layers": 4}
MOE: dict[str, Any] = {"num_hidden_layers": 4, "num_experts": 3, "num_local_experts": 3, "num_experts_per_tok": 2}
GLM_MOE: dict[str, Any] = {"num_hidden_layers": 4, "n_routed_experts": 4, "num_experts_per_tok": 2}
VISION: dict[str, Any] = {
    "text_config": {"num_hidden_layers": 4},
    "vision_config": {"depth": 3, "num_hidden_layers": 3},
}
LLAMA4: dict[str, Any] = {
    "text_config": {"num_hidden_layers": 4, "num_local_experts": 2, "moe_layers": [1, 3]},
    "vision_config": {"num_hidden_layers": 3},
}

# model type, the class of the model, what its small config sets
ARCHITECTURES: list[tuple[str, str, dict[str, Any]]] = [
    ("qwen2", "Qwen2ForCausalLM", SMALL),
    ("qwen2_moe", "Qwen2MoeForCausalLM", {**MOE, "mlp_only_layers": [0]}),
    ("qwen3", "Qwen3ForCausalLM", SMALL),
    ("qwen3_moe", "Qwen3MoeForCausalLM", MOE),
    ("qwen3_next", "Qwen3NextForCausalLM", MOE),
    ("qwen3_5", "Qwen3_5ForConditionalGeneration", VISION),
    ("llama", "LlamaForCausalLM", SMALL),
    ("llama4", "Llama4ForConditionalGeneration", LLAMA4),
    ("mistral", "MistralForCausalLM", SMALL),
    ("mistral3", "Mistral3ForConditionalGeneration", VISION),
    ("mixtral", "MixtralForCausalLM", MOE),
    ("gemma2", "Gemma2ForCausalLM", SMALL),
    ("gemma3_text", "Gemma3ForCausalLM", SMALL),
    ("gemma3", "Gemma3ForConditionalGeneration", VISION),
    ("phi", "PhiForCausalLM", SMALL),
    ("phi3", "Phi3ForCausalLM", SMALL),
    ("olmo2", "Olmo2ForCausalLM", SMALL),
    ("olmoe", "OlmoeForCausalLM", MOE),
    ("deepseek_v3", "DeepseekV3ForCausalLM", {**GLM_MOE, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 2}),
    ("glm4", "Glm4ForCausalLM", SMALL),
    ("glm4_moe", "Glm4MoeForCausalLM", {**GLM_MOE, "first_k_dense_replace": 1}),
    ("gpt_oss", "GptOssForCausalLM", MOE),
    ("granite", "GraniteForCausalLM", SMALL),
    ("granitemoehybrid", "GraniteMoeHybridForCausalLM", {**MOE, "layer_types": ["mamba", "attention"] * 2}),
    ("cohere2", "Cohere2ForCausalLM", SMALL),
    ("starcoder2", "Starcoder2ForCausalLM", SMALL),
    ("falcon", "FalconForCausalLM", SMALL),
    ("gpt_neox", "GPTNeoXForCausalLM", SMALL),
    ("gpt2", "GPT2LMHeadModel", {"n_layer": 4}),
    ("opt", "OPTForCausalLM", SMALL),
    ("bloom", "BloomForCausalLM", {"n_layer": 4}),
    ("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", VISION),
    ("qwen3_5_moe", "Qwen3_5MoeForConditionalGeneration", {"text_config": MOE, "vision_config": {"depth": 3}}),
    ("qwen3_vl", "Qwen3VLForConditionalGeneration", VISION),
    ("mamba2", "Mamba2ForCausalLM", SMALL),
    ("falcon_h1", "FalconH1ForCausalLM", SMALL),
    ("nemotron_h", "NemotronHForCausalLM", {"hybrid_override_pattern": "M-*E", **MOE}),
    ("jamba", "JambaForCausalLM", {**MOE, "attn_layer_offset": 1, "attn_layer_period": 2}),
    ("lfm2", "Lfm2ForCausalLM", {**SMALL, "layer_types": ["conv", "full_attention"] * 2}),
    ("whisper", "WhisperForConditionalGeneration", {"decoder_layers": 4, "encoder_layers": 3}),
    ("t5", "T5ForConditionalGeneration", {"num_layers": 3, "num_decoder_layers": 4}),
]

# Classes by module. Everything inside an attention class is attn; otherwise the innermost matching class decides.
_TOWER = re.compile(r"Vision|Visual|Audio|Encoder(?!Decoder)|Projector|Merger|Siglip|Pixtral|^T5Stack$")
_ATTENTION = re.compile(r"(?<!LayerSelf)(?<!LayerCross)Attention|Mixer|MambaLayer|GatedDeltaNet|ShortConv")
_CLASSES = (
    ("router", re.compile(r"Router|TopKGating")),
    ("norm", re.compile(r"Norm")),
    ("ffn", re.compile(r"MLP|Mlp|FeedForward|Experts|Moe|MoE|MOE|DenseActDense")),
    ("embed", re.compile(r"Embedding")),
)


def build(kind: str, name: str, settings: dict[str, Any]) -> nn.Module:
    config = AutoConfig.for_model(kind, **settings)
    with torch.device("meta"):
        model: nn.Module = getattr(transformers, name)(config)
    return model


def decoder_layers(model: Any) -> tuple[str, nn.ModuleList]:
    """Finds the list of decoder layers by its path and its length in the config of the text model."""
    text = model.config.get_text_config(decoder=True)
    count = getattr(text, "num_decoder_layers", None) or getattr(text, "decoder_layers", text.num_hidden_layers)
    found = [(p, m) for p, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    (layers,) = [pair for pair in found if not re.search(r"encoder|visual|vision|experts|\.\d+\.", pair[0])]
    return layers


def label(model: Any, name: str, layers: str) -> str:
    """Returns the module of the tensor `name`, from the classes that contain it."""
    inside = name.startswith(layers + ".")
    words = name.split(".")[:-1]
    start = len(layers.split(".")) + 1 if inside else 0
    owners = [model.get_submodule(".".join(words[: i + 1])) for i in range(start, len(words))]
    if not inside:
        if any(_TOWER.search(type(m).__name__) for m in owners) and not name.startswith(layers.split(".block")[0]):
            return "other"
        if owners[-1] is model.get_output_embeddings():
            return "head"
        owners = owners[-1:]
    if any(_ATTENTION.search(type(m).__name__) for m in owners):
        return "attn"
    if isinstance(owners[-1], nn.Linear):
        if owners[-1].out_features == 1:
            return "router"  # the gate of a shared expert
        if len(owners) == 1:
            return "ffn"  # Whisper and OPT have their two projections directly in the layer
    for module in reversed(owners):
        for kind, pattern in _CLASSES:
            if pattern.search(type(module).__name__):
                return kind
    return "other"


def patterns(model: Any) -> dict[str, tuple[str, set[str]]]:
    """Returns for each pattern of names its module and where it occurs."""
    layers, _ = decoder_layers(model)
    stack = layers.split(".")[-1]
    found: dict[str, tuple[str, set[str]]] = {}
    for name, tensor in model.state_dict().items():
        module = label(model, name, layers)
        layer = name[len(layers) + 1 :].split(".")[0] if name.startswith(layers + ".") else None
        for where, text in (
            ("memory", name),
            *(("stored", s) for s in revert_weight_conversion(model, {name: tensor})),
        ):
            if layer is not None:
                text, changed = re.subn(rf"\b{stack}\.{layer}\.", f"{stack}.{{layer}}.", text, count=1)
                assert changed, (name, text)
            pattern = re.sub(r"(?<=\.)\d+(?=\.|$)", "{n}", text)
            known, places = found.setdefault(pattern, (module, set()))
            assert known == module, (pattern, known, module)
            places.add(where)
    return found


def write(kind: str, name: str, settings: dict[str, Any]) -> None:
    found = patterns(build(kind, name, settings))
    rows = [
        f"{module:<6} {'both' if len(where) == 2 else min(where):<6} {pattern}"
        for pattern, (module, where) in found.items()
    ]
    heading = f"# {name}, transformers {transformers.__version__}, made by make.py"
    (HERE / f"{kind}.txt").write_text("\n".join([heading, *rows]) + "\n")


if __name__ == "__main__":
    for architecture in ARCHITECTURES:
        if len(sys.argv) == 1 or architecture[0] in sys.argv[1:]:
            write(*architecture)
