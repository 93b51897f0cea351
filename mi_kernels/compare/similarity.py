"""How far apart two checkpoints are: weight similarity, overall, by layer and by module.

For tensors a and b of the two models, with every sum over all elements of a tensor, a layer, a module or everything:

    sigma            sum |a - b| / (sum |a| + sum |b|): 0 for equal weights, 1 for opposite or disjoint ones
                     (Table 1 of "Revisiting Model Interpolation for Efficient Reasoning", arXiv 2510.10977)
    cosine           sum a b / sqrt(sum a^2 * sum b^2)
    max_difference   max |a - b|
    identical        the share of elements with a = b; -0 equals 0

bf16, float16 and float32 are widened exactly; differences, products and sums are float64. Sums have one order on every
ISA (csrc/cpu/stats.h), tensors are cut into the pieces of `statistics` whoever computes them, and `math.fsum` adds
what comes of the pieces: the same models give the same bits on every machine and thread count.
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
from ..checkpoint.alignment import Row, align
from ..checkpoint.inputs import Inputs
from ..checkpoint.names import MODULES, OTHER, Place, places
from ..checkpoint.open import open_checkpoint
from ..checkpoint.record import Checkpoint
from ..checkpoint.virtual import Tensor
from ..errors import MismatchError
from ..methods.statistics import Moments, pieces
from ..system.progress import progress_bar

_AHEAD = 4  # pieces that are fetched or wait for each thread

FORMULAS = {
    "sigma": "sum |a - b| / (sum |a| + sum |b|)",
    "cosine": "sum a b / sqrt(sum a^2 * sum b^2)",
    "max_difference": "max |a - b|",
    "identical": "count of a = b / count",
}


@dataclass(frozen=True)
class Measure:
    """How close the two models are in some of their tensors; the module's docstring has the formulas.

    Attributes:
        tensors, elements: how many were compared.
        sigma: from 0 to 1; 0 where both are zero throughout.
        cosine: from -1 to 1; None where one of them is zero throughout, which has no direction.
        max_difference: the largest |a - b|.
        identical: from 0 to 1.
    """

    tensors: int
    elements: int
    sigma: float
    cosine: float | None
    max_difference: float
    identical: float


@dataclass(frozen=True)
class Similarity:
    """What `similarity` found.

    Attributes:
        models: source, revision, tensors and bytes of the two.
        overall: of all tensors compared.
        modules: by module, in the order of `mi_kernels.checkpoint.names.MODULES`; "other" last.
        layers: by decoder layer; None, last, is what lies outside the layers.
        cells: by (layer, module), in the order of the two; only those that hold tensors.
        tensors: by name, in the first model's order.
        places: where each of them belongs.
        left_out: why a tensor was not compared, by name.
        notes: oddities that were handled, a sentence each.
        bytes_read, seconds, isa, threads: what it took.
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

    def as_dict(self) -> dict[str, Any]:
        """All of it in types of JSON; every number is finite or None."""
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


def similarity(
    instruct: str | os.PathLike[str],
    thinking: str | os.PathLike[str],
    *,
    threads: int | None = None,
    progress: bool | Callable[[int, int], None] = True,
) -> Similarity:
    """Compares the weights of two checkpoints: overall, by layer, by module and tensor by tensor.

    Tensors meet by name, with the same refusals as a merge. A tied lm_head is the embedding: where both models tie it,
    it is counted once, as embed, even if a file stores it a second time. Where only one of them ties it, the other's
    own lm_head is a tensor like any other, and is compared with the embedding that stands for it. Tensors that are not
    floating (the same in both, or the pair is refused) and tensors that hold NaN or inf are left out, and listed.

    Memory is flat whatever the models' size: both are read through the page cache, once.

    Args:
        instruct, thinking: model folders, or Hub ids ORG/NAME[@REVISION]. Swapping them changes no number.
        threads: computing threads; None for all cores. Changes no bit of the result.
        progress: a bar on a terminal's stderr, or a function called with (bytes done, bytes in all).

    Raises:
        MIKernelsError: a model cannot be read, or the two do not fit together: what is wrong, and the remedy.
    """
    return similarity_of((open_checkpoint(instruct), open_checkpoint(thinking)), threads=threads, progress=progress)


