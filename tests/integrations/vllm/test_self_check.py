"""The self-check finds every tensor that does not follow a change of lam, and nothing else. Without vLLM."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from mi_kernels.errors import MismatchError
from mi_kernels.integrations.vllm.live import Live
from mi_kernels.integrations.vllm.options import LoaderOptions
from mi_kernels.integrations.vllm.packed import packed
from mi_kernels.integrations.vllm.self_check import (
    SelfCheck,
    checked_lam,
    differences,
    digest,
    fingerprints,
    tensors,
)
from mi_kernels.live.resident import Resident
from mi_kernels.recipe.interpolation import Recipe

from ...support import models
from ...support.fused_model import FusedModel, put

Weights = Iterable[tuple[str, torch.Tensor]]
A_LOG, A = "model.layers.0.mixer.A_log", "model.layers.0.mixer.A"


class Mamba(FusedModel):
    """Keeps A = -exp(A_log), as vLLM's Mamba layers do."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], **options: Any) -> None:
        super().__init__({name: shape for name, shape in shapes.items() if name != A_LOG}, **options)
        put(self, A, torch.nn.Parameter(torch.zeros(shapes[A_LOG])))

    def load_weights(self, weights: Weights) -> None:
        weights = list(weights)
        super().load_weights(weights)
        self.get_parameter(A).data.copy_(-torch.exp(dict(weights)[A_LOG].float()))


class Cached(FusedModel):
    """Computes a tensor from the weights at each load, and keeps it beside the parameters."""

    cache = "model.layers.1.self_attn.scores"

    def load_weights(self, weights: Weights) -> None:
        super().load_weights(weights)
        self.keep(self.get_parameter("model.layers.1.self_attn.qkv_proj.weight").data.float().t().contiguous())

    def keep(self, computed: torch.Tensor) -> None:
        put(self, self.cache, computed)


class Stale(Cached):
    """Computes it at the first load only."""

    def keep(self, computed: torch.Tensor) -> None:
        if self.cache not in dict(tensors(self)):
            super().keep(computed)


class Scratch(FusedModel):
    """Has memory that nobody initialises: different in each model."""

    made = 0

    def load_weights(self, weights: Weights) -> None:
        super().load_weights(weights)
        if not hasattr(self, "workspace"):
            Scratch.made += 1
            self.workspace = torch.full((4,), float(Scratch.made))


class Pair:
    def __init__(self, root: Path, *changed: Callable[[dict[str, torch.Tensor]], None]) -> None:
        self.paths = []
        for seed in range(2):
            made = models.tiny(seed, layers=3)  # random bits: NaN payloads, inf and -0 too
            made[A_LOG] = torch.linspace(-2, 3 + seed, 16).bfloat16()
            if changed:
                changed[seed](made)
            self.paths.append(str(models.save(root / str(seed), made)))
        self.shapes = {name: tuple(t.shape) for name, t in models.load(Path(self.paths[0])).items()}

    def check(
        self,
        monkeypatch: pytest.MonkeyPatch,
        kind: type[FusedModel] = FusedModel,
        recipe: dict[str, Any] | None = None,
        copies: bool = True,
        **model: Any,
    ) -> SelfCheck:
        """What the loader does, with `kind` as the architecture. The model must be as before afterwards."""
        monkeypatch.setattr(Live, "reload", lambda self, weights: self._model.load_weights(weights))
        options = LoaderOptions.read({"other": self.paths[1], "live": True, **(recipe or {"lam": 0.8})})
        assert options.recipe is not None
        resident = Resident(self.paths)
        lam = checked_lam(options.recipe, resident.names)

        def loaded(recipe: Recipe) -> FusedModel:
            made = kind(self.shapes, **model)
            made.load_weights(resident.lerp(recipe))
            return made

        def afresh() -> Any:
            assert live is None or live.copies is None  # or the models would need more memory than before
            return fingerprints(loaded(Recipe(lam)))

        live: Live | None = None
        expected = afresh()
        served = loaded(options.recipe)
        before = fingerprints(served)
        live = Live(resident, options, served, None)
        if copies:
            live.take_copies("device")
        found = live.check_itself(lam, expected, afresh)
        assert live.recipe == options.recipe
        assert (live.copies is not None) == copies
        if not found.different:
            assert fingerprints(served) == before
        return found


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


