"""Findings that a merge reports about values: NaN and inf in the inputs, overflow, tensors that are identical."""

from __future__ import annotations

import itertools
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mi_kernels import StrictError, _cpu, lerp_checkpoint, merge_checkpoint, sweep_checkpoint
from mi_kernels.backends.reference.methods import uniform
from mi_kernels.cli import program as cli
from mi_kernels.merge.findings import Findings
from mi_kernels.methods.registry import METHODS
from mi_kernels.methods.thinning import stream_key

from ..support.adapters import PREFIX
from ..support.checks import World, assert_refused, snapshot
from ..support.kills import Run, runner
from ..support.models import FLOATS, Tensors, load
from ..support.nonfinite import DOWN, EMBED, INF, NAN, UP, finite, put

CODES = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2}


def found(report: Any) -> dict[tuple[str, str], tuple[int, int]]:
    """Returns (number of NaN, number of inf) by name of the folder and tensor."""
    return {(Path(f["model"]).name, f["tensor"]): (f["nan"], f["inf"]) for f in report.values["nonfinite"]}


# The kernels.


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_quick_pass_finds_exactly_the_non_finite_values(isa: str, dtype: torch.dtype) -> None:
    """Every kind of value at every position, in blocks smaller than a register, of one register, and of several."""
    info = torch.finfo(dtype)
    fine = torch.tensor([0.0, -0.0, info.max, info.min, info.tiny, info.smallest_normal / 2, 1.0, -2.0]).to(dtype)
    size, code = fine.element_size(), CODES[dtype]
    integer = {2: torch.int16, 4: torch.int32}[size]
    payload = torch.tensor(INF, dtype=dtype).view(integer) + 1  # the NaN with the smallest payload, the nearest to inf
    bad = [torch.tensor(v, dtype=dtype) for v in (NAN, INF, -INF)] + [payload.view(dtype)]
    raw = np.concatenate([v.reshape(1).view(torch.uint8).numpy() for v in [*bad, *fine]]).reshape(-1, size)
    for count, shift in itertools.product((0, 1, 2, 3, 15, 16, 17, 33, 65), (0, 1)):
        memory = np.full(shift + (count + 2) * size, 0xFF, np.uint8)  # all NaN before and after the block
        block = memory[shift + size : shift + (count + 1) * size].reshape(count, size)
        block[:] = raw[len(bad) + np.arange(count) % len(fine)]
        assert not _cpu.any_nonfinite(memory, shift + size, count, code, isa)
        for at in range(count):
            before = block[at].copy()
            block[at] = raw[at % len(bad)]
            assert _cpu.any_nonfinite(memory, shift + size, count, code, isa), (count, at)
            block[at] = before


def test_every_value_of_bfloat16_and_float16_is_classified_correctly(isa: str) -> None:
    for code, dtype in ((0, torch.bfloat16), (1, torch.float16)):
        bits = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16)
        values = bits.view(dtype)
        raw, fine = bits.numpy(), bits[values.isfinite()].numpy()
        assert not _cpu.any_nonfinite(fine, 0, len(fine), code, isa)
        assert all(_cpu.any_nonfinite(raw, 2 * int(i), 1, code, isa) for i in (~values.isfinite()).nonzero())
        counts, _ = _cpu.count_nonfinite((raw, 0, code), [(raw, 0, code)], 1 << 16)
        assert counts == [(int(values.isnan().sum()), int(values.isinf().sum()))]


def test_overflow_is_not_counted_as_a_non_finite_input() -> None:
    a = torch.tensor([1.0, NAN, INF, 2.0, 3.0] * 2000).numpy()
    b = torch.tensor([1.0, 1.0, NAN, -INF, 3.0] * 2000).to(torch.bfloat16).view(torch.int16).numpy()
    out = torch.tensor([INF, NAN, NAN, NAN, 3.0] * 2000).half().view(torch.int16).numpy()
    counts, overflowed = _cpu.count_nonfinite((out, 0, 1), [(a, 0, 2), (b, 0, 0)], 10_000)
    assert (counts, overflowed) == ([(2000, 2000), (2000, 2000)], 2000)


# Reports of a merge.


