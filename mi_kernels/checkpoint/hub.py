"""Repositories of the Hugging Face Hub: ids, the one download, and the layout of the Hub's cache.

Of a model or an adapter, only the files that it needs are downloaded: `needed_files` chooses them. They are all of the
commit that the revision has at the start. The cache holds

    models--ORG--NAME/snapshots/COMMIT/config.json    a link to
    models--ORG--NAME/blobs/HASH                      the content, named after its own hash
"""

from __future__ import annotations

import glob
import os
import re
import sys
from typing import Any, NamedTuple

from ..errors import CheckpointError, counted, nearest
from ..system.disk_space import SPARE, free_space
from ..system.sizes import show_bytes
from .needed_files import ADAPTER_FILES as ADAPTER_FILES
from .needed_files import MODEL_FILES as MODEL_FILES
from .needed_files import File, Repository, Selection, unselected

# The names that the Hub allows. Nobody has a dot in ORG, so runs.v1/x is a path.
_ID = re.compile(r"(?P<id>(?P<org>\w[\w-]*)/(?P<name>\w[\w.-]*))(@(?P<revision>[\w./-]+))?")
_NEVER = re.compile(r"--|\.\.|[.-]$|\.(git|safetensors|bin|pth?|json|ya?ml)$")  # in or at the end of ORG or NAME
_SNAPSHOT = re.compile(r"(?:^|/)models--(?:(?P<org>[\w.-]+?)--)?(?P<name>[\w.-]+)/snapshots/")
_MOST_NAMES = 1000
_MOST_TRIED = 3  # folders with a name like that of a missing one
_LIKENESS = 0.74  # of such names: in a name of four letters, two that changed places
_left_out: dict[str, list[str]] = {}  # by the folder of the snapshot


def looks_like_id(text: str) -> bool:
    """Returns True for ORG/NAME and ORG/NAME@REVISION. Anything else is a path: ./x, ~/x, /x, x/, a/b/c, a/b.json.

    ORG/NAME is a path too if the working folder holds a folder ORG: `models/x` is then a typing error, no repository.
    With a revision, it is always an id.
    """
    match = _ID.fullmatch(text)
    if match is None or any(_NEVER.search(match[part]) for part in ("org", "name")):
        return False
    return match["revision"] is not None or not os.path.isdir(match["org"])


def no_such_folder(given: str) -> CheckpointError:
    """Returns the error for a path that does not exist and is not an id: its first part that is missing, a remedy."""
    if given.startswith("~"):
        return CheckpointError(f"{given}: no such folder", "The shell did not replace ~: write $HOME instead.")
    path = given.rstrip("/")
    missing = _first_missing(path)
    why = "" if missing == path else f", because {missing} does not exist"
    match = _ID.fullmatch(given)
    if match is not None and os.path.isdir(match["org"]):
        otherwise = f"{match['org']} is a folder here, so this is a path. For the model on the Hub, write {given}@main."
    else:
        otherwise = "Check the path, or give a Hub id such as ORG/NAME."
    return CheckpointError(f"{given}: no such folder{why}", f"{_model_meant(path)} {otherwise}".lstrip())


def _first_missing(path: str) -> str:
    """Returns the part of `path` up to the first folder that does not exist."""
    while (above := os.path.dirname(path)) and not os.path.isdir(above):
        path = above
    return path


def _model_meant(path: str) -> str:
    """Returns a sentence with the path of a model that is spelled almost like `path`; empty if there is none.

    Only the name that is wrong is compared: paths with a long common beginning are always alike.
    """
    missing = _first_missing(path)
    above, name = os.path.split(missing)
    try:
        with os.scandir(above or ".") as entries:  # of a folder with a million entries, the first ones
            names = sorted(entry.name for _, entry in zip(range(_MOST_NAMES), entries) if entry.is_dir())
    except OSError:
        return ""
    prefix, rest = missing[: len(missing) - len(name)], path[len(missing) :]  # as they are written
    paths = [f"{prefix}{other}{rest}" for other in nearest(name, names, _MOST_TRIED, _LIKENESS)]
    return next((f"Did you mean {other}?" for other in paths if _has_weights(other)), "")


