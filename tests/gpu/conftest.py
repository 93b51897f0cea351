"""What the tests here run on: every backend a CUDA device offers; or, under TRITON_INTERPRET=1, the CPU.

pytest tests/gpu                        on a machine with a GPU; skipped on any other
TRITON_INTERPRET=1 pytest tests/gpu     the same tests: Triton's interpreter, and plain torch, on CPU tensors
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest

torch = pytest.importorskip("torch")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def index_one_element() -> None:
    """Lets Triton 3.6 interpret loops with NumPy 2.4 and later.

    Its interpreter turns the end of a loop, an array of one element, into an int by `int()`. NumPy refuses that.
    """
    interpreter: Any = pytest.importorskip("triton.runtime.interpreter")
    original = interpreter._patch_lang_tensor

    def patched(tensor: Any, *scope: Any) -> None:
        original(tensor, *scope)
        whole = lambda self: int(self.handle.data.item())  # noqa: E731
        if scope:
            scope[0].set_attr(tensor, "__index__", whole)
        else:
            tensor.__index__ = whole

    interpreter._patch_lang_tensor = patched


if INTERPRETED:
    index_one_element()


def unavailable(backend: str) -> str | None:
    if INTERPRETED:
        if backend == "cuda":
            return "the CUDA kernels need a GPU"
        pytest.importorskip("triton")
        return None
    if not torch.cuda.is_available():
        return "needs a CUDA device"
    if backend == "reference":
        return None
    try:
        reason: str | None = import_module(f"mi_kernels.backends.{backend}").available()
    except ImportError as error:
        return str(error)
    return reason


@pytest.fixture(params=["cuda", "triton", "reference"])
def backend(request: pytest.FixtureRequest) -> str:
    reason = unavailable(request.param)
    if reason is not None:
        pytest.skip(reason)
    return str(request.param)


@pytest.fixture
def device() -> Any:
    return torch.device("cpu" if INTERPRETED else "cuda")


@pytest.fixture
def multi_lerp(backend: str) -> Callable[..., Any]:
    """The public `multi_lerp` on the backend; on CPU tensors the torch reference has no public way in."""
    import mi_kernels
    from mi_kernels.backends.reference import torch_lerp as torch_reference

    def direct(a: Any, b: Any, lam: Any, outs: Any = None) -> Any:
        outs = [torch.empty_like(x) for x in a] if outs is None else outs
        torch_reference.multi_lerp(outs, a, b, lam if isinstance(lam, list) else [lam] * len(a))
        return outs

    def public(a: Any, b: Any, lam: Any, outs: Any = None) -> Any:
        return mi_kernels.multi_lerp(a, b, lam, outs, backend=backend)

    return direct if INTERPRETED and backend == "reference" else public


@pytest.fixture
def cuda(backend: str, device: Any) -> Any:
    """A real CUDA device, for what the interpreter has no word for: streams, graphs, several devices."""
    if device.type != "cuda":
        pytest.skip("needs a CUDA device")
    return device
