"""A model folder: finding or downloading it, its context length, its size."""

from __future__ import annotations

import json
import os
from typing import Any

from mi_kernels.checkpoint import hub

from ..errors import EvalError
from .kv_cache import layer_bytes


def local_folder(model: str) -> str:
    """The folder of `model`: itself, or a download of the Hub id ORG/NAME[@REVISION].

    Raises:
        EvalError: `model` is neither a model folder nor a Hub id.
        mi_kernels.errors.CheckpointError: the Hub id cannot be downloaded.
    """
    if os.path.isdir(model):
        if not os.path.isfile(os.path.join(model, "config.json")):
            raise EvalError(f"{model}: has no config.json", "Give a Hugging Face model folder.")
        return os.path.abspath(model)
    if not hub.looks_like_id(model):
        raise EvalError(f"{model}: is not a folder", "Give a model folder, or a Hub id such as Qwen/Qwen3-0.6B.")
    return hub.download(model, hub.MODEL_FILES)[0]


def context_length(folder: str) -> int | None:
    """The context length (prompt and response, in tokens) in the config; None if it has none."""
    content = config(folder)
    value = content.get("max_position_embeddings")
    return int(value) if value else None


def kv_bytes_per_token(folder: str) -> int:
    """Bytes of one token in a 16-bit KV cache, for a decoder with keys and values in every layer."""
    content = config(folder)
    return layer_bytes(content) * (content.get("num_hidden_layers") or 0)


def weight_bytes(folder: str) -> int:
    return sum(os.path.getsize(e.path) for e in os.scandir(folder) if e.name.endswith(".safetensors"))


def config(folder: str) -> dict[str, Any]:
    """config.json, with the part of its text model on top.

    Raises:
        EvalError: it cannot be read.
    """
    path = os.path.join(folder, "config.json")
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError) as error:
        raise EvalError(f"{path}: cannot be read: {error}", "Check that the model folder is complete.") from error
    text = content.get("text_config")
    return {**content, **text} if isinstance(text, dict) else content
