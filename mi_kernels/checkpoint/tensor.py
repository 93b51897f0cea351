"""The dtype, shape and byte range of a tensor in its file."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..dtypes import FLOATS
from ..errors import CheckpointError, shortened

_WEIGHTS = (".weight", ".bias", "_proj", ".lora_embedding_A", ".lora_embedding_B")  # how names of parameters end


class TensorInfo(NamedTuple):
    """A tensor that is stored in a file.

    Attributes:
        name: its name in the header.
        dtype: the dtype by its safetensors name, such as "BF16".
        shape: the shape in elements.
        shard: the number of the file, an index into `Checkpoint.files`.
        begin, end: the byte range, counted from the start of the file; `end` is exclusive.
        nbytes: the size in bytes.
        elements: the number of elements.

    Example:
        >>> from mi_kernels.checkpoint.tensor import TensorInfo
        >>> tensor = TensorInfo("model.norm.weight", "BF16", (2, 3), shard=0, begin=4096, end=4108)
        >>> tensor.elements, tensor.nbytes
        (6, 12)
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: int
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.begin

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def refuse_empty(where: str, tensors: Iterable[Any]) -> None:
    """Rejects the empty tensors that DeepSpeed ZeRO-3 leaves where weights were not gathered before saving.

    Args:
        where: the folder or file, for messages.
        tensors: the tensors of a model or an adapter, with `name`, `dtype` and `shape`.

    Raises:
        CheckpointError: a floating-point tensor has the shape [0].
    """
    weights = (t for t in tensors if t.dtype in FLOATS and t.name.endswith(_WEIGHTS))
    empty = [t.name for t in weights if tuple(t.shape) == (0,)]
    if empty:
        count = f"{len(empty)} tensors are" if len(empty) > 1 else "1 tensor is"
        raise CheckpointError(
            f"{where}: {count} empty (shape [0]): {shortened(empty)}",
            "DeepSpeed ZeRO-3 saved them without gathering. Run zero_to_fp32.py in the checkpoint's folder, or save "
            "again with stage3_gather_16bit_weights_on_model_save.",
        )
