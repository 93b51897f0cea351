"""What a merge will read and write is known before it starts, and equals what it did."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from mi_kernels import ArgumentError, OutputError, Recipe, merge_checkpoint
from mi_kernels.merge import forecast as forecast_room
from mi_kernels.merge.api import plan_lerp, plan_merge, plan_sweep
from mi_kernels.merge.forecast import Forecast, reading
from mi_kernels.merge.options import Options
from mi_kernels.merge.space import Space, spaces
from mi_kernels.methods.registry import METHODS
from mi_kernels.output.folder import OutputFolder
from mi_kernels.system.disk_speed import ReadSpeed

from ..support.checks import World, snapshot

GB = 10**9


def space(**facts: object) -> Space:
    return Space(**{"given": "out", "folder": "/d", "outputs": 1, "written": GB, "needed": GB, "free": 2 * GB, **facts})  # type: ignore[arg-type]


def stored(folder: Path) -> int:
    """The bytes of a model without its checksums, which the plan does not know."""
    return sum(p.stat().st_size for p in folder.iterdir() if p.name != "mi_kernels.checksums.json")


def test_a_forecast_equals_the_report(tmp_path: Path) -> None:
    world = World(tmp_path)
    masked = Recipe(0.5, modules="norm")  # most tensors are copies, which read one model
    job = plan_lerp(world.instruct, world.thinking, [(world.out, masked)], Options(progress=False))
    before = snapshot(tmp_path)
    found = job.forecast()
    assert snapshot(tmp_path) == before
    (report,) = job.run()
    assert found.bytes_read == report.bytes_read < 2 * sum(t.nbytes for t in world.a.values())
    assert found.bytes_written == stored(world.out)
    (disk,) = found.spaces
    assert (disk.given, disk.folder, disk.outputs) == (str(world.out), str(tmp_path), 1)
    assert disk.needed == found.bytes_written + (16 << 20)


def test_a_sweep_reads_once_and_writes_all(tmp_path: Path) -> None:
    world = World(tmp_path)
    job = plan_sweep(world.instruct, world.thinking, str(tmp_path / "mi-{lam}"), [0.2, 0.5, 0.8], progress=False)
    found = job.forecast()
    reports = job.run()
    assert found.bytes_read == reports[0].bytes_read
    assert found.bytes_written == sum(stored(Path(report.out)) for report in reports)
    assert [s.outputs for s in found.spaces] == [3]


def test_sigma_reads_both_models_once_more(tmp_path: Path) -> None:
    world = World(tmp_path)

    def read(sigma: bool) -> int:
        options = Options(progress=False, sigma=sigma)
        return plan_lerp(world.instruct, world.thinking, [(world.out, Recipe(0.5))], options).forecast().bytes_read

    size = sum(t.nbytes for t in [*world.a.values(), *world.b.values()])
    assert read(True) - read(False) == size
    sigma = Options(progress=False, sigma=True)
    found = plan_lerp(world.instruct, world.thinking, [(world.out, Recipe(0.5))], sigma).forecast()
    assert (found.twice, found.besides) == (size, "measuring sigma")


def test_too_little_space_is_found_before_sigma_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    monkeypatch.setattr(OutputFolder, "free_space", lambda self: 1 << 20)
    monkeypatch.setattr("mi_kernels.compare.similarity.similarity_of", lambda *a, **k: pytest.fail("was measured"))
    options = Options(progress=False, sigma=True)
    with pytest.raises(OutputError, match="of free space"):
        plan_lerp(world.instruct, world.thinking, [(world.out, Recipe(0.5))], options).run()


@pytest.mark.parametrize("write", [True, False])
def test_too_little_space_is_found_before_thresholds_are_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: bool
) -> None:
    """`verify --recompute` plans a merge too. It writes nothing, so it needs no space."""
    world = World(tmp_path)
    ties = {"method": "ties", "base": str(world.instruct), "models": [str(world.thinking)], "density": 0.5}
    monkeypatch.setattr(OutputFolder, "free_space", lambda self: 1 << 20)
    if write:
        monkeypatch.setattr("mi_kernels.merge.combined.combined_sources", lambda *a: pytest.fail("was computed"))
        with pytest.raises(OutputError, match="of free space"):
            merge_checkpoint(ties, world.out, progress=False)
    else:
        plan_merge(ties, world.out, progress=False)


def test_the_text() -> None:
    assert str(Forecast(16 * GB, [space()], ["f"], 43)) == (
        "reads 16 GB, writes 1 GB to /d (2 GB free), about 45 s at the speed of this disk"
    )
    sweep = Forecast(2 * GB, [space(outputs=7, needed=5 * GB, free=int(1.6 * GB))], ["f"], uploaded=GB)
    assert str(sweep) == "reads 2 GB, writes 1 GB (7 outputs) to /d (1.6 GB free, 3.4 GB too little), then uploads 1 GB"
    two = Forecast(0, [space(), space(folder="/e\x1b")], [])
    assert str(two) == "writes 1 GB to /d (2 GB free), writes 1 GB to /e\\x1b (2 GB free)"
    assert str(Forecast(0, [], [])) == "reads 0 B"
    slow = Forecast(3 * GB, [], ["f"], 3, besides="computing thresholds", twice=GB)
    assert str(slow) == (
        "reads 3 GB (1 GB twice, first for computing thresholds), about 3 s at the speed of this disk and the time for "
        "computing thresholds"
    )


@pytest.mark.parametrize("method", sorted(METHODS))
def test_what_is_read_twice_is_said(tmp_path: Path, method: str) -> None:
    """By every method that reads the tensors to plan the merge, before it reads them, and by no other."""
    world = World(tmp_path)
    one = METHODS[method]
    models = [str(world.thinking)] if one.base == "required" else [str(world.instruct), str(world.thinking)]
    models += [str(world.thinking)] * max(0, one.least - len(models))
    content = {
        "method": method,
        "models": models,
        **({"lam": 0.5} if "lam" in {p.name for p in one.parameters} else {}),
    }
    content |= {"base": str(world.instruct)} if one.base == "required" else {}
    early: list[Forecast] = []
    with suppress(ArgumentError):  # angles of NaN, after the forecast
        plan_merge(content, world.out, early=early.append, progress=False)
    assert bool(early) == (one.reads != "nothing")
    for found in early:
        size = sum(t.nbytes for t in world.a.values())
        assert found.twice == (len(models) + (one.base == "required")) * size == found.bytes_read / 2
        assert f" twice, first for computing {one.reads}), writes" in str(found)
        assert found.as_dict()["bytes_read_twice"] == found.twice


def test_the_refusal_says_how_much_is_missing_and_where() -> None:
    Forecast(GB, [space(needed=2 * GB, free=2 * GB)], []).check()
    with pytest.raises(OutputError) as refusal:
        Forecast(GB, [space(), space(given="b", folder="/e", needed=26 * GB, free=int(1.6 * GB))], []).check()
    assert str(refusal.value) == (
        "b: the disk of /e needs 26 GB of free space, but has 1.6 GB: 24.4 GB are missing\n"
        "Free 24.4 GB there, or choose an output on another disk."
    )
    with pytest.raises(OutputError, match="needs 26 GB of free space for 7 outputs, but"):
        Forecast(GB, [space(outputs=7, needed=26 * GB)], []).check()


def test_outputs_on_two_disks_are_counted_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [OutputFolder(tmp_path / name) for name in "abc"]
    monkeypatch.setattr(OutputFolder, "device", lambda self: 7 if self.given.endswith("b") else 8)
    found = spaces(folders, [1, 20, 300], [1, 2, 3])
    assert [(s.given, s.outputs, s.written, s.needed - (16 << 20)) for s in found] == [
        (str(tmp_path / "a"), 2, 301, 4),
        (str(tmp_path / "b"), 1, 20, 2),
    ]


@pytest.fixture
def disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the inputs is in the page cache; the disk reads 1 GB/s and writes 500 MB/s."""
    monkeypatch.setattr(forecast_room, "read_speed", lambda files: ReadSpeed(0.5, 1e9))
    monkeypatch.setattr(forecast_room, "write_speed", lambda folder: 5e8)


