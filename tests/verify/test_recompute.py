"""`mi-kernels verify --recompute`: it computes every kind of merge again, and names a single wrong element."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import mi_kernels
from mi_kernels import Recipe, Rule
from mi_kernels.checkpoint.header import read_header
from mi_kernels.checkpoint.needed_files import Selection
from mi_kernels.checkpoint.tensor import TensorInfo
from mi_kernels.checksums.damage import Damage
from mi_kernels.checksums.record import NAME as CHECKSUMS
from mi_kernels.dtypes import item_size
from mi_kernels.merge.api import plan_lerp
from mi_kernels.merge.options import Options
from mi_kernels.merge.stream import Request, Sink, stream
from mi_kernels.output.layout import OutputShard
from mi_kernels.verify.recompute import recompute_merge
from mi_kernels.verify.second_writer import Comparison, Difference
from mi_kernels.verify.verify import record_checksums, verify_checkpoint

from ..support.adapters import make_base, make_pair
from ..support.checks import World, assert_refused, run_cli, snapshot
from ..support.fp8_models import fp8_model, quantised
from ..support.models import CONFIG, random_bits, save, tiny

Merge = Callable[[Path, Path, Path], object]


def lerp(**options: Any) -> Merge:
    return lambda a, b, out: mi_kernels.lerp_checkpoint(a, b, out, **{"lam": 0.3, "progress": False, **options})


def rules(a: Path, b: Path, out: Path) -> object:
    rule = Rule([0.1, 0.9], modules="ffn"), Rule(0.0, pattern=r"layers\.1\.self_attn\.q.*")
    return plan_lerp(a, b, [(out, Recipe(0.7, rules=rule))], Options(progress=False)).run()


def sweep(a: Path, b: Path, out: Path) -> object:
    """A merge with three outputs. `out` is the middle one."""
    pattern = str(out.parent / "sweep-{lam}")
    done = mi_kernels.sweep_checkpoint(a, b, pattern, [0.25, 0.4, 1.0], modules="attn", progress=False)
    return Path(pattern.replace("{lam}", "0.4")).rename(out), done


def recipe(content: dict[str, Any]) -> Merge:
    def merge(a: Path, b: Path, out: Path) -> object:
        base = save(out.parent / "base", tiny(3), 1)
        names = {"A": str(a), "B": str(b), "BASE": str(base)}
        text = json.dumps(content)
        for name, path in names.items():
            text = text.replace(f'"{name}"', json.dumps(path))
        (out.parent / "recipe.yml").write_text(text)
        return mi_kernels.merge_checkpoint(out.parent / "recipe.yml", out, progress=False)

    return merge


MERGES: dict[str, Merge] = {
    "plain": lerp(),
    "copied": lerp(lam=1),
    "extrapolated": lerp(lam=1.5, extrapolate=True),
    "text masks": lerp(layers="-1:", modules="attn,norm"),
    "lists": lerp(layers=[0, "1:2"], modules={"ffn", "embed"}),
    "slice": lerp(layers=slice(1, None), modules=["ffn"]),
    "numpy": lerp(layers=torch.arange(1, 2).numpy()),
    "float32": lerp(dtype="float32", copy_from="instruct"),
    "new shards": lerp(max_shard_size=4000),
    "rules": rules,
    "rules by keyword": lerp(rules=[Rule(0.1, modules="ffn")], layers="1:"),
    "a recipe": lerp(lam=Recipe([0, 0.8], layers="1:", rules=[Rule(1.2, pattern="q_proj")], extrapolate=True)),
    "a recipe object": lambda a, b, out: mi_kernels.merge_checkpoint(
        mi_kernels.MergeRecipe("lerp", (str(a), str(b)), pair=Recipe(0.8, modules="ffn")), out, progress=False
    ),
    "sweep": sweep,
    "lerp recipe": recipe({"method": "lerp", "models": ["A", "B"], "lam": [0, 1], "layers": "1:"}),
    "ties": recipe(
        {
            "method": "ties",
            "base": "BASE",
            "models": [{"model": "A", "density": 0.5, "weight": [0.1, 0.9]}, {"model": "B", "density": 0.3}],
            "scale": 0.7,
            "layers": [1],
            "copy_from": "base",
        }
    ),
    "dare": recipe({"method": "dare_ties", "base": "BASE", "models": ["A", "B"], "density": 0.5, "seed": 7}),
    "linear": recipe({"method": "linear", "models": ["A", "B", "BASE"], "dtype": "float16"}),
    "mergekit": recipe(
        {
            "merge_method": "task_arithmetic",
            "base_model": "BASE",
            "slices": [
                {
                    "sources": [{"model": name, "layer_range": part} for name in ("BASE", "A", "B")],
                    "parameters": {"weight": [{"filter": "mlp", "value": weight}, {"value": 0.3}]},
                }
                for part, weight in (([0, 1], 0.2), ([1, 2], 0.8))
            ],
            "parameters": {"lambda": 0.9},
            "dtype": "bfloat16",
        }
    ),
}  # fmt: skip


@dataclass
class Merged:
    world: World
    out: Path

    def record(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.out / "mi_kernels.json").read_text())
        return content

    def change_record(self, **values: Any) -> None:
        (self.out / "mi_kernels.json").write_text(json.dumps({**self.record(), **values}))

    def differences(self) -> list[Damage | Difference]:
        return recompute_merge(str(self.out), [self.world.instruct, self.world.thinking], progress=False).differences


@pytest.fixture
def merged(tmp_path: Path) -> Merged:
    world = World(tmp_path)
    lerp()(world.instruct, world.thinking, world.out)
    return Merged(world, world.out)


def flip_element(out: Path, seed: int) -> Difference:
    """Flips a bit of one element of one tensor, and returns the expected difference."""
    rng = random.Random(seed)
    shard = rng.choice(sorted(out.glob("*.safetensors")))
    tensor = rng.choice([t for t in read_header(str(shard), 0).tensors if t.elements])
    item = item_size(tensor.dtype)
    element = rng.randrange(tensor.elements)
    at = tensor.begin + element * item
    content = bytearray(shard.read_bytes())
    before = int.from_bytes(content[at : at + item], "little")
    content[at + rng.randrange(item)] ^= 1 << rng.randrange(8)
    after = int.from_bytes(content[at : at + item], "little")
    shard.write_bytes(content)
    values = (f"0x{value:0{2 * item}x}" for value in (before, after))
    return Difference(shard.name, tensor.name, 1, tensor.elements, element, element * item, at, *values)


@pytest.mark.parametrize("kind", MERGES)
def test_an_intact_merge_passes_and_one_changed_element_is_named(tmp_path: Path, kind: str) -> None:
    world = World(tmp_path)
    MERGES[kind](world.instruct, world.thinking, world.out)
    before = snapshot(tmp_path)
    found = recompute_merge(str(world.out), [], progress=False)
    assert found.differences == []
    assert found.notes == []
    assert found.tensors == len(world.a)
    assert snapshot(tmp_path) == before
    for seed in range(2):
        shard_bytes = {p: p.read_bytes() for p in world.out.glob("*.safetensors")}
        right = flip_element(world.out, seed)
        assert recompute_merge(str(world.out), [], progress=False).differences == [right]
        for path, content in shard_bytes.items():
            path.write_bytes(content)


def test_a_head_that_one_side_ties(tmp_path: Path) -> None:
    tied = save(tmp_path / "a", tiny(1, tied=True), 2, config={**CONFIG, "tie_word_embeddings": True})
    other = save(tmp_path / "b", tiny(2), 1)
    for i, pair in enumerate([(tied, other), (other, tied)]):
        out = tmp_path / f"out-{i}"
        lerp()(*pair, out)
        assert recompute_merge(str(out), pair, progress=False).right


def test_adapters_and_quantised_models(tmp_path: Path) -> None:
    """Tensors that are computed while they are read, and models named BASE+ADAPTER."""
    adapted = make_pair(tmp_path / "lora")
    plain = save(tmp_path / "plain", make_base(9))
    lerp()(Path(adapted.name), plain, tmp_path / "out")
    assert recompute_merge(str(tmp_path / "out"), [], progress=False).right
    right = flip_element(tmp_path / "out", 3)
    assert recompute_merge(str(tmp_path / "out"), [adapted.name, plain], progress=False).differences == [right]
    fp8 = [quantised(tmp_path / f"fp8-{i}", fp8_model(i)) for i in range(2)]
    lerp()(*fp8, tmp_path / "out-8")
    assert recompute_merge(str(tmp_path / "out-8"), fp8, progress=False).right


def test_chunks_are_joined_into_one_difference(tmp_path: Path) -> None:
    """A tensor of several chunks of 4 MiB, wrong in the first and in the last one."""
    pair = [save(tmp_path / name, {"w": random_bits((5_000_001,), torch.bfloat16, i)}) for i, name in enumerate("ab")]
    lerp()(*pair, tmp_path / "out")
    path = tmp_path / "out" / "model.safetensors"
    tensor = read_header(str(path), 0).tensors[0]
    content = bytearray(path.read_bytes())
    for element in (5_000_000, 77, 78):
        content[tensor.begin + 2 * element] ^= 0xFF
    path.write_bytes(content)
    [found] = recompute_merge(str(tmp_path / "out"), pair, progress=False).differences
    assert isinstance(found, Difference)
    assert (found.count, found.elements, found.element, found.begin) == (3, 5_000_001, 77, 154)


def test_the_last_bytes_of_a_shard_count(tmp_path: Path) -> None:
    """Also if they are fewer than eight, the number of bytes that are compared at a time."""
    a, b = ({"w": random_bits((5,), torch.bfloat16, seed)} for seed in (1, 2))
    world = World(tmp_path, a, b, shards=1)
    lerp()(world.instruct, world.thinking, world.out)
    shard = world.out / "model.safetensors"
    content = bytearray(shard.read_bytes())
    assert len(content) % 8 == 2
    content[-1] ^= 1
    shard.write_bytes(content)
    [found] = recompute_merge(str(world.out), [], progress=False).differences
    assert isinstance(found, Difference)
    assert (found.tensor, found.element, found.count) == ("w", 4, 1)


def test_a_model_that_changes_while_it_is_read_is_an_error(merged: Merged, monkeypatch: pytest.MonkeyPatch) -> None:
    def changing(request: Request, sink: Sink) -> None:
        stream(request, sink)
        os.utime(min(merged.world.thinking.glob("*.safetensors")), ns=(0, 5))

    monkeypatch.setattr("mi_kernels.verify.recompute.stream", changing)
    with pytest.raises(mi_kernels.CheckpointError, match=r"has been written .* since it was opened"):
        recompute_merge(str(merged.out), [], progress=False)


def test_another_commit_of_a_model_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tensors have the same names and shapes, so only the commit differs."""
    world = World(tmp_path)
    commits = iter(["1" * 40, "2" * 40])

    def download(text: str, files: Selection) -> tuple[str, str]:
        return str(world.instruct), commit

    monkeypatch.setattr("mi_kernels.checkpoint.hub.download", download)
    commit = next(commits)
    mi_kernels.lerp_checkpoint("org/model", world.thinking, world.out, 0.3, progress=False)
    assert recompute_merge(str(world.out), ["org/model", world.thinking], progress=False).notes == []
    commit = next(commits)
    found = recompute_merge(str(world.out), ["org/model", world.thinking], progress=False)
    assert len(found.notes) == 1
    for part in ("org/model", "1" * 40, "2" * 40):
        assert part in found.notes[0]


