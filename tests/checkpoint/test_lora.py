"""LoRA: BASE+ADAPTER gives fma(scale, delta, W), with the bits of a chain of exact fma in NumPy."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import mi_kernels
from mi_kernels import _cpu
from mi_kernels.checkpoint import hub
from mi_kernels.checkpoint.inputs import Inputs
from mi_kernels.checkpoint.mapped import MappedFile
from mi_kernels.checkpoint.needed_files import Selection
from mi_kernels.checkpoint.open import open_checkpoint
from mi_kernels.checkpoint.tensor import TensorInfo
from mi_kernels.checkpoint.virtual import LoraTensor
from mi_kernels.cli import main

from ..support import fp8_models as fp8
from ..support.adapters import (
    EMBED,
    NORM,
    PLAIN,
    PREFIX,
    SHAPES,
    UP,
    Q,
    Tensors,
    chain,
    factors,
    make_base,
    make_pair,
    merged,
    write_adapter,
)
from ..support.changing import at_operand, write_one_byte
from ..support.fp8_models import assert_same, bits, write


def lerp(a: Tensors, b: Tensors, lam: float) -> Tensors:
    return {name: torch.lerp(a[name], b[name], lam).bfloat16() for name in a}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("side", [0, 1])
def test_merges_have_the_bits_of_the_chain(tmp_path: Path, side: int, dtype: torch.dtype) -> None:
    pair, other = make_pair(tmp_path, 1, dtype), make_base(2)
    plain = write(tmp_path / "other", other)
    sides = (pair.name, plain) if side == 0 else (plain, pair.name)
    report = mi_kernels.lerp_checkpoint(*sides, tmp_path / "o", 0.4, progress=False)
    values = [merged(pair, PLAIN), {name: t.float() for name, t in other.items()}]
    assert_same(tmp_path / "o", lerp(values[side], values[1 - side], 0.4))
    assert f"{pair.name}: LoRA on 2 tensors, added to the base while they are read" in report.notes


def test_both_sides_may_share_a_base(tmp_path: Path) -> None:
    one = make_pair(tmp_path)
    other = {name: -2 * t for name, t in one.adapter.items()}
    folder = write_adapter(tmp_path / "other", other)
    mi_kernels.lerp_checkpoint(one.name, f"{one.folder}+{folder}", tmp_path / "o", 0.5, progress=False)
    two = merged(one._replace(adapter=other), PLAIN)
    assert_same(tmp_path / "o", lerp(merged(one, PLAIN), two, 0.5))


@pytest.mark.parametrize("memory", [4096 * 2, 4096 * 5, 1 << 20, None])
@pytest.mark.parametrize("threads", [1, 3])
def test_bits_depend_neither_on_chunks_nor_on_threads(tmp_path: Path, memory: int | None, threads: int) -> None:
    pair, other = make_pair(tmp_path), make_base(2)
    plain = write(tmp_path / "other", other)
    mi_kernels.lerp_checkpoint(
        plain, pair.name, tmp_path / "o", 0.9, threads=threads, max_memory=memory, progress=False
    )
    assert_same(tmp_path / "o", lerp({n: t.float() for n, t in other.items()}, merged(pair, PLAIN), 0.9))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("rank", [1, 3, 130])
def test_pieces_on_every_isa_have_the_bits_of_the_chain(isa: str, rank: int, transposed: bool) -> None:
    rows, columns = 67, 261
    a, b = factors(3, (columns, rows) if transposed else (rows, columns), rank, torch.float32)
    w = torch.randn(rows, columns, generator=torch.Generator().manual_seed(4)).bfloat16()
    expected = chain(w, b.T, a.T, -0.3) if transposed else chain(w, a, b, -0.3)
    shape, flat = (rows, columns), expected.flatten()
    operands = [(a.numpy(), 0, 2), (b.numpy(), 0, 2)]
    w_bits = w.view(torch.int16).numpy()
    for first, count in (
        (0, rows * columns),
        (0, 0),
        (5, 1),
        (200, 61),
        (255, 12),
        (300, 3000),
        (rows * columns - 9, 9),
    ):
        out = np.full(max(count, 1), np.nan, np.float32)
        w_at = (w_bits, 2 * first, 0)
        _cpu.low_rank(out, w_at, *operands, shape, rank, transposed, -0.3, first, count, isa)
        assert torch.equal(bits(torch.from_numpy(out[:count])), bits(flat[first : first + count])), (first, count)
    in_place = w.float().numpy().copy()
    _cpu.low_rank(in_place, (in_place, 0, 2), *operands, shape, rank, transposed, -0.3, 0, in_place.size, isa)
    assert torch.equal(bits(torch.from_numpy(in_place)), bits(expected))


def test_nan_and_inf_pass_through_as_ieee_has_them(isa: str) -> None:
    """Any NaN gives the canonical NaN. So does 0 * inf inside the chain."""
    a = np.array([[0, 1, np.inf, 1]], np.float32)
    b = np.array([[0], [1]], np.float32)
    w = np.array([[1, np.nan, 1, np.inf], [-np.inf, 2, 3, 4]], np.float32)
    out = np.zeros_like(w)
    _cpu.low_rank(out, (w, 0, 2), (a, 0, 2), (b, 0, 2), (2, 4), 1, False, 1.0, 0, 8, isa)
    expected = np.array([[1, np.nan, np.nan, np.inf], [-np.inf, 3, np.inf, 5]], np.float32)
    assert torch.equal(torch.from_numpy(out).view(torch.int32), bits(torch.from_numpy(expected)))


def test_the_binding_refuses_ranges_beyond_the_memory() -> None:
    a, b, w, out = (np.zeros(n, np.float32) for n in (8, 12, 24, 24))
    good: list[Any] = [out, (w, 0, 2), (a, 0, 2), (b, 0, 2), (6, 4), 2, False, 1.0, 0, 24, _cpu.isas()[0]]
    _cpu.low_rank(*good)
    changes = ((0, out[:23]), (1, (w, 4, 2)), (2, (a, 4, 2)), (3, (b, 4, 2)), (4, (5, 4)), (5, 3), (8, 1), (9, 25))
    for at, bad in changes:
        with pytest.raises(ValueError, match="beyond"):
            _cpu.low_rank(*[bad if i == at else value for i, value in enumerate(good)])


@pytest.mark.parametrize(
    ("changes", "scales"),
    [
        ({"use_rslora": True}, {Q: 7 / math.sqrt(4), UP: 7 / math.sqrt(4)}),
        ({"alpha_pattern": {"q_proj": 3}}, {Q: 3 / 4, UP: 7 / 4}),
        ({"alpha_pattern": {"layers.0.mlp.up_proj": 0.1, "up_proj": 9}}, {Q: 7 / 4, UP: 0.1 / 4}),
        ({"alpha_pattern": {r"model\.layers\.\d+\.self_attn\..*": 5, "proj": 1}}, {Q: 5 / 4, UP: 7 / 4}),
        ({"r": 16, "rank_pattern": {".*_proj": 4}}, PLAIN),
        ({"lora_alpha": -2.5}, {Q: -2.5 / 4, UP: -2.5 / 4}),
    ],
)
def test_the_scale_matches_peft(tmp_path: Path, changes: dict[str, Any], scales: dict[str, float]) -> None:
    pair = make_pair(tmp_path, **changes)
    mi_kernels.lerp_checkpoint(pair.name, pair.folder, tmp_path / "o", 0, progress=False)
    assert_same(tmp_path / "o", {n: t.bfloat16() for n, t in merged(pair, scales).items()})


def test_weights_stored_transposed_and_embeddings(tmp_path: Path) -> None:
    """GPT-2's Conv1D stores W as [in, out]. For an embedding, A is [rank, tokens] and B is [hidden, rank]."""
    base = make_base(1)
    folder = write(tmp_path / "base", base)
    a, b = factors(1, SHAPES[Q][::-1], 4, torch.float32)
    conv = write_adapter(tmp_path / "conv", {f"{Q}.lora_A.weight": a, f"{Q}.lora_B.weight": b}, fan_in_fan_out=True)
    embed_a, embed_b = factors(2, SHAPES[EMBED][::-1], 4, torch.bfloat16)
    tensors = {f"{EMBED}.lora_embedding_A": embed_a, f"{EMBED}.lora_embedding_B": embed_b}
    words = write_adapter(tmp_path / "words", tensors)
    mi_kernels.lerp_checkpoint(f"{folder}+{conv}", f"{folder}+{words}", tmp_path / "o", 0.5, progress=False)
    plain = {name: t.float() for name, t in base.items()}
    one = {**plain, f"{Q}.weight": chain(base[f"{Q}.weight"], b.T, a.T, 7 / 4)}
    two = {**plain, f"{EMBED}.weight": chain(base[f"{EMBED}.weight"], embed_b.T, embed_a.T, 7 / 4)}
    assert_same(tmp_path / "o", lerp(one, two, 0.5))


