"""Notice that a module has other parameters, or parameters in other memory, than before, without a walk over it."""

from __future__ import annotations

import torch

from ..ops import tensor_table


class Watch:
    """The dictionaries of a module and all its submodules, and where some of its tensors are.

    Args:
        model: the module.
        tensors: parameters and buffers of `model` by name: bf16, float16 or float32, and contiguous.

    >>> import torch
    >>> from mi_kernels.live.watch import Watch
    >>> model = torch.nn.Linear(2, 2)
    >>> watch = Watch(model, dict(model.named_parameters()))
    >>> watch.unchanged()
    True
    >>> model.weight = torch.nn.Parameter(torch.zeros(2, 2))
    >>> watch.unchanged()
    False
    """

    def __init__(self, model: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors
        self._dictionaries = [
            held for module in model.modules() for held in (module._parameters, module._buffers, module._modules)
        ]
        self._values = [value for held in self._dictionaries for value in held.values()]
        by_device: dict[torch.device, list[torch.Tensor]] = {}
        for tensor in tensors.values():
            by_device.setdefault(tensor.device, []).append(tensor)
        self._groups = list(by_device.values())
        self._places = [tensor_table.read_memory(group) for group in self._groups]

    def unchanged(self) -> bool:
        """Returns whether every module holds the same objects as before, and every tensor has the same memory.

        False does not mean that a parameter has changed: a module may have replaced a buffer that is not in `tensors`.
        """
        from .. import _cpu

        if not _cpu.same_values(self._dictionaries, self._values):
            return False
        return all(
            place is not None and place.same_memory(tensor_table.read_memory(group))
            for place, group in zip(self._places, self._groups)
        )
