"""Which backend serves a call: a pure function of what is asked and of what the machine has.

`choose` decides; `backend_for` asks it about this process: the environment, and what is installed.
"""

from __future__ import annotations

import os
import warnings
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

from ..errors import BackendError

NAMES = ("cpu", "cuda", "triton", "reference")
VARIABLE = "MI_KERNELS_BACKEND"

# Best first, for the tensors of a kind of device.
_SERVE = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "reference")}

_REMEDIES = {
    "cpu": "The compiled extension is missing: run `python -m pip install .` again, with a C++17 compiler.",
    "cuda": "Install the wheel of mi_kernels for your CUDA version, or give backend=None.",
    "triton": "Run `pip install 'mi_kernels[gpu]'` where torch finds an NVIDIA GPU, or give backend=None.",
}


class Request(NamedTuple):
    """What is asked.

    Attributes:
        backend: the name a caller gave; None: the best.
        device: where the tensors lie, as torch writes it.
        variable: the value of MI_KERNELS_BACKEND, which stands in for `backend=None`.
    """

    backend: str | None
    device: str = "cpu"
    variable: str | None = None


class Machine(NamedTuple):
    """What there is.

    Attributes:
        cpu_extension: whether the compiled CPU kernels can be imported.
        cuda, triton: None where the backend serves CUDA tensors, else why not, in a sentence.
        interpreter: whether Triton is here and interprets its kernels, which makes it serve torch tensors on the CPU,
            by name only.
    """

    cpu_extension: bool = True
    cuda: str | None = "no GPU was looked for."
    triton: str | None = "no GPU was looked for."
    interpreter: bool = False


@cache
def choose(request: Request, machine: Machine) -> str:
    """The name of the backend that runs.

    Raises:
        BackendError: the backend asked for is unknown or not available, or none serves the device. Only
            `backend=None` without MI_KERNELS_BACKEND ever picks for itself.
    """
    name = request.backend or request.variable
    origin = f" by {VARIABLE}" if name and not request.backend else ""
    if name is not None and name not in NAMES:
        raise BackendError(
            f"backend {name!r}{f' requested{origin}' if origin else ''}: unknown",
            f"Use one of {', '.join(NAMES)}, or None.",
        )
    kind = request.device.split(":")[0]
    if kind not in _SERVE:
        raise BackendError(
            f"tensors on {request.device!r}: no backend of this version serves that device",
            "Move them to the CPU first.",
        )
    reasons = {candidate: _unavailable(candidate, kind, machine) for candidate in NAMES}
    available = [candidate for candidate in NAMES if reasons[candidate] is None]
    if name is None:
        # On the CPU nothing falls back: the reference is a hundred times slower.
        name = next(c for c in _SERVE[kind] if c in available or kind == "cpu")
    reason = reasons[name]
    if reason is None:
        return name
    where = f" for tensors on {request.device}" if kind != "cpu" or name not in _SERVE[kind] else ""
    found = "".join(f"; {c}: {r.rstrip('.')}" for c, r in reasons.items() if r and (c == name or c in _SERVE[kind]))
    raise BackendError(
        f"backend {name!r} requested{origin}{where}; available: {', '.join(available)}{found}",
        _REMEDIES[name]
        if name in _SERVE[kind]
        else f"Move the tensors to {'the CPU' if name == 'cpu' else 'a GPU'}, or use {' or '.join(available)}.",
    )


def _unavailable(name: str, kind: str, machine: Machine) -> str | None:
    """Why backend `name` cannot serve tensors on a device of this kind, or None."""
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
    """`choose` for this process. Says so, once, when CUDA tensors are left to the slow reference.

    Raises:
        BackendError: as `choose`.
    """
    if backend is not None and not isinstance(backend, str):
        raise BackendError(f"backend is {backend!r}", f"Use one of {', '.join(NAMES)}, or None.")
    request = Request(backend, device, os.environ.get(VARIABLE) or None)
    machine = this_machine(device.split(":")[0])
    chosen = choose(request, machine)
    if chosen == "reference" and not (request.backend or request.variable):
        _warn_of_reference(machine)
    return chosen


@cache
def this_machine(kind: str) -> Machine:
    """What serves tensors on a device of this kind, found out once. For "cpu" neither torch nor Triton is imported."""
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
    """What the GPU backend `name` says of itself: None where it is usable."""
    try:
        reason: str | None = import_module(f".{name}", __package__).available()
    except ImportError as error:
        return f"it cannot be imported ({error})."
    return reason


@cache
def _warn_of_reference(machine: Machine) -> None:
    reasons = f"cuda: {machine.cuda} triton: {machine.triton}"
    warnings.warn(f"CUDA tensors are served by the slow reference backend. {reasons}", RuntimeWarning, stacklevel=2)
