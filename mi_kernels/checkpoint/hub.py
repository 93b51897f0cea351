"""Repositories of the Hugging Face Hub: ids, the one download, and the layout of the Hub's cache.

Of a model, only safetensors weights and small files are downloaded. The cache holds

    models--ORG--NAME/snapshots/COMMIT/config.json    a link to
    models--ORG--NAME/blobs/HASH                      the content, named after its own hash
"""

from __future__ import annotations

import re

from ..errors import CheckpointError

_ID = re.compile(r"(?P<id>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?")
_SNAPSHOT = re.compile(r"(?:^|/)models--(?:(?P<org>[\w.-]+?)--)?(?P<name>[\w.-]+)/snapshots/")
_BLOB = re.compile(r"/(?:models|datasets|spaces)--[^/]+/blobs/(?:[0-9a-f]{40}|[0-9a-f]{64})")
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


def download(text: str, files: list[str], kind: str = "model") -> tuple[str, str]:
    """Downloads the files of the Hub id ORG/NAME[@REVISION] that match the patterns `files`.

    Uses the cache and the environment variables of huggingface_hub, such as HF_HUB_OFFLINE and HF_HOME.

    Args:
        kind: "model" or "dataset".

    Returns:
        The folder of the local snapshot, and its commit hash.

    Raises:
        CheckpointError: the download failed, or the cache does not have the files and HF_HUB_OFFLINE is set. The error
            of huggingface_hub is its `__cause__`.
    """
    match = _ID.fullmatch(text)
    assert match is not None
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(match["id"], repo_type=kind, revision=match["revision"], allow_patterns=files)
    except Exception as error:  # many classes: network, gated, unknown id, offline
        raise CheckpointError(
            f"{text}: no such folder, and the download from the Hub failed: {first_line(error)}",
            "Check the path or the id. A gated model needs `hf auth login`; offline, only cached models can be used.",
        ) from error
    return folder, folder.rstrip("/").rsplit("/", 1)[-1]


def cached_id(path: str) -> str | None:
    """ORG/NAME of the model whose snapshot in the Hub's cache is at `path` or holds it; None for any other path."""
    match = _SNAPSHOT.search(f"{path}/")
    return "/".join(filter(None, match.group("org", "name"))) if match else None


def is_cached_blob(path: str) -> bool:
    """Whether `path` is a blob of the Hub's cache: a file named after the hash of its content."""
    return _BLOB.search(path) is not None


def first_line(error: Exception) -> str:
    """Returns the first line of an error of huggingface_hub. Their texts can fill a page."""
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
