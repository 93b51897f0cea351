"""Pairs of which one model has tensors that the other lacks: kept, left out, or refused."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

from mi_kernels import (
    MismatchError,
    lerp_checkpoint,
    merge_checkpoint,
    similarity,
    sweep_checkpoint,
)
from mi_kernels.cli import program as cli

from ..support.families import (
    LAM,
    Tensors,
    assert_interpolated,
    deepseek,
    interpolated,
    loaded,
    merged,
    mtp,
    respelled,
    saved,
    tensors_of,
    with_tensors,
)

pytest.importorskip("transformers")

EXTRAS = {
    "mtp": lambda: mtp(),
    "eh_proj": lambda: deepseek(2, True),
    "behind the last layer": lambda: deepseek(2, False),
}


@pytest.mark.parametrize("case", EXTRAS)
@pytest.mark.parametrize("holder", [0, 1])
def test_layers_for_multi_token_prediction_are_kept(tmp_path: Path, case: str, holder: int) -> None:
    kind = "qwen3_next" if case == "mtp" else "qwen3"
    plain = [saved(kind, tmp_path / f"plain{i}", i) for i in (1, 2)]
    sides = [tensors_of(folder) for folder in plain]
    sides[holder].update(EXTRAS[case]())
    folders = [with_tensors(f, tmp_path / f"side{i}", t) for i, (f, t) in enumerate(zip(plain, sides))]
    for masks in ({}, {"modules": "attn,ffn"}, {"layers": "1"}):
        found, notes = merged(*folders, tmp_path / "out", overwrite=True, **masks)
        assert found.keys() == sides[0].keys() | sides[1].keys()
        for name, extra in alone(sides, holder).items():
            assert torch.equal(found[name], extra)
        chosen = [
            n for n in sides[1 - holder] if not masks or ("layers.1." in n if "layers" in masks else "_proj" in n)
        ]
        assert all(torch.equal(found[n], interpolated(sides[0][n], sides[1][n], LAM)) for n in chosen)
        assert sum("multi-token prediction" in note and "kept without merging" in note for note in notes) == 1
    if case == "mtp":
        loaded(tmp_path / "out")
    compared = similarity(*folders, progress=False)
    assert compared.overall.tensors == len(sides[1 - holder])
    assert set(compared.left_out) == alone(sides, holder).keys()
    for report in sweep_checkpoint(*folders, f"{tmp_path}/s-{{lam}}", [0, 0.5, 1], progress=False):
        assert tensors_of(Path(report.out)).keys() == found.keys()
    assert cli.main(["verify", str(tmp_path / "out"), "--recompute"]) == 0


def alone(sides: list[Tensors], holder: int) -> Tensors:
    return {n: t for n, t in sides[holder].items() if n not in sides[1 - holder]}


@pytest.mark.parametrize("holder", [0, 1, 2])
def test_other_methods_keep_what_one_model_has(tmp_path: Path, holder: int) -> None:
    plain = [saved("qwen3", tmp_path / f"plain{i}", i) for i in range(3)]
    sides = [tensors_of(folder) for folder in plain]
    sides[holder].update(mtp())
    folders = [with_tensors(f, tmp_path / f"side{i}", t) for i, (f, t) in enumerate(zip(plain, sides))]
    for recipe in (
        {"method": "linear", "models": [str(f) for f in folders]},
        {"method": "ties", "base": str(folders[0]), "models": [str(f) for f in folders[1:]], "density": 0.5},
    ):
        out = tmp_path / str(recipe["method"])
        merge_checkpoint(recipe, out, progress=False)
        found = tensors_of(out)
        assert all(torch.equal(found[n], t) for n, t in sides[holder].items() if n.startswith("mtp."))
        merge_checkpoint(
            {**recipe, "models": recipe["models"][::-1]}, tmp_path / "turned", overwrite=True, progress=False
        )
        assert tensors_of(tmp_path / "turned").keys() == found.keys()


@pytest.mark.parametrize("kind", ["qwen3", "gemma3"])
def test_a_missing_weight_of_the_model_stays_an_error(tmp_path: Path, kind: str) -> None:
    a, b = saved(kind, tmp_path / "a", 1), saved(kind, tmp_path / "b", 2)
    whole = tensors_of(b)
    for lost in [n for n in whole if "layers.1" in n or "norm" in n or "projector" in n]:
        part = with_tensors(b, tmp_path / "part", {n: t for n, t in whole.items() if n != lost})
        for pair in ((a, part), (part, a)):
            with pytest.raises(MismatchError, match=re.escape(lost)):
                lerp_checkpoint(*pair, tmp_path / "out", LAM, progress=False)
        shutil.rmtree(part)


BUFFERS = {
    "rotary": ({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.rand(8)}, {}),
    "rotary everywhere": (
        {"model.rotary_emb.inv_freq": torch.rand(8), "model.rotary_emb.cos_cached": torch.rand(4, 8)},
        {},
    ),
    "mask": ({"model.layers.0.self_attn.masked_bias": torch.tensor(-1e4)}, {}),
    "causal mask": ({"h.0.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.uint8)}, {}),
    "masks of two lengths": (
        {"h.0.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool)},
        {"h.0.attn.bias": torch.ones(1, 1, 9, 9, dtype=torch.bool)},
    ),
    "position ids": ({"model.embeddings.position_ids": torch.arange(9)[None]}, {}),
    "position ids of two lengths": (
        {"model.embeddings.position_ids": torch.arange(9)[None]},
        {"model.embeddings.position_ids": torch.arange(7)[None]},
    ),
}


@pytest.mark.parametrize("case", BUFFERS)
@pytest.mark.parametrize("turned", [False, True])
def test_buffers_that_only_one_side_has_are_left_out(tmp_path: Path, case: str, turned: bool) -> None:
    plain = [saved("qwen3", tmp_path / f"plain{i}", i) for i in (1, 2)]
    sides = [tensors_of(folder) for folder in plain]
    folders = [
        with_tensors(f, tmp_path / f"side{i}", {**t, **extra})
        for i, (f, t, extra) in enumerate(zip(plain, sides, BUFFERS[case][:: -1 if turned else 1]))
    ]
    found, notes = merged(*folders, tmp_path / "out")
    assert_interpolated(found, *sides)
    assert sum("left out of the output because loaders compute them again" in note for note in notes) == 1
    loaded(tmp_path / "out")


@pytest.mark.parametrize("release_first", [True, False])
def test_a_text_decoder_against_its_multimodal_release(tmp_path: Path, release_first: bool) -> None:
    release, text = saved("gemma3", tmp_path / "release", 1), saved("gemma3_text", tmp_path / "text", 2)
    whole, decoder = tensors_of(release), tensors_of(text)
    pair = (release, text) if release_first else (text, release)
    found, notes = merged(*pair, tmp_path / "out")
    assert found.keys() == whole.keys()
    for name, tensor in found.items():
        other = decoder.get(name.removeprefix("language_model."))
        sides = (whole[name], other) if release_first else (other, whole[name])
        expected = whole[name] if other is None else interpolated(*sides, LAM)  # type: ignore[arg-type]
        assert torch.equal(tensor, expected), name
    assert sum("towers" in note and "kept without merging" in note for note in notes) == 1
    assert not [note for note in notes if note.endswith('the output has "gemma3_text"')]
    assert loaded(tmp_path / "out").config.vision_config.hidden_size == 32
    assert cli.main(["verify", str(tmp_path / "out"), "--recompute"]) == 0


def test_missing_decoder_layers_of_an_encoder_decoder(tmp_path: Path) -> None:
    a, b = saved("t5", tmp_path / "a", 1), saved("t5", tmp_path / "b", 2)
    part = with_tensors(b, tmp_path / "part", {n: t for n, t in tensors_of(b).items() if "decoder.block.2" not in n})
    with pytest.raises(MismatchError):
        lerp_checkpoint(a, part, tmp_path / "out", LAM, progress=False)


@pytest.mark.parametrize("turned", [False, True])
def test_copies_of_a_shared_embedding(tmp_path: Path, turned: bool) -> None:
    a, plain = saved("t5", tmp_path / "a", 1), saved("t5", tmp_path / "plain", 2)
    t = tensors_of(plain)
    copies = {f"{side}.embed_tokens.weight": t["shared.weight"] for side in ("encoder", "decoder")}
    b = with_tensors(plain, tmp_path / "b", {**t, **copies})
    found, notes = merged(*((b, a) if turned else (a, b)), tmp_path / "out")
    assert found.keys() == t.keys()
    assert sum("copies of the shared embedding" in note for note in notes) == 1
    loaded(tmp_path / "out")
    other = with_tensors(plain, tmp_path / "c", {**t, "encoder.embed_tokens.weight": t["shared.weight"] + 1})
    with pytest.raises(MismatchError, match="embed_tokens"):
        lerp_checkpoint(a, other, tmp_path / "out2", LAM, progress=False)


def test_several_holders(tmp_path: Path) -> None:
    """The tensors of one model are kept together, and those of the others are named."""
    plain = [saved("qwen3", tmp_path / f"plain{i}", i) for i in range(3)]
    extras: list[Tensors] = [
        {},
        mtp(),
        {"mtp.fc.weight": torch.ones(4, 4).bfloat16(), "mtp.more.weight": torch.ones(2)},
    ]
    folders = [with_tensors(f, tmp_path / f"s{i}", {**tensors_of(f), **extras[i]}) for i, f in enumerate(plain)]
    recipe = {"method": "linear", "models": [str(f) for f in folders]}
    report = merge_checkpoint(recipe, tmp_path / "out", progress=False)
    found = {n: t for n, t in tensors_of(tmp_path / "out").items() if n.startswith("mtp.")}
    assert found.keys() == extras[1].keys()
    assert all(torch.equal(t, extras[1][n]) for n, t in found.items())
    assert any(f"those of {folders[2]} are not used" in note for note in report.notes)


def test_kept_layers_have_the_prefix_of_the_output(tmp_path: Path) -> None:
    plain = [saved("qwen3", tmp_path / f"plain{i}", i) for i in (1, 2)]
    b = with_tensors(plain[1], tmp_path / "b", {**tensors_of(plain[1]), **deepseek(2, True)})
    a = respelled(plain[0], tmp_path / "a", lambda name: name.removeprefix("model."))
    found, _ = merged(a, b, tmp_path / "out")
    assert not [name for name in found if name.startswith("model.")]
    assert "layers.2.eh_proj.weight" in found


def test_multimodal_weights_without_a_config(tmp_path: Path) -> None:
    release, text = saved("gemma3", tmp_path / "release", 1), saved("gemma3_text", tmp_path / "text", 2)
    (release / "config.json").unlink()
    for pair in ((release, text), (text, release)):
        with pytest.raises(MismatchError, match=r"no config\.json"):
            lerp_checkpoint(
                *pair, tmp_path / "out", LAM, progress=False, copy_from="instruct" if pair[0] == text else "thinking"
            )
