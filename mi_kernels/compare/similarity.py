"""Measure how similar the weights of two checkpoints are: overall, by layer, by module and by tensor.

For tensors a and b of the two models, where each sum is over the elements of a tensor, a layer, a module or the model:

    sigma            sum |a - b| / (sum |a| + sum |b|): 0 for equal weights, 1 for opposite or disjoint ones
                     (Table 1 of "Revisiting Model Interpolation for Efficient Reasoning", arXiv 2510.10977)
    cosine           sum a b / sqrt(sum a^2 * sum b^2)
    max_difference   max |a - b|
    identical        the fraction of elements with a = b; -0 equals 0

bf16, float16 and float32 are widened exactly; differences, products and sums are float64. Sums have the same order on
every ISA (csrc/cpu/stats.h), `methods.statistics` fixes how tensors are divided into pieces, and `math.fsum` adds the
sums of the pieces. So the same models give the same bits on every machine and with every number of threads.
"""

from __future__ import annotations

import math
import os
import time
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

from .._version import __version__
from ..backends import cpu
from ..backends.moments import Moments
from ..checkpoint.alignment import Alignment, Row, align
from ..checkpoint.inputs import Inputs
from ..checkpoint.names import MODULES, OTHER, Place, places
from ..checkpoint.open import open_checkpoint
from ..checkpoint.record import Checkpoint
from ..checkpoint.virtual import Tensor
from ..errors import MismatchError
from ..methods.statistics import pieces
from ..system.arguments import checked_path, checks_names
from ..system.progress import Progress, progress_bar

_AHEAD = 4  # pieces per thread that are read ahead or waiting

FORMULAS = {
    "sigma": "sum |a - b| / (sum |a| + sum |b|)",
    "cosine": "sum a b / sqrt(sum a^2 * sum b^2)",
    "max_difference": "max |a - b|",
    "identical": "count of a = b / count",
}


@dataclass(frozen=True)
class Measure:
    """The similarity of the two models in a group of tensors. The docstring of the module has the formulas.

    Attributes:
        tensors, elements: the numbers of tensors and elements compared.
        sigma: weight difference from 0 (equal) to 1; 0 if all elements of both models are zero.
        cosine: cosine similarity from -1 to 1; None if all elements of one model are zero.
        max_difference: the largest |a - b|.
        identical: the fraction of elements that are equal, from 0 to 1.
    """

    tensors: int
    elements: int
    sigma: float
    cosine: float | None
    max_difference: float
    identical: float


@dataclass(frozen=True)
class Similarity:
    """The result of `similarity`.

    Attributes:
        models: source, revision, adapter if it has one, number of tensors and bytes of each model.
        overall: the measure of all compared tensors.
        modules: a measure for each module, in the order of `mi_kernels.checkpoint.names.MODULES`, with "other" last.
        layers: a measure for each decoder layer. The key None, which is last, holds the tensors outside the layers.
        cells: a measure for each (layer, module) that has tensors, in the order of `layers` and `modules`.
        tensors: a measure for each tensor name, in the order of the first model.
        places: the module and the layer of each tensor.
        left_out: the reason why a tensor was not compared, by tensor name.
        notes: sentences about unusual inputs and how they were handled.
        bytes_read, seconds: bytes of both models that were read, and the time.
        isa, threads: the instruction set and the number of threads that computed the result.

    Example:
        >>> import mi_kernels
        >>> found = mi_kernels.similarity("instruct", "thinking", progress=False)
        >>> found.overall.tensors == len(found.tensors)
        True
        >>> sorted(found.as_dict()["overall"])
        ['cosine', 'elements', 'identical', 'max_difference', 'sigma', 'tensors']
    """

    models: tuple[dict[str, Any], dict[str, Any]]
    overall: Measure
    modules: dict[str, Measure]
    layers: dict[int | None, Measure]
    cells: dict[tuple[int | None, str], Measure]
    tensors: dict[str, Measure]
    places: dict[str, Place]
    left_out: dict[str, str]
    notes: list[str]
    bytes_read: int
    seconds: float
    isa: str
    threads: int

    @property
    def names(self) -> tuple[str, str]:
        """Both models as the user gave them, with their adapters."""
        one, two = (_name(model) for model in self.models)
        return one, two

    def as_dict(self) -> dict[str, Any]:
        """Returns the result in JSON types. Every number is finite or None."""
        return {
            "mi_kernels": __version__,
            "formulas": FORMULAS,
            "instruct": self.models[0],
            "thinking": self.models[1],
            "overall": asdict(self.overall),
            "modules": {module: asdict(measure) for module, measure in self.modules.items()},
            "layers": [
                {
                    "layer": layer,
                    **asdict(measure),
                    "modules": {module: asdict(m) for (at, module), m in self.cells.items() if at == layer},
                }
                for layer, measure in self.layers.items()
            ],
            "tensors": [
                {"name": name, **self.places[name]._asdict(), **asdict(measure)}
                for name, measure in self.tensors.items()
            ],
            "left_out": self.left_out,
            "notes": self.notes,
            "bytes_read": self.bytes_read,
            "seconds": self.seconds,
            "isa": self.isa,
            "threads": self.threads,
        }


