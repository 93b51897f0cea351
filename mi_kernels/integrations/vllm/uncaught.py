"""Print our refusals in two lines in vLLM's own programs, which would print a traceback of sixty.

Only there: in a program of your own, the traceback of an exception that nobody catches says where it was raised.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from types import ModuleType, TracebackType

from ...errors import MIKernelsError, printable


def print_in_two_lines(main: ModuleType, environment: Mapping[str, str] = os.environ) -> bool:
    """Lets `sys.excepthook` print MIKernelsError in two lines. Other exceptions are printed as before.

    The exit status stays 1, which Python gives for any exception that nobody catches.

    Args:
        main: the module `__main__`, which tells whose program runs.
        environment: with VLLM_LOGGING_LEVEL=DEBUG, nothing changes: then vLLM's users want the traceback.

    Returns:
        Whether it is a program of vLLM: `vllm`, or a module of vLLM with `python -m`.
    """
    if not is_vllms(main) or environment.get("VLLM_LOGGING_LEVEL", "").upper() == "DEBUG":
        return False
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if not isinstance(error, MIKernelsError):
            previous(kind, error, traceback)
            return
        lines = [f"mi_kernels: {printable(error.problem)}", *([f"  {printable(error.remedy)}"] if error.remedy else [])]
        # Not with print, because vLLM adds the name of its process to each line of sys.stderr.
        os.write(2, "".join(f"{line}\n" for line in lines).encode())

    sys.excepthook = hook
    return True


def is_vllms(main: ModuleType) -> bool:
    """Returns whether `main` is a program of vLLM."""
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return bool(spec.name.split(".")[0] == "vllm")
    return os.path.basename(getattr(main, "__file__", None) or "") == "vllm"
