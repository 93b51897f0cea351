"""What the chosen constants cost: chunk sizes, dtypes, copies and unaligned tensors, one figure each.

Each variant is checked against the contract before it is timed, like every contestant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch

import mi_kernels
from mi_kernels.backends import cuda
from mi_kernels.backends import triton as triton_backend

from ..noise import show, spread
from .clock import Clock
from .contestants import LAM, XOR, rooflines
from .in_memory import forget_tables
from .sets import Set, tensor_list

CHUNKS = {"cuda": (8192, 16384, 32768, 65536, 131072), "triton": (8192, 16384, 32768, 65536)}
_BF16, _F16, _F32 = torch.bfloat16, torch.float16, torch.float32
DTYPES = {  # of a, b and the output
    "float16": (_F16, _F16, _F16),
    "float32": (_F32, _F32, _F32),
    "bf16 with float32": (_BF16, _F32, _BF16),
    "bf16 to float32": (_BF16, _BF16, _F32),
}
Emit = Callable[[dict[str, Any]], None]


@contextmanager
def chunk_of(backend: str, chunk: int) -> Iterator[None]:
    """Makes a backend divide its tensors into chunks of this many elements."""
    patched = {
        "cuda": lambda: mock.patch.object(cuda, "chunk_for", return_value=chunk),
        "triton": lambda: mock.patch.object(triton_backend, "CHUNK", chunk),
    }
    with ExitStack() as stack:
        if backend in patched:
            stack.enter_context(patched[backend]())
        forget_tables()
        yield
    forget_tables()


def measure(
    clock: Clock, lists: Sequence[str], backends: Sequence[str], rounds: int, emit: Emit, limit: int | None = None
) -> list[dict[str, Any]]:
    """One row for each variant: list, backend, variant, `kernel` seconds, bytes_per_second and `of_xor`.

    `of_xor` is the share of two reads and a write of bf16 at the same place in the rounds.
    """
    rows: list[dict[str, Any]] = []
    for name in lists:
        # The largest variant has 4 bytes in all three; a set of bf16 stays beside it for the roofline.
        tensors = tensor_list(name, clock.free() // 5, limit)
        plain = Set(tensors.counts, clock.device, 1)
        roofline = rooflines()[XOR](plain)

        def row(s: Set, backend: str, variant: str, lam: float = LAM) -> None:
            work = _lerp(s, backend, lam)
            s.clear()
            work()
            s.check(f"{backend}, {variant}", lam)
            moved = s.moved if lam != 0 else s.elements * (s.flat[0].itemsize + s.flat[2].itemsize)
            seconds, shares = [], []
            for i in range(rounds + 1):
                base = 3 * 2 * plain.elements / clock.kernel(roofline)  # noqa: B023
                found = clock.kernel(work)
                if i > 0:
                    seconds.append(found)
                    shares.append(moved / found / base)
            rows.append(
                {
                    "list": tensors.name,  # noqa: B023
                    "backend": backend,
                    "variant": variant,
                    "kernel": spread(seconds),
                    "bytes_per_second": spread([moved / x for x in seconds]),
                    "of_xor": spread(shares),
                }
            )
            emit({"rows": rows})

        for backend in backends:
            for chunk in CHUNKS.get(backend, (0,)):
                with chunk_of(backend, chunk):
                    row(plain, backend, f"chunks of {chunk:,}")
            row(plain, backend, "copy (lam 0)", 0.0)
        for label, dtypes in DTYPES.items():
            s = Set(tensors.counts, clock.device, 2, dtypes)
            for backend in backends:
                row(s, backend, label)
            del s
        s = Set(tensors.counts, clock.device, 3, offset=1)
        for backend in backends:
            row(s, backend, "unaligned by one element")
        del s
    return rows


def _lerp(s: Set, backend: str, lam: float) -> Callable[[], object]:
    if backend == "reference":  # in the dry run
        from mi_kernels.backends.reference import torch_lerp

        return lambda: torch_lerp.multi_lerp(s.outs, s.a, s.b, [lam] * len(s.a))
    return lambda: mi_kernels.multi_lerp(s.a, s.b, lam, s.outs, backend=backend)


def lines(found: dict[str, Any]) -> list[str]:
    text = [f"  {'':<58}{'kernel ms':>28}{'of xor':>8}"]
    for row in found["rows"]:
        label = f"{row['list']}, {row['backend']}, {row['variant']}"
        text.append(f"  {label:<58}{show(row['kernel'], 1e3, 3):>28}{row['of_xor']['median']:>8.3f}")
    return text
