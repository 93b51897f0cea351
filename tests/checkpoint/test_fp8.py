"""FP8 checkpoints are read as float32(weight) * float32(scale), to torch's bits; others are refused by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import mi_kernels
from mi_kernels import _cpu
from mi_kernels.checkpoint.alignment import align
from mi_kernels.checkpoint.inputs import Inputs
from mi_kernels.checkpoint.mapped import MappedFile
from mi_kernels.checkpoint.open import open_checkpoint
from mi_kernels.checkpoint.tensor import TensorInfo
from mi_kernels.checkpoint.virtual import ScaledTensor
from mi_kernels.cli import main
from mi_kernels.compare.similarity import similarity
from mi_kernels.merge.api import sweep_checkpoint
from mi_kernels.merge.plan import Buffers, Plan, Source
from mi_kernels.merge.stream import Request, stream
from mi_kernels.methods.registry import METHODS
from mi_kernels.output.layout import OutputTensor, plan_shards

from ..support.fp8_models import (
    LAYER,
    NORM,
    QUANTISED,
    SHAPES,
    Tensors,
    assert_same,
    bits,
    dequantised,
    fp8_model,
    lerped,
    quantised,
    write,
)


def test_every_bit_pattern_is_torchs_on_every_isa(isa: str) -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    for scale in (1.0, 0.0, -3.7e-5, 2.0**-126, 1e38, float("inf"), float("nan")):
        out = np.full(256, np.nan, np.float32)
        scales = np.array([scale], np.float32)
        _cpu.scaled(out, (codes.numpy(), 0), (scales, 0, 2), (1, 256), (1, 256), 0, 256, isa)
        expected = codes.view(torch.float8_e4m3fn).float() * torch.tensor(scale, dtype=torch.float32)
        assert torch.equal(bits(torch.from_numpy(out)), bits(expected)), scale


def test_flush_to_zero_of_the_caller_changes_nothing(isa: str, request: pytest.FixtureRequest) -> None:
    """Subnormals of E4M3 are one of float32 on the way, and a small scale makes them of the result."""
    codes = torch.arange(256, dtype=torch.uint8)
    scales = [1.0, 2.0**-125]
    expected = [codes.view(torch.float8_e4m3fn).float() * scale for scale in scales]
    request.getfixturevalue("flush_denormals")
    for scale, values in zip(scales, expected):
        out, factor = np.full(256, np.nan, np.float32), np.array([scale], np.float32)
        _cpu.scaled(out, (codes.numpy(), 0), (factor, 0, 2), (1, 256), (1, 256), 0, 256, isa)
        assert torch.equal(bits(torch.from_numpy(out)), bits(values)), scale


def test_pieces_of_any_start_and_length_agree_with_the_whole(isa: str) -> None:
    rows, columns = 37, 53
    weight = np.random.default_rng(1).integers(0, 256, rows * columns, dtype=np.uint8)
    scales = np.random.default_rng(2).random(5 * 4, np.float32)
    shape, block = (rows, columns), (8, 16)
    whole = np.empty(rows * columns, np.float32)
    _cpu.scaled(whole, (weight, 0), (scales, 0, 2), shape, block, 0, whole.size, isa)
    for first, count in ((0, 1), (5, 11), (52, 2), (60, 500), (rows * columns - 1, 1), (17, 0)):
        piece = np.empty(max(count, 1), np.float32)
        _cpu.scaled(piece, (weight, first), (scales, 0, 2), shape, block, first, count, isa)
        assert piece[:count].tobytes() == whole[first : first + count].tobytes()


def test_the_binding_refuses_ranges_beyond_the_memory() -> None:
    weight, scales, out = np.zeros(64, np.uint8), np.zeros(4, np.float32), np.zeros(64, np.float32)
    isa = _cpu.isas()[0]
    good: list[Any] = [out, (weight, 0), (scales, 0, 2), (8, 8), (4, 4), 0, 64, isa]
    _cpu.scaled(*good)
    for at, bad in (
        (0, out[:63]),
        (1, (weight, 1)),
        (2, (scales, 4, 2)),
        (3, (7, 8)),
        (4, (2, 4)),
        (4, (0, 4)),
        (5, 1),
    ):
        with pytest.raises(ValueError, match=r"beyond|rows and columns"):
            _cpu.scaled(*[bad if i == at else value for i, value in enumerate(good)])


@pytest.mark.parametrize("scale_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("both", [True, False])
def test_merges_are_torchs_bits(tmp_path: Path, both: bool, scale_dtype: torch.dtype) -> None:
    a, b = fp8_model(1, scale_dtype), fp8_model(2, scale_dtype)
    plain_b = {name: t.bfloat16() for name, t in dequantised(b).items()}
    instruct = quantised(tmp_path / "a", a, shards=2)
    thinking = quantised(tmp_path / "b", b) if both else write(tmp_path / "b", plain_b)
    values_b = dequantised(b) if both else {name: t.float() for name, t in plain_b.items()}
    report = mi_kernels.lerp_checkpoint(instruct, thinking, tmp_path / "ab", 0.3, progress=False)
    assert_same(tmp_path / "ab", lerped(dequantised(a), values_b, 0.3))
    assert sum("4 FP8 tensors (e4m3, blocks of 128 x 128) are dequantised" in n for n in report.notes) == 1 + both
    mi_kernels.lerp_checkpoint(thinking, instruct, tmp_path / "ba", 0.3, progress=False, dtype="float32")
    assert_same(tmp_path / "ba", lerped(values_b, dequantised(a), 0.3, torch.float32))
    for out in ("ab", "ba"):
        config = json.loads((tmp_path / out / "config.json").read_text())
        assert config == {"dtype": "bfloat16" if out == "ab" else "float32"}


@pytest.mark.parametrize("memory", [4096 * 3, 4096 * 7, 1 << 20, None])
@pytest.mark.parametrize("threads", [1, 3])
def test_bits_depend_neither_on_chunks_nor_on_threads(tmp_path: Path, memory: int | None, threads: int) -> None:
    a, b = fp8_model(3), fp8_model(4)
    sides = quantised(tmp_path / "a", a), quantised(tmp_path / "b", b)
    mi_kernels.lerp_checkpoint(*sides, tmp_path / "o", 0.7, threads=threads, max_memory=memory, progress=False)
    assert_same(tmp_path / "o", lerped(dequantised(a), dequantised(b), 0.7))


def test_blocks_of_large_tensors_meet(tmp_path: Path) -> None:
    """More elements than are computed at a time, on both sides."""
    shape = (520, 1030)
    sides, values = [], []
    for seed in (1, 2):
        rng = torch.Generator().manual_seed(seed)
        weight = torch.randn(shape, generator=rng).to(torch.float8_e4m3fn)
        model = {"model.norm.weight": weight, "model.norm.weight_scale_inv": torch.rand((5, 9), generator=rng)}
        sides.append(quantised(tmp_path / str(seed), model))
        values.append(dequantised(model))
    mi_kernels.lerp_checkpoint(*sides, tmp_path / "o", 0.6, progress=False)
    assert_same(tmp_path / "o", lerped(*values, 0.6))


def test_sweeps_have_the_bits_of_their_merges_and_the_ends_are_the_models(tmp_path: Path) -> None:
    a, b = fp8_model(5), fp8_model(6)
    sides = quantised(tmp_path / "a", a), quantised(tmp_path / "b", b)
    sweep_checkpoint(*sides, str(tmp_path / "{lam}"), [0, 0.25, 0.5, 1], progress=False)
    for lam in (0.25, 0.5):
        assert_same(tmp_path / str(lam), lerped(dequantised(a), dequantised(b), lam))
    assert_same(tmp_path / "0", {name: t.bfloat16() for name, t in dequantised(a).items()})
    assert_same(tmp_path / "1", {name: t.bfloat16() for name, t in dequantised(b).items()})


@pytest.mark.parametrize("chunk", [4096, 1 << 20])
def test_formulas_over_several_models_take_virtual_tensors(tmp_path: Path, chunk: int) -> None:
    """x0 / 2 + x1 / 4 - x2: halving and quartering are exact here, so each addition is one rounding in torch too."""
    a, b = fp8_model(7), fp8_model(8)
    values = dequantised(a), {name: t.bfloat16().float() for name, t in dequantised(b).items()}, dequantised(b)
    plain = {name: t.bfloat16() for name, t in values[1].items()}
    folders = quantised(tmp_path / "a", a), write(tmp_path / "p", plain), quantised(tmp_path / "b", b)
    models = [open_checkpoint(folder) for folder in folders]
    rows = align(models).rows
    sources = {row.name: Source(row.inputs, formula={"formula": 1, "weights": [0.5, 0.25, -1.0]}) for row in rows}
    tensors = [OutputTensor(row.name, "BF16", t.shape, 2 * t.elements, 0) for row in rows for t in row.inputs[:1]]
    plan = Plan(plan_shards(tensors, models[0])[0], sources, [m.files for m in models])
    assert plan.computes
    (tmp_path / "o").mkdir()
    stream(Request(plan, [str(tmp_path / "o")], Buffers(chunk, 2)))
    expected = {n: (values[0][n] / 2 + values[1][n] / 4 - values[2][n]).bfloat16() for n in plain}
    assert_same(tmp_path / "o", expected)


def test_similarity_is_that_of_the_values(tmp_path: Path) -> None:
    folders: dict[str, list[Path]] = {"q": [], "p": []}
    for seed in (1, 2):
        rng = torch.Generator().manual_seed(seed)
        name = LAYER + "mlp.up_proj.weight"
        weight = torch.randn(1030, 1100, generator=rng).to(torch.float8_e4m3fn)  # more than one piece
        tensors = {name: weight, name + "_scale_inv": torch.rand(9, 9, generator=rng)}
        folders["q"].append(quantised(tmp_path / f"q{seed}", tensors))
        folders["p"].append(write(tmp_path / f"p{seed}", dequantised(tensors)))
    done: list[tuple[int, int]] = []
    found = similarity(*folders["q"], progress=lambda *at: done.append(at))
    assert found.overall == similarity(*folders["p"], progress=False).overall
    assert done[-1][0] == done[-1][1] == found.bytes_read == 2 * (1030 * 1100 + 81 * 4)


def test_scratch_memory_counts_as_memory(tmp_path: Path) -> None:
    """One page for the output and one for what is computed are the least; two outputs need three."""
    folder = quantised(tmp_path / "a", fp8_model(1))
    with pytest.raises(mi_kernels.ArgumentError, match="at least 8192"):
        mi_kernels.lerp_checkpoint(folder, folder, tmp_path / "o", 0.5, max_memory=8191, progress=False)
    with pytest.raises(mi_kernels.ArgumentError, match="at least 12288"):
        sweep_checkpoint(folder, folder, str(tmp_path / "{lam}"), [0, 0.5], max_memory=12287, progress=False)


def test_one_scale_a_tensor_and_activation_scales(tmp_path: Path) -> None:
    """As Mistral publishes FP8: no block size, scalars, static activation scales that are left out."""
    name = LAYER + "self_attn.q_proj."
    codes = torch.arange(256, dtype=torch.uint8).reshape(8, 32).view(torch.float8_e4m3fn)
    for shape in ((), (1,)):
        scale = torch.full(shape, 0.0123, dtype=torch.bfloat16)
        model = {name + "weight": codes, name + "weight_scale_inv": scale, name + "activation_scale": torch.ones(shape)}
        folder = tmp_path / f"a{len(shape)}"
        quantised(folder, model, weight_block_size=None, activation_scheme="static")
        mi_kernels.lerp_checkpoint(folder, folder, tmp_path / f"o{len(shape)}", 0, progress=False)
        expected = (codes.float() * scale.float()).bfloat16()
        assert_same(tmp_path / f"o{len(shape)}", {name + "weight": expected})


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq"}, "awq"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "modelopt NVFP4"),
        ({"quant_method": "compressed-tensors", "format": "float-quantized"}, "compressed-tensors float-quantized"),
        ({"bits": 3}, "by an unnamed method"),
        ({**QUANTISED, "fmt": "e5m2"}, "fp8 in e5m2"),
        ({**QUANTISED, "activation_scheme": "odd"}, "fp8 with activation_scheme odd"),
    ],
)
def test_other_quantisations_are_refused_by_name(
    tmp_path: Path, config: dict[str, Any], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = {NORM: torch.ones(4)}
    good = write(tmp_path / "good", plain)
    for i, content in enumerate(({"quantization_config": config}, {"text_config": {"quantization_config": config}})):
        bad = write(tmp_path / f"bad{i}", plain, content)
        for sides in ((good, bad), (bad, good)):
            assert main(["lerp", *map(str, sides), "-o", str(tmp_path / "o"), "--lam", "0.5"]) == 2
            lines = capsys.readouterr().err.splitlines()
            assert len(lines) == 2
            assert lines[0] == f"mi-kernels: {bad}: is quantised ({named})"
            assert "bf16 version" in lines[1]
    assert not (tmp_path / "o").exists()
    assert main(["inspect", str(bad)]) == 0  # looking at it is no merge


def refused(tmp_path: Path, instruct: Path, thinking: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The two lines that a merge of the two ends in."""
    assert main(["lerp", str(instruct), str(thinking), "-o", str(tmp_path / "o"), "--lam", "0.5"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert not (tmp_path / "o").exists()
    return "\n".join(lines)


def test_fp8_without_scales_is_refused_by_tensor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = LAYER + "mlp.up_proj.weight"
    tensors = fp8_model(1)
    del tensors[name + "_scale_inv"]
    folder = quantised(tmp_path / "a", tensors)
    said = f"{folder}/model.safetensors: F8_E4M3 without weight_scale_inv in {name}"
    assert said in refused(tmp_path, folder, folder, capsys)
    other = quantised(tmp_path / "b", {NORM: torch.ones(4).to(torch.float8_e5m2)})
    assert "F8_E5M2 without weight_scale_inv" in refused(tmp_path, other, other, capsys)


def test_fp8_that_no_config_speaks_of_is_refused_by_tensor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scales alone do not say how they are meant. Where both models hold the same bytes, these are copied."""
    one, other = write(tmp_path / "a", fp8_model(1)), write(tmp_path / "b", fp8_model(2))
    text = refused(tmp_path, one, other, capsys)
    assert "F8_E4M3 tensors differ" in text
    assert "dequantise" in text


def replaced(shape: Sequence[int], dtype: torch.dtype) -> Tensors:
    tensors = fp8_model(1)
    tensors[LAYER + "mlp.up_proj.weight_scale_inv"] = torch.ones(tuple(shape)).to(dtype)
    return tensors


def test_scales_that_do_not_fit_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = LAYER + "mlp.up_proj.weight_scale_inv"
    bad = quantised(tmp_path / "shape", replaced((3, 2), torch.float32))
    assert f"{name} has shape [3, 2] for a weight of [256, 384]" in refused(tmp_path, bad, bad, capsys)
    bad = quantised(tmp_path / "dtype", replaced((2, 3), torch.float8_e8m0fnu))
    assert f"{name} is F8_E8M0" in refused(tmp_path, bad, bad, capsys)
    for block in (None, [128], [0, 128], "128"):
        bad = quantised(tmp_path / f"block{block}", replaced((2, 3), torch.float32), weight_block_size=block)
        assert f"config.json gives weight_block_size {block}" in refused(tmp_path, bad, bad, capsys)
    tensors = {"x.weight": torch.zeros(2, 4, 4).to(torch.float8_e4m3fn), "x.weight_scale_inv": torch.ones(2, 1, 1)}
    bad = quantised(tmp_path / "cube", tensors)
    assert "for a weight of [2, 4, 4]" in refused(tmp_path, bad, bad, capsys)


def test_lengths_and_read_ahead_take_in_the_scales(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_checkpoint(quantised(tmp_path / "a", fp8_model(1)))
    tensor = model.tensors[LAYER + "mlp.up_proj.weight"]
    assert isinstance(tensor, ScaledTensor)
    checked: list[TensorInfo] = []
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(MappedFile, "check_length", lambda self, t: checked.append(t))
    monkeypatch.setattr(MappedFile, "read_ahead", lambda self, begin, end: asked.append((begin, end)))
    with Inputs([model.files]) as inputs:
        inputs.check_length(0, tensor)
        inputs.read_ahead([(0, tensor, 10, 20)])
    assert checked == [tensor.weight, tensor.scales]
    wanted = [(tensor.weight.begin + 10, tensor.weight.begin + 30), (tensor.scales.begin, tensor.scales.end)]
    assert all(any(first <= begin and end <= last for first, last in asked) for begin, end in wanted)


def test_the_checkpoint_says_what_it_reads(tmp_path: Path) -> None:
    tensors = fp8_model(1)
    model = open_checkpoint(quantised(tmp_path / "a", tensors))
    assert model.tensors.keys() == {NORM, *SHAPES}
    assert {t.dtype for t in model.tensors.values()} == {"BF16"}
    assert model.nbytes == sum(t.nbytes for t in tensors.values())


def test_transformers_loads_the_result(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=64, hidden_size=136, intermediate_size=200, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, tie_word_embeddings=False, dtype="bfloat16",
    )  # fmt: skip
    folders, values = [], []
    for seed in (0, 1):
        torch.manual_seed(seed)
        folder = tmp_path / str(seed)
        Qwen3ForCausalLM(config).bfloat16().save_pretrained(folder)
        plain = load_file(folder / "model.safetensors")
        tensors = dict(plain)
        for name, t in plain.items():
            if "_proj" in name:
                scales = (torch.rand(-(-t.shape[0] // 128), -(-t.shape[1] // 128)) + 1) / 4096
                wide = scales.repeat_interleave(128, 0).repeat_interleave(128, 1)[: t.shape[0], : t.shape[1]]
                tensors[name] = (t.float() / wide).to(torch.float8_e4m3fn)
                tensors[name + "_scale_inv"] = scales
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**content, "quantization_config": QUANTISED}))
        folders.append(folder)
        values.append(dequantised(tensors))
    mi_kernels.lerp_checkpoint(*folders, tmp_path / "o", 0.5, progress=False)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "o")
    assert not hasattr(model.config, "quantization_config")
    for name, t in lerped(*values, 0.5).items():
        assert torch.equal(model.state_dict()[name], t), name
    assert model(torch.arange(5)[None]).logits.isfinite().all()


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_has_the_bits_of_the_same_merge_dequantised_first(tmp_path: Path, method: str) -> None:
    """Also where a method reads the tensors beforehand: a threshold or an angle off by a bit would show."""
    spec = METHODS[method]
    models, plain = [], []
    for seed in (1, 2, 3)[: 2 + spec.base]:
        rng = torch.Generator().manual_seed(seed)
        weight = torch.randn(300, 200, generator=rng).to(torch.float8_e4m3fn)
        name = LAYER + "self_attn.q_proj.weight"
        tensors = {name: weight, name + "_scale_inv": torch.rand(3, 2, generator=rng)}
        models.append(str(quantised(tmp_path / f"q{seed}", tensors)))
        plain.append(str(write(tmp_path / f"p{seed}", dequantised(tensors))))
    for sides, out in ((models, "q"), (plain, "p")):
        recipe: dict[str, Any] = {"method": method, "models": sides[spec.base :], "dtype": "bfloat16"}
        recipe.update({"base": sides[0]} if spec.base else {})
        recipe.update({"lam": 0.3} if method == "slerp" else {})
        mi_kernels.merge_checkpoint(recipe, tmp_path / out, progress=False)
    assert_same(tmp_path / "q", load_file(tmp_path / "p" / "model.safetensors"))
