"""Pairs of checkpoints that are one architecture, but not stored alike: every output has the right bits, and loads."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mi_kernels import MismatchError, lerp_checkpoint, merge_checkpoint, open_checkpoint, similarity, sweep_checkpoint
from mi_kernels.cli import program as cli

from ..support.families import (
    EMBED,
    HEAD,
    Tensors,
    interpolated,
    loaded,
    logits,
    make,
    mtp,
    new_gemma,
    respelled,
    saved,
    tensors_of,
    with_tensors,
)

pytest.importorskip("transformers")

LAM = 0.3


def merged(a: Path, b: Path, out: Path, lam: float = LAM, **options: object) -> tuple[Tensors, list[str]]:
    report = lerp_checkpoint(a, b, out, lam, progress=False, **options)  # type: ignore[arg-type]
    return tensors_of(out), report.notes


def assert_interpolated(found: Tensors, a: Tensors, b: Tensors, lam: float = LAM) -> None:
    """`a` and `b` have the names of the output; what only one of them has is kept."""
    assert found.keys() == a.keys() | b.keys()
    for name, tensor in found.items():
        expected = interpolated(a[name], b[name], lam) if name in a and name in b else a.get(name, b.get(name))
        assert torch.equal(tensor, expected), name  # type: ignore[arg-type]


# One architecture, several spellings.


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


# Names under wrappers.


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


# Tensors on one side.


def deepseek(number: int, marked: bool) -> Tensors:
    names = ["self_attn.q_proj.weight", "mlp.up_proj.weight", *(["eh_proj.weight", "enorm.weight"] if marked else [])]
    return {f"model.layers.{number}.{n}": torch.randn(8, 8).bfloat16() for n in names}


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
        import shutil

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
    assert sum("left out of the output" in note for note in notes) == 1
    loaded(tmp_path / "out")


# A text decoder and its multimodal release.


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


# Experts in one tensor, or one by one.


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


# Heads and embeddings.


@pytest.mark.parametrize("head", ["lm_head.weight", "language_model.lm_head.weight"])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("turned", [True, False])
def test_heads_under_other_names(tmp_path: Path, head: str, own: bool, turned: bool) -> None:
    """Gemma 3 ties its head; another tool stored one, under either of the names that transformers has used."""
    plain = [saved("gemma3", tmp_path / f"plain{i}", i) for i in (1, 2)]
    sides = [tensors_of(folder) for folder in plain]
    embedding = "language_model.model.embed_tokens.weight"
    stored = torch.randn(256, 64).bfloat16() if own else sides[1][embedding]
    folders = [plain[0], with_tensors(plain[1], tmp_path / "stored", {**sides[1], head: stored})]
    merged(*(folders[::-1] if turned else folders), tmp_path / "out")
    model = loaded(tmp_path / "out")
    pair = (sides[0][embedding], stored)
    assert torch.equal(model.lm_head.weight, interpolated(*(pair[::-1] if turned else pair), LAM))
    assert model.config.tie_word_embeddings != own


@pytest.mark.parametrize("one", ["tied", "copy", "own", "untied"])
@pytest.mark.parametrize("two", ["tied", "copy", "own", "untied"])
@pytest.mark.parametrize("key", [True, False], ids=["declared", "by the class"])
def test_heads(tmp_path: Path, one: str, two: str, key: bool) -> None:
    """Each side ties its head (and may store a copy), or has a head of its own, whatever its config.json says."""
    folders, sides = [], []
    for i, kind in enumerate((one, two)):
        plain = saved("gemma2", tmp_path / f"plain{i}", i + 1)
        tensors = tensors_of(plain)
        if kind == "copy":
            tensors[HEAD] = tensors[EMBED]
        elif kind != "tied":
            tensors[HEAD] = torch.randn(256, 64).bfloat16()
        folder = with_tensors(plain, tmp_path / f"side{i}", tensors)
        config = json.loads((folder / "config.json").read_text())
        config.pop("tie_word_embeddings", None)
        if key or kind == "untied":
            config["tie_word_embeddings"] = kind != "untied"
        (folder / "config.json").write_text(json.dumps(config))
        folders.append(folder)
        sides.append({HEAD: tensors[EMBED], **tensors})
    found, notes = merged(*folders, tmp_path / "out")
    expected = {n: interpolated(t, sides[1][n], LAM) for n, t in sides[0].items()}
    stored = HEAD in found
    assert_same = {**found, HEAD: found.get(HEAD, found[EMBED])}
    assert all(torch.equal(assert_same[n], t) for n, t in expected.items())
    model = loaded(tmp_path / "out")
    assert torch.equal(model.lm_head.weight, expected[HEAD])
    assert torch.equal(model.model.embed_tokens.weight, expected[EMBED])
    tied = {one, two} <= {"tied", "copy"}
    assert model.config.tie_word_embeddings == tied
    assert stored == (not tied or one == "copy")
    assert any("differs from the embedding" in note for note in notes) == ("own" in (one, two))


def test_a_mask_over_the_embedding_unties_a_stored_copy(tmp_path: Path) -> None:
    folders = []
    for i in (1, 2):
        plain = saved("gemma2", tmp_path / f"plain{i}", i)
        t = tensors_of(plain)
        folders.append(with_tensors(plain, tmp_path / f"side{i}", {**t, HEAD: t[EMBED]}))
    for lam, modules, tied in (
        (0.5, "embed", False),
        (0.5, "head", False),
        (0.5, "embed,head", True),
        (0.5, "ffn", True),
    ):
        found, _ = merged(*folders, tmp_path / "out", lam, modules=modules, overwrite=True)
        model = loaded(tmp_path / "out")
        assert model.config.tie_word_embeddings == tied == torch.equal(found[HEAD], found[EMBED])
        assert torch.equal(model.lm_head.weight, found[HEAD])
    reports = sweep_checkpoint(*folders, f"{tmp_path}/s-{{lam}}", [0, 0.5], modules="embed", progress=False)
    assert [loaded(Path(r.out)).config.tie_word_embeddings for r in reports] == [True, False]


# config.json says what was written.


@pytest.mark.parametrize("a", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("b", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("copy_from", ["instruct", "thinking"])
def test_dtypes_of_config(tmp_path: Path, a: torch.dtype, b: torch.dtype, copy_from: str) -> None:
    one, two = saved("gemma3", tmp_path / "a", 1, dtype=a), saved("gemma3", tmp_path / "b", 2, dtype=b)
    for asked in (None, "float16"):
        found, _ = merged(one, two, tmp_path / "out", copy_from=copy_from, dtype=asked, overwrite=True)
        written = {str(t.dtype).removeprefix("torch.") for t in found.values()}
        assert written == {asked or str(a).removeprefix("torch.")}
        text = (tmp_path / "out" / "config.json").read_text()
        assert set(re.findall(r'"(?:torch_)?dtype": "(.*?)"', text)) == written
        assert next(loaded(tmp_path / "out").parameters()).dtype == next(iter(found.values())).dtype


def test_a_tower_in_another_dtype_has_its_own_dtype_in_config(tmp_path: Path) -> None:
    plain = [saved("gemma3", tmp_path / f"plain{i}", i) for i in (1, 2)]
    mixed = []
    for i, folder in enumerate(plain):
        tensors = {n: t.float() if n.startswith("vision_tower") else t for n, t in tensors_of(folder).items()}
        mixed.append(with_tensors(folder, tmp_path / f"mixed{i}", tensors))
        config = json.loads((mixed[i] / "config.json").read_text())
        for part in (config, config["text_config"], config["vision_config"]):
            part["dtype"] = "float16"
        config["text_config"]["torch_dtype"] = "float32"
        (mixed[i] / "config.json").write_text(json.dumps(config))
    merged(*mixed, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    text, vision = config["text_config"], config["vision_config"]
    assert {config["dtype"], text["dtype"], text["torch_dtype"]} == {"bfloat16"}
    assert vision["dtype"] == "float32"


# Vocabularies that differ by padding.


def tokenizer(tokens: int) -> str:
    vocabulary = {f"t{i}": i for i in range(tokens)}
    return json.dumps({"model": {"type": "WordLevel", "vocab": vocabulary}, "added_tokens": []})


def grown(folder: Path, out: Path, rows: int, tokens: int = 250) -> Path:
    tensors = {
        n: torch.cat([t, torch.randn(rows - 256, 64).bfloat16()]) if n in (EMBED, HEAD) and rows > 256 else t
        for n, t in tensors_of(folder).items()
    }
    with_tensors(folder, out, tensors)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, "vocab_size": rows}))
    (out / "tokenizer.json").write_text(tokenizer(tokens))
    return out


@pytest.mark.parametrize("rows", [(256, 320), (320, 256)])
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kind", ["qwen3", "gemma2"])
def test_padding(tmp_path: Path, rows: tuple[int, int], lam: float, kind: str) -> None:
    folders = [grown(saved(kind, tmp_path / f"p{i}", i), tmp_path / f"g{i}", n) for i, n in enumerate(rows)]
    a, b = map(tensors_of, folders)
    found, notes = merged(*folders, tmp_path / "out", lam)
    for name, tensor in found.items():
        common = min(len(a[name]), len(b[name])) if name in (EMBED, HEAD) else len(a[name])
        head = interpolated(a[name][:common], b[name][:common], lam)
        assert torch.equal(tensor, torch.cat([head, a[name][common:]])), name
    assert sum("rest is padding" in note for note in notes) == 1
    assert not [note for note in notes if "vocab_size" in note]
    assert loaded(tmp_path / "out").config.vocab_size == rows[0]
    assert cli.main(["verify", str(tmp_path / "out"), "--recompute"]) == 0
    assert similarity(*folders, progress=False).overall.elements == sum(min(a[n].numel(), b[n].numel()) for n in found)


def sentence_pieces(count: int) -> bytes:
    """A SentencePiece model: `count` pieces (entry 1, with a text and a score), then a trainer spec (entry 2)."""
    pieces = [
        b"\x0a" + bytes([len(text)]) + text + b"\x15\x00\x00\x80\xbf"
        for text in map(str.encode, map(str, range(count)))
    ]
    return b"".join(b"\x0a" + bytes([len(p)]) + p for p in pieces) + b"\x12\x02\x18\x01"


@pytest.mark.parametrize("kind", ["vocab.json", "tokenizer.model", "tokenizer.model and added_tokens.json"])
def test_padding_by_older_tokenizers(tmp_path: Path, kind: str) -> None:
    plain = saved("qwen3", tmp_path / "p", 1)
    a, b = grown(plain, tmp_path / "a", 256), grown(plain, tmp_path / "b", 320)

    def give(folder: Path, tokens: int) -> None:
        (folder / "tokenizer.json").unlink(missing_ok=True)
        if kind == "vocab.json":
            (folder / kind).write_text(json.dumps({f"t{i}": i for i in range(tokens)}))
            return
        more = 3 if "added" in kind else 0
        (folder / "tokenizer.model").write_bytes(sentence_pieces(tokens - more))
        if more:
            (folder / "added_tokens.json").write_text(json.dumps({f"<{i}>": tokens - more + i for i in range(more)}))

    for tokens in (250, 256):
        give(a, tokens), give(b, tokens)
        assert len(merged(a, b, tmp_path / f"out{tokens}")[0][EMBED]) == 256
    give(a, 257), give(b, 257)
    with pytest.raises(MismatchError, match="shape"):
        lerp_checkpoint(a, b, tmp_path / "out", LAM, progress=False)
    give(a, 250), give(b, 251)
    with pytest.raises(MismatchError, match="shape"):
        lerp_checkpoint(a, b, tmp_path / "out", LAM, progress=False)


def test_padding_is_kept_by_other_methods(tmp_path: Path) -> None:
    folders = [
        grown(saved("qwen3", tmp_path / f"p{i}", i), tmp_path / f"g{i}", n) for i, n in enumerate((320, 256, 300))
    ]
    sides = [tensors_of(f) for f in folders]
    for method in ("ties", "dare_ties", "task_arithmetic"):
        recipe = {"method": method, "base": str(folders[0]), "models": [str(f) for f in folders[1:]]}
        merge_checkpoint(
            {**recipe, **({} if method == "task_arithmetic" else {"density": 0.5})}, tmp_path / method, progress=False
        )
        found = tensors_of(tmp_path / method)
        assert torch.equal(found[EMBED][256:], sides[0][EMBED][256:])
        loaded(tmp_path / method)


def test_tokens_beyond_the_common_rows_are_refused(tmp_path: Path) -> None:
    plain = saved("qwen3", tmp_path / "p", 1)
    a, b = grown(plain, tmp_path / "a", 256, 270), grown(plain, tmp_path / "b", 320, 270)
    with pytest.raises(MismatchError, match="vocabularies differ"):
        lerp_checkpoint(a, b, tmp_path / "out", LAM, progress=False)
    (a / "tokenizer.json").write_text(tokenizer(249))
    (b / "tokenizer.json").write_text(tokenizer(250))
    with pytest.raises(MismatchError, match="padding"):
        lerp_checkpoint(a, b, tmp_path / "out", LAM, progress=False)


# What a second reading found.


@pytest.mark.parametrize("turned", [False, True])
def test_a_head_keeps_its_own_name(tmp_path: Path, turned: bool) -> None:
    """The head of Whisper is called proj_out."""
    a, plain = saved("whisper", tmp_path / "a", 1), saved("whisper", tmp_path / "plain", 2)
    own = torch.randn(256, 32).bfloat16()
    b = with_tensors(plain, tmp_path / "b", {**tensors_of(plain), "proj_out.weight": own})
    merged(*((b, a) if turned else (a, b)), tmp_path / "out")
    model = loaded(tmp_path / "out")
    pair = (tensors_of(a)["model.decoder.embed_tokens.weight"], own)
    assert torch.equal(model.proj_out.weight, interpolated(*(pair[::-1] if turned else pair), LAM))


def test_a_plain_pair_with_a_dense_layer_in_its_head_has_no_note(tmp_path: Path) -> None:
    a, b = saved("roberta", tmp_path / "a", 1), saved("roberta", tmp_path / "b", 2)
    assert merged(a, b, tmp_path / "out")[1] == []
    loaded(tmp_path / "out")


def test_positions_are_no_vocabulary(tmp_path: Path) -> None:
    """A model with few tokens and many positions."""
    a, b = saved("gpt2", tmp_path / "a", 1, n_positions=64), saved("gpt2", tmp_path / "b", 2, n_positions=32)
    for folder in (a, b):
        (folder / "tokenizer.json").write_text(tokenizer(10))
    with pytest.raises(MismatchError, match=r"wpe.*shape"):
        lerp_checkpoint(a, b, tmp_path / "out", LAM, progress=False)


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


def test_a_number_of_experts_is_only_a_claim(tmp_path: Path) -> None:
    from ..support.models import write_raw

    a = saved("qwen3_moe", tmp_path / "a", 1)
    b = tmp_path / "b"
    shape = {"dtype": "BF16", "shape": [4_000_000_000, 2, 0], "data_offsets": [0, 0]}
    write_raw(b / "model.safetensors", {"model.layers.0.mlp.experts.gate_up_proj": shape})
    for pair in ((a, b), (b, a)):
        with pytest.raises(MismatchError):
            lerp_checkpoint(*pair, tmp_path / "out", LAM, progress=False)


def test_a_mask_that_unties_is_reported_and_never_served_tied(tmp_path: Path) -> None:
    from mi_kernels import Recipe
    from mi_kernels.live.resident import Resident

    folders = []
    for i in (1, 2):
        plain = saved("gemma2", tmp_path / f"plain{i}", i)
        t = tensors_of(plain)
        folders.append(with_tensors(plain, tmp_path / f"side{i}", {**t, HEAD: t[EMBED]}))
    _, notes = merged(*folders, tmp_path / "out", modules="embed")
    assert any("does not tie them" in note for note in notes)
    resident = Resident(folders)
    resident.check_tied(Recipe(0.5))
    with pytest.raises(MismatchError, match="ties the two"):
        resident.check_tied(Recipe(0.5, modules="embed"))
    resident.close()


def test_multimodal_weights_without_a_config(tmp_path: Path) -> None:
    release, text = saved("gemma3", tmp_path / "release", 1), saved("gemma3_text", tmp_path / "text", 2)
    (release / "config.json").unlink()
    for pair in ((release, text), (text, release)):
        with pytest.raises(MismatchError, match=r"no config\.json"):
            lerp_checkpoint(
                *pair, tmp_path / "out", LAM, progress=False, copy_from="instruct" if pair[0] == text else "thinking"
            )
