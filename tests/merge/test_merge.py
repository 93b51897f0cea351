"""The tensors of a merge equal an independent reference bit for bit, for any layout, buffers and threads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mi_kernels import Report, lerp_checkpoint
from mi_kernels.output.synthetic import qwen3_shapes

from ..support.checks import World, handled, snapshot, watched
from ..support.models import (
    FLOATS,
    SINGLE,
    Tensors,
    as_hub_cache,
    assert_same_tensors,
    lerp_reference,
    load,
    merge_reference,
    random_bits,
    save,
    tiny,
    write_in_order,
)

PAGE = 4096


def merge(world: World, lam: float, **options: Any) -> Report:
    return lerp_checkpoint(world.instruct, world.thinking, world.out, lam, progress=False, **options)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Three shards with tensors of many pages, thousands of tensors within one page, empty tensors and scalars."""

    def tensors(seed: int) -> Tensors:
        return {
            "model.embed_tokens.weight": random_bits((1000, 33), torch.bfloat16, seed),
            **{f"model.layers.{i % 3}.mlp.t{i}": random_bits((i % 5,), torch.bfloat16, seed + i) for i in range(2000)},
            "model.layers.0.mlp.half": random_bits((77, 129), torch.float16, seed),
            "model.layers.1.mlp.single": random_bits((5001,), torch.float32, seed),
            "model.layers.2.mlp.scalar": random_bits((), torch.bfloat16, seed),
            "model.layers.2.mlp.empty": torch.empty(0, 8, dtype=torch.bfloat16),
            "model.rotary.position_ids": torch.arange(701),
        }

    return World(tmp_path_factory.mktemp("large"), tensors(1), tensors(10_000), shards=3)


