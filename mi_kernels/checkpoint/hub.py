"""Downloads models by Hub id: only safetensors weights and small files."""

from __future__ import annotations

import re

from ..errors import CheckpointError

_ID = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
MODEL_FILES = [
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "*.jinja",
    "*.txt",
    "*.model",
    "*.tiktoken",
    "*.py",
    "LICENSE*",
    "NOTICE*",
    "README.md",  # read for the licence, never copied
]


def looks_like_id(text: str) -> bool:
    """Returns True for ORG/NAME and ORG/NAME@REVISION."""
    return _ID.fullmatch(text) is not None


def download(text: str, files: list[str]) -> tuple[str, str]:
    """Downloads the files of the Hub id ORG/NAME[@REVISION] that match the patterns `files`.

    Uses the cache and the environment variables of huggingface_hub, such as HF_HUB_OFFLINE and HF_HOME.

    Returns:
        The folder of the local snapshot, and its commit hash.

    Raises:
        CheckpointError: the download failed, or the model is not in the cache and HF_HUB_OFFLINE is set.
    """
    match = _ID.fullmatch(text)
    assert match is not None
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(match["id"], revision=match["revision"], allow_patterns=files)
    except Exception as error:  # many classes: network, gated, unknown id, offline
        raise CheckpointError(
            f"{text}: no such folder, and the download from the Hub failed: {first_line(error)}",
            "Check the path or the id. A gated model needs `hf auth login`; offline, only cached models can be used.",
        ) from error
    return folder, folder.rstrip("/").rsplit("/", 1)[-1]


def first_line(error: Exception) -> str:
    """Returns the first line of an error of huggingface_hub. Their texts can fill a page."""
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
