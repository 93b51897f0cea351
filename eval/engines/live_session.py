"""What engine processes hold while they are open with a live pair, and which other merges they can become."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from typing import Any

from mi_kernels.errors import MIKernelsError
from mi_kernels.integrations.vllm.options import LoaderOptions
from mi_kernels.integrations.vllm.preflight import check_models

from .live_pair import LivePair, NotLiveError
from .merged_files import MergedFiles, files_of, merged_files, serves
from .model_folder import local_folder

REMEDY = "Merge the pair into a folder, and evaluate that."


class LiveSession:
    """The pair that engine processes hold, and the folder with the small files that they were started with.

    Attributes:
        instruct, thinking: the folders of the models.
        length: the most tokens of a prompt and its response.
    """

    def __init__(self, pair: LivePair, merged: MergedFiles, length: int) -> None:
        self.instruct, self.thinking = local_folder(pair.instruct), local_folder(pair.thinking)
        self.length = length
        self._started = merged
        self._folder = tempfile.TemporaryDirectory(prefix="mi-eval-live-")

    def holds(self, pair: LivePair) -> bool:
        """Whether it is the same two models."""
        return (self.instruct, self.thinking) == (local_folder(pair.instruct), local_folder(pair.thinking))

    def becomes(self, pair: LivePair, merged: MergedFiles, length: int) -> bool:
        """Whether a change of the weights is all that the processes need to generate as this merge."""
        return self.holds(pair) and length <= self.length and serves(self._started.files, merged.files)

    def files(self, merged: MergedFiles) -> str:
        """A folder with the small files of a merge."""
        folder = os.path.join(self._folder.name, merged.digest)
        if not os.path.exists(folder):
            merged.write(folder)
        return folder

    def model(self, pair: LivePair, merged: MergedFiles, resident: str) -> dict[str, Any]:
        """What a backend opens, see `vllm_engine.VllmBackend.open`."""
        return {
            "resident": resident,
            "instruct": self.instruct,
            "thinking": self.thinking,
            "files": self.files(merged),
            "recipe": pair.recipe.to_dict(),
        }

    def change(self, pair: LivePair, merged: MergedFiles) -> dict[str, Any]:
        """What a backend sets, see `vllm_engine.VllmBackend.set`."""
        return {"recipe": pair.recipe.to_dict(), "files": self.files(merged)}

    def close(self) -> None:
        self._folder.cleanup()


def planned(pair: LivePair) -> MergedFiles:
    """What the folder of this merge would hold.

    Raises:
        mi_kernels.errors.MIKernelsError: the models cannot be merged, or not with this recipe, in a folder either.
        NotLiveError: an engine cannot hold the merge.
    """
    merged = merged_files(pair)
    if merged.lost and own_engine(pair, merged) is None:
        raise NotLiveError(merged.lost, REMEDY)
    return merged


def own_engine(pair: LivePair, merged: MergedFiles) -> str | None:
    """The folder of a model that a pair's engine would not equal at lam 0 or 1, so that it needs an engine of its own.

    None for a merge, and for a model that the engine equals: its tensors have the same dtypes and shapes as those of
    the merge, and its files are the same, apart from what does not matter to the engine.
    """
    if pair.end is None:
        return None
    folder = local_folder(pair.end)
    if pair.side in merged.ends and files_of(folder) == dict(merged.files):
        return None
    return folder


def loader_config(model: Mapping[str, Any]) -> dict[str, Any]:
    """vLLM's `model_loader_extra_config`. The range of lam is checked where the merge is planned."""
    always = {"extrapolate": True, "live": True, "check": True}
    return {"other": model["thinking"], **model["recipe"], "resident": model["resident"], **always}


def check_loadable(model: Mapping[str, Any]) -> None:
    """Checks what vLLM's loader will check, before vLLM is started.

    Raises:
        NotLiveError: the loader would refuse the pair.
    """
    try:
        check_models(model["instruct"], LoaderOptions.read(loader_config(model)))
    except MIKernelsError as error:
        raise NotLiveError(error.problem, error.remedy) from error