@checks_names
def similarity(
    instruct: str | os.PathLike[str],
    thinking: str | os.PathLike[str],
    *,
    threads: int | None = None,
    progress: Progress = True,
) -> Similarity:
    """Compares the weights of two checkpoints: overall, by layer, by module and by tensor.

    The main measure is sigma = sum |a - b| / (sum |a| + sum |b|), from Table 1 of "Revisiting Model Interpolation for
    Efficient Reasoning" (arXiv 2510.10977). `Measure` lists the others. All sums are float64.

    The function matches tensors by name, with the same checks as a merge. If both models tie lm_head to the embedding,
    the tensor is counted once, as `embed`, even if a file stores it twice. If only one model ties it, the function
    compares the lm_head of the other model with the tied embedding. Tensors of integer dtypes (which must be equal in
    both models) and tensors with NaN or inf are not compared; `left_out` lists them.

    Memory use is constant for every model size: the function reads both models once, through the page cache.

    Args:
        instruct, thinking: model folders, or Hub ids ORG/NAME[@REVISION]. Swapping them does not change the numbers.
        threads: the number of computing threads; None for all cores. It does not change the result.
        progress: True for a bar on a terminal or in a notebook, "lines" for a line every five seconds elsewhere too,
            False for none, or a function that is called with (bytes done, bytes in total).

    Returns:
        A Similarity.

    Raises:
        ArgumentError: `threads` is out of range.
        CheckpointError: a model cannot be read, or changes while it is read.
        MismatchError: names, shapes or dtypes of the two models differ, or no tensor can be compared.

    Example:
        >>> import mi_kernels
        >>> found = mi_kernels.similarity("instruct", "thinking", progress=False)
        >>> 0 < found.overall.sigma < 1
        True
        >>> mi_kernels.similarity("instruct", "instruct", progress=False).overall.sigma
        0.0
    """
    models = [checked_path(instruct, "instruct"), checked_path(thinking, "thinking")]
    return similarity_of([open_checkpoint(model) for model in models], threads=threads, progress=progress)


def similarity_of(
    models: Sequence[Checkpoint],
    *,
    threads: int | None = None,
    progress: Progress = True,
    early: Callable[[int], object] = lambda size: None,
) -> Similarity:
    """Computes `similarity` of two open checkpoints.

    Args:
        early: called with the number of bytes to read, before they are read, if the models can be compared.
    """
    started = time.perf_counter()
    count, isa = cpu.checked_threads(threads), cpu.isa()
    alignment = align(models)
    found = places(row.name for row in alignment.rows)
    left_out = _excluded(alignment, models)
    rows = [row for row in alignment.rows if row.name not in left_out]
    size = sum(_bytes_up_to(_elements(row), t) for row in rows for t in row.inputs)
    tensors: dict[str, _Sums] = {}
    early(size)
    with progress_bar(progress, size, "measuring sigma") as on_bytes:
        for row, parts in _summed(rows, models, isa, count, on_bytes):
            if all(math.isfinite(m.abs_a) and math.isfinite(m.abs_b) for m, *_ in parts):
                tensors[row.name] = _Sums.total(parts)._replace(tensors=1)
            else:
                left_out[row.name] = "contains NaN or inf"
    for model in models:
        model.check_unchanged()
    if not tensors:
        raise MismatchError(
            f"{models[0].source} and {models[1].source} have no tensor that can be compared",
            f"Compare models with floating-point weights. {next(iter(left_out))}: {left_out[next(iter(left_out))]}.",
        )
    order = {module: i for i, module in enumerate((*MODULES, OTHER))}

    def by_layer(layer: int | None) -> float:
        return math.inf if layer is None else layer

    return Similarity(
        models=(models[0].identity(), models[1].identity()),
        overall=_Sums.total(tensors.values()).measure(),
        modules=_grouped(tensors, lambda name: found[name].module, order.__getitem__),
        layers=_grouped(tensors, lambda name: found[name].layer, by_layer),
        cells=_grouped(
            tensors, lambda name: (found[name].layer, found[name].module), lambda key: (by_layer(key[0]), order[key[1]])
        ),
        tensors={name: sums.measure() for name, sums in tensors.items()},
        places={name: found[name] for name in tensors},
        left_out=left_out,
        notes=[note for model in models for note in (*model.notes, *model.risks)] + alignment.notes,
        bytes_read=size,
        seconds=time.perf_counter() - started,
        isa=isa,
        threads=count,
    )


