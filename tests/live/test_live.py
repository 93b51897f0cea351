"""Changing lam of a loaded module in place gives the bits of lerp_checkpoint, and can be reversed."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch._dynamo.testing import CompileCounter

from mi_kernels import Rule, lerp_checkpoint
from mi_kernels.errors import ArgumentError, CheckpointError, MIKernelsError, MismatchError
from mi_kernels.live import knob as live
from mi_kernels.live import sides as live_sides

from ..support import adapters, fp8_models
from ..support.changing import at_operand, write_one_byte
from ..support.models import Tensors, assert_same_tensors, bits, lerp_reference, load, qwen3_model, save

Merges = tuple[Path, Path, list[Tensors]]

SETTINGS: list[dict[str, Any]] = [
    {"lam": 0.55},
    {"lam": 1.0},
    {"lam": 0.3, "layers": "1:", "modules": "ffn"},
    {"lam": 1.4, "extrapolate": True},
    {"lam": 0.0},
]


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: t.detach().clone() for name, t in model.state_dict().items()}


class Plain(torch.nn.Module):
    """A module with tied parameters, all kinds of buffers, several dtypes, a scalar and an empty parameter."""

    def __init__(self, seed: int, tied: bool = True) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.one = torch.nn.Linear(8, 8, bias=False, dtype=torch.bfloat16)
        self.two = torch.nn.Linear(8, 8, bias=False, dtype=torch.bfloat16)
        if tied:
            self.two.weight = self.one.weight
        self.norm = torch.nn.BatchNorm1d(8, dtype=torch.float32)
        self.norm.running_mean.normal_()
        self.scale = torch.nn.Parameter(torch.randn((), dtype=torch.float16), requires_grad=False)
        self.nothing = torch.nn.Parameter(torch.empty(0))
        self.register_buffer("mask", torch.arange(8))
        self.register_buffer("cache", torch.randn(4), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.two(self.one(x)).float()) * self.scale


HOLDS = {
    "a module": lambda model, a, b, module: live.attach(model, module),
    "a folder": lambda model, a, b, module: live.attach(model, b),
    "host, a module": lambda model, a, b, module: live.attach(model, module, resident="host"),
    "host, a folder": lambda model, a, b, module: live.attach(model, b, resident="host"),
    "mapped": lambda model, a, b, module: live.attach(model, b, base=a, resident=False),
    "mapped, by its config": lambda model, a, b, module: live.attach(model, b, resident=False),
}


@pytest.fixture(
    scope="module", params=[(False, False), (True, True), (False, True)], ids=["untied", "tied", "one tied"]
)
def merges(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Merges:
    root = tmp_path_factory.mktemp("models")
    for side, seed, tied in zip("ab", (1, 2), request.param):
        qwen3_model(seed, tied=tied).save_pretrained(root / side)
    merged = []
    for number, setting in enumerate(SETTINGS):
        lerp_checkpoint(root / "a", root / "b", root / f"{number}", **setting, progress=False, threads=1)
        merged.append(load(root / f"{number}"))
    return root / "a", root / "b", merged


@pytest.mark.parametrize("hold", HOLDS)
def test_every_order_of_changes_gives_the_bits_of_a_merged_folder(merges: Merges, hold: str) -> None:
    from transformers import AutoModelForCausalLM

    a, b, merged = merges
    model, other = (AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16) for path in (a, b))
    origin = state(model)
    places = [p.data_ptr() for p in model.parameters()]
    knob = HOLDS[hold](model, a, b, other)
    assert_same_tensors(model.state_dict(), origin)
    for setting, expected in zip(SETTINGS, merged):
        knob.set_lam(**setting)
        actual = model.state_dict()
        if model.config.tie_word_embeddings:
            assert bits(actual.pop("lm_head.weight")) == bits(actual["model.embed_tokens.weight"])
        assert_same_tensors(actual, expected)
        assert knob.recipe.lam == setting["lam"]
    assert_same_tensors(model.state_dict(), origin)
    assert [p.data_ptr() for p in model.parameters()] == places
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("resident", [True, "host"])
def test_any_module(resident: bool | str) -> None:
    model, other = Plain(1), Plain(2)
    a, b, cache = state(model), state(other), model.cache.clone()
    knob = live.attach(model, other, resident=resident)
    for lam in (0.7, 0.2, 1.0, 0.0):
        knob.set_lam(lam)
        assert_same_tensors(model.state_dict(), {name: lerp_reference(a[name], b[name], lam) for name in a})
    knob.set_lam(0.25, rules=[Rule(0.75, pattern="^norm")])
    weights = {name: 0.75 if name.startswith("norm") else 0.25 for name in a}
    assert_same_tensors(model.state_dict(), {name: lerp_reference(a[name], b[name], weights[name]) for name in a})
    assert model.two.weight is model.one.weight
    assert torch.equal(model.cache, cache)
    assert not model.scale.requires_grad
    assert_same_tensors(other.state_dict(), b)


def test_a_compiled_model_compiles_once() -> None:
    torch._dynamo.reset()
    model, other = qwen3_model(1, tied=True), qwen3_model(2, tied=True)
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    knob = live.attach(compiled, other)
    tokens = torch.arange(12).reshape(1, -1)
    for lam in (0.0, 0.5, 1.0, 0.25):
        knob.set_lam(lam)
        with torch.no_grad():
            found = compiled(tokens, use_cache=False).logits
            assert torch.equal(found, model(tokens, use_cache=False).logits)
            if lam == 1:
                assert torch.equal(found, other(tokens, use_cache=False).logits)
    assert counter.frame_count == 1


def test_autograd_detects_the_change() -> None:
    model = Plain(1)
    knob = live.attach(model, Plain(2))
    x = torch.randn(4, 8, dtype=torch.bfloat16)
    loss = model(x).sum()
    knob.set_lam(0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    model(x).sum().backward()
    assert model.one.weight.grad is not None
    knob.set_lam(0.0)


def test_the_wrapper_behaves_like_the_model(tmp_path: Path) -> None:
    model, other = qwen3_model(1, tied=False), qwen3_model(2, tied=False)
    a, b = state(model), state(other)
    merged = live.InterpolatedModel(model, other, lam=0.4)
    expected = {name: lerp_reference(a[name], b[name], 0.4) for name in a}
    assert_same_tensors(merged.state_dict(), expected)
    assert merged.config is model.config
    assert (merged.device, merged.dtype) == (torch.device("cpu"), torch.bfloat16)
    tokens = torch.arange(6).reshape(1, -1)
    assert torch.equal(merged(tokens).logits, model(tokens).logits)
    assert merged.generate(tokens, max_new_tokens=3, do_sample=False).shape == (1, 9)
    merged.save_pretrained(tmp_path / "out")
    assert_same_tensors(load(tmp_path / "out"), expected)
    assert len(list(merged.parameters())) == len(list(model.parameters()))
    with pytest.raises(AttributeError):
        _ = merged.no_such_thing
    merged.set_lam(0)
    assert_same_tensors(merged.state_dict(), a)


def half(model: torch.nn.Module) -> torch.nn.Module:
    return model.to(torch.float16)


def with_other_mask(model: Plain) -> Plain:
    model.mask += 1
    return model


def with_shared_weight(model: Plain, given: Plain) -> Plain:
    model.norm.weight = given.norm.weight
    return model


def reshaped(model: Plain) -> Plain:
    model.norm = torch.nn.BatchNorm1d(9)
    return model


def grown(model: Plain) -> Plain:
    model.extra = torch.nn.Parameter(torch.zeros(3))
    return model


REFUSALS: dict[str, tuple[Callable[[Plain], Any], list[str]]] = {
    "dtype": (lambda m: half(Plain(2)), ["nothing", "torch.float32", "torch.float16", "other.to(torch.float32)"]),
    "shape": (lambda m: reshaped(Plain(2)), ["norm.weight", "[8]", "[9]"]),
    "name": (lambda m: grown(Plain(2)), ["the other model has extra"]),
    "ties": (lambda m: Plain(2, tied=False), ["one.weight and two.weight", "Untie"]),
    "integers": (lambda m: with_other_mask(Plain(2)), ["mask", "torch.int64"]),
    "memory": (lambda m: with_shared_weight(Plain(2), m), ["norm.weight", "shares memory"]),
    "itself": (lambda m: m, ["scale", "shares memory"]),
    "meta": (lambda m: Plain(2).to("meta"), ["scale", "no memory", "offloaded"]),
    "kind": (lambda m: 3, ["other is 3, of type int", "Pass a model folder"]),
    "folder": (lambda m: "/no/such/folder", ["no such folder"]),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_rejected_models_are_unchanged(case: str) -> None:
    model = Plain(1)
    origin = state(model)
    make, words = REFUSALS[case]
    with pytest.raises(MIKernelsError) as caught:
        live.attach(model, make(model))
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert_same_tensors(model.state_dict(), origin)
    live.attach(model, Plain(2)).set_lam(0.5)  # nothing is left behind


def test_rejected_changes_leave_the_model_unchanged() -> None:
    model = Plain(1)
    knob = live.attach(model, Plain(2))
    knob.set_lam(0.5)
    before = state(model)
    for wrong in ({"lam": 2}, {"lam": 0.5, "layers": "0:1"}, {"lam": 0.1, "rules": [Rule(1, pattern="nowhere")]}):
        with pytest.raises(ArgumentError):
            knob.set_lam(**wrong)
    assert_same_tensors(model.state_dict(), before)
    assert knob.recipe.lam == 0.5
    with pytest.raises(ArgumentError, match="already has a knob"):
        live.attach(model, Plain(3))
    for change in (lambda: model.to(torch.float64), lambda: model.register_parameter("scale", None)):
        change()
        with pytest.raises(ArgumentError, match="changed since attach"):
            knob.set_lam(0.1)
    knob.detach()
    with pytest.raises(ArgumentError, match="detached"):
        knob.set_lam(0.1)


def test_a_model_that_moved_as_a_whole_still_follows() -> None:
    """Other memory, with the same names, dtypes and shapes: the next change goes there."""
    model, other = Plain(1), Plain(2)
    a = state(model)
    b = state(other)
    knob = live.attach(model, other)
    knob.set_lam(0.5)
    for p in model.parameters():
        p.data = p.data.clone()
    model.register_buffer("cache", torch.zeros(4), persistent=False)  # not in the state_dict
    for lam in (0.3, 0.3):
        knob.set_lam(lam)
        for name, expected in {n: lerp_reference(a[n], b[n], lam) for n in a if a[n].is_floating_point()}.items():
            assert bits(model.state_dict()[name]) == bits(expected), name


def test_replaced_parameters_and_modules_are_noticed() -> None:
    model = Plain(1)
    knob = live.attach(model, Plain(2))
    knob.set_lam(0.5)
    model.two = torch.nn.Linear(8, 8, bias=False, dtype=torch.bfloat16)  # no longer tied
    with pytest.raises(ArgumentError, match="ties have changed since attach"):
        knob.set_lam(0.6)


def test_a_change_discards_what_training_added_at_the_same_lam() -> None:
    model = Plain(1)
    knob = live.attach(model, Plain(2))
    knob.set_lam(0.5)
    before = state(model)
    with torch.no_grad():
        model.one.weight.add_(1)
    knob.set_lam(0.5)
    assert_same_tensors(model.state_dict(), before)


def test_files_that_do_not_fit_the_live_model(tmp_path: Path) -> None:
    model = qwen3_model(1, tied=False)
    other = tmp_path / "other"
    qwen3_model(2, tied=False).save_pretrained(other)
    fused = {name.replace("down_proj", "fused_proj"): t for name, t in load(other).items()}
    renamed = save(tmp_path / "renamed", fused)
    with pytest.raises(MismatchError, match=r"fused_proj(.|\n)*pass the module"):
        live.attach(model, renamed)
    with pytest.raises(MismatchError, match=r"live model and .* have different values"):
        live.attach(model, other, base=other, resident=False)
    with pytest.raises(ArgumentError, match="base="):
        live.attach(model, other, resident=False)
    with pytest.raises(MismatchError, match="F32 in the live model, BF16"):
        live.attach(qwen3_model(1, tied=False).float(), other, base=other, resident=False)


def test_a_file_that_shrinks_changes_nothing(tmp_path: Path) -> None:
    model = qwen3_model(1, tied=False)
    for name, seed in (("a", 1), ("b", 2)):
        qwen3_model(seed, tied=False).save_pretrained(tmp_path / name)
    knob = live.attach(model, tmp_path / "b", base=tmp_path / "a", resident=False)
    knob.set_lam(0.5)
    before = {name: p.clone() for name, p in model.named_parameters()}
    shard = tmp_path / "b" / "model.safetensors"
    os.truncate(shard, shard.stat().st_size - 8)
    with pytest.raises(CheckpointError, match=r"b/model\.safetensors"):
        knob.set_lam(0.25)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def mapped_pair(tmp_path: Path) -> tuple[torch.nn.Module, live.Knob]:
    """A model that reads tmp_path/a and tmp_path/b at every change."""
    for name, seed in (("a", 1), ("b", 2)):
        qwen3_model(seed, tied=False).save_pretrained(tmp_path / name)
    model = qwen3_model(1, tied=False)
    return model, live.attach(model, tmp_path / "b", base=tmp_path / "a", resident=False)


def test_a_file_written_before_a_change_is_an_error_and_the_model_still_works(tmp_path: Path) -> None:
    model, knob = mapped_pair(tmp_path)
    knob.set_lam(0.5)
    before = state(model)
    write_one_byte(tmp_path / "b" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"b/model\.safetensors: has been written"):
        knob.set_lam(0.25)
    assert_same_tensors(model.state_dict(), before)
    assert (knob.recipe.lam, knob.broken) == (0.5, "")
    model(torch.arange(4).reshape(1, -1))


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_file_that_is_written_during_a_change_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    """It is unknown then which tensors come from which version of the file, so the model does not run either."""
    model, knob = mapped_pair(tmp_path)
    real = live_sides.fill_tensor

    def fill_tensor(*arguments: Any) -> None:
        real(*arguments)
        write_one_byte(tmp_path / side / "model.safetensors")

    monkeypatch.setattr(live_sides, "fill_tensor", fill_tensor)
    with pytest.raises(CheckpointError, match=rf"{side}/model\.safetensors: has been written"):
        knob.set_lam(0.25)
    assert "undoing" in knob.broken
    with pytest.raises(MIKernelsError, match="failed midway"):
        model(torch.arange(4).reshape(1, -1))


def test_a_file_that_is_written_while_it_is_attached_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qwen3_model(2, tied=False).save_pretrained(tmp_path / "b")
    at_operand(monkeypatch, 3, lambda: write_one_byte(tmp_path / "b" / "model.safetensors"))
    with pytest.raises(CheckpointError, match=r"b/model\.safetensors: has been written"):
        live.attach(qwen3_model(1, tied=False), tmp_path / "b")


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_a_detached_knob_keeps_no_file_open(tmp_path: Path) -> None:
    _, knob = mapped_pair(tmp_path)
    knob.set_lam(0.5)
    assert str(tmp_path) in Path("/proc/self/maps").read_text()
    knob.detach()
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("dtypes", [(torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32)])
def test_models_in_host_memory_are_copied_in_stages(
    monkeypatch: pytest.MonkeyPatch, weight: float, dtypes: tuple[torch.dtype, torch.dtype]
) -> None:
    """Like a tensor on a GPU. The last stage is partial, and the models may have different dtypes."""
    monkeypatch.setattr(live_sides, "_STAGE", 64)
    a, b = (torch.randn(7, 15, generator=torch.Generator().manual_seed(k)).to(dtypes[k]) for k in range(2))
    live = torch.full((7, 15), float("nan"), dtype=torch.bfloat16)
    live_sides._write_staged(live, a, b, weight)
    assert bits(live) == bits(lerp_reference(a, b, weight, torch.bfloat16))


def test_integers_of_a_folder_must_be_the_models(tmp_path: Path) -> None:
    model, other = Plain(1, tied=False), Plain(2, tied=False)
    a, b = state(model), state(other)
    tmp_path.joinpath("b").mkdir()
    save_file(b, tmp_path / "b" / "model.safetensors")
    knob = live.attach(model, tmp_path / "b")
    knob.set_lam(0.6)
    assert_same_tensors(model.state_dict(), {name: lerp_reference(a[name], b[name], 0.6) for name in a})
    knob.detach()
    with pytest.raises(MismatchError, match="mask"):
        live.attach(with_other_mask(model), tmp_path / "b")


def module_of(tensors: Tensors) -> torch.nn.Module:
    """A module whose state_dict has these names."""
    root = torch.nn.Module()
    for name, tensor in tensors.items():
        *path, last = name.split(".")
        module = root
        for word in path:
            if word not in module._modules:
                module.add_module(word, torch.nn.Module())
            module = module._modules[word]
        module.register_parameter(last, torch.nn.Parameter(tensor.clone(), requires_grad=False))
    return root


@pytest.mark.parametrize("resident", [True, "host", False])
@pytest.mark.parametrize("kind", ["fp8", "adapter"])
def test_computed_tensors_give_the_bits_of_a_merge(tmp_path: Path, kind: str, resident: bool | str) -> None:
    """FP8 values and adapters are not rounded to bf16 before the interpolation."""
    if kind == "fp8":
        tensors = {name: t.bfloat16() for name, t in fp8_models.dequantised(fp8_models.fp8_model(1)).items()}
        other = str(fp8_models.quantised(tmp_path / "b", fp8_models.fp8_model(2)))
    else:
        tensors = adapters.make_base(1)
        other = adapters.make_pair(tmp_path, 2).name
    a = fp8_models.write(tmp_path / "a", tensors)
    model = module_of(tensors)
    knob = live.attach(model, other, resident=resident, base=None if resident else a)
    for number, lam in enumerate((0.35, 1.0, 0.0)):
        lerp_checkpoint(a, other, tmp_path / f"{number}", lam, progress=False, threads=1)
        knob.set_lam(lam)
        assert_same_tensors(model.state_dict(), load(tmp_path / f"{number}"))


class Failing:
    """Sides that fail at the given writes, after they have overwritten a parameter."""

    def __init__(self, sides: Any, at: set[int]) -> None:
        self.sides, self.at, self.calls = sides, at, 0

    def check(self) -> None:
        self.sides.check()

    def write(self, live: Any, weights: Any) -> None:
        self.calls += 1
        if self.calls in self.at:
            next(iter(live.values())).fill_(7)
            raise MemoryError("no more")
        self.sides.write(live, weights)


def test_a_failure_midway_is_undone_or_reported() -> None:
    model = qwen3_model(1, tied=True)
    knob = live.attach(model, qwen3_model(2, tied=True))
    knob.set_lam(0.5)
    before = state(model)
    tokens = torch.arange(4).reshape(1, -1)
    knob._sides = Failing(knob._sides, {1})
    with pytest.raises(MemoryError):
        knob.set_lam(0.9)
    assert_same_tensors(model.state_dict(), before)
    assert (knob.recipe.lam, knob.broken) == (0.5, "")
    model(tokens)
    knob._sides = Failing(knob._sides.sides, {1, 2})
    with pytest.raises(MemoryError):
        knob.set_lam(0.9)
    assert "undoing" in knob.broken
    with pytest.raises(MIKernelsError, match="failed midway"):
        model(tokens)
    knob.set_lam(0.5)
    assert knob.broken == ""
    model(tokens)
    assert_same_tensors(model.state_dict(), before)


def test_threads_take_turns() -> None:
    model, other = Plain(1), Plain(2)
    a, b = state(model), state(other)
    knob = live.attach(model, other)
    mixed = []

    def work(lam: float) -> None:
        expected = {name: lerp_reference(a[name], b[name], lam) for name in a}
        for _ in range(30):
            with knob.lock:
                knob.set_lam(lam)
                mixed.extend(n for n, t in model.state_dict().items() if bits(t) != bits(expected[n]))

    threads = [threading.Thread(target=work, args=(lam,)) for lam in (0.2, 0.5, 0.9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not mixed


def test_a_detached_knob_keeps_no_reference() -> None:
    model = Plain(1)
    knob = live.attach(model, Plain(2))
    gone = weakref.ref(model)
    del model, knob
    gc.collect()
    assert gone() is None