def similarity_of(
    models: Sequence[Checkpoint],
    *,
    threads: int | None = None,
    progress: bool | Callable[[int, int], None] = True,
) -> Similarity:
    """`similarity` of two checkpoints that are open."""
    started = time.perf_counter()
    count, isa = cpu.checked_threads(threads), cpu.isa()
    alignment = align(models)
    found = places(row.name for row in alignment.rows)
    left_out = _excluded(alignment.rows, found, models)
    rows = [row for row in alignment.rows if row.name not in left_out]
    size = sum(t.nbytes for row in rows for t in row.inputs)
    tensors: dict[str, _Sums] = {}
    with progress_bar(progress, size) as on_bytes:
        for row, parts in _summed(rows, models, isa, count, on_bytes):
            if all(math.isfinite(m.abs_a) and math.isfinite(m.abs_b) for m, *_ in parts):
                tensors[row.name] = _Sums.total(parts)._replace(tensors=1)
            else:
                left_out[row.name] = "holds NaN or inf"
    for model in models:
        model.check_unchanged()
    if not tensors:
        raise MismatchError(
            f"{models[0].source} and {models[1].source} hold no tensor that can be compared",
            f"All are left out; the first is {next(iter(left_out))}: {left_out[next(iter(left_out))]}.",
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
        notes=[note for model in models for note in model.notes] + alignment.notes,
        bytes_read=size,
        seconds=time.perf_counter() - started,
        isa=isa,
        threads=count,
    )


class _Sums(NamedTuple):
    """The moments of some elements, and what they are of."""

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
        # One root of the product: equal models have a cosine of exactly 1, since the root of a square is exact.
        scale, squares = m.abs_a + m.abs_b, m.square_a * m.square_b
        return Measure(
            tensors=self.tensors,
            elements=self.elements,
            sigma=m.abs_difference / scale if scale else 0.0,
            # Rounding may carry it a little past 1.
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


def _excluded(rows: Sequence[Row], found: Mapping[str, Place], models: Sequence[Checkpoint]) -> dict[str, str]:
    """The tensors that are not compared, and why."""
    why = {row.name: f"{row.inputs[0].dtype}, not floating" for row in rows if not row.floating}
    if all(model.tied for model in models):
        embeddings = {row.inputs[0].shape: row.name for row in rows if found[row.name].module == "embed"}
        for row in rows:
            # A head's bias is not tied.
            if found[row.name].module == "head" and row.inputs[0].shape in embeddings:
                why[row.name] = f"tied in both models: counted once, as {embeddings[row.inputs[0].shape]}"
    return why


class _Piece(NamedTuple):
    row: int
    first: int
    elements: int


def _pieces(rows: Sequence[Row]) -> Iterator[_Piece]:
    for number, row in enumerate(rows):
        for first, elements in list(pieces(row.inputs[0].elements)) or [(0, 0)]:  # an empty tensor is one too
            yield _Piece(number, first, elements)


def _bytes_up_to(element: int, t: Tensor) -> int:
    """The share of a tensor's bytes that the elements before `element` have; of a computed one it is rounded."""
    return t.nbytes * element // (t.elements or 1)


def _summed(
    rows: Sequence[Row], models: Sequence[Checkpoint], isa: str, threads: int, on_bytes: Callable[[int], None]
) -> Iterator[tuple[Row, list[_Sums]]]:
    """The sums of every piece of each row, in order, computed by a pool that stays a few pieces ahead."""
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
            # Not pool.map, which would hold every piece of a large model at once.
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
