"""A failing system call of a merge never damages anything, see table.py."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterator

import pytest

from .session import Session, Unavailable
from .table import CALLS, LASTING, Disk, Tally, campaign, odd_disks


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    folder = tmp_path_factory.mktemp("faults")
    try:
        session = Session(folder)
    except Unavailable as reason:
        pytest.skip(str(reason))
    with session:
        yield Disk(folder, session)


@pytest.fixture
def tally() -> Tally:
    return Tally(Counter(), Counter(), [])


# Not "rename": replacing a model needs no rename if two folders can be exchanged; tested separately below.
@pytest.mark.parametrize("call", [call for call in CALLS if call not in ("stat", "readdir", "rename")])
def test_each_call_of_an_overwriting_merge_fails_once(disk: Disk, tally: Tally, call: str) -> None:
    disk.fail_each("overwrite", call, CALLS[call], tally)
    assert not tally.violations
    assert (tally.refused + tally.survived)[call] > 0


@pytest.mark.parametrize("call", ["rename", "mkdir", "create", "fsync"])
def test_each_call_of_a_merge_into_a_new_folder_fails_once(disk: Disk, tally: Tally, call: str) -> None:
    disk.fail_each("new", call, CALLS[call], tally)
    assert not tally.violations
    assert tally.refused[call] > 0


def test_each_rename_fails_once_where_two_folders_cannot_be_exchanged(disk: Disk, tally: Tally) -> None:
    """Three renames replace a model: old model aside, new model to OUT, old model into the work folder.

    The last one may fail, because the new model is already published.
    """
    disk.fail_each("overwrite", "rename", CALLS["rename"], tally, lacks="exchange")
    assert not tally.violations
    assert (tally.refused["rename"], tally.survived["rename"]) == (2, 1)


def test_a_sweep_is_undone_if_one_rename_fails(disk: Disk, tally: Tally) -> None:
    disk.fail_each("sweep", "rename", CALLS["rename"], tally)
    assert not tally.violations
    assert tally.refused["rename"] == 2


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("open-direct", errno.EINVAL),
        ("pwrite-direct", errno.EINVAL),
        ("fallocate", errno.EOPNOTSUPP),
        ("flock", errno.ENOLCK),
        ("exchange", errno.EINVAL),
    ],
)
def test_a_merge_works_without_features_that_a_disk_lacks(disk: Disk, tally: Tally, call: str, code: int) -> None:
    assert disk.inject("overwrite", {"call": call, "nth": 1, "errno": code, "sticky": 1}, tally)
    assert not tally.violations
    assert tally.survived[call] == 1


@pytest.mark.parametrize("call", ["create", "pwrite", "write", "fsync", "read"])
def test_a_disk_that_fails_permanently(disk: Disk, tally: Tally, call: str) -> None:
    disk.inject("overwrite", {"call": call, "nth": 2, "errno": LASTING[call][0], "sticky": 1}, tally)
    assert not tally.violations
    assert tally.refused[call] == 1


def test_short_reads_and_writes_and_a_slow_disk(disk: Disk, tally: Tally) -> None:
    for odd in odd_disks():
        disk.inject("overwrite", odd, tally)
    assert not tally.violations
    assert tally.survived["odd"] == 6


@pytest.mark.slow
@pytest.mark.parametrize("command", ["overwrite", "new", "sweep", "ties", "compare"])
def test_everything(disk: Disk, tally: Tally, command: str, request: pytest.FixtureRequest) -> None:
    if "slow" not in request.config.getoption("-m"):
        pytest.skip("a quarter of an hour: asked for with -m slow, or as python -m tests.hostile.faults")
    campaign(disk, [command], tally, every_errno=True)
    assert not tally.violations
