"""A finished model folder, uploaded to the Hub in one commit."""

from __future__ import annotations

import glob
import os
import re
from typing import TYPE_CHECKING

from .._version import __version__
from ..checkpoint.hub import first_line
from ..errors import ArgumentError, OutputError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_REPO = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
# What another layout of the same model may have left in the repository; loaders would read both.
_WEIGHTS = ["*.safetensors", "*.safetensors.index.json"]


def checked_repo(repo: str) -> str:
    """Raises: ArgumentError: not the id of a repository."""
    if not _REPO.fullmatch(repo) or ".." in repo:
        raise ArgumentError(f"{repo!r} is not the id of a model on the Hub", "Write it as ORG/NAME.")
    return repo


def check_access(repo: str) -> None:
    """Asks the Hub who we are, so that a merge of hours does not end in a missing token.

    Raises:
        OutputError: nobody it knows, offline, or it does not answer.
    """
    try:
        _api().whoami()
    except Exception as error:
        raise _refusal(repo, error) from error


def push(folder: str | os.PathLike[str], repo: str, *, private: bool = False) -> str:
    """Uploads the model in `folder` to the Hub, into `repo`, which is made where there is none.

    All files appear by one commit; weights that the repository held before and the folder does not are removed by it.
    The folder stays. Calling again after a failure goes on with what has not arrived.

    Args:
        repo: ORG/NAME.
        private: the repository must be private; made so where it is new.

    Returns:
        The address of the model.

    Raises:
        ArgumentError: `repo` is no id.
        OutputError: no such folder, no token, no permission, a repository that is public though `private` was asked
            for, or the Hub failed.
    """
    path = os.fspath(folder)
    checked_repo(repo)
    if not glob.glob(os.path.join(glob.escape(path), "*.safetensors")):
        raise OutputError(f"{path}: is not a model folder: it holds no safetensors", "Give the folder of a merge.")
    api = _api()
    try:
        address = str(api.create_repo(repo, private=private, exist_ok=True))
        public = private and not api.repo_info(repo).private
        if not public:
            api.upload_folder(
                repo_id=repo, folder_path=path, commit_message="Upload the merge", delete_patterns=_WEIGHTS
            )
    except Exception as error:  # the library raises a dozen kinds
        raise _refusal(repo, error, path) from error
    if public:
        raise OutputError(f"{repo}: is public, and private was asked for", "Nothing was uploaded: use another name.")
    return address


def _api() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(library_name="mi_kernels", library_version=__version__)


def _refusal(repo: str, error: Exception, folder: str | None = None) -> OutputError:
    from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled

    status = getattr(getattr(error, "response", None), "status_code", None)
    later = f" {folder} is whole: `hf upload {repo} {folder}` sends it later." if folder else ""
    if isinstance(error, OfflineModeIsEnabled):
        return OutputError(f"{repo}: HF_HUB_OFFLINE is set, and an upload was asked for", f"Unset it.{later}")
    if isinstance(error, LocalTokenNotFoundError) or status == 401:
        return OutputError(
            f"{repo}: the Hub does not know who you are", f"Run `hf auth login`, or set HF_TOKEN.{later}"
        )
    if status == 403:
        return OutputError(
            f"{repo}: the Hub does not let you write there: {first_line(error)}",
            f"Use a token with write permission, or a name of your own.{later}",
        )
    return OutputError(f"{repo}: the Hub failed: {first_line(error)}", f"Try again.{later}")