def _name(identity: Mapping[str, Any]) -> str:
    adapter = identity.get("adapter")
    return f"{identity['source']}+{adapter['source']}" if adapter else str(identity["source"])


class _Sums(NamedTuple):
    """The moments of a group of elements, and the numbers of elements and tensors in it."""

    moments: Moments
    elements: int
    tensors: int

    @classmethod
    def total(cls, parts: Iterable[_Sums]) -> _Sums:
        moments, elements, tensors = zip(*parts)
        *sums, largest = zip(*moments)
        return cls(Moments._make([*map(math.fsum, sums), max(largest)]), sum(elements), sum(tensors))

    def measure(self) -> Measure:
        m = self.moments
        # One square root of the product: for equal models the root of a square is exact, so the cosine is exactly 1.
        scale, squares = m.abs_a + m.abs_b, m.square_a * m.square_b
        return Measure(
            tensors=self.tensors,
            elements=self.elements,
            sigma=m.abs_difference / scale if scale else 0.0,
            # Rounding may make it slightly larger than 1.
            cosine=max(-1.0, min(1.0, m.product / math.sqrt(squares))) if squares else None,
            max_difference=m.largest,
            identical=(self.elements - m.unequal) / self.elements if self.elements else 1.0,
        )


Key = TypeVar("Key", bound=Hashable)


def _grouped(
    tensors: Mapping[str, _Sums], key: Callable[[str], Key], order: Callable[[Key], Any]
) -> dict[Key, Measure]:
    groups: dict[Key, list[_Sums]] = defaultdict(list)
    for name, sums in tensors.items():
        groups[key(name)].append(sums)
    return {group: _Sums.total(groups[group]).measure() for group in sorted(groups, key=order)}


def _excluded(alignment: Alignment, models: Sequence[Checkpoint]) -> dict[str, str]:
    """Returns why tensors are not compared, by name."""
    why = {
        row.name: f"{row.inputs[0].dtype} is not a floating-point dtype"
        if row.kept is None
        else f"only {models[row.kept].source} has it"
        for row in alignment.rows
        if row.kept is not None or not row.floating
    }
    if alignment.tie is not None and alignment.tie.same:
        why[alignment.tie.head] = f"tied in both models: counted once, as {alignment.tie.embedding}"
    return why


def _elements(row: Row) -> int:
    """Returns the number of elements that both models have."""
    return row.inputs[0].elements if row.common is None else row.common


class _Piece(NamedTuple):
    row: int
    first: int
    elements: int


def _pieces(rows: Sequence[Row]) -> Iterator[_Piece]:
    for number, row in enumerate(rows):
        for first, elements in list(pieces(_elements(row))) or [(0, 0)]:  # an empty tensor has one piece too
            yield _Piece(number, first, elements)


def _bytes_up_to(element: int, t: Tensor) -> int:
    """Returns the bytes of the elements before `element`; an estimate for a tensor that is computed from others."""
    return t.nbytes * element // (t.elements or 1)


def _summed(
    rows: Sequence[Row], models: Sequence[Checkpoint], isa: str, threads: int, on_bytes: Callable[[int], None]
) -> Iterator[tuple[Row, list[_Sums]]]:
    """Yields the sums of the pieces of each row, in order. A thread pool computes a few pieces ahead."""
    from .. import _cpu

    with ExitStack() as stack:
        inputs = stack.enter_context(Inputs([model.files for model in models]))
        for row in rows:
            for k, t in enumerate(row.inputs):
                inputs.check_length(k, t)
        pool = stack.enter_context(ThreadPoolExecutor(threads, "mi-kernels"))

        def compute(piece: _Piece) -> _Sums:
            tensors, end = rows[piece.row].inputs, piece.first + piece.elements
            a, b = (inputs.operand(k, t, piece.first, piece.elements) for k, t in enumerate(tensors))
            moments = Moments._make(_cpu.moments(a, b, None, piece.elements, isa))
            inputs.check()
            on_bytes(sum(_bytes_up_to(end, t) - _bytes_up_to(piece.first, t) for t in tensors))
            return _Sums(moments, piece.elements, 0)

        def results() -> Iterator[tuple[int, _Sums]]:
            # pool.map would hold the pieces of a large model all at once.
            waiting: deque[tuple[int, Future[_Sums]]] = deque()
            for piece in _pieces(rows):
                inputs.read_ahead((k, t, piece.first, piece.elements) for k, t in enumerate(rows[piece.row].inputs))
                waiting.append((piece.row, pool.submit(compute, piece)))
                if len(waiting) > _AHEAD * threads:
                    number, future = waiting.popleft()
                    yield number, future.result()
            for number, future in waiting:
                yield number, future.result()

        for number, group in groupby(results(), key=lambda result: result[0]):
            yield rows[number], [sums for _, sums in group]
