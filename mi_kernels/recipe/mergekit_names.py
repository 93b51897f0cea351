"""The names in mergekit's configurations: its keys, and the parameters of all its methods.

mergekit 0.1.5 ignores every other key, and every parameter that the method does not read. Which parameters a method
reads is declared beside the method, in `mi_kernels.methods`; tests/integrations/mergekit compares both with mergekit.
"""

from __future__ import annotations

# config.py, MergeConfiguration
KEYS = (
    "merge_method",
    "base_model",
    "models",
    "slices",
    "modules",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
)

# Of mergekit-moe's configurations: what they ask for is no merge of tensors by name.
MIXTURE_KEYS = ("experts", "shared_experts", "experts_per_token", "gate_mode")

# merge_methods/: of any method, also of those that are not supported here.
PARAMETERS = (
    "alpha",
    "density",
    "eps",
    "epsilon",
    "filter_wise",
    "gamma",
    "int8_mask",
    "lambda",
    "max_iter",
    "normalize",
    "normalize_weights",
    "nuslerp_flatten",
    "nuslerp_row_wise",
    "r",
    "rescale",
    "scale",
    "select_topk",
    "t",
    "tol",
    "weight",
)

# Parameters that only older versions or mergekit-legacy wrote or read. Published configurations have them.
FORMER_PARAMETERS = ("consensus_method", "embed_slerp")
