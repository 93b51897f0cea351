"""A merge resumes the finished shards of a killed merge after it has checked them, but only for the same request."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from mi_kernels import CheckpointError, OutputError, Recipe, Report, lerp_checkpoint, sweep_checkpoint
from mi_kernels.checksums.crc import crc32c
from mi_kernels.checksums.record import NAME as CHECKSUMS
from mi_kernels.checksums.record import FileSum, Record, ShardSum
from mi_kernels.errors import ClusterError
from mi_kernels.merge.api import plan_lerp
from mi_kernels.merge.journal import read
from mi_kernels.merge.options import Options
from mi_kernels.merge.stream import Request, Sink, stream
from mi_kernels.output.folder import OutputFolder
from mi_kernels.output.writer import ShardFile
from mi_kernels.system.disk_space import SPARE

from ..support.checks import World, assert_message, assert_refused, run_cli, snapshot
from ..support.kills import Run, Runner, runner
from ..support.models import assert_same_tensors, load, merge_reference, save, tiny

SHARDS = 5


@pytest.fixture(scope="module")
def run() -> Iterator[Runner]:
    with runner() as made:
        yield made


class Killed(World):
    """A world in which a merge was killed after some of its shards were finished."""

    @property
    def work(self) -> Path:
        return Path(OutputFolder(self.out, overwrite=True).work)

    @property
    def finished(self) -> set[str]:
        """The shards in the journal."""
        return set(read(str(self.work / "journal")).shards)

    def again(self, *extra: object) -> list[str]:
        return self.argv("--max-memory", "4096B", *extra)

    def report(self, capsys: pytest.CaptureFixture[str], *extra: object) -> dict[str, object]:
        capsys.readouterr()
        assert run_cli(self.again("--json", *extra)) == 0
        report: dict[str, object] = json.loads(capsys.readouterr().out)
        return report

    def assert_right(self, lam: float = 0.5) -> None:
        assert_same_tensors(load(self.out), merge_reference(self.a, self.b, lam))
        assert not self.work.exists()


@pytest.fixture
def killed(tmp_path: Path, run: Runner) -> Killed:
    world = Killed(tmp_path, shards=SHARDS)
    events = run(Run(world.again("-o", world.root / "elsewhere"))).events
    assert run(Run(world.again(), event=len(events) * 6 // 10)).status == -signal.SIGKILL
    assert 2 <= len(world.finished) < SHARDS
    return world


def test_finished_shards_are_not_written_again(killed: Killed, capsys: pytest.CaptureFixture[str]) -> None:
    finished = killed.finished
    before = {name: (killed.work / "model" / name).stat() for name in finished}
    report = killed.report(capsys)
    assert report["notes"][:1] == [f"resumed: {len(finished)} of {SHARDS} shards were finished"]
    assert report["shards"] == SHARDS - len(finished)
    for name, status in before.items():
        now = (killed.out / name).stat()
        assert (now.st_ino, now.st_mtime_ns) == (status.st_ino, status.st_mtime_ns)
    killed.assert_right()
    elsewhere = {p.name: p.read_bytes() for p in (killed.root / "elsewhere").iterdir() if p.name != "README.md"}
    assert {name: (killed.out / name).read_bytes() for name in elsewhere} == elsewhere | {
        CHECKSUMS: (
            killed.out / CHECKSUMS
        ).read_bytes()  # differs, because the title of the model card is the name of the folder
    }


class Modular(Killed):
    """A model with modules in subfolders."""

    def __post_init__(self) -> None:
        super().__post_init__()
        (self.thinking / "modules.json").write_text('[{"path": ""}, {"path": "1_Pooling"}, {"path": "deep/2_Dense"}]')
        save(self.thinking / "1_Pooling", {"w": torch.ones(3)})
        save(self.thinking / "deep" / "2_Dense", {"w": torch.zeros(3)})

    def files(self, folder: Path) -> dict[str, bytes]:
        found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        return {name: content for name, content in found.items() if name not in ("README.md", CHECKSUMS)}


@pytest.mark.parametrize("where", ["mkdir", "publishing", "published"])
def test_subfolders_of_a_killed_merge(
    tmp_path: Path, run: Runner, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    """The merge is killed when the first subfolder is made, before the model is renamed to the output, and after it."""
    world = Modular(tmp_path, shards=SHARDS)
    elsewhere = world.root / "elsewhere"
    events = run(Run(world.again("-o", elsewhere))).events
    assert {"1_Pooling/config.json", "deep/2_Dense/model.safetensors"} <= set(world.files(elsewhere))
    last = max(i for i, event in enumerate(events) if "rename" in event)
    made = [i for i, event in enumerate(events) if "mkdir" in event]
    event = {"mkdir": made[-2], "publishing": last, "published": last + 1}[where]
    assert run(Run(world.again(), event=event)).status == -signal.SIGKILL
    if where == "publishing":
        stale = world.work / "model" / "deep"
        (stale / "stray").mkdir()
        (world.work / "model" / "1_Pooling").rename(world.work / "model" / "moved")
        (world.work / "model" / "1_Pooling").symlink_to(world.instruct)
    before = snapshot(world.instruct)
    capsys.readouterr()
    assert run_cli(world.again()) == 0  # the same arguments, because the model card contains them
    assert capsys.readouterr().out.count("resumed") == 1
    world.assert_right()
    assert world.files(world.out) == world.files(elsewhere)
    assert run_cli(["verify", str(world.out)]) == 0
    assert snapshot(world.instruct) == before


def test_a_published_model_whose_subfolder_changed_is_not_adopted(tmp_path: Path, run: Runner) -> None:
    world = Modular(tmp_path, shards=SHARDS)
    events = run(Run(world.again("-o", world.root / "elsewhere"))).events
    last = max(i for i, event in enumerate(events) if "rename" in event)
    assert run(Run(world.again(), event=last + 1)).status == -signal.SIGKILL
    (world.out / "1_Pooling" / "config.json").write_text("{}")
    assert run_cli(world.again()) == 2  # the output exists, and is not the one of this merge
    assert run_cli(world.again("--overwrite")) == 0
    assert world.files(world.out) == world.files(world.root / "elsewhere")


OTHERS: dict[str, tuple[list[str], str]] = {
    "lam": (["--lam", "0.75"], "started with lam 0.5, not 0.75"),
    "layers": (["--layers", "1:"], 'with layers none, not "1:"'),
    "dtype": (["--dtype", "float32"], 'with dtype none, not "F32"'),
    "copy-from": (["--copy-from", "instruct"], 'with copy_from "thinking", not "instruct"'),
    "shards": (["--max-shard-size", "1KB"], "with max_shard_size none, not 1000"),
}


@pytest.mark.parametrize(("extra", "words"), OTHERS.values(), ids=OTHERS.keys())
def test_another_request_is_refused(
    killed: Killed, capsys: pytest.CaptureFixture[str], extra: list[str], words: str
) -> None:
    assert_refused(capsys, killed.root, killed.again(*extra), "an unfinished merge", words, "--restart")
    assert run_cli(killed.again("--quiet", *extra, "--restart")) == 0
    alone = killed.root / "alone" / "out"
    assert run_cli(killed.again("--quiet", *extra, "-o", alone)) == 0
    # The model card contains the command line, and the checksums contain that of the model card.
    made, wanted = ({p.name: p.read_bytes() for p in out.iterdir()} for out in (killed.out, alone))
    for name in ("README.md", CHECKSUMS):
        assert made.pop(name)
        assert wanted.pop(name)
    assert made == wanted


def rename_thinking(world: World) -> list[str]:
    save(world.root / "third", world.b, world.shards)
    return ["lerp", str(world.instruct), str(world.root / "third"), *world.argv()[3:]]


def touch(world: World) -> list[str]:
    os.utime(shard_of(world.thinking), ns=(0, 5))
    return world.argv()


def replace(world: World) -> list[str]:
    path = shard_of(world.thinking)
    status = path.stat()
    content = path.read_bytes()
    path.rename(world.root / "set aside")
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return world.argv()


def shard_of(model: Path) -> Path:
    return sorted(model.glob("*.safetensors"))[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (rename_thinking, "third"),
        (touch, "its mtime_ns was"),
        (replace, "its inode was"),
    ],
)
def test_other_inputs_are_refused(
    killed: Killed, capsys: pytest.CaptureFixture[str], change: Callable[[World], list[str]], words: str
) -> None:
    argv = change(killed)
    assert_refused(capsys, killed.root, argv, "an unfinished merge", words, "thinking", "--restart")
    assert run_cli([*argv, "--quiet", "--restart"]) == 0
    killed.assert_right()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def link(path: Path) -> None:
    path.rename(path.parent.parent / "moved")
    path.symlink_to(path.parent.parent / "moved")


@pytest.mark.parametrize("damage", [flip, cut, link, Path.unlink])
def test_what_is_no_longer_right_is_done_again(
    killed: Killed, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    finished = sorted(killed.finished)
    damage(killed.work / "model" / finished[0])
    report = killed.report(capsys)
    assert report["notes"][:1] == [f"resumed: {len(finished) - 1} of {SHARDS} shards were finished"]
    killed.assert_right()


def lines(journal: Path) -> list[bytes]:
    return journal.read_bytes().splitlines(keepends=True)


def test_a_journal_counts_up_to_its_damaged_line(killed: Killed, capsys: pytest.CaptureFixture[str]) -> None:
    journal = killed.work / "journal"
    whole = lines(journal)
    torn = {
        "at the end": (b"".join(whole)[:-1], len(whole) - 2),
        "in the middle": (b"".join([*whole[:2], whole[2].replace(b"sums", b"sumz"), *whole[3:]]), 1),
        "a line twice": (b"".join([*whole, whole[0]]), len(whole) - 1),
    }
    for name, (content, count) in torn.items():
        journal.write_bytes(content)
        assert len(killed.finished) == count, name
    journal.write_bytes(b"".join(whole)[:-1])
    assert killed.report(capsys)["notes"][:1] == [f"resumed: {len(whole) - 2} of {SHARDS} shards were finished"]
    killed.assert_right()


JOURNALS: dict[str, Callable[[list[bytes]], bytes]] = {
    "empty": lambda whole: b"",
    "zeros": lambda whole: b"\0" * 4096,
    "no-checksum": lambda whole: b"{}\n",
    "a-wrong-checksum": lambda whole: b"00000000 []\n",
    "first-line-torn": lambda whole: b"".join(whole)[1:],
    # Every line is intact, but the request of the shards is missing.
    "first-line-missing": lambda whole: b"".join(whole[1:]),
    "first-line-behind-the-others": lambda whole: b"".join([*whole[1:], whole[0]]),
}


@pytest.mark.parametrize("content", JOURNALS.values(), ids=JOURNALS.keys())
def test_without_a_journal_it_starts_clean(
    killed: Killed, capsys: pytest.CaptureFixture[str], content: Callable[[list[bytes]], bytes]
) -> None:
    journal = killed.work / "journal"
    journal.write_bytes(content(lines(journal)))
    assert "resumed" not in "".join(killed.report(capsys, "--lam", "0.25")["notes"])
    killed.assert_right(0.25)


def test_another_version_is_refused(
    killed: Killed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mi_kernels.merge.record.__version__", "99")
    assert_refused(capsys, killed.root, killed.again(), "with mi_kernels", 'not "99"', "--restart")


def test_a_full_disk_has_room_for_what_is_there(killed: Killed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Existing work counts as space to the byte. Too little space for the rest is an error, and no work is lost."""
    finished = killed.finished
    job = plan_lerp(killed.instruct, killed.thinking, [(killed.out, Recipe(0.5))], Options(progress=False))
    shards, index = job.layout()
    small = sum(map(len, job.small_files(job.outputs[0], index).values()))
    kept = sum(shard.size for shard in shards if shard.name in finished)
    left = sum(shard.size for shard in shards) - kept
    freed = 1000  # bytes of other files in the work folder
    monkeypatch.setattr(OutputFolder, "used_space", lambda self: kept + freed)

    def merge(free: int) -> Report:
        monkeypatch.setattr(OutputFolder, "free_space", lambda self: free)
        return lerp_checkpoint(killed.instruct, killed.thinking, killed.out, 0.5, progress=False)

    needed = SPARE + left + small - freed
    before = snapshot(killed.root)
    with pytest.raises(OutputError, match="of free space"):
        merge(needed - 1)
    assert snapshot(killed.root) == before
    assert merge(needed).notes[:1] == [f"resumed: {len(finished)} of {SHARDS} shards were finished"]
    killed.assert_right()