@pytest.mark.parametrize("copies", [True, False], ids=["copies", "reload"])
@pytest.mark.parametrize(
    "model",
    [{}, {"stage": 0, "stages": 3}, {"stage": 2, "stages": 3}, {"rank": 0, "ranks": 2}, {"rank": 1, "ranks": 2}],
    ids=str,
)
def test_fused_padded_and_split_layers_pass(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, model: dict[str, int], copies: bool
) -> None:
    found = pair.check(monkeypatch, copies=copies, **model)
    assert found == SelfCheck("copies" if copies else "reload", 0.5, found.compared, ())
    assert found.compared == len(dict(FusedModel(pair.shapes, **model).named_parameters())) > 5
    found.require()


@pytest.mark.parametrize(
    "recipe",
    [
        {"lam": 0.5},
        {"lam": 1.3, "extrapolate": True},
        {"lam": -0.4, "extrapolate": True},
        {"lam": 0.8, "layers": "-1:", "modules": "ffn"},
        {"lam": [0.5, 0.75, 0.625]},
    ],
    ids=str,
)
def test_any_recipe_that_is_served_passes_and_is_restored(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, recipe: dict[str, Any]
) -> None:
    found = pair.check(monkeypatch, recipe=recipe)
    assert not found.different
    assert found.lam not in Recipe.from_dict(recipe).weights(list(pair.shapes)).values()


