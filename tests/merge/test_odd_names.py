"""Pairs whose tensors have other names or another layout: every output has the right bits, and loads."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mi_kernels import (
    MismatchError,
    lerp_checkpoint,
    merge_checkpoint,
    open_checkpoint,
    similarity,
    sweep_checkpoint,
)

from ..support.families import (
    LAM,
    Tensors,
    assert_interpolated,
    loaded,
    logits,
    make,
    merged,
    new_gemma,
    respelled,
    saved,
    tensors_of,
    with_tensors,
)
from ..support.models import write_raw

pytest.importorskip("transformers")


def new_qwen(name: str) -> str:  # transformers 4.52
    return f"model.{name}" if name.startswith("visual.") else re.sub(r"^model\.", "model.language_model.", name)


def new_llava(name: str) -> str:
    return new_gemma(name.replace("language_model.lm_head.", "lm_head."))


def bare(name: str) -> str:
    return name.removeprefix("transformer.")


SPELLINGS: dict[str, tuple[str, Callable[[str], str]]] = {
    "qwen2.5-vl": ("qwen2_5_vl", new_qwen),
    "gemma3": ("gemma3", new_gemma),
    "llava": ("llava", new_llava),
    "gpt2 without transformer.": ("gpt2", bare),
    "qwen3 without model.": ("qwen3", lambda name: name.removeprefix("model.")),
    "mixtral of transformers 5": ("mixtral", lambda name: name.replace(".block_sparse_moe.", ".mlp.")),
}


@pytest.mark.parametrize("case", SPELLINGS)
@pytest.mark.parametrize("turned", [False, True], ids=["release first", "release second"])
def test_spellings(tmp_path: Path, case: str, turned: bool) -> None:
    kind, rename = SPELLINGS[case]
    release, plain = saved(kind, tmp_path / "release", 1), saved(kind, tmp_path / "plain", 2)
    tuned = respelled(plain, tmp_path / "tuned", rename)
    a, b = tensors_of(release), tensors_of(plain)
    if turned:
        found, notes = merged(tuned, release, tmp_path / "out")
        assert_interpolated(found, tensors_of(tuned), {rename(name): t for name, t in a.items()})
    else:
        found, notes = merged(release, tuned, tmp_path / "out")
        assert_interpolated(found, a, b)
        merged(release, plain, tmp_path / "straight")
        assert torch.equal(logits(loaded(tmp_path / "out")), logits(loaded(tmp_path / "straight")))
    changed = sum(rename(name) != name for name in a)
    assert [note for note in notes if f"{changed} tensors have other names than in" in note]
    assert similarity(tuned, release, progress=False).overall.tensors == len(a)


def test_masks_select_in_both_spellings(tmp_path: Path) -> None:
    release, plain = saved("qwen2_5_vl", tmp_path / "release", 1), saved("qwen2_5_vl", tmp_path / "plain", 2)
    tuned = respelled(plain, tmp_path / "tuned", new_qwen)
    for masks in ({"modules": "attn"}, {"layers": "1:"}, {"layers": "0", "modules": "ffn,norm"}):
        expected, _ = merged(release, plain, tmp_path / "straight", overwrite=True, **masks)
        found, _ = merged(release, tuned, tmp_path / "out", overwrite=True, **masks)
        assert found.keys() == expected.keys()
        assert all(torch.equal(t, expected[name]) for name, t in found.items())


def test_a_sweep_and_other_methods_match_spellings_too(tmp_path: Path) -> None:
    release, plain = saved("gemma3", tmp_path / "release", 1), saved("gemma3", tmp_path / "plain", 2)
    tuned = respelled(plain, tmp_path / "tuned", new_gemma)
    a, b = tensors_of(release), tensors_of(plain)
    for report in sweep_checkpoint(release, tuned, f"{tmp_path}/s-{{lam}}", [0.0, 0.6, 1.0], progress=False):
        assert_interpolated(tensors_of(Path(report.out)), a, b, float(report.out.rsplit("-", 1)[1]))
    recipe = {"method": "task_arithmetic", "base": str(release), "models": [str(tuned)], "scale": 0.5}
    merge_checkpoint(recipe, tmp_path / "t", progress=False)
    name = "language_model.model.layers.1.mlp.up_proj.weight"
    base, other = a[name].float(), b[name].float()
    assert torch.allclose(tensors_of(tmp_path / "t")[name].float(), base + 0.5 * (other - base), atol=1e-3)
    loaded(tmp_path / "t")


def test_names_that_could_mean_two_tensors_are_not_matched(tmp_path: Path) -> None:
    a = saved("qwen3", tmp_path / "a", 1)
    name = "model.norm.weight"
    tensors = tensors_of(a)
    b = with_tensors(a, tmp_path / "b", {**tensors, "language_model.model.norm.weight": tensors[name]})
    c = respelled(b, tmp_path / "c", lambda n: f"llm.{n}" if n == name else n)
    with pytest.raises(MismatchError, match="norm"):
        lerp_checkpoint(a, c, tmp_path / "out", LAM, progress=False)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda n: f"_orig_mod.{n}",
        lambda n: f"module.{n}",
        lambda n: f"module._orig_mod.{n}",
        lambda n: f"_orig_mod.module.{n}",
        lambda n: n.replace(".mlp.", "._checkpoint_wrapped_module.mlp."),
        lambda n: re.sub(r"layers\.(\d+)\.", r"layers.\1._fsdp_wrapped_module._checkpoint_wrapped_module.", n),
        lambda n: f"_forward_module.{n.replace('self_attn.', 'self_attn._orig_mod.')}",
    ],
)
@pytest.mark.parametrize("sides", ["first", "second", "both"])
def test_wrappers(tmp_path: Path, wrap: Callable[[str], str], sides: str) -> None:
    plain = [saved("qwen3", tmp_path / f"plain{i}", i) for i in (1, 2)]
    wrapped = [respelled(folder, tmp_path / f"wrapped{i}", wrap) for i, folder in enumerate(plain)]
    pair = [wrapped[0] if sides != "second" else plain[0], wrapped[1] if sides != "first" else plain[1]]
    found, notes = merged(*pair, tmp_path / "out", modules="ffn,attn,norm,embed,head")
    assert_interpolated(found, *map(tensors_of, plain))
    assert sum("words of a wrapper" in note for note in notes) == (2 if sides == "both" else 1)
    loaded(tmp_path / "out")


def test_a_wrapped_copy_beside_the_plain_tensor_is_refused(tmp_path: Path) -> None:
    a = saved("qwen3", tmp_path / "a", 1)
    t = tensors_of(a)
    b = with_tensors(a, tmp_path / "b", {**t, "_orig_mod.model.norm.weight": t["model.norm.weight"]})
    with pytest.raises(Exception, match=r"both mean model\.norm\.weight"):
        open_checkpoint(b)


def test_notes_on_the_files_of_the_release(tmp_path: Path) -> None:
    """The output gets the small files of both models. Those of the release that are not copied have a note too."""
    release, text = saved("gemma3", tmp_path / "release", 1), saved("gemma3_text", tmp_path / "text", 2)
    (release / "trainer_state.json").write_text("{}")
    (release / "tokenizer.json").write_text("{}")
    _, notes = merged(release, text, tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").exists()
    [note] = [note for note in notes if "trainer_state.json" in note]
    assert note.startswith(f"{release}: not copied to the output")
    report = lerp_checkpoint(release, text, tmp_path / "out.safetensors", LAM, progress=False)
    assert not [note for note in report.notes if "config.json" in note or "trainer_state" in note]


def fused(tensors: Tensors) -> Tensors:
    """The experts of `tensors` as transformers 5 holds them: gate_up_proj [E, 2 I, H] and down_proj [E, H, I]."""
    rest = {n: t for n, t in tensors.items() if ".experts." not in n}
    for layer in (0, 1):
        parts = [f"model.layers.{layer}.mlp.experts.{e}." for e in range(4)]
        both = [torch.cat([tensors[f"{p}gate_proj.weight"], tensors[f"{p}up_proj.weight"]]) for p in parts]
        rest[f"model.layers.{layer}.mlp.experts.gate_up_proj"] = torch.stack(both)
        rest[f"model.layers.{layer}.mlp.experts.down_proj"] = torch.stack(
            [tensors[f"{p}down_proj.weight"] for p in parts]
        )
    return rest


@pytest.mark.parametrize("fused_side", [0, 1])
@pytest.mark.parametrize("options", [{}, {"max_memory": 1 << 16}, {"modules": "ffn"}, {"dtype": "float32"}])
def test_fused_experts(tmp_path: Path, fused_side: int, options: dict[str, object]) -> None:
    plain = [saved("qwen3_moe", tmp_path / f"plain{i}", i) for i in (1, 2)]
    sides = [tensors_of(folder) for folder in plain]
    folders = list(plain)
    folders[fused_side] = with_tensors(plain[fused_side], tmp_path / "fused", fused(sides[fused_side]))
    found, notes = merged(*folders, tmp_path / "out", **options)
    expected, _ = merged(*plain, tmp_path / "straight", **options)
    if fused_side == 0:
        expected = fused(expected)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[n], t) for n, t in expected.items())
    assert sum("another layout" in note for note in notes) == 1
    loaded(tmp_path / "out")
    assert similarity(*folders, progress=False).overall.sigma == similarity(*plain, progress=False).overall.sigma


@pytest.mark.parametrize("fused_side", [0, 1])
def test_fused_experts_against_fp8(tmp_path: Path, fused_side: int) -> None:
    """The experts of the FP8 side are computed one by one, and enter the fused tensor as float32."""
    plain = [saved("qwen3_moe", tmp_path / f"plain{i}", i) for i in (1, 2)]
    sides = [tensors_of(folder) for folder in plain]
    other = 1 - fused_side
    stored: Tensors = {}
    values = dict(sides[other])
    for name, tensor in sides[other].items():
        if ".experts." in name:
            scale = tensor.float().abs().amax() / 448
            weight = (tensor.float() / scale).to(torch.float8_e4m3fn)
            stored |= {name: weight, f"{name}_scale_inv": scale.reshape(1, 1)}
            values[name] = weight.float() * scale
        else:
            stored[name] = tensor
    folders = list(plain)
    folders[other] = with_tensors(plain[other], tmp_path / "fp8", stored)
    config = json.loads((folders[other] / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    (folders[other] / "config.json").write_text(json.dumps(config))
    folders[fused_side] = with_tensors(plain[fused_side], tmp_path / "fused", fused(sides[fused_side]))
    sides[other] = values
    one, two = (fused(side) if fused_side == 0 else side for side in sides)
    for options in ({}, {"max_memory": 1 << 16}):
        found, _ = merged(*folders, tmp_path / "out", overwrite=True, **options)
        assert found.keys() == one.keys()
        for name, tensor in found.items():
            assert torch.equal(tensor, torch.lerp(one[name].float(), two[name].float(), LAM).bfloat16()), name
    loaded(tmp_path / "out")


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe"])
@pytest.mark.parametrize("fused_side", [0, 1])
def test_the_state_dict_of_transformers_against_its_files(tmp_path: Path, kind: str, fused_side: int) -> None:
    """Tools that save the state_dict keep the fused experts and the names of the module tree."""
    plain = [saved(kind, tmp_path / f"plain{i}", i) for i in (1, 2)]
    folders = list(plain)
    state = dict(make(kind, fused_side + 1).state_dict())
    folders[fused_side] = with_tensors(plain[fused_side], tmp_path / "state", state)
    merged(*folders, tmp_path / "out")
    merged(*plain, tmp_path / "straight")
    one, two = (loaded(tmp_path / n).state_dict() for n in ("out", "straight"))
    assert all(torch.equal(one[name], tensor) for name, tensor in two.items())
    assert tensors_of(tmp_path / "out").keys() == tensors_of(folders[0]).keys()


def test_transposed_experts_are_not_taken_for_fused_ones(tmp_path: Path) -> None:
    plain = [saved("qwen3_moe", tmp_path / f"plain{i}", i) for i in (1, 2)]
    tensors = {n: t.transpose(1, 2) if t.ndim == 3 else t for n, t in fused(tensors_of(plain[1])).items()}
    other = with_tensors(plain[1], tmp_path / "other", tensors)
    with pytest.raises(MismatchError, match="experts"):
        lerp_checkpoint(plain[0], other, tmp_path / "out", LAM, progress=False)


def test_a_number_of_experts_is_only_a_claim(tmp_path: Path) -> None:
    a = saved("qwen3_moe", tmp_path / "a", 1)
    b = tmp_path / "b"
    shape = {"dtype": "BF16", "shape": [4_000_000_000, 2, 0], "data_offsets": [0, 0]}
    write_raw(b / "model.safetensors", {"model.layers.0.mlp.experts.gate_up_proj": shape})
    for pair in ((a, b), (b, a)):
        with pytest.raises(MismatchError):
            lerp_checkpoint(*pair, tmp_path / "out", LAM, progress=False)
