"""Applies LoRA adapters while tensors are read: BASE+ADAPTER means the base model with the adapter added.

An adapter is a PEFT folder (adapter_config.json, adapter_model.safetensors); see Hu et al. 2021. For a weight W [m, n]
with lora_A [r, n] and lora_B [m, r], and all inputs converted to float32:

    delta = 0;  then for k = 0 .. r - 1  delta = fma(B[i][k], A[k][j], delta)
    value = fma(scale, delta, W[i][j])                                          NaN canonical

with scale = float32(alpha / r), or float32(alpha / sqrt(r)) with use_rslora. The order of the operations is fixed, so
the result does not depend on chunks, threads or the instruction set. As in PEFT, fan_in_fan_out (W is stored
transposed) and embeddings (lora_embedding_A, _B) add the transpose of B A. A merge uses the float32 value. PEFT's
merge_and_unload rounds B A and the sum to the dtype of the base, so its result differs by these roundings.

Complete tensors in the adapter's file, such as those of modules_to_save, replace the tensors of the base.
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
from .hub import cached_id, left_out
from .model_files import TRAINING, kind_of
from .names import classify
from .patterns import PatternError, compiled
from .record import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Adapter, Checkpoint
from .spelling import Renaming, by_canonical, canonical, clean, summary
from .tensor import TensorInfo, refuse_empty
from .ties import embedding_of, has_head, head_name, head_of, same_values
from .virtual import LoraTensor, SavedTensor, ScaledTensor, StackedTensor, Tensor

_PREFIX = "base_model.model."
_FACTOR = re.compile(
    r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?:\.default)?(?(embedding)|\.weight)"
)
_MERGE_FIRST = "Merge the adapter into its base with PEFT first, then use that model."
# How the names of weights of the base begin, for an adapter in the same folder.
_OF_BASE = ("model", "pytorch_model", "consolidated")
# Options that need a different formula if they are set.
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
# Other initialisations also change the weights of the base, so training did not use the published base.
_INITIALISATIONS = (True, False, None, "gaussian", "eva", "orthogonal")


class _Factors(NamedTuple):
    """lora_A and lora_B of one module."""

    a: TensorInfo
    b: TensorInfo
    embedding: bool


class _Numbers(NamedTuple):
    """What decides the product of one module. `transposed`: how to read a weight that is square."""

    rank: Any
    alpha: Any
    transposed: bool


def attach(base: Checkpoint, adapter: Adapter, config: dict[str, Any], given: str) -> Checkpoint:
    """Returns the checkpoint `base` with `adapter` added while tensors are read.

    Args:
        config: the content of adapter_config.json.
        given: the source of the result, BASE+ADAPTER as the user wrote it.

    Raises:
        CheckpointError: the adapter is not a supported LoRA, or it does not fit the base.
        MismatchError: the base uses an unsupported quantisation.
    """
    refuse_quantised(base)
    _check_kind(adapter, config)
    target = _Target(base)
    factors, whole = _sort_out(adapter, target)
    tensors: dict[str, Tensor] = dict(base.tensors)
    if target.untied_head is not None:
        tensors.update(target.untied_head)
    for name, t in whole.items():
        tensors[name] = _saved(adapter, name, tensors[name], t)
    ranks = _Setting.of(adapter, config, "rank_pattern", "r", factors)
    alphas = _Setting.of(adapter, config, "alpha_pattern", "lora_alpha", factors)
    for module, pair in factors.items():
        name = target.names[module]
        numbers = _Numbers(ranks.value(module), alphas.value(module), _is_conv1d(base, name, config))
        tensors[name] = _adapted(adapter, config, module, tensors[name], pair, numbers)
    notes = [*base.notes, f"{given}: LoRA on {len(factors)} tensors, added to the base while they are read"]
    changes = [Renaming(f"{old}.weight", new) for old, new in target.names.items() if f"{old}.weight" != new]
    if changes:
        count = f"{len(changes)} modules" if len(changes) > 1 else "1 module"
        notes.append(
            f"{adapter.source}: {count} of the adapter have other names than in {base.source} ({summary(changes)})"
        )
    trained_on = config.get("base_model_name_or_path")
    if isinstance(trained_on, str) and trained_on and not _same_model(trained_on, base):
        notes.append(f"{given}: the adapter was trained on {shortened([trained_on])}, but is added to {base.source}")
    notes += _beside(adapter, base, (".pt", ".pth"))  # perhaps weights, perhaps anything else
    risks = [*base.risks, *_beside(adapter, base, (".safetensors", ".bin"))]
    result = replace(base, source=given, tensors=tensors, notes=notes, risks=risks, adapter=adapter)
    if target.untied_head is not None:
        _tie_again(result, target)
    return result


class _Target:
    """Finds the tensors of the base that the modules of an adapter mean.

    Attributes:
        names: the tensor of each module that was found, by the name of the module in the adapter.
        untied_head: the head as a tensor of its own, by name, if the adapter treats a tied embedding and its head as
            two modules. PEFT does the same: an adapter on one of them leaves the other as it is.
    """

    def __init__(self, base: Checkpoint) -> None:
        self.base = base
        self.names: dict[str, str] = {}
        self.untied_head: dict[str, Tensor] | None = None
        ties = base.tied and has_head(base.config) and head_of(base.tensors) is None
        self.embedding = embedding_of(base.tensors) if ties else None
        self.head = "" if self.embedding is None else head_name(self.embedding, base.config)
        self._known = by_canonical(base.tensors)

    def find(self, name: str) -> str | None:
        """Returns the name in the base of the tensor that the adapter calls `name`; None if there is none."""
        found = name if name in self.base.tensors else self._known.get(canonical(name))
        if self.embedding is None:
            return found
        if found == self.embedding or (found is None and canonical(name) == canonical(self.head)):
            head = self.head
            embedding = self.base.tensors[self.embedding]
            assert not isinstance(embedding, LoraTensor)  # a base has no adapter
            if self.untied_head is None:
                self.untied_head = {head: embedding._replace(name=head)}
            return found or head
        return found

    def find_module(self, module: str) -> bool:
        """Returns True if the base has the weight of `module`, and remembers its name."""
        found = self.find(f"{module}.weight")
        if found is not None:
            self.names[module] = found
        return found is not None


def _tie_again(model: Checkpoint, target: _Target) -> None:
    """Removes a head that is equal to the embedding after all. Otherwise adds a note."""
    assert target.embedding is not None
    head = target.head
    if same_values(model, model.tensors[head], model.tensors[target.embedding]):
        del model.tensors[head]
    else:
        model.notes.append(
            f"{model.source}: the adapter makes {head} and {target.embedding} differ, which {model.base} ties; "
            "they are merged as two tensors"
        )


def _beside(adapter: Adapter, base: Checkpoint, suffixes: tuple[str, ...]) -> list[str]:
    """Returns a sentence about files beside the adapter that can hold trained weights; or nothing."""
    names = sorted({*os.listdir(adapter.root), *left_out(adapter.root)})  # also what was not downloaded
    found = [name for name in names if name.endswith(suffixes) and kind_of(name) is not TRAINING]
    found = [name for name in found if not name.startswith("adapter_model.")]
    if os.path.realpath(os.path.dirname(base.shards[0])) == os.path.realpath(adapter.root):
        # The adapter is in the folder of its base, whose notes name the safetensors files that are not part of it.
        shards = {*map(os.path.basename, base.shards)}
        found = [name for name in found if name not in shards and not name.startswith(_OF_BASE)]
    if not found:
        return []
    are, them = ("are", "them") if len(found) > 1 else ("is", "it")
    return [
        f"{adapter.source}: {shortened(found)} beside the adapter {are} not merged: PEFT does not load {them} either"
    ]


def _check_kind(adapter: Adapter, config: dict[str, Any]) -> None:
    path = os.path.join(adapter.root, ADAPTER_CONFIG)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"{path}: peft_type is {kind}, and only LORA is supported", _MERGE_FIRST)
    for key in _UNSUPPORTED:
        if config.get(key):
            raise CheckpointError(f"{path}: {key} is set, which is not supported", _MERGE_FIRST)
    if config.get("bias", "none") != "none":
        raise CheckpointError(f"{path}: bias is {config['bias']!r}, and only 'none' is supported", _MERGE_FIRST)
    initialised = config.get("init_lora_weights")
    if initialised not in _INITIALISATIONS:
        raise CheckpointError(
            f"{path}: init_lora_weights is {initialised!r}, which also changes the weights of the base",
            "Convert the adapter to a LoRA without such an initialisation with PEFT first.",
        )


def _sort_out(adapter: Adapter, target: _Target) -> tuple[dict[str, _Factors], dict[str, TensorInfo]]:
    """Returns the tensors of the adapter: pairs of factors by module, and complete tensors by name in the base."""
    base = target.base
    pickled = os.path.join(adapter.root, "adapter_model.bin")
    present = os.path.exists(pickled) or "adapter_model.bin" in left_out(adapter.root)
    if not os.path.exists(adapter.file) and present:
        raise CheckpointError(
            f"{pickled}: is a pickle, and pickles are never opened", f"Save the adapter as {ADAPTER_WEIGHTS} with PEFT."
        )
    sides: dict[tuple[str, bool], dict[str, TensorInfo]] = {}
    whole: dict[str, TensorInfo] = {}
    unmatched = []
    header = read_header(adapter.file, len(base.shards))
    base.stamps[adapter.file], base.headers[adapter.file] = header.stamp, header.digest
    refuse_empty(adapter.file, header.tensors)
    for t in header.tensors:
        cleaned = clean(t.name)
        name = cleaned.removeprefix(_PREFIX)
        match = _FACTOR.fullmatch(name)
        module, embedding = (match["module"], bool(match["embedding"])) if match else ("", False)
        plain = None if match else target.find(re.sub(r"\.(?:base_layer|modules_to_save)(?=\.)", "", name))
        if not cleaned.startswith(_PREFIX) or t.dtype not in FLOATS:
            unmatched.append(t.name)
        elif match and target.find_module(module) and (module, not embedding) not in sides:
            pair = sides.setdefault((module, embedding), {})
            _refuse_twice(adapter, pair.get(match["side"]), t)
            pair[match["side"]] = t
        elif plain is not None:
            _refuse_twice(adapter, whole.get(plain), t)
            whole[plain] = t
        else:
            unmatched.append(t.name)
    if unmatched:
        raise CheckpointError(
            f"{adapter.file}: no weight in {base.source} for {shortened(unmatched)}",
            "Use the base that the adapter was trained on.",
        )
    alone = [module for (module, _), pair in sides.items() if len(pair) == 1]
    if alone:
        raise CheckpointError(f"{adapter.file}: lacks lora_A or lora_B of {shortened(alone)}", "Download it again.")
    if not sides:
        raise CheckpointError(
            f"{adapter.file}: has no LoRA weights",
            "If it was trained under DeepSpeed ZeRO-3, run zero_to_fp32.py in the checkpoint's folder, or save again "
            "with stage3_gather_16bit_weights_on_model_save. Otherwise use the base model alone, or another adapter.",
        )
    meant: dict[str, TensorInfo] = {}
    for (module, _), pair in sides.items():
        name = target.names[module]
        _refuse_twice(adapter, meant.get(name), pair["A"])
        meant[name] = pair["A"]
    factors = {module: _Factors(pair["A"], pair["B"], embedding) for (module, embedding), pair in sides.items()}
    return factors, whole


def _refuse_twice(adapter: Adapter, one: TensorInfo | None, two: TensorInfo) -> None:
    if one is not None:
        raise CheckpointError(
            f"{adapter.file}: {one.name} and {two.name} mean the same tensor",
            "Keep one of them: save the adapter again with PEFT.",
        )


def _saved(adapter: Adapter, name: str, held: Tensor, whole: TensorInfo) -> SavedTensor:
    if whole.shape != held.shape:
        raise CheckpointError(
            f"{adapter.file}: {whole.name} has shape {list(whole.shape)}, but {list(held.shape)} in the base",
            "Use the base that the adapter was trained on. If the vocabulary grew, resize its embeddings.",
        )
    return SavedTensor(name, held.dtype, whole, held.shard)


def _adapted(
    adapter: Adapter, config: dict[str, Any], module: str, base: Tensor, factors: _Factors, numbers: _Numbers
) -> LoraTensor:
    assert not isinstance(base, (LoraTensor, StackedTensor))
    path = os.path.join(adapter.root, ADAPTER_CONFIG)
    a, b, embedding = factors
    rank, alpha, _ = numbers
    # No real adapter reaches these limits: the kernels need a rank below 2^31, the division an alpha in float range.
    if type(rank) is not int or not 0 < rank < 1 << 31 or type(alpha) not in (int, float) or not abs(alpha) < 1e38:
        raise CheckpointError(
            f"{path}: r is {rank}, lora_alpha {alpha} for {module}",
            "Set r to a positive integer and lora_alpha to a finite number, as in the original adapter.",
        )
    fits = [
        len(shape) == 2 and a.shape == (rank, shape[1]) and b.shape == (shape[0], rank)
        for shape in (base.shape, base.shape[::-1])
    ]
    transposed = embedding or (numbers.transposed if all(fits) else fits[1])
    if not fits[transposed]:
        raise CheckpointError(
            f"{adapter.file}: {module} has lora_A {list(a.shape)} and lora_B {list(b.shape)} for a weight of "
            f"{list(base.shape)} and rank {rank}",
            "Use the base that the adapter was trained on, and r, rank_pattern and fan_in_fan_out of the training.",
        )
    if not isinstance(base, ScaledTensor) and base.dtype not in FLOATS:
        raise CheckpointError(
            f"{adapter.file}: {base.name} is {base.dtype} in the base",
            f"Use a base with {', '.join(FLOATS)} weights: LoRA cannot be added to other dtypes.",
        )
    return LoraTensor(base, a, b, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank), transposed)


def _is_conv1d(base: Checkpoint, name: str, config: dict[str, Any]) -> bool:
    """Returns True if the weight `name` is stored transposed, as Conv1D of transformers does.

    PEFT knows the class of each module, and corrects fan_in_fan_out where it is wrong. Only a square weight needs this.
    """
    if classify(name).module == "head":
        return False
    gpt2 = base.config.get("model_type") in ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
    return bool(config.get("fan_in_fan_out")) or (gpt2 and ".c_" in name)


class _Setting(NamedTuple):
    """A number that can differ by module. As in PEFT, the first pattern that matches the end of a name applies."""

    by_pattern: list[tuple[re.Pattern[str], Any]]
    default: Any

    @classmethod
    def of(
        cls, adapter: Adapter, config: dict[str, Any], patterns: str, key: str, modules: Collection[str]
    ) -> _Setting:
        given = config.get(patterns) or {}
        try:
            if not isinstance(given, dict):
                raise PatternError("is not a JSON object")
            expressions = compiled([rf"(.*\.)?({pattern})$" for pattern in given], modules)
        except PatternError as error:
            path = os.path.join(adapter.root, ADAPTER_CONFIG)
            raise CheckpointError(f"{path}: {patterns}: {error}", _MERGE_FIRST) from error
        return cls(list(zip(expressions, given.values())), config.get(key))

    def value(self, module: str) -> Any:
        return next((value for pattern, value in self.by_pattern if pattern.match(module)), self.default)


def _same_model(name: str, base: Checkpoint) -> bool:
    """Returns True if `name`, a path or Hub id from another machine, probably means `base`."""
    given = base.source.split("@")[0]
    known = cached_id(os.path.abspath(base.root)) or os.path.abspath(given)
    return os.path.basename(name.rstrip("/")) == os.path.basename(known)
