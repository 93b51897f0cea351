"""Tensors in, tensors out: `lerp`, `multi_lerp`, `prepare` for many calls, and `combine` for all other methods.

Each function's docstring holds its mathematics. Arguments are checked here, once.
"""

from .combining import combine
from .linear import lerp, multi_lerp
from .prepared import Prepared, prepare

__all__ = ["Prepared", "combine", "lerp", "multi_lerp", "prepare"]