@pytest.mark.usefixtures("disks")
def test_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model"
    file.write_bytes(b"")
    here = space(folder=str(tmp_path), written=4 * GB)
    assert Forecast(10 * GB, [here], [str(file)]).measured().seconds == 5 + 8
    assert Forecast(10 * GB, [], [str(file)]).measured().seconds == 5
    assert Forecast(10 * GB, [here], []).measured().seconds == 8
    elsewhere = Path("/proc")
    assert elsewhere.stat().st_dev != tmp_path.stat().st_dev
    assert Forecast(10 * GB, [space(folder="/proc", written=4 * GB)], [str(file)]).measured().seconds == 8
    monkeypatch.setattr(forecast_room, "write_speed", lambda folder: None)
    assert Forecast(10 * GB, [here], [str(file)]).measured().seconds is None


def test_a_small_job_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("read_speed", "write_speed"):
        monkeypatch.setattr(forecast_room, name, lambda where: pytest.fail("was measured"))
    small = Forecast(100 << 20, [space(written=100 << 20)], ["f"])
    assert small.measured() is small


def test_files_that_are_only_read(tmp_path: Path) -> None:
    file = tmp_path / "model"
    file.write_bytes(bytes(300))
    found = reading([str(file), str(tmp_path / "missing"), str(file)])
    assert (found.bytes_read, found.bytes_written, list(found.files)) == (600, 0, [str(file)] * 2)