def test_saved_modules_replace_those_of_the_base(tmp_path: Path) -> None:
    """Complete tensors in the adapter's file, with and without a LoRA on them. The output has the dtype of the base."""
    pair = make_pair(tmp_path, modules_to_save=["input_layernorm"])
    norm, up = torch.randn(20), torch.randn(SHAPES[UP]).half()
    extra = {f"{NORM}.weight": norm, f"{UP}.base_layer.weight": up}
    folder = write_adapter(tmp_path / "whole", {**pair.adapter, **extra})
    name = f"{pair.folder}+{folder}"
    mi_kernels.lerp_checkpoint(name, pair.folder, tmp_path / "o", 0.25, progress=False)
    a, b = pair.adapter[f"{UP}.lora_A.weight"], pair.adapter[f"{UP}.lora_B.weight"]
    values = {**merged(pair, PLAIN), f"{NORM}.weight": norm, f"{UP}.weight": chain(up, a, b, 7 / 4)}
    assert_same(tmp_path / "o", lerp(values, {n: t.float() for n, t in pair.base.items()}, 0.25))


def test_a_quantised_base(tmp_path: Path) -> None:
    tensors = fp8.fp8_model(1)
    folder = fp8.quantised(tmp_path / "base", tensors, shards=2)
    shape = fp8.SHAPES[f"{Q}.weight"]
    a, b = factors(1, shape, 4, torch.float32)
    adapter = write_adapter(tmp_path / "adapter", {f"{Q}.lora_A.weight": a, f"{Q}.lora_B.weight": b})
    values = fp8.dequantised(tensors)
    report = mi_kernels.lerp_checkpoint(f"{folder}+{adapter}", folder, tmp_path / "o", 0.5, progress=False)
    assert sum("4 FP8 tensors" in note for note in report.notes) == 2
    assert_same(tmp_path / "o", lerp({**values, f"{Q}.weight": chain(values[f"{Q}.weight"], a, b, 7 / 4)}, values, 0.5))
    assert "quantization_config" not in json.loads((tmp_path / "o" / "config.json").read_text())


