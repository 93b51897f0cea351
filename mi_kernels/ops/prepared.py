"""Interpolate the same tensors many times: checked once, and launched again with nothing but new weights."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from operator import itemgetter
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from ..backends import cpu, dispatch
from ..backends.device_table import Rows, by_dtypes
from ..backends.launches import PreparedLaunches
from ..dtypes import CODES, FLOAT32_MAX
from ..errors import ArgumentError, BackendError
from ..system.arguments import checks_names
from . import tensor_table
from .arrays import Array, as_array, empty_like, is_torch, is_traced, pair_lists
from .eager import (
    Label,
    check_pairs,
    check_tensors,
    checked_lams,
    count_writes,
    increment_versions,
    names,
    refuse_addresses,
    run_reference,
)
from .tensor_table import TensorTable

T = TypeVar("T")
Weights = npt.NDArray[np.float64]  # [T], NaN for a pair to skip


@checks_names
def prepare(
    a: Sequence[T],
    b: Sequence[T],
    outs: Sequence[T] | None = None,
    *,
    backend: str | None = None,
    threads: int | None = None,
) -> Prepared[T]:
    """Checks pairs once for many calls: `prepare(a, b, outs).lerp(lam)` writes what `multi_lerp(a, b, lam, outs)` does.

    On a GPU the tables of the launch stay on the device, and a call uploads 4 bytes a pair. A call skips the pairs
    whose result is already there; see `Prepared.lerp`. The result holds all tensors until it is deleted.

    Args:
        a, b: lists of equal length, or other iterables but dicts; each pair as for `mi_kernels.lerp`.
        outs: one array a pair, or None to make them. An output may be its own input and overlaps nothing else.
        backend, threads: as for `mi_kernels.lerp`.

    Raises:
        As `mi_kernels.multi_lerp`; the message names the pair. Also ArgumentError while torch is tracing.

    >>> import numpy as np
    >>> import mi_kernels
    >>> a, b = [np.float32([0]), np.float32([0, 4])], [np.float32([1]), np.float32([2, 6])]
    >>> pairs = mi_kernels.prepare(a, b)
    >>> [merged.tolist() for merged in pairs.lerp(0.5)]
    [[0.5], [1.0, 5.0]]
    >>> [merged.tolist() for merged in pairs.lerp([0.5, 1])]
    [[0.5], [2.0, 6.0]]
    """
    a, b, outs = pair_lists(a, b, outs)
    if is_traced(a, b, outs or ()):
        raise ArgumentError(
            "prepare is called while torch is tracing", "Call it outside torch.compile, and not with a FakeTensor."
        )
    return Prepared(a, b, outs, backend=backend, threads=threads)


class Prepared(Generic[T]):
    """Pairs that `prepare` has checked. Calls from several threads run one after another.

    Args:
        a, b, outs, backend, threads: see `prepare`.
        private: nobody but this object can change a and b. They are not checked at each call, and outputs may require
            grad.

    Attributes:
        outs: the outputs.

    >>> import numpy as np
    >>> import mi_kernels
    >>> pairs = mi_kernels.prepare([np.float32([0, 2])], [np.float32([1, 2])])
    >>> len(pairs), pairs.lerp(0.25)[0].tolist()
    (1, [0.25, 2.0])
    """

    def __init__(
        self,
        a: Sequence[T],
        b: Sequence[T],
        outs: Sequence[T] | None = None,
        *,
        backend: str | None = None,
        threads: int | None = None,
        private: bool = False,
    ) -> None:
        label = names(single=False)
        self.outs: list[T] = [empty_like(x) for x in a] if outs is None else list(outs)
        written: list[Any] = [x.detach() for x in self.outs] if private else self.outs  # type: ignore[attr-defined]
        columns = (written, list(a), list(b))
        first: Any = a[0] if len(a) else None
        arrays: list[list[Array]] = []
        found = tensor_table.read(*columns)
        if found is None and is_torch(first) and first.is_cuda:
            check_tensors((columns[1], columns[2], columns[0]), label)
        if found is None:
            arrays = [
                [as_array(x, label(name, i), writable=name == "out") for i, x in enumerate(values)]
                for name, values in zip(("out", "a", "b"), columns)
            ]
            check_pairs(arrays[1], arrays[2], arrays[0], label)
            found = _table_of(arrays)
        refuse_addresses(found, label, overlap=True)
        self._run = _runner(dispatch.backend_for(backend, found.device), found, columns, arrays, threads)
        self._table, self._label, self._lock = found, label, threading.Lock()
        # What somebody else may move or change.
        self._watched: Sequence[list[Any]] = [self.outs] if private else [self.outs, *columns[1:]]
        self._known, self._tensors = found.columns(0, len(self._watched)), not arrays
        self._last: Weights | None = None  # of the results that the outputs hold; None: unknown
        self._replayed = False  # a graph may write the outputs at any time
        self._counters = _first_counters(self._watched, found)
        self._all_counted = bool((self._counters >= 0).all())

    def __len__(self) -> int:
        return len(self.outs)

    def __repr__(self) -> str:
        written = self._table.sizes[:, 0].sum() if len(self) else 0
        return f"<Prepared: {len(self):,} pairs, {written / 1e9:.2f} GB of outputs, {self._table.device}>"

    @checks_names
    def lerp(self, lam: float | Sequence[float], *, every: bool = False) -> list[T]:
        """Sets each output to (1 - lam) * a + lam * b. The bits are those of `mi_kernels.multi_lerp`.

        A pair is skipped if its lam is that of the last call and nobody has written its tensors since. torch counts
        writes to a tensor (`_version`), except those through `.data`, NumPy or kernels of others: after such a write,
        use `every`. Pairs in place (the output is an input), NumPy arrays and inference tensors are never skipped.

        On a CUDA device the work is queued on the current stream. A call that is captured in a CUDA graph replays with
        the lam of the capture; after it, no call skips a pair.

        Args:
            lam: one number for all pairs, or one for each; as for `mi_kernels.lerp`.
            every: compute every pair.

        Returns:
            The outputs.

        Raises:
            ArgumentError: lam is invalid; or a tensor has other memory, another shape or another dtype than at
                `prepare`. No output has changed.
            BackendError: the device failed.

        >>> import torch
        >>> import mi_kernels
        >>> a, b = [torch.zeros(3), torch.zeros(2)], [torch.ones(3), torch.ones(2)]
        >>> pairs = mi_kernels.prepare(a, b)
        >>> [x.tolist() for x in pairs.lerp([0.5, 0.25])]
        [[0.5, 0.5, 0.5], [0.25, 0.25]]
        """
        wanted = _lams(lam, len(self))
        with self._lock:
            self._check_memory()
            return self._set(wanted, every)

    def lerp_unmoved(self, lams: Weights, every: bool = False) -> list[T]:
        """`lerp` without its checks, for a caller that knows that no tensor has moved and that every lam is finite."""
        with self._lock:
            return self._set(lams, every)

    def _set(self, wanted: Weights, every: bool) -> list[T]:
        launches = self._run if isinstance(self._run, PreparedLaunches) else None
        captured = launches is not None and launches.captured()
        done = None if every or captured or self._replayed else self._done(wanted)
        self._last = None  # if the call fails, nobody knows what the outputs hold
        if len(self):
            self._compute(wanted if done is None else np.where(done, np.nan, wanted))
        self._written(done)
        self._last, self._replayed = wanted, self._replayed or captured
        return list(self.outs)

    def _compute(self, weights: Weights) -> None:
        if isinstance(self._run, PreparedLaunches):
            self._run.run(weights.astype(np.float32))
        else:
            self._run(weights)

    def _check_memory(self) -> None:
        """Checks that every tensor is where it was, and what it was."""
        if not len(self) or self._unmoved(self._watched, self._known):
            return
        i, k = next(
            (i, k) for i, row in enumerate(zip(*self._watched)) for k, x in enumerate(row) if self._moved(x, i, k)
        )
        raise ArgumentError(
            f"{self._label(('out', 'a', 'b')[k], i)} has other memory, another shape or another dtype than when it was "
            "prepared",
            "Call prepare again with the tensors as they are now.",
        )

    def _moved(self, x: Any, i: int, k: int) -> bool:
        known = self._known
        row = known._replace(
            addresses=known.addresses[i : i + 1], elements=known.elements[i : i + 1], codes=known.codes[i : i + 1]
        )
        return not self._unmoved([[x]], row.columns(k, k + 1))

    def _unmoved(self, columns: Sequence[Sequence[Any]], known: TensorTable) -> bool:
        if self._tensors:
            return known.same_memory(tensor_table.read_memory(*columns))
        return np.array_equal(known.addresses, _columns([list(map(_address, values)) for values in columns]))

    def _read_counters(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.int64]:
        """Returns torch's counts of the writes to the watched tensors of some pairs, int64 [len(rows), 1 or 3]."""
        import torch

        version = torch.Tensor._version.__get__
        chosen = _chooser(rows, len(self))
        return _columns([list(map(version, chosen(values))) for values in self._watched])

    def _done(self, wanted: Weights) -> npt.NDArray[np.bool_] | None:
        """Returns which pairs hold their result already; None: no pair."""
        if self._last is None:
            return None
        done: npt.NDArray[np.bool_] = (wanted == self._last) & (self._counters[:, 0] >= 0)
        rows = np.flatnonzero(done)
        if not len(rows):
            return None
        now = self._read_counters(rows)
        changed = rows[(now != self._counters[rows]).any(axis=1)]
        self._counters[rows] = now
        done[changed] = False
        return done

    def _written(self, done: npt.NDArray[np.bool_] | None) -> None:
        if done is None and self._all_counted:
            self._counters[:, 0] += 1
            count_writes(self.outs)
            return
        rows = np.arange(len(self)) if done is None else np.flatnonzero(~done)
        counted = rows[self._counters[rows, 0] >= 0]
        self._counters[counted, 0] += 1
        if len(counted) == len(rows):
            count_writes(_chooser(rows, len(self))(self.outs))
        else:
            increment_versions([self.outs[i] for i in rows])