def test_each_tensor_is_counted_for_its_model(tmp_path: Path) -> None:
    a = put(finite(1), UP, (0, NAN), (5, INF), (7, -INF))
    b = put(put(finite(2), UP, (0, NAN)), DOWN, (3, NAN), (4, NAN))
    world = World(tmp_path, a, b, shards=1)
    # Chunks of one page, so that a tensor is checked in several pieces.
    report = lerp_checkpoint(world.instruct, world.thinking, world.out, 0.5, max_memory=3 * 4096, progress=False)
    assert found(report) == {("instruct", UP): (1, 2), ("thinking", UP): (1, 0), ("thinking", DOWN): (2, 0)}
    assert report.values["overflowed"] == []
    notes = [note.replace(f"{tmp_path}/", "") for note in report.notes]
    assert notes == [f"instruct: 1 NaN and 2 inf in {UP}", f"thinking: 1 NaN in {UP}; 2 NaN in {DOWN}"]


def test_a_note_names_only_three_tensors(tmp_path: Path) -> None:
    b = finite(2)
    for name in b:
        put(b, name, (0, NAN))
    report = lerp_checkpoint(*_sides(World(tmp_path, finite(1), b)), 0.5, progress=False)
    assert len(report.values["nonfinite"]) == len(b)
    (note,) = report.notes
    assert note.endswith(f"; and {len(b) - 3} more tensors")


def _sides(world: World) -> tuple[Path, Path, Path]:
    return world.instruct, world.thinking, world.out


@pytest.mark.parametrize(
    ("lam", "options", "expected"),
    [
        (0.0, {}, {("instruct", UP): (1, 0)}),
        (1.0, {}, {("thinking", DOWN): (0, 1)}),
        (0.5, {"layers": "1:"}, {("instruct", UP): (1, 0), ("thinking", DOWN): (0, 1)}),
        (0.5, {"layers": "0:1"}, {("instruct", UP): (1, 0)}),
        (1.0, {"layers": "0:1"}, {}),
    ],
)
def test_copied_tensors_are_checked_and_unread_ones_are_not(
    tmp_path: Path, lam: float, options: dict[str, str], expected: dict[tuple[str, str], tuple[int, int]]
) -> None:
    world = World(tmp_path, put(finite(1), UP, (1, NAN)), put(finite(2), DOWN, (1, INF)))
    assert found(lerp_checkpoint(*_sides(world), lam, progress=False, **options)) == expected


@pytest.mark.parametrize(
    "method", [name for name, m in METHODS.items() if m.reads != "angles" and m.base != "optional"]
)
def test_every_method_sees_every_nan(tmp_path: Path, method: str) -> None:
    """Also where thinning keeps it out of the output: then it is put where thinning drops it, and nowhere else."""
    parameters = {p.name for p in METHODS[method].parameters}
    thinned = "seed" in parameters
    dropped = uniform(stream_key(0, DOWN, 1), 0, 16 * 24) >= 0.2
    places = np.flatnonzero(dropped)[:64].tolist() if thinned else range(64)
    world = World(tmp_path, put(finite(1), UP, (1, NAN)), put(finite(2), DOWN, *((i, NAN) for i in places)))
    values = {"density": 0.2, "weight": 0.5, "lam": 0.5}
    recipe = {"method": method, **{key: value for key, value in values.items() if key in parameters}}
    if METHODS[method].base == "required":
        recipe |= {"base": str(world.instruct), "models": [str(world.thinking)]}
    else:
        recipe |= {"models": [str(world.instruct), str(world.thinking)]}
    report = merge_checkpoint(recipe, world.out, progress=False)
    assert found(report) == {("instruct", UP): (1, 0), ("thinking", DOWN): (64, 0)}
    assert load(world.out)[DOWN].isfinite().all() == thinned


def test_an_infinity_without_weight_is_seen(tmp_path: Path) -> None:
    """TIES drops it, because 0 * inf is NaN, which has no sign to elect."""
    world = World(tmp_path, finite(1), put(finite(2), DOWN, (3, INF)))
    recipe = {"method": "ties", "base": str(world.instruct), "models": [str(world.thinking)], "weight": 0, "density": 1}
    report = merge_checkpoint(recipe, world.out, progress=False)
    assert found(report) == {("thinking", DOWN): (0, 1)}
    assert load(world.out)[DOWN].isfinite().all()
    assert report.values["overflowed"] == []