def test_an_output_that_came_into_being_is_refused_and_loses_nothing(
    killed: Killed, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error comes before any work. The finished shards are used after the other model is moved away."""
    finished = len(killed.finished)
    save(killed.out, tiny(3))
    assert_refused(capsys, killed.root, killed.again(), "exists and is not empty", "--overwrite")
    killed.out.rename(killed.root / "moved away")
    assert killed.report(capsys)["notes"][:1] == [f"resumed: {finished} of {SHARDS} shards were finished"]
    killed.assert_right()


def test_another_request_is_not_refused_where_nothing_would_be_lost(
    killed: Killed, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in killed.finished:
        (killed.work / "model" / name).unlink()
    assert killed.report(capsys, "--lam", "0.25")["shards"] == SHARDS
    killed.assert_right(0.25)


def unlink(path: Path) -> None:
    path.unlink()


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a-shard-changed": (flip, "model-00002-of-00005.safetensors"),
    "a-shard-cut": (cut, "model-00005-of-00005.safetensors"),
    "a-shard-missing": (unlink, "model-00001-of-00005.safetensors"),
    "the-config-changed": (flip, "config.json"),
    "the-index-missing": (unlink, "model.safetensors.index.json"),
    "the-checksums-changed": (flip, CHECKSUMS),
    "the-card-changed": (flip, "README.md"),
    "the-record-missing": (unlink, "mi_kernels.json"),
    "the-config-is-a-link": (link, "config.json"),
}


@pytest.mark.parametrize(("change", "name"), CHANGES.values(), ids=CHANGES.keys())
def test_a_model_that_is_changed_after_the_kill_is_merged_again(
    tmp_path: Path, run: Runner, change: Callable[[Path], None], name: str
) -> None:
    """The kill came right after the rename, so the work folder holds no shard: all of them are merged again."""
    world = Killed(tmp_path, shards=SHARDS)
    argv = world.again("--quiet", "--overwrite")
    events = run(Run(argv)).events
    made = {path.name: path.read_bytes() for path in world.out.iterdir()}
    shutil.rmtree(world.out)
    assert run(Run(argv, event=events.index("rename") + 1)).status == -signal.SIGKILL
    assert len(world.finished) == SHARDS
    change(world.out / name)
    assert run_cli(argv) == 0
    world.assert_right()
    assert {path.name: path.read_bytes() for path in world.out.iterdir()} == made


def published_and_killed(tmp_path: Path, run: Runner) -> Killed:
    """A merge that was killed just after its model appeared at `out`."""
    world = Killed(tmp_path, shards=SHARDS)
    events = run(Run(world.again())).events
    shutil.rmtree(world.out)
    assert run(Run(world.again(), event=events.index("rename") + 1)).status == -signal.SIGKILL
    return world


def test_a_model_that_was_published_before_the_kill_is_kept_as_it_is(
    tmp_path: Path, run: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    world = published_and_killed(tmp_path, run)
    before = snapshot(world.out)
    assert run_cli(world.again()) == 0
    assert "resumed: 5 of 5 shards were finished" in capsys.readouterr().out
    assert snapshot(world.out) == before
    world.assert_right()


@pytest.mark.parametrize(
    "extra", [["-q"], ["--quiet", "--threads", "1"], ["--io=buffered", "--overwrite"], ["--sigma"]]
)
def test_a_published_model_is_kept_whatever_the_card_would_say(
    tmp_path: Path, run: Runner, extra: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    world = published_and_killed(tmp_path, run)
    before = snapshot(world.out)
    assert run_cli(world.again(*extra)) == 0, capsys.readouterr().err
    assert snapshot(world.out) == before
    world.assert_right()


def test_a_published_model_of_another_build_of_this_version_is_kept(
    tmp_path: Path, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other build wrote other sentences into the card and the record."""
    world = published_and_killed(tmp_path, run)
    before = snapshot(world.out)
    monkeypatch.setattr("mi_kernels.output.card._verifying", lambda facts, name: ["## Verify", "A new sentence."])
    monkeypatch.setattr("mi_kernels.merge.record._LERP_NUMERICS", "Another sentence.")
    assert run_cli(world.again()) == 0
    assert snapshot(world.out) == before
    world.assert_right()


def test_a_published_model_of_other_parameters_is_not_this_merge(tmp_path: Path, run: Runner) -> None:
    """The record is part of the model, so a changed one is refused even if its checksum was adapted."""
    world = Killed(tmp_path, shards=SHARDS)
    argv = world.again("--overwrite")
    events = run(Run(argv)).events
    shutil.rmtree(world.out)
    assert run(Run(argv, event=events.index("rename") + 1)).status == -signal.SIGKILL
    record = world.out / "mi_kernels.json"
    content = {**json.loads(record.read_text()), "lam": 0.75}
    record.write_text(json.dumps(content, indent=2) + "\n")
    sums = Record.decode((world.out / CHECKSUMS).read_bytes(), CHECKSUMS)
    sums.files["mi_kernels.json"] = FileSum(record.stat().st_size, crc32c(record.read_bytes()))
    (world.out / CHECKSUMS).write_bytes(sums.encode())
    assert run_cli(argv) == 0
    assert json.loads(record.read_text())["lam"] == 0.5
    world.assert_right()


def test_a_sweep_that_fails_after_it_was_resumed_can_still_be_finished(
    tmp_path: Path, run: Runner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The killed run had published its first output. Only the journal shows that it belongs to this sweep."""
    world = World(tmp_path, shards=3)
    lams = [0.25, 0.5]
    argv = ["sweep", str(world.instruct), str(world.thinking), "-o", str(tmp_path / "mi-{lam}")]
    argv += ["--lam", "0.25,0.5", "--threads", "1"]
    events = run(Run([*argv, "-o", str(tmp_path / "whole-{lam}")])).events
    assert run(Run(argv, event=events.index("rename") + 1)).status == -signal.SIGKILL
    assert [(tmp_path / f"mi-{lam}").exists() for lam in lams] == [True, False]

    def fail(self: OutputFolder, name: str, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.path.join(self.staged, name))

    with monkeypatch.context() as patched:
        patched.setattr(OutputFolder, "write_file", fail)
        assert run_cli(argv) == 2
    words = f"{tmp_path}/mi-0.5: writing failed (", f"Already published and complete: {tmp_path}/mi-0.25."
    assert_message(capsys.readouterr().err, *words)
    assert run_cli(argv) == 0
    for lam in lams:
        assert_same_tensors(load(tmp_path / f"mi-{lam}"), merge_reference(world.a, world.b, lam))
    assert not list(tmp_path.glob(".*"))


def test_shards_that_a_failing_cluster_finished_are_kept(tmp_path: Path) -> None:
    """The user did not stop the merge, so the same command resumes it, as after a kill."""
    world = Killed(tmp_path, shards=SHARDS)
    job = plan_lerp(world.instruct, world.thinking, [(world.out, Recipe(0.5))], Options(progress=False, threads=1))
    done: list[str] = []

    def failing(request: Request, sink: Sink) -> None:
        def fail_at_the_third(output: int, shard: int, sums: ShardSum) -> None:
            if len(done) == 2:
                raise ClusterError("node 3 is gone", "Run the same command again.")
            done.append(request.plan.shards[shard].name)
            assert sink.on_shard is not None
            sink.on_shard(output, shard, sums)

        stream(request, sink._replace(on_shard=fail_at_the_third))

    with pytest.raises(ClusterError):
        job.run(failing)
    assert world.finished == set(done)
    report = lerp_checkpoint(world.instruct, world.thinking, world.out, 0.5, progress=False)
    assert report.notes[:1] == [f"resumed: 2 of {SHARDS} shards were finished"]
    world.assert_right()


def test_a_sweep_resumes_each_output(tmp_path: Path, run: Runner) -> None:
    world = World(tmp_path, shards=3)
    lams = [0.25, 0.5, 1.0]
    outs = [world.root / f"mi-{lam:g}" for lam in lams]
    argv = [str(word) for word in ["sweep", world.instruct, world.thinking, "-o", world.root / "mi-{lam}"]]
    argv += ["--lam", "0.25,0.5,1", "--max-memory", "12288B", "--threads", "1"]
    events = run(Run(argv)).events
    for out in outs:
        os.rename(out, tmp_path / f"whole-{out.name}")
    first_rename = events.index("rename")
    assert run(Run(argv, event=first_rename)).status == -signal.SIGKILL
    damaged = tmp_path / ".mi-0.5.mi-kernels-work" / "model" / "model-00002-of-00003.safetensors"
    flip(damaged)
    reports = sweep_checkpoint(world.instruct, world.thinking, str(tmp_path / "mi-{lam}"), lams, progress=False)
    assert [report.shards for report in reports] == [0, 1, 0]
    for out, lam, report in zip(outs, lams, reports):
        assert report.notes[:1] == ["resumed: 8 of 9 shards were finished"]
        assert_same_tensors(load(out), merge_reference(world.a, world.b, lam))


def test_an_input_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    write = ShardFile.write

    def changing(self: ShardFile, data: memoryview, offset: int) -> None:
        os.utime(shard_of(world.thinking), ns=(0, 5))
        write(self, data, offset)

    monkeypatch.setattr(ShardFile, "write", changing)
    with pytest.raises(CheckpointError, match=r"has been written .* since it was opened"):
        lerp_checkpoint(world.instruct, world.thinking, world.out, 0.5, progress=False)
    assert {path.name for path in tmp_path.iterdir()} == {"instruct", "thinking"}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("failing", [0, 1, 2])
def test_all_outputs_of_a_sweep_are_published_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int, old: bool
) -> None:
    world = World(tmp_path)
    outs = [tmp_path / f"mi-{lam}" for lam in (0.25, 0.5, 0.75)]
    for out in outs if old else ():
        save(out, tiny(3))
    if not old:
        outs[1].mkdir()  # an existing empty folder is restored too
    before = snapshot(tmp_path)
    publish = OutputFolder.publish

    def fail(self: OutputFolder) -> None:
        if self.path == str(outs[failing]):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        publish(self)

    monkeypatch.setattr(OutputFolder, "publish", fail)
    with pytest.raises(OutputError, match=os.strerror(errno.EIO)):
        sweep_checkpoint(
            world.instruct,
            world.thinking,
            str(tmp_path / "mi-{lam}"),
            [0.25, 0.5, 0.75],
            progress=False,
            overwrite=True,
        )
    assert snapshot(tmp_path) == before


def test_an_output_that_cannot_be_withdrawn_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)

    def fail(self: OutputFolder) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    publish = OutputFolder.publish
    monkeypatch.setattr(OutputFolder, "publish", lambda self: fail(self) if "0.5" in self.path else publish(self))
    monkeypatch.setattr(OutputFolder, "withdraw", lambda self: fail(self) if "0.25" in self.path else None)
    with pytest.raises(OutputError, match=r"mi-0\.25: already published") as error:
        sweep_checkpoint(world.instruct, world.thinking, str(tmp_path / "mi-{lam}"), [0.25, 0.5], progress=False)
    assert len(str(error.value).splitlines()) == 2
    assert_same_tensors(load(tmp_path / "mi-0.25"), merge_reference(world.a, world.b, 0.25))
    assert {path.name for path in tmp_path.iterdir()} == {"instruct", "thinking", "mi-0.25"}


@pytest.mark.parametrize("memory", [4096 * 2, None])
def test_the_checksums_are_those_of_the_files(tmp_path: Path, memory: int | None) -> None:
    world = World(tmp_path)
    sweep_checkpoint(
        world.instruct, world.thinking, str(tmp_path / "mi-{lam}"), [0.25, 1], progress=False, max_memory=memory
    )
    for out in (tmp_path / "mi-0.25", tmp_path / "mi-1"):
        content = {p.name: p.read_bytes() for p in out.iterdir()}
        record = Record.decode(content.pop(CHECKSUMS), CHECKSUMS)
        assert {*record.shards, *record.files} == set(content)
        for name, file in {**record.shards, **record.files}.items():
            assert (file.size, file.crc) == (len(content[name]), crc32c(content[name]))
        for name, shard in record.shards.items():
            for tensor in shard.tensors.values():
                assert tensor.crcs == (crc32c(content[name][tensor.begin : tensor.begin + tensor.size]),)


def test_the_forecast_of_a_resumed_merge(killed: Killed, capsys: pytest.CaptureFixture[str]) -> None:
    """What is finished is read once, to check it, and is not written. The forecast changes no file."""
    before, finished = snapshot(killed.root), killed.finished
    job = plan_lerp(killed.instruct, killed.thinking, [(killed.out, Recipe(0.5))], Options(progress=False))
    shards, index = job.layout()
    kept = sum(shard.size for shard in shards if shard.name in finished)
    small = sum(map(len, job.small_files(job.outputs[0], index).values()))
    found = job.forecast()
    assert snapshot(killed.root) == before
    assert found.bytes_written == sum(shard.size for shard in shards) - kept + small
    report = killed.report(capsys)
    assert found.bytes_read == report["bytes_read"] + kept


@pytest.mark.parametrize("what", ["another request", "restart", "no journal"])
def test_the_forecast_of_a_merge_that_cannot_resume(killed: Killed, what: str) -> None:
    """It reads and writes everything; `run` refuses the other request."""
    if what == "no journal":
        (killed.work / "journal").unlink()
    options = Options(progress=False, restart=what == "restart")
    lam = 0.25 if what == "another request" else 0.5
    job = plan_lerp(killed.instruct, killed.thinking, [(killed.out, Recipe(lam))], options)
    assert job.forecast().bytes_read == 2 * sum(t.nbytes for t in killed.a.values())


def test_a_published_sweep_that_was_killed_has_nothing_to_write(tmp_path: Path, run: Runner) -> None:
    world = Killed(tmp_path, shards=SHARDS)
    rename = run(Run(world.again("-o", world.root / "elsewhere"))).events.index("rename")
    assert run(Run(world.again(), event=rename + 1)).status == -signal.SIGKILL
    assert world.out.exists()
    assert world.work.exists()
    job = plan_lerp(world.instruct, world.thinking, [(world.out, Recipe(0.5))], Options(progress=False))
    shards, index = job.layout()
    found = job.forecast()
    assert found.bytes_read == sum(shard.size for shard in shards)
    assert found.bytes_written == sum(map(len, job.small_files(job.outputs[0], index).values()))


def test_progress_starts_at_what_is_done(killed: Killed) -> None:
    job = plan_lerp(killed.instruct, killed.thinking, [(killed.out, Recipe(0.5))], Options(progress=False))
    sizes = {shard.name: shard.size for shard in job.layout()[0]}
    kept = sum(sizes[name] for name in killed.finished)
    calls: list[tuple[int, int]] = []
    lerp_checkpoint(killed.instruct, killed.thinking, killed.out, 0.5, progress=lambda *c: calls.append(c))
    assert calls[0] == (kept, sum(sizes.values()))
    assert calls[-1] == (sum(sizes.values()), sum(sizes.values()))