def _has_weights(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.endswith(".safetensors") for _, entry in zip(range(_MOST_NAMES), entries))
    except OSError:
        return False


def download(text: str, files: Selection | list[str], kind: str = "model") -> tuple[str, str]:
    """Downloads files of the Hub id ORG/NAME[@REVISION].

    Uses the cache and the environment variables of huggingface_hub, such as HF_HUB_OFFLINE and HF_HOME. Prints the size
    before it downloads weights, unless the progress bars of huggingface_hub are disabled.

    Args:
        files: MODEL_FILES, ADAPTER_FILES, or a list of patterns.
        kind: "model" or "dataset".

    Returns:
        The folder of the local snapshot, and its commit hash.

    Raises:
        CheckpointError: the download failed, or the cache does not have the files and HF_HUB_OFFLINE is set. The error
            of huggingface_hub is its `__cause__`. Or the repository cannot be used, or the disk has too little space.
    """
    match = _ID.fullmatch(text)
    assert match is not None
    from huggingface_hub import snapshot_download

    wanted = {"repo_type": kind, "revision": match["revision"]}
    try:
        if isinstance(files, Selection):
            # Also resolves the revision, or uses the cache if the Hub cannot be reached.
            first = list(files.first)
            folder = snapshot_download(match["id"], **wanted, allow_patterns=first, tqdm_class=_no_bar())
            _Download(text, match["id"], _commit(folder), folder).run(files)
        else:
            folder = snapshot_download(match["id"], **wanted, allow_patterns=files)
    except CheckpointError:
        raise
    except Exception as error:  # many classes: network, gated, unknown id, offline
        why, otherwise = _reason(error, match["id"], kind)
        close = _model_meant(text) if match["revision"] is None else ""
        raise CheckpointError(f"{text}: no such folder, and {why}", f"{close} {otherwise}".lstrip()) from error
    return folder, _commit(folder)


