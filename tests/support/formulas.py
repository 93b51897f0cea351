"""Formulas over K models as the kernels take them, and the reference's answer for them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mi_kernels import _cpu
from mi_kernels._cpu import Formula
from mi_kernels.backends.reference import methods as reference
from mi_kernels.methods.weights import affine_weights

from .bits import Bits, Format, random_bits, specials, to_bits, to_torch


def takes(kind: Formula, parameter: str) -> bool:
    """Whether the reference of this formula has such a parameter: every formula says so by its signature."""
    return parameter in inspect.signature(reference.FORMULAS[kind.name]).parameters


def expected(
    out: Format, formula: dict[str, Any], formats: Sequence[Format], x: Sequence[Bits], first: int = 0
) -> Bits:
    """The bits that the formula's definition gives; every NaN the canonical one."""
    wide = [to_torch(fmt, bits).float().numpy() for fmt, bits in zip(formats, x)]
    kind = Formula(formula["formula"])
    given = {"scale": 1.0, "normalize": True, **formula, "first": first}
    result = reference.FORMULAS[kind.name](wide, **{key: value for key, value in given.items() if takes(kind, key)})
    return to_bits(torch.from_numpy(np.ascontiguousarray(result)).to(out.dtype), out)


def combine(
    isa: str,
    out: Format,
    formula: dict[str, Any],
    formats: Sequence[Format],
    x: Sequence[Bits],
    *,
    first: int = 0,
    threads: int = 1,
) -> Bits:
    """The kernel's bits. The output is poisoned before, and lies between guards that must survive."""
    item = np.dtype(out.uint).itemsize
    n = x[0].size
    buffer = np.full(n * item + 64, 0xA5, np.uint8)
    operands = [(bits, 0, fmt.code) for fmt, bits in zip(formats, x)]
    saved = [bits.copy() for bits in x]
    _cpu.combine_spans([(buffer, 32, out.code, operands, n, first, formula)], isa, threads)
    assert (buffer[:32] == 0xA5).all(), "written before the output"
    assert (buffer[32 + n * item :] == 0xA5).all(), "written beyond the output"
    for before, bits in zip(saved, x):
        assert (before == bits).all(), "an input changed"
    return buffer[32 : 32 + n * item].view(out.uint).copy()


def assert_same(got: Bits, want: Bits, x: Sequence[Bits], formula: object) -> None:
    """Bit for bit; a failure names the first element that differs."""
    differ = np.flatnonzero(got != want)
    if differ.size:
        i = differ[0]
        inputs = ", ".join(f"{bits[i]:#x}" for bits in x)
        raise AssertionError(
            f"{differ.size} of {got.size} differ, first at {i}: inputs {inputs}, got {got[i]:#x}, want {want[i]:#x}, "
            f"{formula}"
        )


def random_formula(kind: Formula, models: int, seed: int) -> dict[str, Any]:
    """A formula of `kind` with weights of both signs, zeros among them; thresholds at which some elements are cut."""
    rng = np.random.default_rng(seed)
    weights = [float(w) for w in rng.choice([0.0, 1.0, -1.0, 0.5, 0.3, -0.7, 1.7, 1e-40], models)]
    formula: dict[str, Any] = {"formula": kind, "weights": weights}
    if kind == Formula.AFFINE:
        formula["weights"] = affine_weights([float(w) for w in rng.dirichlet(np.ones(models))])
    if takes(kind, "scale"):
        formula["scale"] = float(rng.choice([1.0, 0.7, 0.5, 0.0, -1.3]))
    if takes(kind, "normalize"):
        formula["normalize"] = bool(rng.integers(2))
    if takes(kind, "thresholds"):
        formula["thresholds"] = [0.0, *map(float, rng.choice([0.0, 1e-3, 0.1, 1.0, 100.0, np.inf], models - 1))]
    if takes(kind, "densities"):
        formula["densities"] = [1.0, *map(float, rng.choice([1.0, 0.5, 0.2, 0.1, 1e-3], models - 1))]
        formula["keys"] = [0, *(int(k) for k in rng.integers(0, 1 << 64, models - 1, dtype=np.uint64))]
    return formula


def moderate_bits(fmt: Format, n: int, seed: int) -> Bits:
    """n normal values of standard deviation 1, rounded: differences are neither all huge nor all nothing."""
    values = torch.randn(n, generator=torch.Generator().manual_seed(seed)).to(fmt.dtype)
    return to_bits(values, fmt)


def inputs(formats: Sequence[Format], n: int, seed: int) -> list[Bits]:
    """For each model: special values met in every order, random bits, and moderate values; n elements in all."""
    rng = np.random.default_rng(seed)
    found = []
    for k, fmt in enumerate(formats):
        special = rng.choice(specials(fmt), n // 3)
        parts = [special, random_bits(fmt, n // 3, seed + k), moderate_bits(fmt, n - 2 * (n // 3), seed + k)]
        found.append(np.concatenate(parts).astype(fmt.uint))
    return found
