"""Merges in memory are bit-identical to merges on disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import mi_kernels
from mi_kernels.errors import ArgumentError, CheckpointError, MismatchError
from mi_kernels.live.resident import Resident, torch_dtype
from mi_kernels.recipe.interpolation import Recipe
from mi_kernels.recipe.models import from_dict

from ..support import models


@pytest.mark.parametrize(
    "recipe", [Recipe(0.3), Recipe(0.0), Recipe(1.0), Recipe(0.7, "1:2", "ffn"), Recipe([0.1, 0.9])]
)
@pytest.mark.parametrize("tied", [(False, False), (True, True), (True, False)], ids=["untied", "tied", "one side"])
def test_lerp(tmp_path: Path, recipe: Recipe, tied: tuple[bool, bool]) -> None:
    a, b = (
        models.save(tmp_path / str(i), models.tiny(i, tied=t), config={**models.CONFIG, "tie_word_embeddings": t})
        for i, t in enumerate(tied)
    )
    mi_kernels.merge_checkpoint({"models": [str(a), str(b)], "method": "lerp", **recipe.to_dict()}, tmp_path / "out")
    resident = Resident([a, b], threads=2)
    for _ in range(2):  # a second time from the same maps
        models.assert_same_tensors(dict(resident.lerp(recipe)), models.load(tmp_path / "out"))
    resident.close()


def test_other_methods(tmp_path: Path) -> None:
    paths = [str(models.save(tmp_path / str(seed), models.tiny(seed))) for seed in range(3)]
    content = {"method": "ties", "base": paths[0], "models": paths[1:], "density": 0.5, "scale": 0.8}
    mi_kernels.merge_checkpoint(content, tmp_path / "out", progress=False)
    merged = dict(Resident(paths).merge(from_dict(content)))
    models.assert_same_tensors(merged, models.load(tmp_path / "out"))


def test_refusals_come_before_the_first_tensor(tmp_path: Path) -> None:
    a, b = (models.save(tmp_path / str(seed), models.tiny(seed)) for seed in range(2))
    short = models.save(tmp_path / "short", models.tiny(1, layers=1))
    with pytest.raises(MismatchError):
        Resident([a, short])
    resident = Resident([a, b])
    for recipe, words in (
        (Recipe(1.5), "lam is 1.5"),
        (Recipe(0.5, "5:"), "layers"),
        (Recipe(0.5, None, "router"), "router"),
    ):
        with pytest.raises(ArgumentError, match=words):
            resident.lerp(recipe)


@pytest.mark.parametrize("cut", [64, 2048], ids=["within the last page", "pages"])
def test_a_file_that_shrinks_is_an_error_and_not_read_as_zeros(tmp_path: Path, cut: int) -> None:
    a, b = (models.save(tmp_path / str(seed), models.tiny(seed)) for seed in range(2))
    resident = Resident([a, b])
    weights = resident.lerp(Recipe(0.5))
    next(weights)
    shard = b / "model.safetensors"
    os.truncate(shard, max(shard.stat().st_size - cut, 0) if cut == 64 else 4096)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        list(weights)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        next(resident.lerp(Recipe(0.5)))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_a_resident_that_is_garbage_collected_releases_its_files(tmp_path: Path) -> None:
    """No map and no descriptor stays open, because users of notebooks run a cell again instead of calling close()."""
    a, b = (models.save(tmp_path / str(seed), models.tiny(seed)) for seed in range(2))
    weights = Resident([a, b]).lerp(Recipe(0.5))
    next(weights)
    assert str(tmp_path) in Path("/proc/self/maps").read_text()
    del weights
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    assert not [fd for fd in Path("/proc/self/fd").iterdir() if os.path.realpath(fd).startswith(str(tmp_path))]


def test_dtypes_that_torch_does_not_have() -> None:
    with pytest.raises(mi_kernels.MIKernelsError, match="F4"):
        torch_dtype("F4")
