"""Uploads a finished model folder to the Hub in one commit."""

from __future__ import annotations

import glob
import os
import re
from typing import TYPE_CHECKING

from .._version import __version__
from ..checkpoint.hub import first_line
from ..errors import ArgumentError, OutputError
from ..system.arguments import checked_path, checks_names

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_REPO = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
# Deleted by the upload: loaders would also read the shards of an earlier version with another layout.
_WEIGHTS = ["*.safetensors", "*.safetensors.index.json"]


def checked_repo(repo: str) -> str:
    """Returns `repo` if it is a valid id ORG/NAME.

    Raises:
        ArgumentError: `repo` is not a valid id.
    """
    if not _REPO.fullmatch(repo) or ".." in repo:
        raise ArgumentError(f"{repo!r} is not a valid Hub id", "Write it as ORG/NAME.")
    return repo


def check_access(repo: str) -> None:
    """Checks the Hub token before a merge, so that a long merge does not fail at the upload.

    Raises:
        OutputError: there is no valid token, the process is offline, or the Hub does not respond.
    """
    try:
        _api().whoami()
    except Exception as error:
        raise _refusal(repo, error) from error


def size(folder: str | os.PathLike[str]) -> int:
    """Returns the bytes of all files in a model folder, as `push` uploads them."""
    return sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(folder) for name in names)


@checks_names
def push(folder: str | os.PathLike[str], repo: str, *, private: bool = False) -> str:
    """Uploads the model in `folder` to the repository `repo` on the Hub. Creates the repository if it does not exist.

    All files are uploaded in one commit. The commit deletes older weights in the repository that are not in `folder`.
    After a failure, calling `push` again uploads only the data that is missing.

    Args:
        folder: the model folder. It is not changed.
        repo: the id of the repository, ORG/NAME.
        private: require a private repository. A new repository is created as private.

    Returns:
        The URL of the repository.

    Raises:
        ArgumentError: `repo` is not a valid id.
        OutputError: `folder` is not a model folder, there is no valid token, the token has no write permission, the
            repository is public although `private` is True, or the Hub failed.

    Example:
        >>> mi_kernels.push("merged", "my-org/merged-model", private=True)  # doctest: +SKIP
        'https://huggingface.co/my-org/merged-model'
    """
    path = checked_path(folder, "folder", "the folder of a finished merge")
    checked_repo(checked_path(repo, "repo", "the id of a repository, ORG/NAME"))
    if not isinstance(private, bool):
        raise ArgumentError(f"private is {private!r:.80}", "Give True or False.")
    if not glob.glob(os.path.join(glob.escape(path), "*.safetensors")):
        raise OutputError(f"{path}: has no safetensors weights", "Give the folder of a finished merge.")
    api = _api()
    try:
        address = str(api.create_repo(repo, private=private, exist_ok=True))
        public = private and not api.repo_info(repo).private
        if not public:
            api.upload_folder(
                repo_id=repo, folder_path=path, commit_message="Upload the merge", delete_patterns=_WEIGHTS
            )
    except Exception as error:  # the library raises many classes
        raise _refusal(repo, error, path) from error
    if public:
        raise OutputError(f"{repo}: is public, but private was requested", "Use another name. Nothing was uploaded.")
    return address


def _api() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(library_name="mi_kernels", library_version=__version__)


def _refusal(repo: str, error: Exception, folder: str | None = None) -> OutputError:
    from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled

    status = getattr(getattr(error, "response", None), "status_code", None)
    later = f" {folder} is complete: upload it with `hf upload {repo} {folder}`." if folder else ""
    if isinstance(error, OfflineModeIsEnabled):
        return OutputError(f"{repo}: cannot upload while HF_HUB_OFFLINE is set", f"Unset it.{later}")
    if isinstance(error, LocalTokenNotFoundError) or status == 401:
        return OutputError(f"{repo}: no valid Hub token", f"Run `hf auth login`, or set HF_TOKEN.{later}")
    if status == 403:
        return OutputError(
            f"{repo}: no write permission: {first_line(error)}",
            f"Use a token with write permission, or a repository that you own.{later}",
        )
    return OutputError(f"{repo}: the Hub failed: {first_line(error)}", f"Try again.{later}")