def test_overflow_far_into_a_tensor_is_counted(tmp_path: Path) -> None:
    """Elements are counted in blocks of 2^18, each with its own part of the result."""
    n = 2 * (1 << 18) + 100
    a, b = ({UP: torch.zeros(n, dtype=torch.bfloat16)} for _ in range(2))
    for place in ((1 << 18) + 7, (1 << 18) + 9, n - 1):
        put(a, UP, (place, 1e6))
        put(b, UP, (place, 1e6))
    put(a, UP, (1 << 18, INF))
    report = lerp_checkpoint(*_sides(World(tmp_path, a, b, shards=1)), 0.5, dtype="float16", progress=False)
    assert report.values["overflowed"] == [{"tensor": UP, "elements": 3}]
    assert found(report) == {("instruct", UP): (0, 1)}


def test_overflow_is_reported_separately(tmp_path: Path) -> None:
    """The largest float16 is 65504. Larger bfloat16 values become inf."""
    world = World(tmp_path, put(finite(1), UP, (3, 1e6), (4, 1e6)), put(finite(2), UP, (3, 1e6), (5, NAN)))
    report = lerp_checkpoint(*_sides(world), 0.5, dtype="float16", progress=False)
    assert report.values["overflowed"] == [{"tensor": UP, "elements": 2}]
    assert found(report) == {("thinking", UP): (1, 0)}
    assert any(f"overflow in the output although their inputs are finite: 2 in {UP}" in note for note in report.notes)


def test_a_sweep_reports_overflow_for_each_output(tmp_path: Path) -> None:
    a, b = put(finite(1), UP, (0, 3e38)), put(finite(2), UP, (0, -3e38), (1, NAN))
    world = World(tmp_path, a, b)
    reports = sweep_checkpoint(
        world.instruct, world.thinking, f"{tmp_path}/m-{{lam}}", [0.0, 0.25, 2.0], extrapolate=True, progress=False
    )
    # b - a overflows float32. lam 0 copies and stays finite.
    assert [len(r.values["overflowed"]) for r in reports] == [0, 1, 1]
    assert [found(r) for r in reports] == [{("thinking", UP): (1, 0)}] * 3


def test_a_mask_leaves_out_what_differs(tmp_path: Path) -> None:
    """Two models with the same attention are not the same model because a mask selects only attention."""
    a = finite(1)
    b = {name: tensor if "self_attn" in name else tensor + 1 for name, tensor in a.items()}
    world = World(tmp_path, a, b)
    report = lerp_checkpoint(
        world.instruct, world.thinking, world.out, 0.5, modules="attn", strict=True, progress=False
    )
    (note,) = [note for note in report.notes if "identical" in note]
    assert note.startswith(f"all {sum('self_attn' in name for name in a)} selected tensors are identical in")