def _first_counters(watched: Sequence[Sequence[Any]], found: TensorTable) -> npt.NDArray[np.int64]:
    """Returns `_version` of each watched tensor, int64 [T, 1 or 3]; -1 in the rows of pairs that are never skipped."""
    counters = _columns([list(map(_counter, values)) for values in watched])
    in_place = (found.addresses[:, :1] == found.addresses[:, 1:]).any(axis=1)
    counters[in_place | (counters < 0).any(axis=1)] = -1
    return counters


def _chooser(rows: npt.NDArray[np.intp], count: int) -> Callable[[list[Any]], Sequence[Any]]:
    """Returns a function that picks `rows` out of a list of `count`."""
    if len(rows) == count:
        return lambda values: values
    if len(rows) < 2:
        return lambda values: [values[i] for i in rows]
    return itemgetter(*rows.tolist())


def _lams(lam: float | Sequence[float], count: int) -> Weights:
    """lam for each pair, float64 [count]; checked like `eager.checked_lams`, in bulk where it is a plain list."""
    if type(lam) in (int, float):
        return np.full(count, checked_lams(lam, 1)[0])
    if isinstance(lam, (list, tuple)) and len(lam) == count and set(map(type, lam)) == {float}:
        values = np.array(lam, np.float64)
        if (np.abs(values) <= FLOAT32_MAX).all():
            return values
    return np.array(checked_lams(lam, count), np.float64)


