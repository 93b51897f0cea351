"""`python -m mi_kernels.cli` is the program mi-kernels."""

from __future__ import annotations

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
