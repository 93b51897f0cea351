"""Where checkpoints are merged: a pure function of what is asked and of what the machine has.

`auto` is the CPU, also where there is a GPU. From file to file the disk is the limit, and what the CPU path asks of the
memory behind it is one pass: it reads both inputs where the page cache holds them and writes the buffer that goes to
the disk. A GPU computes faster, but every byte reaches it through a copy into pinned memory and one over PCIe, and
comes back the same way: three times the traffic in the same memory, for arithmetic the CPU does at memory speed.
`python -m bench.gpu` measures both. A GPU is used when it is asked for, by device or by backend.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from glob import glob
from typing import NamedTuple

from ..errors import BackendError
from . import dispatch
from .dispatch import VARIABLE, Machine

_GPU_BACKENDS = ("cuda", "triton")
_AUTO_NOTE = (
    "device auto: merged on the CPU, which is as fast from file to file; a GPU would only add two copies over PCIe "
    "(device 'cuda' uses it)"
)


class Place(NamedTuple):
    """Where a stream computes.

    Attributes:
        backend: "cpu", "cuda" or "triton".
        devices: the GPUs, "cuda:0" and so on; none on the CPU.
        notes: what the user should know of the choice, a sentence each.
    """

    backend: str = "cpu"
    devices: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def place_for(device: str, backend: str | None) -> Place:
    """`choose` for this process. Imports torch only where a GPU is asked for."""
    variable = os.environ.get(VARIABLE) or None
    if _on_gpu(device, backend or variable):
        return choose(device, backend, variable, found_gpus(), dispatch.this_machine("cuda"))
    gpu_nodes = glob("/dev/nvidia[0-9]*")  # a look at the device files costs nothing, unlike torch or the driver
    return choose(device, backend, variable, gpu_nodes, dispatch.this_machine("cpu"))


def found_gpus() -> list[str] | str:
    """The GPUs torch finds, by name in their order; or why there are none, in a sentence."""
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    if torch.version.cuda is None:
        return f"torch {torch.__version__}, built without CUDA"
    if not torch.cuda.is_available():
        return "no GPU: no NVIDIA driver, or no device is visible"
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def choose(
    device: str, backend: str | None, variable: str | None, gpus: Sequence[str] | str, machine: Machine
) -> Place:
    """The place asked for.

    Args:
        device: "auto", "cpu", "cuda" (the first GPU), "cuda:1", or several: "cuda:0,cuda:1".
        backend: "cpu", "cuda", "triton", or None for the best.
        variable: the value of MI_KERNELS_BACKEND, which stands in for `backend=None`.
        gpus: what `found_gpus` says; for `auto` and "cpu", whether there are any is enough.
        machine: what serves CUDA tensors, or the CPU's where no GPU is asked for.

    Raises:
        BackendError: device or backend is unknown, not there, or they do not go together: what was requested, found
            and is available.
    """
    name = backend or variable
    origin = f" by {VARIABLE}" if name and not backend else ""
    if name is not None and name not in ("cpu", *_GPU_BACKENDS):
        known = "does not stream checkpoints" if name in dispatch.NAMES else "unknown"
        raise BackendError(f"backend {name!r} requested{origin}: {known}", "Use 'cpu', 'cuda', 'triton', or None.")
    if not _on_gpu(device, name):
        if name in _GPU_BACKENDS:
            raise BackendError(
                f"backend {name!r} requested{origin} with device 'cpu'", "Use device 'cuda', or backend 'cpu'."
            )
        dispatch.choose(dispatch.Request("cpu"), machine)
        return Place(notes=(_AUTO_NOTE,) if device == "auto" and gpus else ())
    asked = ["cuda"] if device == "auto" else [part.strip() for part in device.split(",")]
    for part in asked:
        kind, colon, index = part.partition(":")
        if kind != "cuda" or index.isdecimal() != bool(colon):
            raise BackendError(
                f"device {device!r}: unknown", "Use 'auto', 'cpu', 'cuda', 'cuda:1', or several: 'cuda:0,cuda:1'."
            )
    if name == "cpu":
        raise BackendError(
            f"backend 'cpu' requested{origin} with device {device!r}",
            "Use device 'cpu', or backend 'cuda' or 'triton'.",
        )
    devices = [f"cuda:{int(part[5:] or 0)}" for part in asked]
    request = f"device {device!r} requested" if device != "auto" else f"backend {name!r} requested{origin}"
    if isinstance(gpus, str):
        raise BackendError(f"{request}; found: {gpus}; available: cpu", "Use device 'cpu', or see `mi-kernels env`.")
    for part in devices:
        if int(part[5:]) >= len(gpus):
            found = ", ".join(f"cuda:{i} ({gpu})" for i, gpu in enumerate(gpus))
            raise BackendError(
                f"{request}; found: {found}; available: cpu, {', '.join(f'cuda:{i}' for i in range(len(gpus)))}",
                "Use one of these.",
            )
    if len(set(devices)) != len(devices):
        raise BackendError(f"{request}: one of them twice", "Name each GPU once.")
    chosen = dispatch.choose(dispatch.Request(backend, devices[0], variable), machine)
    if chosen not in _GPU_BACKENDS:
        raise BackendError(
            f"{request}; found: {', '.join(gpus)}; available: cpu; cuda: {machine.cuda} triton: {machine.triton}",
            "Install the wheel for your CUDA version, or mi_kernels[gpu]; or use device 'cpu'.",
        )
    return Place(chosen, tuple(devices))


def _on_gpu(device: str, name: str | None) -> bool:
    """`auto` follows a backend that is asked for by name."""
    return name in _GPU_BACKENDS if device == "auto" else device != "cpu"
