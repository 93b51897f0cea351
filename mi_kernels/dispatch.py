"""Which backend serves a call: a pure function of what is asked and of what the machine has."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import BackendError

NAMES = ("cpu", "reference")


@dataclass(frozen=True)
class Request:
    """What is asked: the backend's name (None: the best) and where the tensors lie."""

    backend: str | None
    device: str = "cpu"


@dataclass(frozen=True)
class Machine:
    """What there is: the compiled CPU extension."""

    cpu_extension: bool = True


def choose(request: Request, machine: Machine) -> str:
    """The name of the backend that runs.

    Raises:
        BackendError: the backend asked for is unknown or not available, or none serves the device. Only
            `backend=None` ever picks for itself.
    """
    if request.backend is not None and request.backend not in NAMES:
        raise BackendError(f"backend {request.backend!r}: unknown", f"Use one of {', '.join(NAMES)}, or None.")
    if request.device != "cpu":
        raise BackendError(
            f"tensors on {request.device!r}: no backend of this version serves that device",
            "Move them to the CPU first.",
        )
    available = [name for name in NAMES if name != "cpu" or machine.cpu_extension]
    name = request.backend or "cpu"
    if name not in available:
        raise BackendError(
            f"backend {name!r} requested; available: {', '.join(available)}",
            "The compiled extension is missing: run `python -m pip install .` again, with a C++17 compiler.",
        )
    return name
