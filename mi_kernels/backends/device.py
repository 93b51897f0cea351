"""Choose the device that merges checkpoints: a pure function of the request and of the hardware.

`auto` is the CPU, even on a machine with a GPU. From file to file the disk is the limit, and the CPU path passes over
memory once: it reads both inputs from the page cache and writes the buffer that goes to the disk. A GPU computes
faster, but every byte reaches it through a copy into pinned memory and a copy over PCIe, and comes back the same way.
This is three times the memory traffic, for arithmetic that the CPU does at memory speed. `python -m bench.gpu` measures
both. A GPU is used only if the device or the backend names it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from glob import glob
from typing import NamedTuple

from ..errors import BackendError
from ..system.packages import CUDA_PART, install
from . import dispatch
from .dispatch import VARIABLE, Machine

_GPU_BACKENDS = ("cuda", "triton")
_AUTO_NOTE = (
    "device auto: merged on the CPU, which is as fast from file to file, because a GPU adds two copies over PCIe; "
    "use device 'cuda' to merge on the GPU"
)


class Place(NamedTuple):
    """The backend and the devices of a merge.

    Attributes:
        backend: "cpu", "cuda" or "triton".
        devices: names of the GPUs, such as "cuda:0"; empty for the CPU.
        notes: sentences about the choice, for the user.
    """

    backend: str = "cpu"
    devices: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def place_for(device: str, backend: str | None) -> Place:
    """Calls `choose` with the environment and the hardware of this process.

    Imports torch only if the request names a GPU.
    """
    variable = os.environ.get(VARIABLE) or None
    if _on_gpu(device, backend or variable):
        return choose(device, backend, variable, found_gpus(), dispatch.this_machine("cuda"))
    gpu_nodes = glob("/dev/nvidia[0-9]*")  # listing the device files is fast, unlike loading torch or the driver
    return choose(device, backend, variable, gpu_nodes, dispatch.this_machine("cpu"))


def found_gpus() -> list[str] | str:
    """Returns the names of the GPUs that torch finds, in order; or, as a text, why there are none."""
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return "no GPU: no NVIDIA driver, or no device is visible"
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def choose(
    device: str, backend: str | None, variable: str | None, gpus: Sequence[str] | str, machine: Machine
) -> Place:
    """Returns the backend and the devices for a request.

    Args:
        device: "auto", "cpu", "cuda" (the first GPU), "cuda:1", or several: "cuda:0,cuda:1".
        backend: "cpu", "cuda", "triton", or None for the best available.
        variable: the value of MI_KERNELS_BACKEND, which applies if `backend` is None.
        gpus: the result of `found_gpus`. For "auto" and "cpu", any sequence that is empty if there is no GPU.
        machine: the backends that serve CUDA tensors if the request names a GPU, otherwise those that serve the CPU.

    Raises:
        BackendError: device or backend is unknown or not available, or they contradict each other. The message says
            what was requested, found and available.
    """
    name = backend or variable
    origin = f" by {VARIABLE}" if name and not backend else ""
    named = None if origin else "backend"  # a variable is no argument
    if name is not None and name not in ("cpu", *_GPU_BACKENDS):
        known = "it does not merge checkpoints" if name in dispatch.NAMES else "unknown backend"
        raise BackendError(
            f"backend {name!r} requested{origin}: {known}",
            "Use cpu, cuda or triton, or leave it out.",
            argument=named,
        )
    if not _on_gpu(device, name):
        if name in _GPU_BACKENDS:
            raise BackendError(
                f"backend {name!r} requested{origin} with device 'cpu'",
                "Use `device='cuda'` or `backend='cpu'`.",
                argument=named,
            )
        dispatch.choose(dispatch.Request("cpu"), machine)
        return Place(notes=(_AUTO_NOTE,) if device == "auto" and gpus else ())
    asked = ["cuda"] if device == "auto" else [part.strip() for part in device.split(",")]
    for part in asked:
        kind, colon, index = part.partition(":")
        if kind != "cuda" or index.isdecimal() != bool(colon):
            raise BackendError(
                f"device {device!r}: unknown device",
                "Use auto, cpu, cuda, cuda:1, or several: cuda:0,cuda:1.",
                argument="device",
            )
    if name == "cpu":
        raise BackendError(
            f"backend 'cpu' requested{origin} with device {device!r}",
            "Use `device='cpu'`, or `backend='cuda'` or `backend='triton'`.",
            argument=named,
        )
    devices = [f"cuda:{int(part[5:] or 0)}" for part in asked]
    request = f"device {device!r} requested" if device != "auto" else f"backend {name!r} requested{origin}"
    subject = "device" if device != "auto" else named
    if isinstance(gpus, str):
        raise BackendError(
            f"{request}; found: {gpus}; available: cpu",
            "Use `device='cpu'`, or check the GPU with `mi-kernels env`.",
            argument=subject,
        )
    for part in devices:
        if int(part[5:]) >= len(gpus):
            found = ", ".join(f"cuda:{i} ({gpu})" for i, gpu in enumerate(gpus))
            raise BackendError(
                f"{request}; found: {found}; available: cpu, {', '.join(f'cuda:{i}' for i in range(len(gpus)))}",
                "Use one of the available devices.",
                argument=subject,
            )
    if len(set(devices)) != len(devices):
        raise BackendError(f"{request}: a GPU is repeated", "Name each GPU once.", argument=subject)
    chosen = dispatch.choose(dispatch.Request(backend, devices[0], variable), machine)
    if chosen not in _GPU_BACKENDS:
        raise BackendError(
            f"{request}; found: {', '.join(gpus)}; available: cpu; cuda: {machine.cuda} triton: {machine.triton}",
            f"{CUDA_PART}. Or run {install('triton')}, or use `device='cpu'`.",
            argument=subject,
        )
    return Place(chosen, tuple(devices))


def _on_gpu(device: str, name: str | None) -> bool:
    """Returns whether the request names a GPU: by its device, or with device `auto` by its backend."""
    return name in _GPU_BACKENDS if device == "auto" else device != "cpu"
