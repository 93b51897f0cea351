"""LoRA adapters: BASE+ADAPTER stands for the model that the adapter makes of its base.

Of a PEFT folder (adapter_config.json, adapter_model.safetensors); Hu et al. 2021. For a weight W [m, n] with lora_A
[r, n] and lora_B [m, r], every input widened to float32:

    delta = 0;  then for k = 0 .. r - 1  delta = fma(B[i][k], A[k][j], delta)
    value = fma(scale, delta, W[i][j])                                          NaN canonical

with scale = float32(alpha / r), or float32(alpha / sqrt(r)) under use_rslora. The order is fixed, so the bits do not
depend on chunks, threads or the ISA. fan_in_fan_out (a W stored transposed) and embeddings (lora_embedding_A, _B) add
the transpose of B A, as PEFT does. The value enters a merge as float32; PEFT's merge_and_unload rounds B A and the sum
to the base's dtype, and differs by these roundings.

modules_to_save, and what else of the base the adapter's file holds whole, takes the place of the base's tensor.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection
from dataclasses import replace
from typing import Any, NamedTuple

from ..dtypes import FLOATS
from ..errors import CheckpointError, shortened
from .fp8 import refuse_quantised
from .header import read_header
from .patterns import PatternError, compiled
from .record import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Adapter, Checkpoint
from .tensor import TensorInfo
from .virtual import LoraTensor, SavedTensor, ScaledTensor, Tensor

_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?(embedding)|\.weight)")
_MERGE_FIRST = "Merge it into its base with PEFT first, and give the result."
# What would need another formula when set.
_UNSUPPORTED = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
    "layer_replication",
    "megatron_config",
    "target_parameters",
    "trainable_token_indices",
)
# The other ways to initialise change the base's weights as well, so the published base is not what was trained on.
_INITIALISATIONS = (True, False, None, "gaussian", "eva", "orthogonal")


class _Factors(NamedTuple):
    a: TensorInfo
    b: TensorInfo
    embedding: bool


def attach(base: Checkpoint, adapter: Adapter, config: dict[str, Any], given: str) -> Checkpoint:
    """The model `given`: `base` with `adapter` added as it is read.

    Args:
        config: the adapter's adapter_config.json.

    Raises:
        CheckpointError: not a LoRA of a kind described above, or one of another base.
        MismatchError: a base in a quantisation that cannot be read.
    """
    refuse_quantised(base)
    _check_kind(adapter, config)
    factors, whole = _sort_out(adapter, base)
    tensors: dict[str, Tensor] = dict(base.tensors)
    for name, t in whole.items():
        tensors[name] = _saved(adapter, base.tensors[name], t)
    ranks = _Setting.of(adapter, config, "rank_pattern", "r", factors)
    alphas = _Setting.of(adapter, config, "alpha_pattern", "lora_alpha", factors)
    for module, pair in factors.items():
        name = f"{module}.weight"
        numbers = ranks.value(module), alphas.value(module)
        tensors[name] = _adapted(adapter, config, module, tensors[name], pair, numbers)
    notes = [*base.notes, f"{given}: LoRA on {len(factors)} tensors, added to the base as they are read"]
    trained_on = config.get("base_model_name_or_path")
    if isinstance(trained_on, str) and trained_on and not _same_model(trained_on, base):
        notes.append(f"{given}: the adapter names {shortened([trained_on])} as its base, and is added to {base.source}")
    return replace(base, source=given, tensors=tensors, notes=notes, adapter=adapter)


def _check_kind(adapter: Adapter, config: dict[str, Any]) -> None:
    path = os.path.join(adapter.root, ADAPTER_CONFIG)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"{path}: peft_type is {kind}, and only LORA can be added on the fly", _MERGE_FIRST)
    for key in _UNSUPPORTED:
        if config.get(key):
            raise CheckpointError(f"{path}: {key} is set, which is more than LoRA", _MERGE_FIRST)
    if config.get("bias", "none") != "none":
        raise CheckpointError(f"{path}: bias is {config['bias']!r}, and only 'none' is supported", _MERGE_FIRST)
    initialised = config.get("init_lora_weights")
    if initialised not in _INITIALISATIONS:
        raise CheckpointError(
            f"{path}: init_lora_weights is {initialised!r}, which changes the base too",
            "Convert the adapter to a plain LoRA with PEFT first.",
        )


def _sort_out(adapter: Adapter, base: Checkpoint) -> tuple[dict[str, _Factors], dict[str, TensorInfo]]:
    """The adapter's tensors: pairs of factors by the module they belong to, and whole tensors by their name."""
    pickled = os.path.join(adapter.root, "adapter_model.bin")
    if not os.path.exists(adapter.file) and os.path.exists(pickled):
        raise CheckpointError(
            f"{pickled}: is pickled, and pickles are never opened", f"Save the adapter again, as {ADAPTER_WEIGHTS}."
        )
    sides: dict[tuple[str, bool], dict[str, TensorInfo]] = {}
    whole: dict[str, TensorInfo] = {}
    strangers = []
    header = read_header(adapter.file, len(base.shards))
    base.stamps[adapter.file], base.headers[adapter.file] = header.stamp, header.digest
    for t in header.tensors:
        name = t.name.removeprefix(_PREFIX)
        match = _FACTOR.fullmatch(name)
        side = (match["module"], bool(match["embedding"])) if match else ("", False)
        plain = re.sub(r"\.(?:base_layer|modules_to_save)(?=\.)", "", name)
        if not t.name.startswith(_PREFIX) or t.dtype not in FLOATS:
            strangers.append(t.name)
        elif match and f"{side[0]}.weight" in base.tensors and (side[0], not side[1]) not in sides:
            sides.setdefault(side, {})[match["side"]] = t
        elif not match and plain in base.tensors:
            whole[plain] = t
        else:
            strangers.append(t.name)
    if strangers:
        raise CheckpointError(
            f"{adapter.file}: {shortened(strangers)} belong to no weight of {base.source}",
            "Give the base that the adapter was trained on (an lm_head that is tied to the embedding is not stored).",
        )
    alone = [module for (module, _), pair in sides.items() if len(pair) == 1]
    if alone or not sides:
        raise CheckpointError(
            f"{adapter.file}: {f'half of the LoRA of {shortened(alone)} is missing' if alone else 'holds no LoRA'}",
            "Download the adapter again.",
        )
    factors = {module: _Factors(pair["A"], pair["B"], embedding) for (module, embedding), pair in sides.items()}
    return factors, whole


