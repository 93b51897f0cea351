"""Checks all 2^32 pairs of bf16 values, which proves the result for a lam.

    python -m tests.kernels.prove_bf16 --lam 0.8 --lam 0.3              every ISA of this machine
    python -m tests.kernels.prove_bf16 --lam 0.8 --isa avx512           one of them

For each lam, the first ISA equals ``torch.lerp(a.float(), b.float(), lam).to(torch.bfloat16)``, bit for bit with every
NaN taken as the canonical one, and every other ISA equals the first. Exit status 1 on a difference, which is named.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from tqdm import tqdm

from mi_kernels import _cpu

VALUES = 1 << 16
NAN = 0x7FC0

# Every bf16 value, once: the block's `a`. A block is these with one value of b, and its arrays (about 1 MB) stay in
# the second-level cache.
ALL = np.arange(VALUES, dtype=np.uint32).astype(np.uint16)


class Difference(Exception):
    """Two answers for one pair of inputs."""

    def __init__(self, lam: float, a: int, b: int, first: str, first_bits: int, second: str, second_bits: int) -> None:
        super().__init__(
            f"lam {lam!r}, a {a:#06x}, b {b:#06x}: {first} gives {first_bits:#06x}, {second} {second_bits:#06x}"
        )


class Block:
    """The arrays one thread works in."""

    def __init__(self) -> None:
        self.a32 = torch.from_numpy(ALL.astype(np.int32) << 16).view(torch.float32)
        self.b32 = torch.empty(VALUES, dtype=torch.float32)
        self.r32 = torch.empty(VALUES, dtype=torch.float32)
        self.narrow = torch.empty(VALUES, dtype=torch.bfloat16)
        self.torch_bits = self.narrow.view(torch.int16).numpy().view(np.uint16)
        self.b = np.empty(VALUES, np.uint16)
        self.first = np.empty(VALUES, np.uint16)
        self.other = np.empty(VALUES, np.uint16)

    def kernel(self, out: np.ndarray, isa: str, lam: float) -> None:
        out.fill(0xDEAD)  # so that a result of an earlier block is not taken for this one's
        _cpu.lerp_spans([(out, 0, ALL, 0, self.b, 0, VALUES, lam, 0, 0, 0)], isa)

    def check(self, b: int, lam: float, isas: Sequence[str]) -> None:
        """Raises Difference unless every a with this b gives one answer everywhere."""
        self.b.fill(b)
        self.b32.view(torch.int32).fill_(int(np.array(b << 16, np.uint32).view(np.int32)))
        torch.lerp(self.a32, self.b32, lam, out=self.r32)
        self.narrow.copy_(self.r32)
        self.kernel(self.first, isas[0], lam)
        # Torch's NaN has bits that depend on its vector path: where the two differ, theirs must be any NaN and ours
        # the canonical one.
        differ = np.flatnonzero(self.first != self.torch_bits)
        theirs, ours = self.torch_bits[differ], self.first[differ]
        wrong = np.flatnonzero((theirs & 0x7FFF <= 0x7F80) | (ours != NAN))
        if wrong.size:
            k = wrong[0]
            raise Difference(lam, int(ALL[differ[k]]), b, "torch", int(theirs[k]), isas[0], int(ours[k]))
        for isa in isas[1:]:
            self.kernel(self.other, isa, lam)
            if not np.array_equal(self.first, self.other):
                i = int(np.flatnonzero(self.first != self.other)[0])
                raise Difference(lam, int(ALL[i]), b, isas[0], int(self.first[i]), isa, int(self.other[i]))


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Disables the threads of torch, because each thread here has its own part of b."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def prove(lam: float, isas: Sequence[str], bs: Iterable[int] = range(VALUES), *, progress: bool = False) -> int:
    """Compares all bf16 values of a with each b in `bs`; the first of `isas` with torch, the others with the first.

    Returns:
        How many pairs were compared.

    Raises:
        Difference: names the first pair found, and both answers.
        ValueError: lam is 0 or 1 in float32, where the contract is a copy of bytes and not torch's arithmetic.
    """
    if np.float32(lam) in (0, 1):
        raise ValueError(f"lam {lam!r} copies bytes; there is nothing to prove against torch.lerp")
    bs = list(bs)
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def work(mine: Sequence[int]) -> int:
        block = Block()
        for b in mine:
            block.check(b, lam, isas)
        return len(mine)

    pieces = [bs[i : i + 512] for i in range(0, len(bs), 512)]
    done = 0
    with one_torch_thread(), ThreadPoolExecutor(workers) as pool:
        with tqdm(total=len(bs) * VALUES, unit=" pairs", unit_scale=True, leave=False, disable=not progress) as bar:
            try:
                for count in pool.map(work, pieces):
                    done += count * VALUES
                    bar.update(count * VALUES)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return done


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kernels.prove_bf16", description=__doc__.splitlines()[0])
    parser.add_argument("--lam", type=float, action="append", required=True, help="may be given several times")
    parser.add_argument("--isa", choices=_cpu.isas(), action="append", help="the default is every one of this machine")
    given = parser.parse_args(arguments)
    isas = given.isa or _cpu.isas()
    total = 0
    for lam in given.lam:
        start = time.monotonic()
        try:
            total += prove(lam, isas, progress=sys.stderr.isatty())
        except (Difference, ValueError) as error:
            print(f"FAILED: {error}", file=sys.stderr)
            return 1
        print(
            f"lam {lam!r}: all pairs equal, {', '.join(isas)} and torch, {time.monotonic() - start:.1f} s", flush=True
        )
    print(f"{total:,} pairs proved")
    return 0


if __name__ == "__main__":
    sys.exit(main())
