"""Two checkpoints side by side: every tensor of one meets its counterpart in the other, or the merge is refused."""

from __future__ import annotations

from typing import NamedTuple

from .checkpoint import Checkpoint, TensorInfo
from .errors import MismatchError, shortened
from .names import classify, layer_count

# What can be interpolated, by safetensors' names.
FLOATS = ("BF16", "F16", "F32")

_HEAD = "lm_head.weight"


class Pair(NamedTuple):
    """A tensor of the output: `a` and `b` where INSTRUCT and THINKING hold it; `name` is the output's."""

    name: str
    a: TensorInfo
    b: TensorInfo

    @property
    def floating(self) -> bool:
        return self.a.dtype in FLOATS and self.b.dtype in FLOATS


class Pairing(NamedTuple):
    pairs: list[Pair]
    notes: list[str]  # oddities that were handled, for the user
    untied: bool  # the output stores an lm_head of its own, so its config must not tie it


def pair(instruct: Checkpoint, thinking: Checkpoint) -> Pairing:
    """Pairs every tensor by name, in INSTRUCT's order.

    A tied lm_head that only one side stores is read from the other side's embedding.

    Raises:
        MismatchError: a tensor on one side only, shapes that differ, dtypes that cannot be interpolated; names the
            tensor, both values and the remedy.
    """
    _check_layers(instruct, thinking)
    a, b, notes = dict(instruct.tensors), dict(thinking.tensors), []
    for have, lack, held, lacking in ((a, b, instruct, thinking), (b, a, thinking, instruct)):
        if _HEAD in have and _HEAD not in lack:
            embedding = _embedding(lack)
            if embedding is not None and lacking.tied:
                lack[_HEAD] = lack[embedding]
                notes.append(f"{_HEAD}: {lacking.source} ties it, so its {embedding} stands for it")
            elif embedding is not None and not lacking.config:
                raise MismatchError(
                    f"{_HEAD}: only {held.source} stores it, and {lacking.source} has no config.json that ties it",
                    "Add config.json to the folder.",
                )
    _check_names(instruct, thinking, a, b)
    pairs = [Pair(name, a[name], b[name]) for name in a]
    for p in pairs:
        _check_pair(p, instruct, thinking)
    return Pairing(pairs, notes, bool(notes))


def _embedding(tensors: dict[str, TensorInfo]) -> str | None:
    return next((name for name in tensors if classify(name).module == "embed"), None)


def _check_layers(instruct: Checkpoint, thinking: Checkpoint) -> None:
    layers_a, layers_b = layer_count(instruct.tensors), layer_count(thinking.tensors)
    if layers_a != layers_b:
        raise MismatchError(
            f"{instruct.source} has {layers_a} layers, {thinking.source} has {layers_b}",
            "Only models of one architecture and size can be interpolated.",
        )


def _check_names(
    instruct: Checkpoint, thinking: Checkpoint, a: dict[str, TensorInfo], b: dict[str, TensorInfo]
) -> None:
    for here, there, held, lacking in ((a, b, instruct, thinking), (b, a, thinking, instruct)):
        alone = [name for name in here if name not in there]
        if alone:
            raise MismatchError(
                f"{held.source} has {shortened(alone)}, which {lacking.source} lacks",
                "Both models must hold the same tensors: are they of one family, and downloaded whole?",
            )


def _check_pair(p: Pair, instruct: Checkpoint, thinking: Checkpoint) -> None:
    if p.a.shape != p.b.shape:
        remedy = "Only models of one architecture and size can be interpolated."
        if classify(p.name).module in ("embed", "head"):
            remedy = "The vocabularies differ: give both models the same one first (resize the token embeddings)."
        raise MismatchError(
            f"{p.name}: shape {list(p.a.shape)} in {instruct.source}, {list(p.b.shape)} in {thinking.source}", remedy
        )
    if p.floating or p.a.dtype == p.b.dtype:
        return  # equal other dtypes: the merge compares their bytes
    raise MismatchError(
        f"{p.name}: {p.a.dtype} in {instruct.source}, {p.b.dtype} in {thinking.source}",
        f"Tensors must be {', '.join(FLOATS)}, or identical: convert one of the models first.",
    )