def _saved(adapter: Adapter, held: Tensor, whole: TensorInfo) -> SavedTensor:
    if whole.shape != held.shape:
        raise CheckpointError(
            f"{adapter.file}: {whole.name} has shape {list(whole.shape)}, {list(held.shape)} in the base",
            "If the vocabulary was extended, resize the base's embeddings first.",
        )
    return SavedTensor(held.name, held.dtype, whole, held.shard)


def _adapted(
    adapter: Adapter, config: dict[str, Any], module: str, base: Tensor, factors: _Factors, numbers: tuple[Any, Any]
) -> LoraTensor:
    assert not isinstance(base, LoraTensor)
    path = os.path.join(adapter.root, ADAPTER_CONFIG)
    a, b, embedding = factors
    rank, alpha = numbers
    # A rank beyond 2^31 is no rank, and an alpha beyond a float's range no number to Python's division.
    if type(rank) is not int or not 0 < rank < 1 << 31 or type(alpha) not in (int, float) or not abs(alpha) < 1e38:
        raise CheckpointError(f"{path}: r is {rank}, lora_alpha {alpha} for {module}", "Download the adapter again.")
    transposed = embedding or bool(config.get("fan_in_fan_out"))
    shape = base.shape[::-1] if transposed else base.shape
    if len(shape) != 2 or a.shape != (rank, shape[1]) or b.shape != (shape[0], rank):
        raise CheckpointError(
            f"{adapter.file}: {module} has factors of {list(a.shape)} and {list(b.shape)} for a weight of "
            f"{list(base.shape)} and rank {rank}",
            "Give the base that the adapter was trained on; r, rank_pattern and fan_in_fan_out must be as in training.",
        )
    if not isinstance(base, ScaledTensor) and base.dtype not in FLOATS:
        raise CheckpointError(f"{adapter.file}: {base.name} is {base.dtype} in the base", "LoRA adds to floats.")
    return LoraTensor(base, a, b, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank), transposed)


class _Setting(NamedTuple):
    """A number that may differ by module: that of the first pattern which matches the end of a module's name, as PEFT
    decides it."""

    by_pattern: list[tuple[re.Pattern[str], Any]]
    default: Any

    @classmethod
    def of(
        cls, adapter: Adapter, config: dict[str, Any], patterns: str, key: str, modules: Collection[str]
    ) -> _Setting:
        given = config.get(patterns) or {}
        try:
            if not isinstance(given, dict):
                raise PatternError("is not an object of patterns")
            expressions = compiled([rf"(.*\.)?({pattern})$" for pattern in given], modules)
        except PatternError as error:
            path = os.path.join(adapter.root, ADAPTER_CONFIG)
            raise CheckpointError(f"{path}: {patterns}: {error}", _MERGE_FIRST) from error
        return cls(list(zip(expressions, given.values())), config.get(key))

    def value(self, module: str) -> Any:
        return next((value for pattern, value in self.by_pattern if pattern.match(module)), self.default)


def _same_model(name: str, base: Checkpoint) -> bool:
    """Whether `name`, a path or a Hub id somewhere else, may well mean `base`."""
    given = base.source.split("@")[0]
    cached = re.search(r"models--[\w.-]+?--([\w.-]+)/snapshots/", os.path.abspath(base.root) + "/")
    last = cached[1] if cached else os.path.basename(os.path.abspath(given))
    return os.path.basename(name.rstrip("/")) == last
