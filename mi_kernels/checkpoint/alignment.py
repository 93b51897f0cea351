"""Matches the tensors of several checkpoints. Rejects models that cannot be merged.

The output is a copy of one model, the lead, with new values: the names, the order and the shards are those of the lead.
It is the first model, unless another one is multimodal and the first is its text decoder alone.

Tensors are matched in this order, and every step that changes something leaves a note:

1. by equal names;
2. by names that are spelled differently (`spelling`), and by experts in another layout (`experts`);
3. a head that a model ties to its embedding, by the embedding (`ties`);
4. tensors that one model may lack (`auxiliary`): the output keeps or leaves out those of the model that has them.

Whatever is left over is an error.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

from ..dtypes import FLOATS
from ..errors import MismatchError, shortened
from ..system.faults import reading_failed
from . import auxiliary, experts, spelling
from .auxiliary import BUFFER, KINDS, PREDICTION, TOWER
from .differences import only_padding_differs, vocabulary_remedy
from .fp8 import refuse_quantised
from .names import classify, layer_count
from .record import Checkpoint
from .tensor import TensorInfo
from .ties import embedding_of, head_name, head_of, same_values
from .virtual import Tensor

_SAME_ARCHITECTURE = "Merge models of the same architecture and size."


class Row(NamedTuple):
    """One tensor of the output and the tensor of each model that it is computed from, in the order of the models.

    Attributes:
        name: its name in the output.
        inputs: the tensor of each model.
        shard: the number of the shard of the lead that stores it.
        kept: the number of the only model that has it; the output gets its bytes. All `inputs` are this tensor.
        common: the number of elements that all models have, counted from the first, if the vocabularies differ in their
            padding. The rest has the bytes of the first model.
    """

    name: str
    inputs: tuple[Tensor, ...]
    shard: int
    kept: int | None = None
    common: int | None = None

    @property
    def floating(self) -> bool:
        return all(t.dtype in FLOATS for t in self.inputs)

    def reads(self) -> list[tuple[int, Tensor]]:
        """Returns the tensors that a merge may read: (number of the model, tensor)."""
        if self.kept is not None:
            return [(self.kept, self.inputs[self.kept])]
        return list(enumerate(self.inputs))


class Tie(NamedTuple):
    """A head in the output of a merge in which a model ties its head to the embedding.

    Attributes:
        head, embedding: the names in the output.
        same: True if the two are equal in every model. Then they are equal in the output too if both are computed in
            the same way, and the output stays tied.
    """

    head: str
    embedding: str
    same: bool


class Alignment(NamedTuple):
    """The result of `align`.

    Attributes:
        rows: one for each tensor of the output.
        notes: one line for each irregularity that was handled.
        lead: the number of the model whose names and shards the output has.
        towers: True if only some models have vision or audio towers, so that config.json must be that of the lead.
        tie: the head that the output stores although a model ties it; None if there is no such head.
        vocabulary: the number of rows of the embedding in the output if the models have different numbers.
        kept_notes: those of `notes` that are about kept tensors, by the number of the model that has them.
    """

    rows: list[Row]
    notes: list[str]
    lead: int = 0
    towers: bool = False
    tie: Tie | None = None
    vocabulary: int | None = None
    kept_notes: Mapping[int, Sequence[str]] = MappingProxyType({})

    @property
    def merged(self) -> list[Row]:
        """The rows that all models have. A recipe decides how to merge them; the others are kept as they are."""
        return [row for row in self.rows if row.kept is None]


def align(models: Sequence[Checkpoint], lead: int | None = None) -> Alignment:
    """Matches every tensor of several models. The order is that of the lead.

    Tensors that are not bf16, float16 or float32 cannot be interpolated, so they must be identical in all models.

    Args:
        lead: the number of the lead. None: the first model, or the first one with towers if the first has none.

    Raises:
        MismatchError: only some models have a tensor that is part of the model itself, shapes differ, a dtype cannot be
            interpolated, or a model uses an unsupported quantisation.
    """
    for model in models:
        refuse_quantised(model)
    matching = _Matching(models, lead)
    matching.match_names()
    matching.match_heads()
    matching.sort_out()
    return matching.result()


class _Matching:
    """The work of one `align`. `held` is the tensors of each model, under the names of the output."""

    def __init__(self, models: Sequence[Checkpoint], lead: int | None) -> None:
        self.models = models
        self.held: list[dict[str, Tensor]] = [dict(m.tensors) for m in models]
        self.notes: list[str] = []
        self.equal = all(held.keys() == self.held[0].keys() for held in self.held)
        self.lead = (0 if self.equal else self._choose_lead()) if lead is None else lead
        self.kept: dict[str, int] = {}
        self.tie: Tie | None = None
        self.towers = False
        self.kept_notes: dict[int, list[str]] = {}
        self.padding: dict[tuple[str, int], bool] = {}

    @cached_property
    def _with_towers(self) -> list[bool]:
        """Whether each model has vision or audio towers."""
        return [any(auxiliary.kind_of(n, t, ()) == TOWER for n, t in m.tensors.items()) for m in self.models]

    def _choose_lead(self) -> int:
        towers = self._with_towers
        return 0 if towers[0] or True not in towers else towers.index(True)

    def match_names(self) -> None:
        """Gives the tensors of all other models the names of the lead."""
        if self.equal:
            return
        lead, wanted = self.models[self.lead], dict(self.held[self.lead])
        for k, model in enumerate(self.models):
            if k == self.lead:
                continue
            changes = spelling.renamed(self.held[k], wanted)
            if changes:
                new = {change.old: change.new for change in changes}
                new |= spelling.like_others(changes, [n for n in self.held[k] if n not in new and n not in wanted])
                self.held[k] = {new.get(name, name): t for name, t in self.held[k].items()}
                self.notes.append(
                    f"{model.source}: {len(changes)} tensors have other names than in {lead.source} "
                    f"({spelling.summary(changes)}); the output has the names of {lead.source}"
                )
            self.held[k], fused = experts.unify(wanted, self.held[k], lead.config)
            if fused:
                self.notes.append(
                    f"{model.source}: experts are stored in another layout than in {lead.source} ({fused} fused "
                    f"tensor{'s' if fused != 1 else ''}); the output has the layout of {lead.source}"
                )
            for name, tensor in self.held[k].items():
                wanted.setdefault(name, tensor)

    def match_heads(self) -> None:
        """Uses the embedding as the head of models that tie the two, if another model stores a head of its own."""
        if not any(model.tied or not model.config for model in self.models):
            return
        heads = [head_of(held) for held in self.held]
        stored = next((head for head in heads if head is not None), None)
        if stored is None or not any(head is None or model.tied for head, model in zip(heads, self.models)):
            return
        like = next(held[head] for held, head in zip(self.held, heads) if head is not None)
        embeddings = [embedding_of(held, like if head is None else held[head]) for held, head in zip(self.held, heads)]
        # Per model: whether head and embedding are the same tensor or have the same bits.
        same = [self._head_is_embedding(k, heads[k], embeddings[k]) for k in range(len(self.models))]
        lead_head, lead_embedding = heads[self.lead], embeddings[self.lead]
        if all(same) and lead_head is None:  # the output ties them as the lead does
            for model, held, head in zip(self.models, self.held, heads):
                if head is not None:
                    del held[head]
                    self.notes.append(f"{head}: is a copy of the embedding in {model.source}; the output ties the two")
            return
        name = lead_head
        if name is None:
            config = self.models[self.lead].config
            name = head_name(lead_embedding, config, stored) if lead_embedding is not None else stored
        for model, held, head, embedding in zip(self.models, self.held, heads, embeddings):
            if head is not None and head != name:
                held[name] = held.pop(head)
            elif head is None and embedding is not None:
                if not model.config:
                    self._refuse_unknown_tie(model, name)
                if model.tied:
                    held[name] = held[embedding]
                    self.notes.append(f"{name}: tied in {model.source}, so its {embedding} is used")
        for model, head, equal in zip(self.models, heads, same):
            if head is not None and model.tied and not equal and model.adapter is None:
                self.notes.append(
                    f"{head}: differs from the embedding in {model.source}, although config.json or the default of its "
                    "class ties the two; the output stores both and does not tie them"
                )
        if lead_embedding is not None and any(model.tied for model in self.models):
            self.tie = Tie(name, lead_embedding, all(same))

    def _head_is_embedding(self, k: int, head: str | None, embedding: str | None) -> bool:
        model, held = self.models[k], self.held[k]
        if head is None:
            return model.tied
        return model.tied and embedding is not None and same_values(model, held[head], held[embedding])

    def _refuse_unknown_tie(self, model: Checkpoint, head: str) -> None:
        holder = next(m for m, held in zip(self.models, self.held) if head_of(held) is not None)
        raise MismatchError(
            f"{head}: missing in {model.source}, which has no config.json; {holder.source} stores it",
            "Add the model's config.json, which must set tie_word_embeddings, or the missing tensor.",
        )

    def sort_out(self) -> None:
        """Decides what becomes of tensors that only some models have."""
        if all(held.keys() == self.held[self.lead].keys() for held in self.held):
            return
        every: dict[str, None] = dict.fromkeys(name for held in (self.held[self.lead], *self.held) for name in held)
        partial = [name for name in every if not all(name in held for held in self.held)]
        predicting = [auxiliary.prediction_layers(model) for model in self.models]
        kinds: dict[str, list[str]] = {PREDICTION: [], TOWER: [], BUFFER: []}
        wrong, copies = [], []
        for name in partial:
            holder = self._holders([name])[0]
            kind = auxiliary.kind_of(name, self.held[holder][name], predicting[holder])
            # A model that lacks this tensor of a tower, but has a tower, has an incomplete one.
            incomplete = kind == TOWER and any(
                towers and name not in held for towers, held in zip(self._with_towers, self.held)
            )
            if kind is not None and not incomplete:
                kinds[kind].append(name)
            elif self._is_copy_of_shared(name):
                copies.append(name)
            else:
                wrong.append(name)
        if wrong:
            self._refuse_partial(wrong)
        if copies:
            self._leave_out(copies, "copies of the shared embedding", "the output has it once")
        for kind, names in kinds.items():
            if names and kind == BUFFER:
                self._leave_out(names, KINDS[kind].plural, KINDS[kind].why)
            elif names:
                self._keep(kind, names)

    def _holders(self, names: Collection[str]) -> list[int]:
        """Returns the models that have any of `names`; the lead comes first if it is one of them."""
        found = [k for k, held in enumerate(self.held) if any(name in held for name in names)]
        return sorted(found, key=lambda k: k != self.lead)

    def _is_copy_of_shared(self, name: str) -> bool:
        """Returns True for stored copies of the embedding that T5 and BART share between encoder and decoder."""
        root = name.removeprefix("model.")
        if root not in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
            return False
        shared = f"{name.removesuffix(root)}shared.weight"
        return all(
            shared in held and (name not in held or same_values(model, held[name], held[shared]))
            for model, held in zip(self.models, self.held)
        )

    def _keep(self, kind: str, names: list[str]) -> None:
        """Keeps the tensors of the first model that has some of `names`, and leaves out those of others."""
        holder, *others = self._holders(names)
        kept = [name for name in names if name in self.held[holder]]
        for name in names:
            if name in self.held[holder]:
                self.kept[name] = holder
            else:
                for held in self.held:
                    held.pop(name, None)
        self.towers |= kind == TOWER
        lacking = [m.source for m, held in zip(self.models, self.held) if any(name not in held for name in kept)]
        also = [self.models[k].source for k in others]
        note = (
            f"{self.models[holder].source}: {_count(kept)} of {KINDS[kind].plural} ({shortened(kept)}), which "
            f"{shortened(lacking)} {'lacks' if len(lacking) == 1 else 'lack'} because {KINDS[kind].why}; kept without "
            f"merging{f', and those of {shortened(also)} are not used' if also else ''}"
        )
        self.notes.append(note)
        self.kept_notes.setdefault(holder, []).append(note)

    def _leave_out(self, names: list[str], what: str, why: str) -> None:
        holders = [self.models[k].source for k in self._holders(names)]
        for held in self.held:
            for name in names:
                held.pop(name, None)
        self.notes.append(
            f"{shortened(holders)}: {len(names)} {what} ({shortened(names)}), which not all models have, left out of "
            f"the output because {why}"
        )

    def _refuse_partial(self, wrong: list[str]) -> None:
        lead = self.models[self.lead]
        for k, model in enumerate(self.models):
            if k == self.lead:
                continue
            for one, two in ((self.lead, k), (k, self.lead)):
                alone = [name for name in wrong if name in self.held[one] and name not in self.held[two]]
                if not alone:
                    continue
                if not self.held[one].keys() & self.held[two].keys():
                    names = " and ".join(f"{m.source} has {shortened(list(m.tensors), 2)}" for m in (lead, model))
                    raise MismatchError(f"no tensor has the same name in both models: {names}", _SAME_ARCHITECTURE)
                depths = [layer_count(self.held[n]) for n in (self.lead, k)]
                if depths[0] != depths[1]:
                    raise MismatchError(
                        f"{lead.source} has {depths[0]} layers, {model.source} has {depths[1]}", _SAME_ARCHITECTURE
                    )
                raise MismatchError(
                    f"{self.models[one].source} has {shortened(alone)}, which {self.models[two].source} lacks",
                    self._remedy_for(alone, self.models[two]),
                )

    def _remedy_for(self, alone: list[str], lacking: Checkpoint) -> str:
        if not lacking.tied and any(classify(name).module == "head" for name in alone):
            return (
                f"If the head of {lacking.source} is its embedding, set tie_word_embeddings to true in its "
                "config.json. Otherwise use a version of the model that has its head."
            )
        return "Check that both models have the same architecture and that both downloads are complete."

    def result(self) -> Alignment:
        """Returns the rows, after checking shapes and dtypes."""
        lead = self.held[self.lead]
        names = [*lead, *(name for name in self.kept if name not in lead)]
        last = len(self.models[self.lead].shards) - 1
        rows: list[Row] = []
        dropped: list[str] = []
        vocabulary = None
        for name in names:
            holder = self.kept.get(name)
            if holder is not None:
                shard = lead[name].shard if name in lead else max(last, 0)
                tensor = self.held[holder][name]
                rows.append(Row(name, (tensor,) * len(self.models), shard, holder))
                continue
            row = Row(name, tuple(held[name] for held in self.held), lead[name].shard)
            if self._is_differing_buffer(row):
                dropped.append(name)
                continue
            if any(other.shape != row.inputs[0].shape for other in row.inputs[1:]):
                row = self._with_common_rows(row)
                vocabulary = row.inputs[0].shape[0]
            if not row.floating:
                for model, other in zip(self.models[1:], row.inputs[1:]):
                    _check_fixed(row, self.models[0], model, other)
            rows.append(row)
        if dropped:
            self.notes.append(
                f"{len(dropped)} buffers differ between the models ({shortened(dropped)}); left out of the output "
                f"because {KINDS[BUFFER].why}"
            )
        if vocabulary is not None:
            self.notes.append(self._vocabulary_note(rows, vocabulary))
        notes = self.notes + _dtype_notes([row for row in rows if row.kept is None])
        return Alignment(rows, notes, self.lead, self.towers, self.tie, vocabulary, self.kept_notes)

    def _is_differing_buffer(self, row: Row) -> bool:
        first = row.inputs[0]
        if all(t.shape == first.shape and t.dtype == first.dtype for t in row.inputs) and row.floating:
            return False  # interpolated
        if auxiliary.kind_of(row.name, first, ()) != BUFFER:
            return False
        return not all(
            t.shape == first.shape and t.dtype == first.dtype and _same_bytes(self.models[0], first, m, t)
            for m, t in zip(self.models[1:], row.inputs[1:])
        )

    def _with_common_rows(self, row: Row) -> Row:
        """Returns the row of an embedding or head whose vocabularies differ only in their padding.

        Raises:
            MismatchError: the shapes differ in another way.
        """
        first, shape = self.models[0], row.inputs[0].shape
        for model, other in zip(self.models[1:], row.inputs[1:]):
            if other.shape == shape:
                continue
            problem = f"{row.name}: shape {list(shape)} in {first.source}, {list(other.shape)} in {model.source}"
            if row.name not in self._by_token:
                raise MismatchError(problem, _SAME_ARCHITECTURE)
            if len(shape) != len(other.shape) or shape[1:] != other.shape[1:]:
                raise MismatchError(problem, "Merge models with the same vocabulary size and hidden size.")
            rows = (shape[0], other.shape[0])
            if not row.floating or not self._only_padding_differs(model, min(rows)):
                raise MismatchError(problem, vocabulary_remedy(first, model, rows))
        return row._replace(common=min(t.elements for t in row.inputs))

    @cached_property
    def _by_token(self) -> set[str]:
        """The tensors that have one row for each token."""
        lead = self.held[self.lead]
        head, embedding = head_of(lead), embedding_of(lead)
        return {name for name in (head, embedding, head and f"{head.removesuffix('weight')}bias") if name}

    def _only_padding_differs(self, model: Checkpoint, rows: int) -> bool:
        key = (model.source, rows)
        if key not in self.padding:  # reading tokenizers takes time
            self.padding[key] = only_padding_differs(self.models[0], model, rows)
        return self.padding[key]

    def _vocabulary_note(self, rows: Sequence[Row], vocabulary: int) -> str:
        names = [row.name for row in rows if row.common is not None]
        sizes = next(" and ".join(str(t.shape[0]) for t in row.inputs) for row in rows if row.common is not None)
        return (
            f"{shortened(names)}: {sizes} rows; the tokenizers are equal, so the rest is padding: the common rows are "
            f"merged, and the output has the {vocabulary} rows and the padding of {self.models[0].source}"
        )


def _count(names: Collection[str]) -> str:
    return f"{len(names)} tensors" if len(names) > 1 else "1 tensor"


def _check_fixed(row: Row, first: Checkpoint, model: Checkpoint, other: Tensor) -> None:
    one = row.inputs[0]
    if one.dtype != other.dtype:
        raise MismatchError(
            f"{row.name}: {one.dtype} in {first.source}, {other.dtype} in {model.source}",
            f"Convert both to one of {', '.join(FLOATS)}: other tensors must be identical in all models.",
        )
    if not _same_bytes(first, one, model, other):
        raise MismatchError(
            f"{row.name}: the {one.dtype} values differ between {first.source} and {model.source}",
            f"Dequantise or convert both models to one of {', '.join(FLOATS)} first.",
        )


def _same_bytes(first: Checkpoint, a: Tensor, other: Checkpoint, b: Tensor) -> bool:
    if not isinstance(a, TensorInfo) or not isinstance(b, TensorInfo):  # computed tensors are floating
        return False
    pieces = zip(_pieces(first.shards[a.shard], a), _pieces(other.shards[b.shard], b))
    return a.nbytes == b.nbytes and all(one == two for one, two in pieces)


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
    return [f"{count} different dtypes ({mixed[0].name}: {dtypes}); all are converted to float32 without loss"]