def test_peft_itself_agrees(tmp_path: Path) -> None:
    """Equal within rounding: both compute W + scale * (B A) with at most r + 2 roundings of a partial result.

    The error of one rounding is at most 2^-24 of the partial result, which is at most |W| + scale * |B| |A|. r <= 6.
    """
    peft = pytest.importorskip("peft")
    from transformers import Qwen3ForCausalLM

    model = Qwen3ForCausalLM(tiny_qwen3()).float()
    model.save_pretrained(tmp_path / "base")
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["q_proj", "down_proj", "embed_tokens"], rank_pattern={"down_proj": 6},
        alpha_pattern={"layers.1.self_attn.q_proj": 9}, use_rslora=True, modules_to_save=["lm_head"],
        init_lora_weights=False,
    )  # fmt: skip
    adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "modules_to_save" in name:
                p.add_(0.1)
    adapted.save_pretrained(tmp_path / "adapter")
    name = f"{tmp_path / 'base'}+{tmp_path / 'adapter'}"
    mi_kernels.lerp_checkpoint(name, tmp_path / "base", tmp_path / "o", 0, progress=False)
    found = load_file(tmp_path / "o" / "model.safetensors")
    expected = adapted.merge_and_unload().state_dict()
    assert found.keys() == expected.keys()
    base = load_file(tmp_path / "base" / "model.safetensors")
    parts = {
        k.removeprefix(PREFIX): t for k, t in load_file(tmp_path / "adapter" / "adapter_model.safetensors").items()
    }
    largest_scale = 9 / math.sqrt(4)
    for key, t in found.items():
        module, magnitude = key.removesuffix(".weight"), t.abs().maximum(base[key].abs())
        if f"{module}.lora_A.weight" in parts:
            a, b = (parts[f"{module}.lora_{side}.weight"].abs() for side in "AB")
            magnitude = magnitude + largest_scale * (b @ a)
        elif f"{module}.lora_embedding_A" in parts:
            a, b = (parts[f"{module}.lora_embedding_{side}"].abs() for side in "AB")
            magnitude = magnitude + largest_scale * (b @ a).T
        assert ((t - expected[key]).abs() <= 2 * (6 + 2) * 2.0**-24 * magnitude).all(), key
    changed = [key for key, t in found.items() if not torch.equal(t, base[key])]
    assert len(changed) == 6, changed  # q_proj and down_proj of two layers, the embedding, the head


