"""Our kernels inside mergekit. Importing this package registers the method `mi_lerp`: see `methods`."""

from .methods import NAME, mi_lerp, serve_linear

__all__ = ["NAME", "mi_lerp", "serve_linear"]
