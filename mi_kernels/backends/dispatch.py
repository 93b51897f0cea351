"""Choose the backend of a call: a pure function of the request and of the installed backends.

`choose` decides. `backend_for` calls it with the environment and the installation of this process.
"""

from __future__ import annotations

import os
import warnings
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

from ..errors import BackendError
from ..system.packages import CUDA_PART, install

NAMES = ("cpu", "cuda", "triton", "reference")
VARIABLE = "MI_KERNELS_BACKEND"

# The backends that serve tensors on each type of device, best first.
_SERVE = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "reference")}

_REMEDIES = {
    "cuda": f"{CUDA_PART}. Or use backend=None.",
    "triton": f"Run {install('triton')} on a machine where torch finds a GPU, or use backend=None.",
}


class Request(NamedTuple):
    """The request of a caller.

    Attributes:
        backend: the name that the caller passed, or None for the best available backend.
        device: the device of the tensors, as torch writes it, such as "cuda:0".
        variable: the value of MI_KERNELS_BACKEND, which applies if `backend` is None.
    """

    backend: str | None
    device: str = "cpu"
    variable: str | None = None


class Machine(NamedTuple):
    """The backends that this machine offers.

    Attributes:
        cpu_extension: whether the compiled CPU kernels can be imported.
        cuda, triton: None if the backend serves CUDA tensors, otherwise the reason as a sentence.
        interpreter: whether Triton is installed and interprets its kernels. It then also serves torch tensors on the
            CPU, but only if it is requested by name.
    """

    cpu_extension: bool = True
    cuda: str | None = "this call did not look for a GPU."
    triton: str | None = "this call did not look for a GPU."
    interpreter: bool = False


@cache
def choose(request: Request, machine: Machine) -> str:
    """Returns the name of the backend that serves a request.

    A backend is chosen automatically only if neither `backend` nor MI_KERNELS_BACKEND names one.

    Raises:
        BackendError: the requested backend is unknown or not available, or no backend serves the device.
    """
    name = request.backend or request.variable
    origin = f" by {VARIABLE}" if name and not request.backend else ""
    if name is not None and name not in NAMES:
        raise BackendError(
            f"backend {name!r}{f' requested{origin}' if origin else ''}: unknown backend",
            f"Use one of {', '.join(NAMES)}, or None.",
        )
    kind = request.device.split(":")[0]
    if kind not in _SERVE:
        raise BackendError(
            f"tensors on {request.device!r}: no backend supports this device",
            "Move the tensors to the CPU first.",
        )
    reasons = {candidate: _unavailable(candidate, kind, machine) for candidate in NAMES}
    available = [candidate for candidate in NAMES if reasons[candidate] is None]
    if name is None:
        # There is no fallback on the CPU, because the reference is a hundred times slower.
        name = next(c for c in _SERVE[kind] if c in available or kind == "cpu")
    reason = reasons[name]
    if reason is None:
        return name
    where = f" for tensors on {request.device}" if kind != "cpu" or name not in _SERVE[kind] else ""
    found = "".join(f"; {c}: {r.rstrip('.')}" for c, r in reasons.items() if r and (c == name or c in _SERVE[kind]))
    raise BackendError(
        f"backend {name!r} requested{origin}{where}; available: {', '.join(available)}{found}",
        (_REMEDIES.get(name) or _cpu_remedy())
        if name in _SERVE[kind]
        else f"Move the tensors to {'the CPU' if name == 'cpu' else 'a GPU'}, or use {' or '.join(available)}.",
    )


_AGAIN = (
    "Install mi_kernels again with a C++17 compiler: `python -m pip install --force-reinstall .` in its source folder."
)


def _cpu_remedy() -> str:
    try:
        from .. import _cpu  # noqa: F401
    except BackendError as error:  # names the cause
        return f"{error.problem}. {error.remedy}"
    except ImportError as error:
        return f"The compiled extension cannot be imported ({error}). {_AGAIN}"
    return _AGAIN


def _unavailable(name: str, kind: str, machine: Machine) -> str | None:
    """Returns why backend `name` cannot serve tensors on a device of type `kind`, or None if it can."""
    if name == "reference":
        return None
    if name == "cpu":
        if kind != "cpu":
            return "it serves tensors on the CPU."
        return None if machine.cpu_extension else "its compiled extension cannot be imported."
    if kind == "cpu":
        return None if name == "triton" and machine.interpreter else "it serves CUDA tensors."
    return machine.cuda if name == "cuda" else machine.triton


def backend_for(backend: str | None, device: str) -> str:
    """Calls `choose` with the environment and the backends of this process.

    Warns once if only the slow reference can serve CUDA tensors.

    Raises:
        BackendError: see `choose`.
    """
    if backend is not None and not isinstance(backend, str):
        raise BackendError(f"backend is {backend!r}", f"Use one of {', '.join(NAMES)}, or None.")
    request = Request(backend, device, os.environ.get(VARIABLE) or None)
    machine = this_machine(device.split(":")[0])
    chosen = choose(request, machine)
    if chosen == "reference" and not (request.backend or request.variable):
        _warn_of_reference(machine)
    return chosen


def combining_backend_for(device: str) -> str:
    """Returns the backend that combines several tensors on `device` into one: "cuda", "triton", or "cpu".

    "cpu" means that tensors are copied to the CPU and the result back, because no backend that serves their device
    combines more than two, or because MI_KERNELS_BACKEND names "cpu" or "reference".

    Raises:
        BackendError: MI_KERNELS_BACKEND names a backend that is unknown or not available.
    """
    variable = os.environ.get(VARIABLE) or None
    kind = device.split(":")[0]
    if kind != "cuda" or variable == "cpu":
        return "cpu"
    chosen = choose(Request(None, device, variable), this_machine(kind))
    return chosen if chosen in ("cuda", "triton") else "cpu"


@cache
def this_machine(kind: str) -> Machine:
    """Returns the backends for tensors on a device of type `kind`, and caches the result.

    For "cpu" it imports neither torch nor Triton.
    """
    try:
        from .. import _cpu  # noqa: F401
    except ImportError:
        cpu_extension = False
    else:
        cpu_extension = True
    if kind != "cuda":
        interpreter = os.environ.get("TRITON_INTERPRET") == "1" and find_spec("triton") is not None
        return Machine(cpu_extension, interpreter=interpreter)
    return Machine(cpu_extension, cuda=_ask("cuda"), triton=_ask("triton"))


def _ask(name: str) -> str | None:
    """Returns why the GPU backend `name` is not available, or None if it is."""
    try:
        reason: str | None = import_module(f".{name}", __package__).available()
    except ImportError as error:
        return f"it cannot be imported ({error})."
    return reason


@cache
def _warn_of_reference(machine: Machine) -> None:
    reasons = f"cuda: {machine.cuda} triton: {machine.triton}"
    warnings.warn(f"CUDA tensors use the slow reference backend. {reasons}", RuntimeWarning, stacklevel=2)