@pytest.mark.parametrize("io", ["direct", "buffered"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("max_memory", [PAGE, 5 * PAGE, 1 << 20, None])
@pytest.mark.parametrize("max_shard_size", [None, 10_000])
def test_any_buffers_and_threads(
    large: World, tmp_path: Path, max_memory: int | None, threads: int, io: str, max_shard_size: int | None
) -> None:
    lerp_checkpoint(
        large.instruct, large.thinking, tmp_path / "out", 0.3, progress=False,
        max_memory=max_memory, threads=threads, io=io, max_shard_size=max_shard_size,
    )  # fmt: skip
    assert_same_tensors(load(tmp_path / "out"), merge_reference(large.a, large.b, 0.3))


@pytest.mark.parametrize("lam", [0.8, 0.5, 1 / 3, 1e-30, 0.49999999, 1 - 2**-24])
def test_any_lam(tmp_path: Path, lam: Any) -> None:
    world = World(tmp_path)
    merge(world, lam)
    assert_same_tensors(load(world.out), merge_reference(world.a, world.b, float(lam)))


@pytest.mark.parametrize(
    "lam",
    [
        1.7,
        -0.25,
        -0.7,
    ],
)
def test_extrapolation(tmp_path: Path, lam: float) -> None:
    world = World(tmp_path)
    merge(world, lam, extrapolate=True)
    assert_same_tensors(load(world.out), merge_reference(world.a, world.b, lam))


@pytest.mark.parametrize(("shards_a", "shards_b"), [(1, 1), (1, 3), (3, 1), (2, 5)])
def test_any_shards_on_either_side(tmp_path: Path, shards_a: int, shards_b: int) -> None:
    a, b = tiny(1), tiny(2)
    save(tmp_path / "a", a, shards_a)
    save(tmp_path / "b", dict(reversed(b.items())), shards_b)
    report = lerp_checkpoint(tmp_path / "a", tmp_path / "b", tmp_path / "out", 0.8, progress=False)
    assert_same_tensors(load(tmp_path / "out"), merge_reference(a, b, 0.8))
    assert report.shards == shards_a
    names = [sorted(p.name for p in (tmp_path / m).glob("*.safetensors*")) for m in ("a", "out")]
    assert names[0] == names[1]


def test_snapshots_of_the_hub_cache(tmp_path: Path) -> None:
    world = World(tmp_path)
    a = as_hub_cache(world.instruct, tmp_path / "hub", "org/a")
    b = as_hub_cache(world.thinking, tmp_path / "hub", "org/b")
    lerp_checkpoint(a, b, world.out, 0.8, progress=False)
    assert_same_tensors(load(world.out), merge_reference(world.a, world.b, 0.8))
    assert not any(path.is_symlink() for path in world.out.iterdir())


@pytest.mark.parametrize("lead", range(8))
def test_data_at_any_alignment(tmp_path: Path, lead: int) -> None:
    """Headers of any length and an odd number of bytes before the floats, so that no element is aligned in the file."""
    a = {"flags": torch.ones(lead % 3, dtype=torch.uint8), **tiny(1)}
    b = {"flags": torch.ones(lead % 3, dtype=torch.uint8), **tiny(2)}
    write_in_order(tmp_path / "a" / SINGLE, a, lead)
    write_in_order(tmp_path / "b" / SINGLE, b, 2 * lead + 1)
    lerp_checkpoint(tmp_path / "a", tmp_path / "b", tmp_path / "out", 0.8, progress=False, max_memory=3 * PAGE)
    assert_same_tensors(load(tmp_path / "out"), merge_reference(a, b, 0.8))


@pytest.mark.parametrize(("lam", "side"), [(0, "a"), (0.0, "a"), (1, "b"), (np.float32(1), "b")])
def test_lam_0_and_1_copy_every_byte(tmp_path: Path, lam: Any, side: str) -> None:
    world = World(tmp_path)  # random bits: NaN payloads and -0 among them
    report = merge(world, lam)
    assert_same_tensors(load(world.out), getattr(world, side))
    assert (report.tensors_interpolated, report.tensors_copied) == (0, len(world.a))
    assert report.bytes_read == sum(t.nbytes for t in world.a.values())


@pytest.mark.parametrize("lam", [0.3, 1])
def test_masks_keep_the_bytes_of_instruct(tmp_path: Path, lam: float) -> None:
    world = World(tmp_path)
    report = merge(world, lam, layers="1:", modules="ffn")
    chosen = [name for name in world.a if name.startswith("model.layers.1.mlp.")]
    assert len(chosen) == 3
    expected = merge_reference(world.a, world.b, lam)
    assert_same_tensors(load(world.out), {n: expected[n] if n in chosen else world.a[n] for n in world.a})
    copied = len(world.a) - (3 if lam == 0.3 else 0)
    assert (report.tensors_interpolated, report.tensors_copied) == (len(world.a) - copied, copied)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("lam", [0, 0.3, 0.8, 1])
def test_conversion(tmp_path: Path, dtype: torch.dtype, lam: float) -> None:
    """All three dtypes in one model. Integers keep their dtype."""

    def tensors(seed: int) -> Tensors:
        return {str(k): random_bits((999,), k, seed + i) for i, k in enumerate(FLOATS)} | {"ids": torch.arange(9)}

    world = World(tmp_path, tensors(1), tensors(10), shards=1)
    merge(world, lam, dtype=str(dtype).removeprefix("torch."), max_memory=2 * PAGE)
    assert_same_tensors(load(world.out), merge_reference(world.a, world.b, lam, dtype))


@pytest.mark.parametrize("lam", [0, 0.3, 1])
@pytest.mark.parametrize("to", [torch.float16, torch.float32, torch.bfloat16])
def test_mixed_dtypes(tmp_path: Path, to: torch.dtype, lam: float) -> None:
    """Computed in float32, and written in the dtype of INSTRUCT."""
    world = World(tmp_path, tiny(1), tiny(2, dtype=to))
    report = merge(world, lam, device="cpu")
    assert_same_tensors(load(world.out), merge_reference(world.a, world.b, lam))
    mixed = to != torch.bfloat16
    assert [("BF16" in note and "different dtypes" in note) for note in handled(report.notes)] == [True] * mixed


def test_equal_tensors_of_other_dtypes_are_copied(tmp_path: Path) -> None:
    others = {
        "ids": torch.arange(-5, 700),
        "flags": torch.tensor([True, False]),
        "scale": torch.tensor(0.1, dtype=torch.float64),
        "packed": random_bits((3, 3), torch.float8_e4m3fn, 7),
        "nothing": torch.empty(0, dtype=torch.int32),
    }
    world = World(tmp_path, {**tiny(1), **others}, {**tiny(2), **others})
    report = merge(world, 0.8)
    assert_same_tensors(load(world.out), merge_reference(world.a, world.b, 0.8))
    assert report.tensors_copied == len(others)


def test_inputs_are_read_and_never_written(tmp_path: Path) -> None:
    world = World(tmp_path)
    before = snapshot(tmp_path)
    with watched(world.instruct, world.thinking) as events:
        merge(world, 0.8)
    assert "model-00001-of-00002.safetensors" in events.opened
    assert not events.written
    after = snapshot(tmp_path)
    assert {name: after[name] for name in before} == before


def test_the_same_merge_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    world = World(tmp_path)
    contents = []
    for threads in (1, 4):
        merge(world, 0.8, threads=threads, overwrite=True)
        contents.append({path.name: path.read_bytes() for path in world.out.iterdir()})
    assert contents[0] == contents[1]


def test_eighteen_thousand_tensors(tmp_path: Path) -> None:
    """A mixture of 128 experts with tiny tensors."""
    shapes = qwen3_shapes(
        hidden=2, layers=48, ffn=1, heads=1, kv_heads=1, head_dim=1, vocab=3, experts=128, expert_ffn=1
    )
    assert len(shapes) > 18_000
    counts = [torch.Size(shape).numel() for shape in shapes.values()]
    pools = [random_bits((sum(counts),), torch.bfloat16, seed) for seed in (1, 2)]
    pools.append(lerp_reference(*pools, 0.8))

    def tensors(pool: torch.Tensor) -> Tensors:
        return {name: part.reshape(shapes[name]) for name, part in zip(shapes, pool.split(counts))}

    a, b, expected = map(tensors, pools)
    save(tmp_path / "a", a, 4)
    save(tmp_path / "b", b, 3)
    merged = {n for n in shapes if ".mlp." in n and int(n.split(".")[2]) >= 40}
    report = lerp_checkpoint(
        tmp_path / "a", tmp_path / "b", tmp_path / "out", 0.8, progress=False, layers="40:", modules="router,ffn"
    )
    assert report.tensors_interpolated == len(merged) == 8 * (3 * 128 + 1)
    assert_same_tensors(load(tmp_path / "out"), {n: expected[n] if n in merged else a[n] for n in shapes})


SPECS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 70), max_size=3).filter(lambda s: torch.Size(s).numel() < 10_000),
        st.sampled_from(FLOATS),
        st.sampled_from(FLOATS),
        st.integers(0, 2),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    specs=SPECS,
    lam=st.sampled_from([0.0, 1.0]) | st.floats(0, 1, width=32),
    dtype=st.none() | st.sampled_from(FLOATS),
    pages=st.integers(1, 6),
    threads=st.integers(1, 3),
    limit=st.none() | st.integers(1_000, 20_000),
    lead=st.integers(0, 9),
    seed=st.integers(0, 1000),
)
def test_random_checkpoints(
    tmp_path_factory: pytest.TempPathFactory,
    specs: list[tuple[list[int], torch.dtype, torch.dtype, int]],
    lam: float,
    dtype: torch.dtype | None,
    pages: int,
    threads: int,
    limit: int | None,
    lead: int,
    seed: int,
) -> None:
    root = tmp_path_factory.mktemp("random")
    a: Tensors = {}
    b: Tensors = {}
    groups: list[list[str]] = [[], [], []]
    for i, (shape, dtype_a, dtype_b, place) in enumerate(specs):
        a[f"t{i}"] = random_bits(shape, dtype_a, seed + i)
        b[f"t{i}"] = random_bits(shape, dtype_b, seed - i - 1_000_000)
        groups[place].append(f"t{i}")
    write_in_order(root / "a" / SINGLE, a, lead)
    save(root / "b", b, [group for group in groups if group])
    lerp_checkpoint(
        root / "a", root / "b", root / "out", lam, progress=False, threads=threads, max_memory=pages * PAGE,
        max_shard_size=limit, dtype=None if dtype is None else str(dtype).removeprefix("torch."),
    )  # fmt: skip
    assert_same_tensors(load(root / "out"), merge_reference(a, b, lam, dtype))