def test_tensors_of_one_model_only_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lead(made: dict[str, torch.Tensor]) -> None:
        made["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.tensor([-0.0, 0.0, 1.0, 2.0])

    def other(made: dict[str, torch.Tensor]) -> None:
        made["mtp.fc.weight"] = torch.ones(2, 2)

    pair = Pair(tmp_path, lead, other)
    for lam in (0.8, 0.5):
        assert not pair.check(monkeypatch, recipe={"lam": lam}).different


def test_a_transform_that_does_not_commute_is_named(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    found = pair.check(monkeypatch, Mamba)
    assert found.different == (A,)
    with pytest.raises(MismatchError) as error:
        found.require()
    assert f"1 of {found.compared} tensors ({A}) differ" in error.value.problem
    assert "lam changed to 0.5 by copies" in error.value.problem
    assert "mi-kernels lerp" in error.value.remedy
    assert not pair.check(monkeypatch, Mamba, copies=False).different  # a reload computes it again


def test_a_tensor_computed_at_each_load_is_stale_after_a_change_by_copies(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pair.check(monkeypatch, Cached).different == (Cached.cache,)
    assert not pair.check(monkeypatch, Cached, copies=False).different


@pytest.mark.parametrize("copies", [True, False], ids=["copies", "reload"])
@pytest.mark.parametrize("lam", [0.8, 0.5])
def test_a_tensor_computed_once_is_stale_after_any_change(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, lam: float, copies: bool
) -> None:
    found = pair.check(monkeypatch, Stale, {"lam": lam}, copies=copies)
    assert found.different == (Stale.cache,)


def test_parameters_wider_than_the_checkpoint_are_named(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge is rounded to the checkpoint's dtype before it is loaded; copies in float32 are not."""
    found = pair.check(monkeypatch, dtype=torch.float32)
    assert "model.layers.0.self_attn.qkv_proj.weight" in found.different


def test_scratch_memory_is_not_compared(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    found = pair.check(monkeypatch, Scratch)
    assert (found.different, found.ignored) == ((), ("workspace",))


def test_many_names_are_shortened() -> None:
    names = tuple(f"model.layers.{i}.mixer.A" for i in range(40))
    with pytest.raises(MismatchError, match=r"40 of 99 tensors \(.*A and 37 more\)"):
        SelfCheck("copies", 0.5, 99, names).require()
    again = SelfCheck.from_dict({"way": "copies", "lam": 0.5, "compared": 99, "different": list(names), "ignored": []})
    assert again == SelfCheck("copies", 0.5, 99, names)


class TestTensors:
    """Whatever an attribute of a module holds is found and named."""

    @pytest.fixture
    def model(self) -> torch.nn.Module:
        model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
        model.register_buffer("temporary", torch.ones(2), persistent=False)
        layer: Any = model[0]
        packed = torch.ones(3)
        layer.cpu_linear = lambda x: x * packed
        layer.bound = functools.partial(torch.mul, torch.ones(2), other=torch.ones(1))
        layer.kept = [None, {"sinks": torch.ones(4)}, (torch.ones(1),)]
        layer.impl = type("Impl", (), {})()
        layer.impl.scores = torch.ones(2)
        layer.impl.owner = layer  # a circle
        layer.hidden = torch.nn.ModuleList  # a class, not an object
        layer.unregistered = [torch.nn.Linear(1, 1, bias=False)]
        return model

    def test_names(self, model: torch.nn.Module) -> None:
        assert {name for name, _ in tensors(model)} == {
            *("temporary", "0.weight", "0.bias", "0.cpu_linear.packed", "0.bound.args.0", "0.bound.keywords.other"),
            *("0.kept.1.sinks", "0.kept.2.0", "0.impl.scores", "0.unregistered.0.weight"),
            *("1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"),
        }

    def test_every_one_counts(self, model: torch.nn.Module) -> None:
        before = fingerprints(model)
        for name, tensor in list(tensors(model)):
            original = tensor.data.clone()
            tensor.data.add_(1)
            assert differences(before, fingerprints(model)) == [name]
            tensor.data.copy_(original)
        assert not differences(before, fingerprints(model))

    def test_missing_and_additional_tensors_differ(self, model: torch.nn.Module) -> None:
        before = fingerprints(model)
        del model.temporary
        model.another = torch.ones(1)
        assert differences(before, fingerprints(model)) == ["another", "temporary"]

    def test_handles_of_packed_weights_are_not_bits(self) -> None:
        model = torch.nn.Linear(1, 1)
        model.packed = type("CPUDNNLGEMMHandler", (), {})()
        model.packed.handler_tensor = torch.tensor(id(model))  # an address
        assert set(fingerprints(model)) == {"weight", "bias"}

    def test_a_packed_weight_is_seen_by_what_it_does(self) -> None:
        """vLLM's CPU build once kept an old packed head beside a new embedding: no tensor shows that."""

        class Handler:
            def __init__(self, weight: torch.Tensor) -> None:
                self.weight = weight.clone()

        model = torch.nn.Sequential(torch.nn.Linear(70, 3, bias=False, dtype=torch.bfloat16))
        head: Any = model[0]
        for row, column in ((0, 0), (1, 33), (2, 69)):
            handler = Handler(head.weight.data)
            head.cpu_linear = lambda x, weight, bias, handler=handler: torch.nn.functional.linear(x, handler.weight)
            fresh = fingerprints(model, packed(model))
            handler.weight[row, column] += 1
            assert differences(fresh, fingerprints(model, packed(model))) == ["0.weight (packed)"]


class TestDigest:
    @pytest.mark.parametrize("dtype", [*models.FLOATS, torch.float64, torch.complex64, torch.int8, torch.bool])
    def test_every_bit_counts(self, dtype: torch.dtype) -> None:
        tensor = torch.zeros(3, 7, dtype=dtype)
        seen = {digest(tensor)}
        raw = tensor.view(torch.uint8)
        for i in range(raw.numel()):
            for bit in range(1 if dtype == torch.bool else 8):
                raw.view(-1)[i] = 1 << bit
                seen.add(digest(tensor))
            raw.view(-1)[i] = 0
        assert len(seen) == 1 + raw.numel() * (1 if dtype == torch.bool else 8)

    def test_bits_of_nan_and_zero(self) -> None:
        nan = torch.tensor([0x7FC0, 0x7FC1, 0x7FC0], dtype=torch.int16).view(torch.bfloat16)
        assert digest(nan[:1]) == digest(nan[2:]) != digest(nan[1:2])
        assert digest(torch.tensor([0.0])) != digest(torch.tensor([-0.0]))

    def test_place_counts_and_memory_does_not(self) -> None:
        tensor = torch.arange(300_000, dtype=torch.int32)  # more than one chunk
        swapped = tensor.clone()
        swapped[[4, 200_000]] = tensor[[200_000, 4]]
        assert digest(swapped) != digest(tensor)
        wide = torch.stack([tensor, -tensor], dim=1)
        assert digest(wide[:, 0]) == digest(tensor)
        for first in range(4):  # where a tensor begins in its memory
            assert digest(tensor.short()[first:]) == digest(tensor.short()[first:].clone())

    def test_splitmix64(self) -> None:
        """The first output of SplitMix64 with seed 0, as in its reference implementation (Vigna, splitmix64.c)."""
        assert digest(torch.zeros(1, dtype=torch.int64)) % (1 << 64) == 0xE220A8397B1DCDAF
