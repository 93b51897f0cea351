"""Our kernels inside mergekit 0.1.5.

Importing this module adds the method `mi_lerp` to mergekit. After `serve_linear()`, our kernels also compute `linear`.
The program `mi-kernels-mergekit` is mergekit-yaml with `mi_lerp`, and with `--serve-linear` it serves `linear` too.

    merge_method: mi_lerp
    models: [{model: INSTRUCT}, {model: THINKING}]
    parameters: {lam: 0.8}            # mergekit's gradients and filters work as for any parameter
    dtype: bfloat16

lam 0 is the first model, or `base_model` where one is given. mergekit casts the models to `dtype` before a method sees
them. Where they have that dtype already, and where bf16 or float16 models are cast to float32 and written in their own
dtype (`dtype: float32`, `out_dtype: bfloat16`), `mi_lerp` has the bits of `lerp_checkpoint`, and `linear` those of
`merge_checkpoint`, except for NaN payloads.
"""

from __future__ import annotations

from typing import Annotated

from ...dtypes import FROM_TORCH
from ...errors import BackendError
from ...methods.method import MAX_MODELS
from ...methods.registry import METHODS
from ...ops import combine, lerp
from ...system.packages import install

try:
    import torch
    from mergekit.merge_methods import InputContract, PerInput, TensorGroup, merge_method, register, registry
    from pydantic import AfterValidator
except ImportError as error:
    raise BackendError(
        f"mergekit cannot be extended: {error}",
        f"Install the supported version: {install('mergekit')}.",
    ) from error

NAME = "mi_lerp"


def _checked_lam(lam: float) -> float:
    """The range of the same method outside mergekit."""
    method = METHODS[NAME]
    (parameter,) = method.parameters
    return float(parameter.checked(lam, "", NAME))


@merge_method(  # type: ignore[untyped-decorator]
    name=NAME,
    pretty_name="Linear interpolation (mi_kernels)",
    reference_url="https://arxiv.org/abs/2510.10977",
    contract=InputContract(base="optional", min_inputs=2, max_inputs=2),
)
def mi_lerp(group: TensorGroup, lam: Annotated[float, AfterValidator(_checked_lam)]) -> torch.Tensor:
    """``torch.lerp(a.float(), b.float(), lam)``, rounded once to the dtype mergekit brings."""
    first, second = group.entries
    a, b = (second, first) if second.is_base else (first, second)
    return lerp(_plain(a.tensor), _plain(b.tensor), lam)


def _linear(group: TensorGroup, weight: PerInput[float], normalize: bool = True) -> torch.Tensor:
    """mergekit's `linear` by `mi_kernels.combine`. mergekit computes what the kernels do not take."""
    tensors = [_plain(tensor) for tensor in group.tensors]
    if str(tensors[0].dtype) not in FROM_TORCH or not 2 <= len(tensors) <= MAX_MODELS:
        return _own_linear((group,), parameters={"weight": dict(weight), "normalize": normalize})[0]
    return combine(
        tensors,
        "linear",
        weight=weight.values_for(group.entries),
        normalize=normalize,
        name=group.metadata.name or "the tensor",
    )


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous()


def serve_linear() -> None:
    """Lets our kernels compute the method `linear` in this process: same parameters, one rounding."""
    registry._METHODS["linear"] = merge_method(
        _linear, name="linear", pretty_name="Linear (mi_kernels)", reference_url="https://arxiv.org/abs/2203.05482"
    )


_own_linear = registry.get("linear")
register(mi_lerp)
