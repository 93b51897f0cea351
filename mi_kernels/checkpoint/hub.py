"""Models by their Hub id. Only safetensors weights and small files are ever downloaded."""

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
    "README.md",  # its licence; never copied
]


def looks_like_id(text: str) -> bool:
    """True for ORG/NAME and ORG/NAME@REVISION."""
    return _ID.fullmatch(text) is not None


def download(text: str, files: list[str]) -> tuple[str, str]:
    """The local snapshot of the Hub id ORG/NAME[@REVISION], of `files` (patterns) alone: (folder, commit).

    Honours HF_HUB_OFFLINE, HF_HOME and the other variables of huggingface_hub; what its cache holds is not fetched.
    """
    match = _ID.fullmatch(text)
    assert match is not None
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(match["id"], revision=match["revision"], allow_patterns=files)
    except Exception as error:  # the library raises a dozen kinds: network, gated, unknown, offline
        raise CheckpointError(
            f"{text}: no such folder, and the Hub did not give it: {first_line(error)}",
            "Check the path or the id; gated models need `hf auth login`; offline, the cache must hold the model.",
        ) from error
    return folder, folder.rstrip("/").rsplit("/", 1)[-1]


def first_line(error: Exception) -> str:
    """What an error of huggingface_hub says first: they go on for a page."""
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
