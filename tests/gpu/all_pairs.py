"""Every pair of bf16 values, 2^32 of them, on a GPU backend, against the torch reference on the same device.

    python tests/gpu/all_pairs.py --backend cuda --lam 0.8 0.3      (seconds for each lam, 4 GiB of device memory)

Row i pairs the value with bits i with all 65,536. Pairs are made and compared on the device. The CPU kernels compute a
sample of the rows again, which ties both to the same contract. Prints one line for each lam; the exit status is 1 if
any bit differs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

import mi_kernels
from mi_kernels.backends.reference import torch_lerp

ROWS = 4096  # rows at a time: 2^28 pairs
VALUES = 1 << 16
SAMPLE = 64  # the CPU computes every such row
# Both forms of the formula and the boundary between them, a subnormal weight, both ends of extrapolation.
LAMS = [0.8, 0.3, 0.5, 0.49999997, 1e-40, -0.25, 1.7]


class Differences(NamedTuple):
    """How many pairs have other bits than the reference, and how many of the sample other bits than the CPU's."""

    reference: int
    cpu: int


def differing(lam: float, backend: str, device: str, rows: Sequence[int], sample: int = SAMPLE) -> Differences:
    """Compares all pairs of some rows.

    Args:
        rows: the bits of the values of a.
        sample: the CPU computes every row whose place in `rows` is a multiple of this.
    """
    every = _values(range(VALUES), device)
    reference = torch.zeros((), dtype=torch.int64, device=device)
    cpu = 0
    for at in range(0, len(rows), ROWS):
        chosen = _values(rows[at : at + ROWS], device)
        a, b = chosen.repeat_interleave(VALUES), every.repeat(len(chosen))
        found = mi_kernels.lerp(a.view(torch.bfloat16), b.view(torch.bfloat16), lam, backend=backend).view(torch.int16)
        wanted = torch.empty_like(found)
        torch_lerp.multi_lerp(*([x.view(torch.bfloat16)] for x in (wanted, a, b)), [lam])
        reference += (found != wanted).sum()
        again = [i for i in range(len(chosen)) if (at + i) % sample == 0]
        if again:
            cpu += _differing_from_cpu(lam, found.view(-1, VALUES)[again], chosen[again].cpu(), every.cpu())
    return Differences(int(reference), cpu)


def _differing_from_cpu(lam: float, found: Any, chosen: Any, every: Any) -> int:
    a, b = chosen.repeat_interleave(VALUES), every.repeat(len(chosen))
    wanted = mi_kernels.lerp(a.view(torch.bfloat16), b.view(torch.bfloat16), lam, backend="cpu")
    return int((found.cpu().view(-1) != wanted.view(torch.int16)).sum())


def _values(numbers: Sequence[int], device: str) -> Any:
    """The bits of these values, as int16 on the device."""
    return torch.tensor(numbers, dtype=torch.int32, device=device).to(torch.int16)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=["cuda", "triton"], required=True)
    parser.add_argument("--lam", type=float, nargs="+", default=LAMS)
    parser.add_argument("--device", default="cuda", help="cpu with TRITON_INTERPRET=1")
    parser.add_argument("--rows", type=int, nargs="+", default=range(VALUES), help="bits of the values of a")
    arguments = parser.parse_args()
    total = 0
    for lam in arguments.lam:
        started = time.perf_counter()
        bad = differing(lam, arguments.backend, arguments.device, arguments.rows)
        total += sum(bad)
        pairs, rows = len(arguments.rows) * VALUES, -(-len(arguments.rows) // SAMPLE)
        print(
            f"lam {lam}: {bad.reference:,} of {pairs:,} pairs differ from the reference, and {bad.cpu:,} in {rows:,} "
            f"rows from the CPU ({arguments.backend} on {arguments.device}, {time.perf_counter() - started:.1f} s)",
            flush=True,
        )
    return int(total > 0)


if __name__ == "__main__":
    sys.exit(main())