def test_a_base_and_its_adapter_are_not_the_same_model(tmp_path: Path) -> None:
    world = World(tmp_path, finite(1), finite(1))
    folder = tmp_path / "adapter"
    q = "model.layers.0.self_attn.q_proj"
    rows, columns = world.a[f"{q}.weight"].shape
    factors = {f"{PREFIX}{q}.lora_A.weight": torch.ones(2, columns), f"{PREFIX}{q}.lora_B.weight": torch.ones(rows, 2)}
    folder.mkdir()
    save_file(factors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tuned = f"{world.thinking}+{folder}"
    for pair in ((world.instruct, tuned), (tuned, world.instruct)):
        report = lerp_checkpoint(*pair, world.out, 0.5, strict=True, overwrite=True, progress=False)
        (note,) = [note for note in report.notes if "identical" in note]
        assert "the same model" not in note
        assert f"all {len(world.a) - 1} tensors that were compared" in note
        assert note.endswith("; 1 computed or stored in another dtype")


def test_identical_tensors_are_named(tmp_path: Path) -> None:
    a, b = finite(1), finite(2)
    b[UP], b[DOWN] = a[UP].clone(), a[DOWN].clone()
    b[EMBED] = a[EMBED].clone()
    b[EMBED].view(-1)[-1] += 1  # in the last element, and so in the last of many chunks
    world = World(tmp_path, a, b)
    report = lerp_checkpoint(*_sides(world), 0.5, max_memory=3 * 4096, progress=False)
    ((names),) = [entry["tensors"] for entry in report.values["identical"]]
    assert sorted(names) == sorted([UP, DOWN])
    assert any(note.startswith(f"2 of {len(a)} tensors are identical") for note in report.notes)


def test_one_model_passed_twice_is_reported(tmp_path: Path) -> None:
    world = World(tmp_path, finite(1), finite(1))
    report = lerp_checkpoint(*_sides(world), 0.5, progress=False)
    assert any("are the same model: all " in note for note in report.notes)
    with pytest.raises(StrictError, match="the same model"):
        lerp_checkpoint(world.instruct, world.thinking, tmp_path / "strict", 0.5, strict=True, progress=False)


# On the command line, with --strict, and after a kill.


def test_json_and_notes_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(tmp_path, put(finite(1), UP, (0, NAN)), finite(2))
    assert cli.main(world.argv("--json")) == 0
    assert json.loads(capsys.readouterr().out)["values"]["nonfinite"] == [
        {"model": str(world.instruct), "tensor": UP, "nan": 1, "inf": 0}
    ]
    assert cli.main(world.argv("--overwrite")) == 0
    assert capsys.readouterr().out.count(f"note: {world.instruct}: 1 NaN in {UP}") == 1


@pytest.mark.parametrize(
    ("a", "b", "extra", "words"),
    [
        (put(finite(1), UP, (0, NAN)), finite(2), (), ("1 NaN", UP)),
        (finite(1), put(finite(2), DOWN, (0, INF)), ("--layers", "1:"), ("1 inf", DOWN)),
        (put(finite(1), UP, (0, 1e6)), finite(2), ("--dtype", "float16"), ("overflow", UP)),
    ],
)
def test_strict_publishes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], a: Tensors, b: Tensors, extra: tuple[str, ...], words: Any
) -> None:
    world = World(tmp_path, a, b)
    assert_refused(capsys, tmp_path, world.argv("--strict", *extra), "--strict", *words)
    assert cli.main(world.argv(*extra)) == 0
    before = snapshot(world.out)
    assert_refused(capsys, tmp_path, world.argv("--strict", "--overwrite", *extra), *words)
    assert snapshot(world.out) == before


def test_strict_accepts_models_without_findings(tmp_path: Path) -> None:
    world = World(tmp_path, finite(1), finite(2))
    assert lerp_checkpoint(*_sides(world), 0.5, strict=True, progress=False).notes == []


def test_a_resumed_merge_reports_the_findings_of_the_killed_one(tmp_path: Path) -> None:
    """A strict merge does not resume work that was started without `strict`."""
    a = finite(1)
    for name in a:
        put(a, name, (0, NAN))
    world = World(tmp_path, a, finite(2), shards=6)
    argv = world.argv("--max-memory", "8KiB")
    with runner() as run:
        events = run(Run([*argv, "-o", str(tmp_path / "elsewhere")])).events
        assert run(Run(argv, event=len(events) * 6 // 10)).status == -signal.SIGKILL
    with pytest.raises(Exception, match="unfinished merge was started without `strict=True`"):
        lerp_checkpoint(*_sides(world), 0.5, strict=True, progress=False)
    report = lerp_checkpoint(*_sides(world), 0.5, progress=False)
    assert 0 < report.shards < 6
    assert found(report) == {("instruct", name): (1, 0) for name in a}


def test_one_and_many_agree_with_their_verbs() -> None:
    def notes(**found: Any) -> list[str]:
        return Findings(**found).notes(["I", "T"])

    assert notes(identical={1: ["a"]}, compared={1: 3}) == ["1 of 3 tensors is identical in I and T: a"]
    assert notes(identical={1: ["a", "b"]}, compared={1: 3}) == ["2 of 3 tensors are identical in I and T: a, b"]
    four = {(0, name): (1, 0) for name in "abcd"}
    assert notes(nonfinite=four) == ["I: 1 NaN in a; 1 NaN in b; 1 NaN in c; and 1 more tensor"]
    with pytest.raises(StrictError, match=r"\(and 1 more such finding\)"):
        Findings(nonfinite={(0, "a"): (1, 0), (1, "a"): (1, 0)}).refuse("out", ["I", "T"])
