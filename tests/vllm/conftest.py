"""vLLM's CPU build, beside packages that a CUDA torch wants: hidden as `eval` hides them, in its subprocesses too."""

from __future__ import annotations

import os
from pathlib import Path

from eval.engines import imports

imports.hide_cuda_extras()
_STARTUP = str(Path(imports.__file__).parent / "startup")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (_STARTUP, os.environ.get("PYTHONPATH"))))
