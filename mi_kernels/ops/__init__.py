"""Tensors in, tensors out: `lerp`, `multi_lerp`, and `combine` for all other merge methods.

Each function's docstring holds its mathematics. Arguments are checked here, once.
"""

from .combining import combine
from .linear import lerp, multi_lerp

__all__ = ["combine", "lerp", "multi_lerp"]
