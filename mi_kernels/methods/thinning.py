"""DARE's random thinning: which elements of a task vector are kept depends on a seed and on names alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from .method import Combine, Tensor


def thinning(tensor: Tensor, density: Sequence[float], seed: int) -> Combine:
    """The part of a formula that says how task vectors are thinned."""
    keys = [stream_key(seed, tensor.name, k) for k in range(1, len(tensor.models) + 1)]
    return {"densities": [1.0, *density], "keys": [0, *keys]}


def stream_key(seed: int, name: str, model: int) -> int:
    """The 64-bit key of one tensor's random numbers.

    Args:
        seed: the recipe's.
        name: the tensor's.
        model: its place among the models, from 1.
    """
    digest = hashlib.blake2b(f"{seed}\0{model}\0{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
