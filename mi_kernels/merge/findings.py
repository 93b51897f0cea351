"""Finds problems in the values of tensors during a merge: NaN and infinity, overflow, identical tensors.

A quick pass checks each chunk of output for non-finite values while the chunk is still in the caches. Most formulas
turn a non-finite input into a non-finite output, so the inputs are counted only if the quick pass finds something. A
formula with a density or a threshold (TIES, DARE) can drop an input element, so its inputs get the quick pass too.
Tensors that the merge does not read, such as the unused side of a copy, are not checked.

Two tensors are compared up to their first difference, which is nearly always in the first bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..backends import cpu
from ..backends.spans import Operand
from ..checkpoint.inputs import Inputs, is_computed
from ..checkpoint.tensor import TensorInfo
from ..dtypes import CODE_SIZES, CODES, item_size
from ..errors import StrictError, counted, shortened
from .plan import Plan, Source

Piece = tuple[Source, TensorInfo, int, int]  # source, place in the output, first element, number of elements

_BLOCK = 1 << 18  # elements that are counted at a time
_SHOWN = 3  # tensors that a note names


@dataclass
class Findings:
    """Problems that were found in one output, or in one of its shards.

    Attributes:
        nonfinite: the numbers of NaN and of infinite elements, by (number of the model, tensor).
        overflowed: the number of non-finite elements of the output whose inputs are all finite, by tensor.
        identical: the tensors with the same bytes as in the first model, by number of the model.
        compared: how many tensors were compared with those of the first model, by number of the model.
        computed: how many could not be compared because one of the two is computed from other tensors or has another
            dtype, by number of the model.
        unread: how many were not compared because the merge does not read both, such as those that a mask leaves out.
    """

    nonfinite: dict[tuple[int, str], tuple[int, int]] = field(default_factory=dict)
    overflowed: dict[str, int] = field(default_factory=dict)
    identical: dict[int, list[str]] = field(default_factory=dict)
    compared: dict[int, int] = field(default_factory=dict)
    computed: dict[int, int] = field(default_factory=dict)
    unread: dict[int, int] = field(default_factory=dict)

    @classmethod
    def joined(cls, parts: Iterable[Findings]) -> Findings:
        """Joins the findings of several shards. Each tensor is in only one of them."""
        whole = cls()
        for part in parts:
            whole.nonfinite.update(part.nonfinite)
            whole.overflowed.update(part.overflowed)
            for k, names in part.identical.items():
                whole.identical.setdefault(k, []).extend(names)
            for total, counts in zip(whole._counts(), part._counts()):
                for k, count in counts.items():
                    total[k] = total.get(k, 0) + count
        return whole

    def _counts(self) -> tuple[dict[int, int], ...]:
        return self.compared, self.computed, self.unread

    def to_plain(self) -> dict[str, Any]:
        """Returns the findings as values that JSON supports. `from_plain` is the inverse."""
        return {
            "nonfinite": [[*key, *counts] for key, counts in self.nonfinite.items()],
            "overflowed": [list(item) for item in self.overflowed.items()],
            "identical": [list(item) for item in self.identical.items()],
            "compared": [list(item) for item in self.compared.items()],
            "computed": [list(item) for item in self.computed.items()],
            "unread": [list(item) for item in self.unread.items()],
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Findings:
        """Returns the findings that `to_plain` converted."""
        return cls(
            {(k, name): (nan, inf) for k, name, nan, inf in plain["nonfinite"]},
            dict(plain["overflowed"]),
            {k: list(names) for k, names in plain["identical"]},
            *(dict(plain[key]) for key in ("compared", "computed", "unread")),
        )

    def as_dict(self, models: Sequence[str]) -> dict[str, Any]:
        """Returns the findings for a report, with the names `models` in place of numbers."""
        return {
            "nonfinite": [
                {"model": models[k], "tensor": name, "nan": nan, "inf": inf}
                for (k, name), (nan, inf) in self.nonfinite.items()
            ],
            "overflowed": [{"tensor": name, "elements": count} for name, count in self.overflowed.items()],
            "identical": [{"model": models[k], "tensors": names} for k, names in self.identical.items()],
        }

    def notes(self, models: Sequence[str]) -> list[str]:
        """Returns one note for each model and kind of finding. `models` are the names of the models."""
        return [*self._nonfinite_notes(models), *self._overflow_notes(), *self._identity_notes(models)]

    def refuse(self, out: str, models: Sequence[str]) -> None:
        """Ends a strict merge if there is a finding that can spoil the model.

        Raises:
            StrictError: an input or the output has non-finite values, or one model was passed twice.
        """
        same = [note for k in self._same_models() for note in self._identity_notes(models, k)]
        bad = [*self._nonfinite_notes(models), *self._overflow_notes(), *same]
        if bad:
            more = f" (and {counted(len(bad) - 1, 'more such finding')})" if len(bad) > 1 else ""
            raise StrictError(
                f"{out}: {bad[0]}{more}",
                "Nothing was published. Fix the model, or run the merge again without `strict=True`.",
            )

    def _nonfinite_notes(self, models: Sequence[str]) -> list[str]:
        notes = []
        for k, model in enumerate(models):
            found = {name: counts for (i, name), counts in self.nonfinite.items() if i == k}
            if found:
                shown = _listed([f"{_counted(*counts)} in {name}" for name, counts in found.items()])
                notes.append(f"{model}: {shown}")
        return notes

    def _overflow_notes(self) -> list[str]:
        if not self.overflowed:
            return []
        shown = _listed([f"{count:,} in {name}" for name, count in self.overflowed.items()])
        return [f"elements that overflow in the output although their inputs are finite: {shown}"]

    def _same_models(self) -> list[int]:
        """Returns the models all of whose tensors were compared and are identical."""
        return [
            k
            for k, names in self.identical.items()
            if len(names) == self.compared[k] > 1 and not (self.computed.get(k) or self.unread.get(k))
        ]

    def _identity_notes(self, models: Sequence[str], only: int | None = None) -> list[str]:
        notes = []
        for k, names in self.identical.items():
            if only not in (None, k):
                continue
            if k in self._same_models():
                count = f"all {len(names):,} tensors that were read from both are identical"
                notes.append(f"{models[0]} and {models[k]} are the same model: {count}")
            elif len(names) == self.compared[k] > 1:
                which = "tensors that were compared" if self.computed.get(k) else "selected tensors"
                left = f"; {self.computed[k]:,} computed or stored in another dtype" if self.computed.get(k) else ""
                notes.append(f"all {len(names):,} {which} are identical in {models[0]} and {models[k]}{left}")
            else:
                are = "is" if len(names) == 1 else "are"
                of = f"{len(names):,} of {counted(self.compared[k], 'tensor')} {are} identical"
                notes.append(f"{of} in {models[0]} and {models[k]}: {shortened(names)}")
        return notes


def _counted(nan: int, inf: int) -> str:
    return " and ".join(f"{count:,} {what}" for count, what in ((nan, "NaN"), (inf, "inf")) if count)


def _listed(items: list[str]) -> str:
    more = f"; and {counted(len(items) - _SHOWN, 'more tensor')}" if len(items) > _SHOWN else ""
    return "; ".join(items[:_SHOWN]) + more


class OutputChunk(NamedTuple):
    """A chunk of one output.

    Attributes:
        output: the number of the output.
        data: the bytes.
        nonfinite: byte ranges (begin, end) of the shard that contain non-finite values.
    """

    output: int
    data: memoryview
    nonfinite: Sequence[tuple[int, int]]


class Watch:
    """Checks the values of every chunk of a stream. Any thread of the stream may call it.

    Args:
        plan: the plan of the stream.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan, self._isa = plan, cpu.isa()
        self._dropping = _dropping(plan)
        self._lock = threading.Lock()
        self._nonfinite: dict[tuple[int, str], tuple[int, int]] = {}
        self._overflowed: dict[tuple[int, str], int] = {}
        # For each tensor: the models whose bytes have been the same as those of the first model so far.
        compared = {name: _comparable(source) for name, source in plan.sources.items()}
        self._same = {name: models for name, models in compared.items() if models}

    def look(self, chunk: Sequence[OutputChunk], offset: int, pieces: Iterable[Piece], inputs: Inputs) -> None:
        """Checks one chunk whose inputs were just read.

        Args:
            chunk: the chunk in each output that it is written to.
            offset: the offset of the chunk in the shard, in bytes.
            pieces: the tensors in the chunk.
            inputs: the open files of the models.
        """
        for source, out, first, count in pieces:
            item = item_size(out.dtype)
            begin, end = out.begin + first * item, out.begin + (first + count) * item
            bad = [c for c in chunk if any(x < end and begin < y for x, y in c.nonfinite)]
            if bad or (out.name in self._dropping and self._any_nonfinite(source, first, count, inputs)):
                code = CODES[out.dtype]
                results = [(c.output, Operand(c.data, begin - offset, code)) for c in bad]
                self._count(source, out.name, first, count, results, inputs)
            if source.kept is None and self._same.get(out.name):
                self._compare(source, out.name, first, count, inputs)

    def shard(self, number: int, output: int) -> Findings:
        """Returns the findings of one shard. Call it after `look` has checked all chunks of the shard."""
        found = Findings()
        for t in self._plan.shards[number].tensors:
            source = self._plan.sources[t.name]
            for k in range(len(source.inputs)):
                if (k, t.name) in self._nonfinite:
                    found.nonfinite[k, t.name] = self._nonfinite[k, t.name]
            if (output, t.name) in self._overflowed:
                found.overflowed[t.name] = self._overflowed[output, t.name]
            comparable = _comparable(source)
            for k in comparable:
                found.compared[k] = found.compared.get(k, 0) + 1
                if k in self._same[t.name]:
                    found.identical.setdefault(k, []).append(t.name)
            # Other dtypes are identical, see `alignment`, and what only one model has is never compared.
            if t.dtype in CODES and source.inputs[0].elements and source.kept is None:
                read = source.used()
                for k in set(range(1, len(source.inputs))) - {*comparable}:
                    counts = found.computed if 0 in read and k in read else found.unread
                    counts[k] = counts.get(k, 0) + 1
        return found

    def take(self, number: int, output: int, found: Findings) -> None:
        """Adds the findings of one shard that `shard` returned in another process."""
        same = {(k, name) for k, names in found.identical.items() for name in names}
        with self._lock:
            self._nonfinite.update(found.nonfinite)
            self._overflowed.update({(output, name): count for name, count in found.overflowed.items()})
            for t in self._plan.shards[number].tensors:
                if t.name in self._same:
                    self._same[t.name] = [k for k in self._same[t.name] if (k, t.name) in same]

    def _any_nonfinite(self, source: Source, first: int, count: int, inputs: Inputs) -> bool:
        from .. import _cpu

        for at, n in _blocks(first, count):
            for k in source.used():
                data, offset, code = inputs.operand(k, source.inputs[k], at, n)
                if _cpu.any_nonfinite(data, offset, n, code, self._isa):
                    return True
        return False

    def _count(
        self,
        source: Source,
        name: str,
        first: int,
        count: int,
        results: Sequence[tuple[int, Operand]],
        inputs: Inputs,
    ) -> None:
        from .. import _cpu

        used = source.used()
        for at, n in _blocks(first, count):
            operands = [inputs.operand(k, source.inputs[k], at, n) for k in used]
            # If all results are finite, nothing overflowed; any operand can then be passed as the result.
            for number, (output, (data, begin, code)) in enumerate(results or [(-1, operands[0])]):
                skipped = (at - first) * CODE_SIZES[code] if results else 0
                counts, overflowed = _cpu.count_nonfinite((data, begin + skipped, code), operands, n)
                with self._lock:
                    if overflowed:
                        self._overflowed[output, name] = self._overflowed.get((output, name), 0) + overflowed
                    for k, (nan, inf) in zip(used, counts if number == 0 else ()):
                        if nan or inf:
                            before = self._nonfinite.get((k, name), (0, 0))
                            self._nonfinite[k, name] = (before[0] + nan, before[1] + inf)

    def _compare(self, source: Source, name: str, first: int, count: int, inputs: Inputs) -> None:
        from .. import _cpu

        different = []
        for k in self._same[name]:
            a, b = (inputs.operand(i, source.inputs[i], first, count) for i in (0, k))
            nbytes = count * CODE_SIZES[a.dtype]
            if a.dtype != b.dtype or not _cpu.same_bytes(a.buffer, a.offset, b.buffer, b.offset, nbytes):
                different.append(k)
        if different:
            with self._lock:
                self._same[name] = [k for k in self._same[name] if k not in different]


def _blocks(first: int, count: int) -> Iterable[tuple[int, int]]:
    for at in range(first, first + count, _BLOCK):
        yield at, min(_BLOCK, first + count - at)


def _dropping(plan: Plan) -> set[str]:
    """Returns the tensors whose formula can drop elements of an input."""
    return {
        name
        for name, source in plan.sources.items()
        if source.formula is not None and ("thresholds" in source.formula or "densities" in source.formula)
    }


def _comparable(source: Source) -> list[int]:
    """Returns the models whose tensor is read and has the same dtype as in the first model, so that bytes compare."""
    used, first = source.used(), source.inputs[0]
    if 0 not in used or is_computed(first) or first.elements == 0:
        return []
    others = [k for k in used if k > 0 and not is_computed(source.inputs[k])]
    return [k for k in others if source.inputs[k].dtype == first.dtype]
