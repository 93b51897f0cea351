"""Makes config.json of the output true: dtype, tied embeddings, vocabulary, quantisation.

The output gets config.json of one of the models. What the merge wrote can differ from what that file says: the tensors
have the dtypes of INSTRUCT, a head can have become a tensor of its own, and the output is never quantised.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ..checkpoint.auxiliary import tower_of
from ..checkpoint.config import text_config
from ..checkpoint.files import parse_json
from ..dtypes import FLOATS, TORCH_NAMES
from .layout import OutputTensor

_DTYPE_KEYS = ("dtype", "torch_dtype")
_TEXT = "text"


class Written(NamedTuple):
    """What a merge writes, as far as config.json describes it.

    Attributes:
        tensors: the tensors of the output.
        untied: the output stores a head of its own, so config.json must not tie it to the embedding.
        vocabulary: the number of rows of the embedding, if the models had different numbers.
    """

    tensors: Sequence[OutputTensor]
    untied: bool = False
    vocabulary: int | None = None

    def dtypes(self, towers: bool) -> dict[str, str]:
        """Returns the dtype of most bytes of the floating-point tensors, by its name in torch, for each part.

        Args:
            towers: tell the parts "vision" and "audio" from the rest, which is "text". Otherwise "text" is everything.
        """
        sizes: dict[str, Counter[str]] = {}
        for tensor in self.tensors:
            if tensor.dtype in FLOATS:
                part = (tower_of(tensor.name) if towers else None) or _TEXT
                sizes.setdefault(part, Counter())[tensor.dtype] += tensor.nbytes
        return {part: TORCH_NAMES[count.most_common(1)[0][0]] for part, count in sizes.items()}


def adjusted(config: bytes, path: str, written: Written) -> bytes:
    """Returns config.json with everything that `written` contradicts corrected, or the same bytes if nothing is wrong.

    Args:
        config: the content of config.json.
        path: the file that `config` was read from, for messages.
    """
    content = parse_json(config, path)
    before = copy.deepcopy(content)
    text = text_config(content)
    for part in (content, text):
        part.pop("quantization_config", None)  # type: ignore[attr-defined]
        if written.untied and part.get("tie_word_embeddings"):
            part["tie_word_embeddings"] = False  # type: ignore[index]
        if written.vocabulary is not None and "vocab_size" in part:
            part["vocab_size"] = written.vocabulary  # type: ignore[index]
    if written.untied:
        content["tie_word_embeddings"] = False  # some architectures tie if it is missing
    parts = list(_parts(content, _TEXT))
    dtypes = written.dtypes(towers=any(tower != _TEXT for _, tower in parts))
    for part, tower in parts:
        dtype = dtypes.get(tower, dtypes.get(_TEXT))
        for key in _DTYPE_KEYS:
            if dtype is not None and isinstance(part.get(key), str) and part[key].removeprefix("torch.") != dtype:
                part[key] = dtype
    return config if content == before else (json.dumps(content, indent=2) + "\n").encode()


def _parts(content: dict[str, Any], tower: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Yields `content` and the configs nested in it, each with the part of the model that it describes."""
    yield content, tower
    for key, value in content.items():
        if isinstance(value, dict) and key.endswith("config"):
            yield from _parts(value, next((t for t in ("vision", "audio") if t in key), tower))
