"""Checkpoints side by side: every tensor of one meets its counterpart in the others, or the merge is refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..dtypes import FLOATS
from ..errors import MismatchError, shortened
from ..system.faults import reading_failed
from .differences import vocabulary_remedy
from .fp8 import refuse_quantised
from .names import classify, layer_count
from .record import Checkpoint
from .tensor import TensorInfo
from .virtual import Tensor

# What can be interpolated, by safetensors' names.

_HEAD = "lm_head.weight"


class Row(NamedTuple):
    """One tensor of the output, and where each model holds it."""

    name: str
    inputs: tuple[Tensor, ...]

    @property
    def floating(self) -> bool:
        return all(t.dtype in FLOATS for t in self.inputs)


class Alignment(NamedTuple):
    rows: list[Row]
    notes: list[str]  # oddities that were handled, for the user
    untied: bool  # the output stores an lm_head of its own, so its config must not tie it


def align(models: Sequence[Checkpoint]) -> Alignment:
    """Matches every tensor by name, in the order of the first model.

    A tied lm_head that only some models store is read from the others' embedding. Tensors that are not bf16, float16 or
    float32 cannot be interpolated; they must be the same in all models.

    Raises:
        MismatchError: a tensor on one side only, shapes that differ, dtypes that cannot be interpolated, a quantised
            model that is not read; names the tensor, both values and the remedy.
    """
    for model in models:
        refuse_quantised(model)
    first = models[0]
    tensors = [dict(m.tensors) for m in models]
    notes = _untie(models, tensors)
    for model, held in zip(models[1:], tensors[1:]):
        _check_layers(first, model)
        _check_names(first, tensors[0], model, held)
    rows = [Row(name, tuple(held[name] for held in tensors)) for name in tensors[0]]
    for row in rows:
        for model, other in zip(models[1:], row.inputs[1:]):
            _check_shapes(row, first, other, model)
        if not row.floating:
            _check_fixed(row, models)
    # A mixture: the head that is written is no one's embedding any more.
    untied = _HEAD in tensors[0] and any(m.tied for m in models) and not all(m.tied for m in models)
    return Alignment(rows, notes + _dtype_notes(rows), untied)


def _untie(models: Sequence[Checkpoint], tensors: list[dict[str, Tensor]]) -> list[str]:
    """Adds a tied lm_head to the models that do not store it where another one does."""
    notes: list[str] = []
    found = next(((m, held[_HEAD]) for m, held in zip(models, tensors) if _HEAD in held), None)
    if found is None:
        return notes
    holder, head = found
    for model, held in zip(models, tensors):
        # Positions are embeddings too; the one that is tied has the head's shape.
        tied = (name for name, t in held.items() if classify(name).module == "embed" and t.shape == head.shape)
        embedding = next(tied, None)
        if _HEAD in held or embedding is None:
            continue
        if not model.config:
            raise MismatchError(
                f"{_HEAD}: only {holder.source} stores it, and {model.source} has no config.json that ties it",
                "Add config.json to the folder.",
            )
        if model.tied:
            held[_HEAD] = held[embedding]
            notes.append(f"{_HEAD}: {model.source} ties it, so its {embedding} stands for it")
    return notes


def _check_layers(first: Checkpoint, other: Checkpoint) -> None:
    one, two = layer_count(first.tensors), layer_count(other.tensors)
    if one != two:
        raise MismatchError(
            f"{first.source} has {one} layers, {other.source} has {two}",
            "Only models of one architecture and size can be interpolated.",
        )


def _check_names(
    first: Checkpoint, names: dict[str, Tensor], other: Checkpoint, other_names: dict[str, Tensor]
) -> None:
    for here, there, held, lacking in ((names, other_names, first, other), (other_names, names, other, first)):
        alone = [name for name in here if name not in there]
        if alone:
            raise MismatchError(
                f"{held.source} has {shortened(alone)}, which {lacking.source} lacks",
                "Both models must hold the same tensors: are they of one family, and downloaded whole?",
            )


def _check_shapes(row: Row, first: Checkpoint, other: Tensor, model: Checkpoint) -> None:
    shape = row.inputs[0].shape
    if shape == other.shape:
        return
    remedy = "Only models of one architecture and size can be interpolated."
    if classify(row.name).module in ("embed", "head"):
        remedy = "The vocabularies differ: give both models the same one first (resize the token embeddings)."
        if len(shape) == 2 and shape[1:] == other.shape[1:]:
            remedy = vocabulary_remedy(first, model, (shape[0], other.shape[0]))
    raise MismatchError(
        f"{row.name}: shape {list(shape)} in {first.source}, {list(other.shape)} in {model.source}", remedy
    )


def _check_fixed(row: Row, models: Sequence[Checkpoint]) -> None:
    first = row.inputs[0]
    for model, other in zip(models[1:], row.inputs[1:]):
        if first.dtype != other.dtype:
            raise MismatchError(
                f"{row.name}: {first.dtype} in {models[0].source}, {other.dtype} in {model.source}",
                f"Tensors must be {', '.join(FLOATS)}, or identical: convert one of the models first.",
            )
        assert isinstance(first, TensorInfo)  # virtual tensors are floating
        assert isinstance(other, TensorInfo)
        if not _same_bytes(models[0].shards[first.shard], first, model.shards[other.shard], other):
            raise MismatchError(
                f"{row.name}: {first.dtype} tensors differ between {models[0].source} and {model.source}",
                f"Only {', '.join(FLOATS)} can be interpolated: dequantise or convert the models first.",
            )


def _same_bytes(path_a: str, a: TensorInfo, path_b: str, b: TensorInfo) -> bool:
    return all(piece_a == piece_b for piece_a, piece_b in zip(_pieces(path_a, a), _pieces(path_b, b)))


def _pieces(path: str, t: TensorInfo) -> Iterator[bytes]:
    size = 1 << 20
    try:
        with open(path, "rb") as file:
            file.seek(t.begin)
            for begin in range(t.begin, t.end, size):
                yield file.read(min(size, t.end - begin))
    except OSError as error:
        raise reading_failed(error, path) from error


def _dtype_notes(rows: list[Row]) -> list[str]:
    mixed = [row for row in rows if len({t.dtype for t in row.inputs}) > 1]
    if not mixed:
        return []
    dtypes = " and ".join(dict.fromkeys(t.dtype for t in mixed[0].inputs))
    count = f"{len(mixed)} tensors have" if len(mixed) > 1 else "1 tensor has"
    return [f"{count} several dtypes ({mixed[0].name}: {dtypes}), each widened exactly"]