@pytest.mark.parametrize("dtype", ["U8", "BF16", "F32", "F64"])
@pytest.mark.parametrize("cut", [0, 1, 5])
@pytest.mark.parametrize("flips", [1, 7, 4096])
def test_differing_elements_are_counted(tmp_path: Path, dtype: str, cut: int, flips: int) -> None:
    """In any number, over chunks, and up to the end of a file that is too short: as counted element by element."""
    size, item, rng = 2048, item_size(dtype), random.Random(cut)
    header, path = bytes(64), tmp_path / "model.safetensors"
    begins = [len(header), len(header) + size]
    tensors = [TensorInfo(f"t{i}", dtype, (size // item,), 0, b, b + size) for i, b in enumerate(begins)]
    computed = header + rng.randbytes(2 * size)
    written = bytearray(computed)
    for at in rng.sample(range(len(header), len(computed)), flips):
        written[at] ^= 1 << rng.randrange(8)
    path.write_bytes(written[: len(written) - cut])

    comparison = Comparison(str(tmp_path), [OutputShard(path.name, header, tensors, len(computed))])
    compared = comparison.open(str(path), len(computed), "auto")
    for begin in range(len(header), len(computed), size // 2):
        compared.write(memoryview(computed)[begin : begin + size // 2], begin)
    compared.close()

    found = {d.tensor: d for d in comparison.found({}) if isinstance(d, Difference)}
    for tensor in tensors:
        wrong = {
            (at - tensor.begin) // item
            for at in range(tensor.begin, min(tensor.end, len(written) - cut))
            if computed[at] != written[at]
        }
        assert (tensor.name in found) == bool(wrong)
        if wrong:
            assert (found[tensor.name].count, found[tensor.name].element) == (len(wrong), min(wrong))


def test_checksums_made_to_match_do_not_hide_a_change(merged: Merged, capsys: pytest.CaptureFixture[str]) -> None:
    right = flip_element(merged.out, 5)
    record_checksums(merged.out, overwrite=True, progress=False)
    assert verify_checkpoint(merged.out, progress=False).right
    found = verify_checkpoint(merged.out, [merged.world.instruct, merged.world.thinking], progress=False)
    assert not found.right
    assert found.damage == []
    argv = ["verify", str(merged.out), "--recompute", str(merged.world.instruct), str(merged.world.thinking)]
    assert run_cli(argv) == 1
    out = capsys.readouterr().out
    assert f"{right.tensor}: element {right.element:,} (byte {right.begin:,}," in out
    assert f"is {right.found}, expected {right.expected}; 1 of {right.elements:,} elements differ" in out
    assert run_cli([*argv, "--json"]) == 1
    found_again = json.loads(capsys.readouterr().out)
    assert found_again["right"] is False
    assert found_again["recomputed"]["differences"] == [right.__dict__]


def test_damage_is_reported_even_if_the_merge_cannot_be_computed_again(merged: Merged) -> None:
    record_checksums(merged.out, overwrite=True, progress=False)
    content = bytearray((merged.out / "mi_kernels.json").read_bytes())
    content[0] ^= 1
    (merged.out / "mi_kernels.json").write_bytes(content)
    found = verify_checkpoint(merged.out, [], progress=False)
    assert found.damage == [Damage("mi_kernels.json", "bit", None, 0, 1, 0, 0)]
    assert "mi_kernels.json: is not valid JSON" in found.notes[0]


def test_a_wrong_lam_in_the_record_is_detected(merged: Merged) -> None:
    merged.change_record(lam=0.31)
    assert len(merged.differences()) > 10


def test_other_files_count_as_well(merged: Merged) -> None:
    shards = sorted(p.name for p in merged.out.glob("*.safetensors"))
    header = bytearray((merged.out / shards[0]).read_bytes())
    header[30] ^= 1
    (merged.out / shards[0]).write_bytes(header)
    size = (merged.out / shards[1]).stat().st_size
    with (merged.out / shards[1]).open("ab") as file:
        file.write(b"12")
    (merged.out / "other.safetensors").write_bytes(b"")
    config = (merged.out / "config.json").read_bytes()
    (merged.out / "config.json").write_bytes(config.replace(b"Qwen3", b"Qwen4"))
    (merged.out / "model.safetensors.index.json").unlink()
    found = merged.differences()
    assert found[:3] == [
        Damage(shards[1], "longer", None, size, size + 2, size),
        Damage("model.safetensors.index.json", "missing"),
        Damage("other.safetensors", "extra"),
    ]
    at = config.index(b"Qwen3") + 4
    assert found[3] == Difference("config.json", None, 1, len(config), at, at, at, "0x33", "0x34")
    assert isinstance(found[4], Difference)
    assert (found[4].tensor, found[4].begin, found[4].count) == (None, 30, 1)
    assert len(found) == 5


def test_missing_and_shortened_shards(merged: Merged) -> None:
    first, second = sorted(merged.out.glob("*.safetensors"))
    size = second.stat().st_size
    first.unlink()
    second.write_bytes(second.read_bytes()[:-100])
    assert merged.differences() == [
        Damage(first.name, "missing"),
        Damage(second.name, "shorter", None, size, size - 100, size - 100),
    ]


def test_few_differences_are_counted_exactly(tmp_path: Path) -> None:
    pair = [save(tmp_path / name, {"w": random_bits((3_000_000,), torch.bfloat16, i)}) for i, name in enumerate("ab")]
    lerp()(*pair, tmp_path / "out")
    path = tmp_path / "out" / "model.safetensors"
    tensor = read_header(str(path), 0).tensors[0]
    content = bytearray(path.read_bytes())
    for element in range(123, 3_000_000, 301):
        content[tensor.begin + 2 * element + element % 2] ^= 0x55
    path.write_bytes(content)
    [found] = recompute_merge(str(tmp_path / "out"), pair, progress=False).differences
    assert isinstance(found, Difference)
    assert (found.count, found.element) == (len(range(123, 3_000_000, 301)), 123)


def test_models_in_the_wrong_order_add_a_note(merged: Merged) -> None:
    found = recompute_merge(str(merged.out), [merged.world.thinking, merged.world.instruct], progress=False)
    assert not found.right
    assert "are the merged models, in order" in found.notes[-1]


def test_a_model_that_is_not_the_recorded_one_is_reported_first(merged: Merged) -> None:
    (merged.world.root / "deep").mkdir()
    deep = save(merged.world.root / "deep" / "model", tiny(1, layers=3), 2)
    with pytest.raises(mi_kernels.MismatchError) as caught:
        recompute_merge(str(merged.out), [deep, merged.world.thinking], progress=False)
    for part in (str(deep), str(merged.world.instruct), "tensors 36", "25"):
        assert part in caught.value.problem
    other = save(merged.world.root / "deep" / "other", merged.world.a, 1)
    found = recompute_merge(str(merged.out), [merged.world.instruct, other], progress=False)
    assert "SHA-256 of the headers" in found.notes[0]


def test_refusals(merged: Merged, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["verify", str(merged.out), "--recompute"]
    assert_refused(
        capsys, tmp_path, [*argv, str(merged.world.instruct)], "2 models, but --recompute names 1", "in this order"
    )
    assert_refused(capsys, tmp_path, [*argv, "nowhere", "nothing"], "nowhere: no such folder")
    (merged.out / CHECKSUMS).unlink()  # otherwise the changed record is reported as damage
    merged.change_record(method="magic")
    assert_refused(capsys, tmp_path, argv, "mi_kernels.json", "unknown method 'magic'")
    merged.change_record(method="lerp", copy_from=7)
    assert_refused(capsys, tmp_path, argv, "copy_from 7 is unknown")
    (merged.out / "mi_kernels.json").write_text("{}")
    assert_refused(capsys, tmp_path, argv, "mi_kernels.json", "does not say how")
    (merged.out / "mi_kernels.json").unlink()
    assert_refused(capsys, tmp_path, argv, "mi_kernels.json: missing", "Pass a folder that mi_kernels merged")


@pytest.mark.parametrize(
    ("method", "change", "words"),
    [
        ("ties", {"settings": {"density": 20}}, "density is 20, which ties cannot use"),
        ("ties", {"settings": {"density": 0}}, "density is 0, which ties cannot use"),
        ("slerp", {"settings": {"lam": 1.5}}, "lam is 1.5, which slerp cannot use"),
        ("lerp", {"lam": "0.5"}, "lam is '0.5', which is text"),
    ],
)
def test_a_recorded_value_that_is_refused_today(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str, change: dict[str, Any], words: str
) -> None:
    """Earlier builds took them. The checksums can still be compared, and the message says so."""
    a = {name: torch.ones_like(tensor) for name, tensor in tiny(1).items()}  # angles need finite values
    world = World(tmp_path, a=a, b={name: a[name] / 2 for name in a})
    pair = [str(world.instruct), str(world.thinking)]
    base = {"base": pair[0], "models": pair[1:]} if method == "ties" else {"models": pair}
    lam = {"lam": 0.5} if method != "ties" else {}
    mi_kernels.merge_checkpoint({"method": method, **base, **lam}, world.out, progress=False)
    path = world.out / "mi_kernels.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **change}))
    argv = ["verify", str(world.out)]
    assert run_cli([*argv, "--record", "--overwrite", "--quiet"]) == 0
    assert_refused(
        capsys,
        tmp_path,
        [*argv, "--recompute", "--quiet"],
        f"{path}: {words}",
        "so this merge cannot be computed again",
        f"mi_kernels {content['mi_kernels']} merged it before such values were refused",
        "Leave out --recompute to compare the checksums",
    )
    assert run_cli([*argv, "--quiet"]) == 0
