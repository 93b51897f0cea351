"""Tensors in, tensors out. Each function's docstring holds its mathematics; validation happens here, once."""

from .linear import lerp, multi_lerp

__all__ = ["lerp", "multi_lerp"]
