"""Every pair of bf16 values, 2^32 of them, on a GPU backend against the CPU kernels.

    python tests/gpu/all_pairs.py --backend cuda --lam 0.8 0.3      (seconds to minutes, 2 GiB of device memory)

Row i pairs the value with bits i with all 65,536. Prints one line a lam; exit status 1 if any bit differs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

import torch

import mi_kernels

ROWS = 4096  # rows at a time: 2^28 pairs
VALUES = 1 << 16


def differing(lam: float, backend: str, device: str, rows: Iterable[int]) -> int:
    """How many of the pairs in these rows have different bits."""
    rows = list(rows)
    every = torch.arange(VALUES, dtype=torch.int32).to(torch.int16)
    count = 0
    for at in range(0, len(rows), ROWS):
        chosen = torch.tensor(rows[at : at + ROWS], dtype=torch.int32).to(torch.int16)
        a = chosen.repeat_interleave(VALUES).view(torch.bfloat16)
        b = every.repeat(len(chosen)).view(torch.bfloat16)
        wanted = mi_kernels.lerp(a, b, lam, backend="cpu")
        found = mi_kernels.lerp(a.to(device), b.to(device), lam, backend=backend).cpu()
        count += int((found.view(torch.int16) != wanted.view(torch.int16)).sum())
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=["cuda", "triton"], required=True)
    parser.add_argument("--lam", type=float, nargs="+", default=[0.3, 0.8])
    parser.add_argument("--device", default="cuda", help="cpu with TRITON_INTERPRET=1")
    parser.add_argument("--rows", type=int, nargs="+", default=range(VALUES), help="bits of the values of a")
    arguments = parser.parse_args()
    total = 0
    for lam in arguments.lam:
        bad = differing(lam, arguments.backend, arguments.device, arguments.rows)
        total += bad
        pairs = len(arguments.rows) * VALUES
        print(f"lam {lam}: {bad:,} of {pairs:,} pairs differ ({arguments.backend} on {arguments.device})", flush=True)
    return int(total > 0)


if __name__ == "__main__":
    sys.exit(main())
