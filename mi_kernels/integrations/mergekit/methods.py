"""Our kernels inside mergekit 0.1.5.

Importing this module adds the method `mi_lerp` to mergekit; `serve_linear()` also lets our kernels compute `linear`.
The program `mi-kernels-mergekit` is mergekit-yaml with the method added, and with its `--serve-linear` the other as
well.

    merge_method: mi_lerp
    models: [{model: INSTRUCT}, {model: THINKING}]
    parameters: {lam: 0.8}            # mergekit's gradients and filters work as for any parameter
    dtype: bfloat16

The first model is lam 0, or `base_model` where one is given. mergekit casts the models to `dtype` before any method
sees them. Of models that have that dtype already, and of bf16 and float16 models cast to float32 and written as they
were (`dtype: float32`, `out_dtype: bfloat16`), `mi_lerp` has the bits of `lerp_checkpoint`, and `linear` those of
`merge_checkpoint`, NaN payloads aside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from ...backends import cpu
from ...backends.spans import CombineSpan, Operand
from ...dtypes import CODES, FROM_TORCH
from ...errors import BackendError
from ...methods.registry import AFFINE, MAX_MODELS, METHODS, Parameters, Tensor
from ...ops import lerp
from ...ops.arrays import as_array, empty_like
from ...recipe.lam import checked_lam

try:
    import torch
    from mergekit.merge_methods import InputContract, PerInput, TensorGroup, merge_method, register, registry
    from pydantic import AfterValidator
except ImportError as error:
    raise BackendError(
        f"mergekit cannot be extended: {error}", "Install the version this is for: pip install mergekit==0.1.5."
    ) from error

if TYPE_CHECKING:
    from ..._cpu import Formula

NAME = "mi_lerp"


@merge_method(  # type: ignore[untyped-decorator]
    name=NAME,
    pretty_name="Linear interpolation (mi_kernels)",
    reference_url="https://arxiv.org/abs/2510.10977",
    contract=InputContract(base="optional", min_inputs=2, max_inputs=2),
)
def mi_lerp(group: TensorGroup, lam: Annotated[float, AfterValidator(checked_lam)]) -> torch.Tensor:
    """``torch.lerp(a.float(), b.float(), lam)``, rounded once to the dtype mergekit brings."""
    first, second = group.entries
    a, b = (second, first) if second.is_base else (first, second)
    return lerp(_plain(a.tensor), _plain(b.tensor), lam)


def _linear(group: TensorGroup, weight: PerInput[float], normalize: bool = True) -> torch.Tensor:
    """mergekit's `linear` by the numerics of `mi_kernels.methods`; what the kernels do not take is mergekit's own."""
    tensors = [_plain(tensor) for tensor in group.tensors]
    if str(tensors[0].dtype) not in FROM_TORCH or not 2 <= len(tensors) <= MAX_MODELS:
        return _own_linear((group,), parameters={"weight": dict(weight), "normalize": normalize})[0]
    parameters = Parameters(weights=weight.values_for(group.entries), normalize=normalize)
    # The formula of a linear merge reads no tensor, so that readers only count.
    tensor = Tensor(group.metadata.name or "a tensor", tensors[0].numel(), [_no_reader] * len(tensors))
    formula = METHODS["linear"].formula(tensor, parameters)
    if formula["formula"] == AFFINE and len(tensors) == 2:
        return lerp(tensors[0], tensors[1], formula["weights"][1])
    return _combine(tensors, formula)


def _combine(tensors: list[torch.Tensor], formula: Formula) -> torch.Tensor:
    """On the CPU, where these kernels are; to a GPU and back costs what mergekit's own reading does."""
    device = tensors[0].device
    tensors = [tensor.cpu() for tensor in tensors]
    out = empty_like(tensors[0])
    operands = [Operand(x.buffer, 0, CODES[x.dtype]) for x in (as_array(t, "a tensor") for t in tensors)]
    into = as_array(out, "out", writable=True)
    code = CODES[into.dtype]
    threads = cpu.checked_threads(None)
    step = max(1, -(-out.numel() // threads))
    spans = [
        CombineSpan(
            into.buffer,
            first * out.itemsize,
            code,
            [x._replace(offset=first * out.itemsize) for x in operands],
            min(step, out.numel() - first),
            first,
            formula,
        )
        for first in range(0, out.numel(), step)
    ]
    cpu.run_combine(spans, cpu.isa(), threads)
    return out.to(device)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous()


def _no_reader(first: int, count: int) -> Any:
    raise NotImplementedError


def serve_linear() -> None:
    """Lets our kernels compute the method `linear` in this process: same parameters, one rounding."""
    registry._METHODS["linear"] = merge_method(
        _linear, name="linear", pretty_name="Linear (mi_kernels)", reference_url="https://arxiv.org/abs/2203.05482"
    )


_own_linear = registry.get("linear")
register(mi_lerp)
