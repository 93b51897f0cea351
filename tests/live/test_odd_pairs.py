"""A live model and a folder that stores the same architecture otherwise: the bits are those of the merge on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mi_kernels import MismatchError, Recipe, lerp_checkpoint
from mi_kernels.live import attach
from mi_kernels.live.resident import Resident

from ..support.families import EMBED, HEAD, loaded, make, mtp, new_gemma, respelled, saved, tensors_of, with_tensors

pytest.importorskip("transformers")

LAM = 0.3


def odd(kind: str, tmp_path: Path) -> tuple[Path, Path]:
    """Two folders of one architecture; the second one is not stored like the parameters of a loaded model."""
    a, plain = saved(kind, tmp_path / "a", 1), saved(kind, tmp_path / "plain", 2)
    if kind == "gemma3":
        return a, respelled(plain, tmp_path / "b", lambda name: f"_orig_mod.{new_gemma(name)}")
    if kind == "mixtral":
        return a, with_tensors(plain, tmp_path / "b", dict(make(kind, 2).state_dict()))
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.rand(8)}
    return a, with_tensors(plain, tmp_path / "b", {**tensors_of(plain), **mtp(), **extra})


@pytest.mark.parametrize("kind", ["qwen3_next", "mixtral", "gemma3"])
@pytest.mark.parametrize("resident", [True, False])
def test_a_folder_that_is_stored_otherwise(tmp_path: Path, kind: str, resident: bool) -> None:
    a, b = odd(kind, tmp_path)
    live = loaded(a)
    knob = attach(live, b, resident=resident)
    for lam in (LAM, 1.0, 0.0):
        lerp_checkpoint(a, b, tmp_path / f"out{lam}", lam, progress=False)
        expected = loaded(tmp_path / f"out{lam}").state_dict()
        knob.set_lam(lam)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in live.state_dict().items())
    knob.detach()


def test_a_head_of_its_own_against_a_tied_live_model(tmp_path: Path) -> None:
    a, plain = saved("gemma2", tmp_path / "a", 1), saved("gemma2", tmp_path / "plain", 2)
    t = tensors_of(plain)
    copy = with_tensors(plain, tmp_path / "copy", {**t, HEAD: t[EMBED]})
    own = with_tensors(plain, tmp_path / "own", {**t, HEAD: torch.randn(256, 64).bfloat16()})
    attach(loaded(a), copy).detach()
    with pytest.raises(MismatchError, match="one tensor in the live model, 2 in"):
        attach(loaded(a), own)


@pytest.mark.parametrize("holder", [0, 1])
def test_a_resident_pair_has_the_tensors_of_the_first_model(tmp_path: Path, holder: int) -> None:
    folders = [saved("qwen3", tmp_path / f"plain{i}", i) for i in (1, 2)]
    folders[holder] = with_tensors(folders[holder], tmp_path / "more", {**tensors_of(folders[holder]), **mtp()})
    lerp_checkpoint(*folders, tmp_path / "out", LAM, progress=False)
    merged = tensors_of(tmp_path / "out")
    resident = Resident(folders)
    found = dict(resident.lerp(Recipe(LAM)))
    resident.close()
    assert found.keys() == tensors_of(folders[0]).keys()
    assert all(torch.equal(tensor, merged[name]) for name, tensor in found.items())
    said = "not loaded" if holder else "multi-token prediction"
    assert any(said in note for note in resident.notes)