def _table_of(arrays: Sequence[Sequence[Array]]) -> TensorTable:
    """The table of outs, a and b, all on the CPU or all on one other device."""
    return TensorTable(
        _columns([[_address(x.buffer) for x in values] for values in arrays]),
        np.array([x.buffer.size for x in arrays[0]], np.int64),
        np.array([[CODES[x.dtype] for x in values] for values in arrays], np.int32).reshape(3, -1).T,
        arrays[0][0].device if arrays[0] else "cpu",
    )


def _columns(numbers: Sequence[Sequence[int]]) -> npt.NDArray[np.int64]:
    """K lists of T numbers as int64 [T, K]."""
    found: npt.NDArray[np.int64] = np.array(numbers, np.int64).reshape(len(numbers), -1).T
    return found


def _address(x: Any) -> int:
    return int(x.data_ptr() if is_torch(x) else x.ctypes.data)


def _counter(x: Any) -> int:
    return int(x._version) if is_torch(x) and not x.is_inference() else -1


def _runner(
    backend: str,
    found: TensorTable,
    columns: Sequence[Sequence[Any]],
    arrays: Sequence[Sequence[Array]],
    threads: int | None,
) -> PreparedLaunches | Callable[[Weights], None]:
    if backend == "cpu":
        return _on_cpu(found, cpu.checked_threads(threads))
    if backend == "reference":
        return _by_reference(found, columns, arrays)
    if arrays:
        raise BackendError(f"backend {backend!r} requested for NumPy arrays", "Give torch tensors.")
    import torch

    kernels: Any = import_module(f"..backends.{backend}", __package__)
    return PreparedLaunches(kernels, torch.device(found.device), Rows(found.addresses, found.elements, found.codes))


def _on_cpu(found: TensorTable, threads: int) -> Callable[[Weights], None]:
    table = np.column_stack([found.addresses, found.elements])
    groups = by_dtypes(found.codes)

    def run(weights: Weights) -> None:
        isa = cpu.isa()
        for triple, rows in groups.items():
            some = rows[~np.isnan(weights[rows])]
            if not len(some):
                continue
            cpu.run_addresses(table[some], weights[some], triple, isa, threads)

    return run


def _by_reference(
    found: TensorTable, columns: Sequence[Sequence[Any]], arrays: Sequence[Sequence[Array]]
) -> Callable[[Weights], None]:
    """The slow definition: of torch for CUDA tensors, otherwise of NumPy."""
    label: Label = names(single=False)
    if found.device == "cpu" and not arrays:
        arrays = [[as_array(x, label("a", i)) for i, x in enumerate(values)] for values in columns]

    def run(weights: Weights) -> None:
        rows = np.flatnonzero(~np.isnan(weights)).tolist()
        outs, a, b = ([values[i] for i in rows] for values in (arrays or columns))
        lams = weights[rows].tolist()
        if found.device == "cpu":
            run_reference(a, b, outs, lams)
        else:
            from ..backends.reference import torch_lerp

            torch_lerp.multi_lerp(outs, a, b, lams)

    return run
