"""Functions that interpolate take a Recipe for lam, or `rules` beside masks: same bits, records, resuming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import mi_kernels
from mi_kernels import ArgumentError, Recipe, Rule
from mi_kernels.checksums.record import ShardSum
from mi_kernels.errors import ClusterError
from mi_kernels.live import InterpolatedModel, attach
from mi_kernels.merge.api import plan_lerp
from mi_kernels.merge.options import Options
from mi_kernels.merge.stream import Request, Sink, stream

from ..support.checks import World

RULES = [Rule(0.1, modules="ffn"), Rule(1, pattern=r"layers\.1\.self_attn\.q")]
RULES_IN_WORDS = r"; lam = 0.1 for modules ffn; lam = 1 for tensors that match `layers\.1\.self_attn\.q`."


def shards(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.safetensors"))}


def test_a_recipe_and_its_parts_write_the_same(tmp_path: Path) -> None:
    world = World(tmp_path)
    recipe = Recipe(0.7, layers="1:", rules=RULES)
    mi_kernels.lerp_checkpoint(world.instruct, world.thinking, tmp_path / "whole", recipe, progress=False)
    mi_kernels.lerp_checkpoint(
        world.instruct, world.thinking, tmp_path / "parts", 0.7, layers="1:", rules=RULES, progress=False
    )
    made = mi_kernels.MergeRecipe("lerp", (str(world.instruct), str(world.thinking)), pair=recipe)
    mi_kernels.merge_checkpoint(made, tmp_path / "made", progress=False)
    mi_kernels.sweep_checkpoint(
        world.instruct, world.thinking, str(tmp_path / "s-{lam}"), [recipe, Recipe(0.2)], progress=False
    )
    mi_kernels.sweep_checkpoint(
        world.instruct, world.thinking, str(tmp_path / "r-{lam}"), [0.7], layers="1:", rules=RULES, progress=False
    )
    for other in ("parts", "made", "s-0.7", "r-0.7"):
        assert shards(tmp_path / other) == shards(tmp_path / "whole")
    plain = tmp_path / "plain"
    mi_kernels.lerp_checkpoint(world.instruct, world.thinking, plain, 0.7, layers="1:", progress=False)
    assert shards(plain) != shards(tmp_path / "whole")
    for name in ("whole", "s-0.7"):
        record = json.loads((tmp_path / name / "mi_kernels.json").read_text())
        assert record["rules"] == recipe.to_dict()["rules"]
        assert RULES_IN_WORDS in record["summary"]
        assert RULES_IN_WORDS in (tmp_path / name / "README.md").read_text()
        assert mi_kernels.verify_checkpoint(tmp_path / name, [], progress=False).right


def test_an_unfinished_merge_with_rules_is_resumed_by_the_same_rules_only(tmp_path: Path) -> None:
    """A failing cluster leaves its finished shards, as a kill does."""
    world = World(tmp_path, shards=3)
    given: dict[str, Any] = {"lam": 0.7, "rules": RULES}
    options = Options(progress=False, threads=1)
    job = plan_lerp(world.instruct, world.thinking, [(world.out, Recipe(**given))], options)
    finished: list[int] = []

    def failing(request: Request, sink: Sink) -> None:
        def fail_at_the_second(output: int, shard: int, sums: ShardSum) -> None:
            if finished:
                raise ClusterError("node 3 is gone", "Run the same command again.")
            finished.append(shard)
            assert sink.on_shard is not None
            sink.on_shard(output, shard, sums)

        stream(request, sink._replace(on_shard=fail_at_the_second))

    with pytest.raises(ClusterError):
        job.run(failing)
    with pytest.raises(mi_kernels.OutputError, match="rules"):
        mi_kernels.lerp_checkpoint(world.instruct, world.thinking, world.out, 0.7, rules=RULES[:1], progress=False)
    report = mi_kernels.lerp_checkpoint(world.instruct, world.thinking, world.out, progress=False, **given)
    assert report.notes[:1] == ["resumed: 1 of 3 shards were finished"]
    mi_kernels.lerp_checkpoint(world.instruct, world.thinking, tmp_path / "once", Recipe(**given), progress=False)
    assert shards(world.out) == shards(tmp_path / "once")


@pytest.mark.parametrize("beside", [{"layers": "1:"}, {"modules": "ffn"}, {"rules": RULES}, {"extrapolate": True}])
def test_a_recipe_excludes_its_parts(tmp_path: Path, beside: dict[str, Any]) -> None:
    world = World(tmp_path)
    (name,) = beside
    with pytest.raises(ArgumentError, match=rf"lam is a Recipe, and {name} is given too\nPut {name} into the recipe"):
        mi_kernels.lerp_checkpoint(world.instruct, world.thinking, world.out, Recipe(0.5), **beside)
    knob = attach(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    with pytest.raises(ArgumentError, match=f"{name} is given too"):
        knob.set_lam(Recipe(0.5), **beside)
    knob.detach()


def test_a_recipe_names_no_models(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="names no models"):
        mi_kernels.merge_checkpoint(Recipe(0.5), tmp_path / "out")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"lams\[0\] is a schedule"):
        mi_kernels.sweep_checkpoint("a", "b", "x-{lam}", [Recipe([0, 1])])


def test_live_models_take_recipes() -> None:
    a, b = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    bias, expected = a.bias.detach().clone(), mi_kernels.lerp(a.weight.detach(), b.weight.detach(), 0.8)
    recipe = Recipe(0.8, rules=[Rule(0, pattern="bias")])
    knob = attach(a, b, lam=recipe)
    assert knob.recipe == recipe
    assert torch.equal(a.weight, expected)
    assert torch.equal(a.bias, bias)
    knob.set_lam(1)
    knob.set_lam(0.8, rules=[Rule(0, pattern="bias")])
    assert torch.equal(a.weight, expected)
    knob.set_lam(0)
    knob.detach()
    model = InterpolatedModel(a, b, lam=recipe)
    assert torch.equal(model.live.weight, expected)
    model.knob.detach()
    with pytest.raises(ArgumentError, match="lam is 3"):
        attach(torch.nn.Linear(2, 2), b, lam=3)