def _reason(error: Exception, id: str, kind: str) -> tuple[str, str]:
    """Returns why the download of an id failed, and what to do. It may as well be a path with a mistake."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError):
        return (
            f"the Hub has no {kind} with this id, or it is private",
            f"Check the path or the id. A private {kind} needs `hf auth login`.",
        )
    cached = os.path.join(constants.HF_HUB_CACHE, f"{kind}s--{id.replace('/', '--')}")
    if constants.HF_HUB_OFFLINE and not os.path.isdir(cached):
        return (
            f"the Hub's cache has no {kind} with this id, and HF_HUB_OFFLINE is set, so nothing is downloaded",
            "Check the path or the id, or unset HF_HUB_OFFLINE.",
        )
    return (
        f"the download from the Hub failed: {first_line(error)}",
        "Check the path or the id. A gated model needs `hf auth login`; offline, only cached models can be used.",
    )


def left_out(folder: str) -> list[str]:
    """Returns names of files that a repository has, but that `download` left out of the snapshot `folder`.

    They are files in the root, except a copy of the model in Mistral's format, and files in the folders of its modules.
    Any other folder has none.
    """
    return _left_out.get(folder, [])


class _Download(NamedTuple):
    """The download of a selection, after its first files.

    Attributes:
        source: the id as the user gave it.
        id: ORG/NAME.
        folder: the local snapshot of `commit`.
    """

    source: str
    id: str
    commit: str
    folder: str

    @property
    def _home(self) -> str:
        """The folder of the repository in the cache."""
        return os.path.dirname(os.path.dirname(os.path.abspath(self.folder)))

    def run(self, selection: Selection) -> None:
        files = self._files()
        if files is None:
            return
        repository, selected = Repository(self.source, self.folder, files), set[str]()
        for names in selection.steps(repository):
            selected.update(names)
            missing = [name for name in names if not os.path.isfile(os.path.join(self.folder, name))]
            if missing:
                self._fetch(repository, missing)
        _left_out[self.folder] = unselected(repository, selected)

    def _files(self) -> dict[str, File] | None:
        """Returns the files of the repository; None if they are not known, but the snapshot can be used as it is."""
        try:  # new versions of huggingface_hub keep the list for each commit
            from huggingface_hub import get_cached_repo_tree

            return {file.path: File(file.size) for file in get_cached_repo_tree(self.id, revision=self.commit)}
        except Exception:
            pass
        try:
            return self._files_of_hub()
        except Exception:  # a snapshot that another program downloaded, and the Hub cannot be reached
            if glob.glob(os.path.join(glob.escape(self.folder), "*.safetensors")):
                return None
            raise

    def _files_of_hub(self) -> dict[str, File]:
        from huggingface_hub import HfApi

        entries = HfApi().list_repo_tree(self.id, revision=self.commit, recursive=True)
        files = [entry for entry in entries if hasattr(entry, "size")]  # the others are folders
        return {file.path: File(file.size, file.lfs.sha256 if file.lfs else file.blob_id) for file in files}

    def _fetch(self, repository: Repository, names: list[str]) -> None:
        from huggingface_hub import constants, snapshot_download

        offline = constants.HF_HUB_OFFLINE
        if not offline and any(map(repository.is_large, names)):
            self._announce(repository, names)
        exactly = [glob.escape(name) for name in names]
        snapshot_download(self.id, revision=self.commit, allow_patterns=exactly, local_files_only=offline)

    def _announce(self, repository: Repository, names: list[str]) -> None:
        """Says the size of the download, and refuses it if the disk has too little space."""
        from huggingface_hub.utils import are_progress_bars_disabled

        files = {**repository.files, **self._files_of_hub()}  # with the names of the blobs
        sizes = {name: self._missing_bytes(files[name]) for name in names}
        needed = sum(sizes.values())
        cache = os.path.dirname(self._home)
        free = free_space(cache)
        if needed and needed + SPARE > free:
            raise CheckpointError(
                f"{self.source}: the download needs {show_bytes(needed)}, but {cache} has {show_bytes(free)} free",
                "Free some space, or set HF_HOME to a folder on another disk.",
            )
        large = [sizes[name] for name in names if sizes[name] and repository.is_large(name)]
        if large and not are_progress_bars_disabled():
            count = counted(len(large), "file")
            whole = show_bytes(sum(file.size for file in files.values()))
            text = f"{self.source}: downloading {show_bytes(sum(large))} in {count} (of {whole} in the repository)"
            print(text, file=sys.stderr, flush=True)

    def _missing_bytes(self, file: File) -> int:
        """Returns how many bytes of the file the cache lacks. Files of other commits may have the same content."""
        if file.blob is None:
            return file.size
        blob = os.path.join(self._home, "blobs", file.blob)
        if os.path.exists(blob):
            return 0
        unfinished = blob + ".incomplete"  # older versions of huggingface_hub resume it
        return max(file.size - os.path.getsize(unfinished), 1) if os.path.exists(unfinished) else file.size


def _commit(folder: str) -> str:
    return folder.rstrip("/").rsplit("/", 1)[-1]


def _no_bar() -> type:
    """Returns a progress bar for huggingface_hub that is never shown."""
    from huggingface_hub.utils import tqdm

    class NoBar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})

    return NoBar


def cached_id(path: str) -> str | None:
    """ORG/NAME of the model whose snapshot in the Hub's cache is at `path` or holds it; None for any other path."""
    match = _SNAPSHOT.search(f"{path}/")
    return "/".join(filter(None, match.group("org", "name"))) if match else None


def first_line(error: Exception) -> str:
    """Returns the first line of an error of huggingface_hub. Their texts can fill a page."""
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