def tiny_qwen3() -> Any:
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=64, hidden_size=48, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, tie_word_embeddings=False, dtype="bfloat16",
    )  # fmt: skip


def test_transformers_loads_what_the_command_line_makes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoModelForCausalLM, Qwen3ForCausalLM

    for i in (0, 1):
        torch.manual_seed(i)
        Qwen3ForCausalLM(tiny_qwen3()).bfloat16().save_pretrained(tmp_path / str(i))
    capsys.readouterr()  # transformers' progress bars
    base, thinking = (load_file(tmp_path / str(i) / "model.safetensors") for i in (0, 1))
    weight = f"{Q}.weight"
    a, b = factors(1, tuple(base[weight].shape), 4, torch.float32)
    adapter = {f"{Q}.lora_A.weight": a, f"{Q}.lora_B.weight": b}
    write_adapter(tmp_path / "adapter", adapter, base_model_name_or_path="org/Elsewhere-1B")
    name = f"{tmp_path / '0'}+{tmp_path / 'adapter'}"
    assert main(["lerp", name, str(tmp_path / "1"), "-o", str(tmp_path / "o"), "--lam", "0.5", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "o")
    wanted = torch.lerp(chain(base[weight], a, b, 7 / 4), thinking[weight].float(), 0.5).bfloat16()
    assert torch.equal(model.state_dict()[weight], wanted)
    assert model(torch.arange(5)[None]).logits.isfinite().all()
    record = json.loads((tmp_path / "o" / "mi_kernels.json").read_text())
    assert record["instruct"]["source"] == str(tmp_path / "0")
    assert record["instruct"]["adapter"] == {"source": str(tmp_path / "adapter"), "revision": None}
    card = (tmp_path / "o" / "README.md").read_text()
    assert '- "0"\n- "adapter"\n- "1"\n' in card
    assert "A merge of `0+adapter` and `1`:" in card


def test_a_different_base_gives_a_note(tmp_path: Path) -> None:
    for name, noted in (
        ("org/base1", False),
        ("/elsewhere/base1/", False),
        ("org/base2", True),
        (None, False),
        (7, False),
    ):
        pair = make_pair(tmp_path / str(name).strip("/").replace("/", "-"), base_model_name_or_path=name)
        notes = open_checkpoint(pair.name).notes
        assert any("trained on" in note for note in notes) == noted, name
        assert not noted or f"{pair.name}: the adapter was trained on org/base2, but is added to {pair.folder}" in notes


def test_a_folder_with_a_plus_in_its_name_is_a_folder(tmp_path: Path) -> None:
    base = make_base(1)
    plus = write(tmp_path / "a+b", base)
    assert open_checkpoint(plus).adapter is None
    mi_kernels.lerp_checkpoint(plus, plus, tmp_path / "o+o", 0.5, progress=False)
    assert_same(tmp_path / "o+o", lerp(*[{n: t.float() for n, t in base.items()}] * 2, 0.5))
    a, b = factors(1, SHAPES[Q], 4, torch.float32)
    adapter = write_adapter(tmp_path / "c+d", {f"{Q}.lora_A.weight": a, f"{Q}.lora_B.weight": b})
    model = open_checkpoint(f"{plus}+{adapter}")
    assert model.adapter is not None
    assert (model.base, model.adapter.source) == (str(plus), str(adapter))


def test_hub_ids_on_either_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_pair(tmp_path)
    asked = {}

    def download(text: str, files: Selection) -> tuple[str, str]:
        asked[text] = files
        return str({"org/base@v1": pair.folder, "me/adapter": pair.adapter_folder}[text]), "c0ffee"

    monkeypatch.setattr(hub, "download", download)
    model = open_checkpoint("org/base@v1+me/adapter")
    assert asked == {"me/adapter": hub.ADAPTER_FILES, "org/base@v1": hub.MODEL_FILES}
    assert model.identity()["revision"] == "c0ffee"
    assert model.identity()["adapter"] == {"source": "me/adapter", "revision": "c0ffee"}
    mi_kernels.lerp_checkpoint("org/base@v1+me/adapter", pair.folder, tmp_path / "o", 0, progress=False)
    assert '- "org/base"\n- "me/adapter"\n- "base1"\n' in (tmp_path / "o" / "README.md").read_text()


def test_read_ahead_covers_what_is_computed_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_pair(tmp_path)
    model = open_checkpoint(pair.name)
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(MappedFile, "read_ahead", lambda self, begin, end: asked.append((begin, end)))
    tensor = model.tensors[f"{Q}.weight"]
    assert isinstance(tensor, LoraTensor)
    assert isinstance(tensor.base, TensorInfo)
    with Inputs([model.files]) as inputs:
        inputs.read_ahead([(0, tensor, 10, 20)])
    begin = tensor.base.begin
    # Both factors are adjacent in the adapter's file: one call.
    assert asked == [(begin + 20, begin + 60), (tensor.a.begin, tensor.b.end)]


def test_an_adapter_that_is_written_while_it_is_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_pair(tmp_path)
    file = pair.adapter_folder / "adapter_model.safetensors"
    at_operand(monkeypatch, 1, lambda: write_one_byte(file))
    with pytest.raises(mi_kernels.CheckpointError, match=r"adapter_model\.safetensors: has been written"):
        mi_kernels.lerp_checkpoint(pair.folder, pair.name, tmp_path / "out", 0.5, progress=False)
    assert not (tmp_path / "out").exists()


def test_the_adapters_folder_is_an_input_too(tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    for out in (pair.adapter_folder, pair.adapter_folder / "o"):
        with pytest.raises(mi_kernels.OutputError):
            mi_kernels.lerp_checkpoint(pair.name, pair.folder, out, 0.5, overwrite=True, progress=False)
    assert sorted(p.name for p in pair.adapter_folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
