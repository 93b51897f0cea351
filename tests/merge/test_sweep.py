"""A sweep: every output has the same bytes as a separate merge, and the inputs are read only once."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from mi_kernels import ArgumentError, OutputError, Report, lerp_checkpoint, sweep_checkpoint
from mi_kernels.backends import cpu
from mi_kernels.dtypes import CODE_SIZES
from mi_kernels.merge.plan import CHUNK, DEFAULT_MEMORY, plan_buffers
from mi_kernels.output.folder import OutputFolder
from mi_kernels.output.writer import ShardFile

from ..support.checks import World, snapshot
from ..support.models import Tensors, random_bits, tiny

PAGE = 4096
LAMS = [0.0, 0.2, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9, 1.0]


def tensors(seed: int) -> Tensors:
    return {
        **tiny(seed),
        "model.layers.0.mlp.half": random_bits((77, 129), torch.float16, seed),
        "model.layers.1.mlp.single": random_bits((50_001,), torch.float32, seed),
        "model.layers.1.mlp.empty": torch.empty(0, 8, dtype=torch.bfloat16),
        "model.rotary.position_ids": torch.arange(701),
    }


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, tensors(1), tensors(2), shards=3)


def sweep(world: World, lams: list[float], **options: Any) -> list[Report]:
    out = str(world.root / "runs" / "mi-{lam}")
    return sweep_checkpoint(world.instruct, world.thinking, out, lams, progress=False, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_each_is_its_own_merge(world: World, lams: list[float], **options: Any) -> None:
    reports = sweep(world, lams, **options)
    assert sorted(p.name for p in (world.root / "runs").iterdir()) == sorted(f"mi-{lam:g}" for lam in lams)
    for lam, report in zip(lams, reports):
        # The title of the model card is the name of the folder.
        alone = world.root / "alone" / f"mi-{lam:g}"
        own = lerp_checkpoint(world.instruct, world.thinking, alone, lam, progress=False, **options)
        assert contents(world.root / "runs" / f"mi-{lam:g}") == contents(alone)
        assert report.out == str(world.root / "runs" / f"mi-{lam:g}")
        assert report.tensors_interpolated == own.tensors_interpolated
        assert report.tensors_copied == own.tensors_copied
        assert report.bytes_written == own.bytes_written


def test_thirteen_merges_in_one_pass(world: World) -> None:
    assert_each_is_its_own_merge(world, LAMS)


@pytest.mark.parametrize(
    "options",
    [
        {"layers": "1:", "modules": "ffn"},
        {"modules": "attn", "threads": 3, "io": "buffered"},
        {"dtype": "float32"},
        {"dtype": "float16", "max_shard_size": 20_000, "copy_from": "instruct"},
        {"max_memory": 4 * PAGE, "threads": 1},
        {"max_memory": 40 * PAGE, "threads": 3},
        {"extrapolate": True},
    ],
    ids=str,
)
def test_options(world: World, options: dict[str, Any]) -> None:
    lams = [0.0, 0.3, 0.8, 1.0] if "extrapolate" not in options else [-0.5, 0.3, 1.5, 1.0]
    assert_each_is_its_own_merge(world, lams, **options)


def test_dtypes_that_differ_between_the_models(tmp_path: Path) -> None:
    a = {f"model.layers.{i}.mlp.w": random_bits((3000,), dtype, i) for i, dtype in enumerate((torch.bfloat16,) * 3)}
    kinds = (torch.float32, torch.float16, torch.bfloat16)
    b = {f"model.layers.{i}.mlp.w": random_bits((3000,), dtype, i + 9) for i, dtype in enumerate(kinds)}
    assert_each_is_its_own_merge(World(tmp_path, a, b), [0.0, 0.3, 1.0])


def test_one_value(world: World) -> None:
    assert_each_is_its_own_merge(world, [0.8])


@pytest.mark.parametrize("lams", [[0.3], [0.1, 0.3, 0.5, 0.7, 0.9]])
def test_inputs_are_read_once(world: World, monkeypatch: pytest.MonkeyPatch, lams: list[float]) -> None:
    """Every element of both inputs is passed to the kernel once for all outputs."""
    run_groups, handed = cpu.run_groups, []

    def counted(spans: list[Any], group: int, isa: str) -> None:
        assert group == len(lams)
        for i in range(0, len(spans), group):
            inputs = {(id(s[2]), s[3], id(s[4]), s[5], s[6]) for s in spans[i : i + group]}
            assert len(inputs) == 1, "the outputs of a group share their inputs"
            handed.append(spans[i][6] * CODE_SIZES[spans[i][9]])
        run_groups(spans, group, isa)

    monkeypatch.setattr(cpu, "run_groups", counted)
    sweep(world, lams, threads=3, max_memory=30 * PAGE)
    assert sum(handed) == sum(t.nbytes for t in world.a.values())


def test_inputs_stay_as_they_were(world: World) -> None:
    before = [snapshot(folder) for folder in (world.instruct, world.thinking)]
    sweep(world, [0.1, 0.5, 0.9])
    assert [snapshot(folder) for folder in (world.instruct, world.thinking)] == before


@pytest.mark.parametrize("failing", range(3))
@pytest.mark.parametrize("after", [0, 3])
def test_an_output_that_fails_leaves_no_folder(
    world: World, monkeypatch: pytest.MonkeyPatch, failing: int, after: int
) -> None:
    opened, write, seen = ShardFile.__init__, ShardFile.write, []
    unlucky: set[int] = set()

    def remember(self: ShardFile, path: str, size: int, io: str = "auto") -> None:
        opened(self, path, size, io)
        if f".mi-{(0.2, 0.5, 0.8)[failing]:g}." in path:
            unlucky.add(id(self))

    def full(self: ShardFile, data: Any, offset: int) -> None:
        if id(self) in unlucky:
            seen.append(offset)
            if len(seen) > after:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, data, offset)

    monkeypatch.setattr(ShardFile, "__init__", remember)
    monkeypatch.setattr(ShardFile, "write", full)
    before = snapshot(world.root)
    with pytest.raises(OutputError, match=r"No space left on device\n"):
        sweep(world, [0.2, 0.5, 0.8], max_memory=30 * PAGE)
    assert len(seen) > after
    assert snapshot(world.root) == before


def test_a_small_file_that_fails_leaves_no_folder(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    write = OutputFolder.write_file

    def full(self: OutputFolder, name: str, content: bytes) -> None:
        if self.given.endswith("mi-0.8") and name == "README.md":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, name, content)

    monkeypatch.setattr(OutputFolder, "write_file", full)
    before = snapshot(world.root)
    with pytest.raises(OutputError):
        sweep(world, [0.2, 0.8])
    assert snapshot(world.root) == before


def refused(world: World, lams: Any, out: str | None = None, **options: Any) -> str:
    before = snapshot(world.root)
    with pytest.raises((ArgumentError, OutputError)) as error:
        sweep_checkpoint(
            world.instruct, world.thinking, out or str(world.root / "mi-{lam}"), lams, progress=False, **options
        )
    assert snapshot(world.root) == before
    text = str(error.value)
    assert len(text.splitlines()) == 2
    return text


def test_refusals(world: World) -> None:
    assert "lams is empty" in refused(world, [])
    assert "a value twice: 0.5, 0.5" in refused(world, [0.5, 0.5])
    assert "a value twice" in refused(world, [0, 0.3, 0.0])
    assert "lam is False" in refused(world, [0.3, False])
    assert "the same name" in refused(world, [0.3, 0.30000000001])
    assert "lam is 1.5" in refused(world, [0.5, 1.5])
    assert "not a number" in refused(world, [0.5, "x"])
    assert "where lam goes" in refused(world, [0.5], out=str(world.root / "mi"))
    assert "is the input" in refused(world, [0.5], out=str(world.instruct) + "{lam}/../instruct")
    assert "no router" in refused(world, [0.5, 0.6], modules="router")
    assert "max_memory" in refused(world, [0.1, 0.2, 0.3], max_memory=3 * PAGE - 1)


def test_one_existing_output_is_an_error_for_all(world: World) -> None:
    sweep(world, [0.5])
    assert "exists and is not empty" in refused(world, [0.2, 0.5], out=str(world.root / "runs" / "mi-{lam}"))
    sweep(world, [0.2, 0.5], overwrite=True)
    assert (world.root / "runs" / "mi-0.2").is_dir()


def test_one_check_of_the_disk_for_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is enough space for two outputs, but not for three."""
    size = sum(t.nbytes for t in world.a.values())
    spare = 16 << 20
    monkeypatch.setattr(OutputFolder, "free_space", lambda self: spare + 5 * size // 2)
    assert "of free space" in refused(world, [0.2, 0.5, 0.8])
    sweep(world, [0.2, 0.8])


@pytest.mark.parametrize("outputs", [1, 2, 7, 13, 101])
@pytest.mark.parametrize("threads", [1, 2, 16, 128])
def test_buffers_stay_within_the_limit(outputs: int, threads: int) -> None:
    for limit in (None, PAGE * outputs, 100 * PAGE * outputs, 1 << 30):
        buffers = plan_buffers(threads, limit, outputs)
        assert 1 <= buffers.workers <= threads + 4
        assert PAGE <= buffers.chunk <= CHUNK
        assert buffers.chunk % PAGE == 0
        assert buffers.chunk * buffers.workers * outputs <= (DEFAULT_MEMORY if limit is None else limit)
