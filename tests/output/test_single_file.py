"""An output that is one file: NAME.safetensors appears by one rename, with nothing beside it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from mi_kernels import (
    ArgumentError,
    CheckpointError,
    OutputError,
    __version__,
    lerp_checkpoint,
    merge_checkpoint,
    open_checkpoint,
    push,
    sweep_checkpoint,
    verify_checkpoint,
)
from mi_kernels.output.file import OutputFile, output_at
from mi_kernels.output.folder import OutputFolder
from mi_kernels.output.writer import ShardFile
from mi_kernels.system import calls as system
from mi_kernels.verify.recompute import recompute_merge
from mi_kernels.verify.verify import record_checksums

from ..support.checks import World, assert_message, assert_refused, handled, run_cli, snapshot
from ..support.kills import Run, Runner, runner
from ..support.models import (
    SINGLE,
    Tensors,
    assert_same_tensors,
    lerp_reference,
    load,
    merge_reference,
    qwen3_model,
    save,
    tiny,
    write_in_order,
)


class FileWorld(World):
    """The output of the command is a file."""

    @property
    def out(self) -> Path:
        return self.root / "out.safetensors"

    @property
    def work(self) -> Path:
        return self.root / ".out.safetensors.mi-kernels-work"

    def merge(self, **options: object) -> list[str]:
        options = {"progress": False, "threads": 1, **options}
        return lerp_checkpoint(self.instruct, self.thinking, self.out, 0.5, **options).notes  # type: ignore[arg-type]

    def assert_right(self, lam: float = 0.5) -> None:
        """Asserts that the output is the merge, and that nothing else was left."""
        assert_same_tensors(load_file(self.out), merge_reference(self.a, self.b, lam))
        assert {path.name for path in self.root.iterdir()} == {"instruct", "thinking", "out.safetensors"}


@pytest.fixture
def world(tmp_path: Path) -> FileWorld:
    return FileWorld(tmp_path)


@pytest.fixture(scope="module")
def run() -> Iterator[Runner]:
    with runner() as made:
        yield made


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="numpy") as file:
        return file.metadata()


def test_one_file_and_nothing_beside_it(world: FileWorld) -> None:
    inputs = snapshot(world.root)
    report = lerp_checkpoint(world.instruct, world.thinking, world.out, 0.5, progress=False)
    world.assert_right()
    assert {name: value for name, value in snapshot(world.root).items() if name != world.out.name} == inputs
    assert (report.out, report.shards) == (str(world.out), 1)
    assert report.bytes_written == world.out.stat().st_size
    assert handled(report.notes) == []
    assert open_checkpoint(world.out).notes == []


def test_the_record_is_in_the_metadata(world: FileWorld) -> None:
    assert run_cli([*world.argv("--layers", "0:1"), "--quiet"]) == 0
    found = metadata(world.out)
    assert found.pop("mi_kernels.summary").endswith("with lam = 0.5, layers 0:1.")
    models = [str(world.instruct), str(world.thinking)]
    assert json.loads(found.pop("mi_kernels.models")) == models
    recipe = json.loads(found.pop("mi_kernels.recipe"))
    assert recipe == {"method": "lerp", "models": models, "lam": 0.5, "layers": "0:1"}
    merge_checkpoint(recipe, world.root / "again.safetensors", progress=False)
    assert (world.root / "again.safetensors").read_bytes() == world.out.read_bytes()
    assert found == {
        "format": "pt",
        "mi_kernels.version": __version__,
        "mi_kernels.method": "lerp",
        "mi_kernels.lam": "0.5",
    }


def test_inspect_shows_the_record(world: FileWorld, capsys: pytest.CaptureFixture[str]) -> None:
    world.merge()
    assert run_cli(["inspect", str(world.out)]) == 0
    shown = capsys.readouterr().out
    assert f"merged by mi_kernels {__version__} from {world.instruct}, {world.thinking}" in shown
    assert "with lam = 0.5" in shown


def test_inspect_shows_the_record_beside_a_config(world: FileWorld, capsys: pytest.CaptureFixture[str]) -> None:
    world.merge()
    (world.root / "m").mkdir()
    world.out.rename(world.root / "m" / "o.safetensors")
    shutil.copy(world.thinking / "config.json", world.root / "m")
    for path in (world.root / "m", world.root / "m" / "o.safetensors"):
        assert run_cli(["inspect", str(path)]) == 0
        assert f"merged by mi_kernels {__version__} from {world.instruct}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "models", ["", "[", '{"a": 1}', "7", "null", "[1, null, {}]", '["' + "x" * 10_000 + '"]', "[" * 100_000]
)
def test_inspect_survives_metadata_of_a_stranger(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], models: str
) -> None:
    from safetensors.torch import save_file

    said = {"mi_kernels.models": models, "mi_kernels.summary": "\x1b[2J", "mi_kernels.version": "1\n2"}
    save_file(tiny(1), tmp_path / "x.safetensors", metadata=said)
    for flags in ([], ["--json"]):
        assert run_cli(["inspect", str(tmp_path / "x.safetensors"), *flags]) == 0
        assert "\x1b" not in capsys.readouterr().out


def test_the_file_as_an_input(world: FileWorld) -> None:
    """Its metadata is of one merge. The next merge writes its own, into a folder none."""
    world.merge()
    again = world.root / "again.safetensors"
    lerp_checkpoint(world.out, world.thinking, again, 0.25, progress=False)
    first = merge_reference(world.a, world.b, 0.5)
    assert_same_tensors(load_file(again), merge_reference(first, world.b, 0.25))
    assert metadata(again)["mi_kernels.lam"] == "0.25"
    lerp_checkpoint(again, world.thinking, world.root / "folder", 0.5, progress=False)
    assert metadata(world.root / "folder" / SINGLE) == {"format": "pt"}


def test_transformers_loads_it_with_a_config(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    for seed, name in enumerate("ab"):
        qwen3_model(seed, tied=False).save_pretrained(tmp_path / name)
    (tmp_path / "new").mkdir()
    shutil.copy(tmp_path / "a" / "config.json", tmp_path / "new")
    out = tmp_path / "new" / SINGLE
    lerp_checkpoint(tmp_path / "a" / SINGLE, tmp_path / "b" / SINGLE, out, 0.3, progress=False)
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "new", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    merged = merge_reference(load(tmp_path / "a"), load(tmp_path / "b"), 0.3)
    assert_same_tensors(dict(model.state_dict()), merged)


def test_loose_files_in_one_folder(tmp_path: Path) -> None:
    """Image models are kept so: many files in one folder, and none of them has a config."""
    a, b = ({k: v for k, v in tiny(seed).items() if k.startswith("model.")} for seed in (1, 2))
    for name, tensors in (("a", a), ("b", b)):
        write_in_order(tmp_path / f"{name}.safetensors", tensors)
    report = lerp_checkpoint(
        tmp_path / "a.safetensors", tmp_path / "b.safetensors", tmp_path / "c.safetensors", 0.3, progress=False
    )
    assert handled(report.notes) == []
    assert_same_tensors(load_file(tmp_path / "c.safetensors"), merge_reference(a, b, 0.3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors", "c.safetensors"]


def test_every_method(world: FileWorld) -> None:
    recipe = {"method": "linear", "models": [str(world.instruct), str(world.thinking)], "weight": [1, 3]}
    merge_checkpoint(recipe, world.root / "folder", progress=False)
    merge_checkpoint(recipe, world.out, progress=False)
    assert_same_tensors(load_file(world.out), load(world.root / "folder"))
    assert metadata(world.out)["mi_kernels.method"] == "linear"
    assert "mi_kernels.lam" not in metadata(world.out)


def test_another_dtype(world: FileWorld) -> None:
    world.merge(dtype="fp32")
    import torch

    assert_same_tensors(load_file(world.out), merge_reference(world.a, world.b, 0.5, torch.float32))


def test_a_note_on_what_config_json_must_say(tmp_path: Path) -> None:
    """The folder's config.json would be adjusted. Here the user has to do it."""
    world = FileWorld(tmp_path)
    shutil.rmtree(world.thinking)
    b = {name: t for name, t in world.b.items() if name != "lm_head.weight"}
    save(world.thinking, b, config={"model_type": "qwen3", "tie_word_embeddings": True})
    notes = world.merge()
    assert any("set tie_word_embeddings to false in its config.json" in note for note in notes)
    head = lerp_reference(world.a["lm_head.weight"], b["model.embed_tokens.weight"], 0.5)
    assert_same_tensors({"h": load_file(world.out)["lm_head.weight"]}, {"h": head})


def test_no_note_on_small_files_that_the_output_does_not_have(world: FileWorld) -> None:
    for folder, text in ((world.instruct, "a"), (world.thinking, "b")):
        (folder / "chat_template.jinja").write_text(text)
        (folder / "config.json").write_text(json.dumps({"rope_theta": len(text) if text == "a" else 5}))
    assert any(
        "chat templates differ" in n
        for n in lerp_checkpoint(world.instruct, world.thinking, world.root / "folder", 0.5, progress=False).notes
    )
    notes = world.merge()
    assert not [note for note in notes if "the output has" in note or "template" in note]
    assert any("rope_theta" in note for note in notes)


def test_small_files_are_not_looked_at(world: FileWorld) -> None:
    """The output has none, so those of the inputs neither have notes nor are a reason to refuse."""
    (world.thinking / "modules.json").write_text('[{"idx": 1, "path": "../2_Dense", "type": "a.Dense"}]')
    (world.thinking / "trainer_state.json").write_text("{}")
    (world.thinking / "config.json").unlink()
    assert handled(world.merge()) == []
    world.assert_right()


@pytest.mark.parametrize("config", [False, True])
def test_a_note_on_the_small_files_of_another_model(world: FileWorld, config: bool) -> None:
    lone = world.thinking / "lone.safetensors"
    write_in_order(lone, world.b)
    if not config:
        (world.instruct / "config.json").unlink()
    notes = handled(lerp_checkpoint(world.instruct, lone, world.root / "folder", 0.5, progress=False).notes)
    assert any(note.endswith(f"so the output has those of {world.instruct}") for note in notes) == config
    assert (
        any(note == f"{world.instruct} has no config.json, so the output has no config.json" for note in notes)
        != config
    )


# Sweeps.


def test_a_sweep_of_files(world: FileWorld) -> None:
    lams = [0.0, 0.25, 0.5, 1.0]
    reports = sweep_checkpoint(
        world.instruct, world.thinking, str(world.root / "mi-{lam}.safetensors"), lams, progress=False
    )
    for lam, report in zip(lams, reports):
        path = world.root / f"mi-{lam:g}.safetensors"
        assert report.out == str(path)
        assert metadata(path)["mi_kernels.lam"] == json.dumps(lam)
        alone = world.root / "alone.safetensors"
        lerp_checkpoint(world.instruct, world.thinking, alone, lam, progress=False, overwrite=True)
        assert path.read_bytes() == alone.read_bytes()
        assert_same_tensors(load_file(path), merge_reference(world.a, world.b, lam))


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("failing", [0, 1, 2])
@pytest.mark.parametrize("exchange", [True, False])
def test_all_files_of_a_sweep_are_published_or_none(
    world: FileWorld, monkeypatch: pytest.MonkeyPatch, failing: int, old: bool, exchange: bool
) -> None:
    outs = [world.root / f"mi-{lam}.safetensors" for lam in (0.25, 0.5, 0.75)]
    for out in outs if old else ():
        write_in_order(out, tiny(3))
    if not exchange:
        monkeypatch.setattr(system, "_libc", object)
    before = snapshot(world.root)
    publish = OutputFile.publish

    def fail(self: OutputFile) -> None:
        if self.path == str(outs[failing]):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        publish(self)

    monkeypatch.setattr(OutputFile, "publish", fail)
    pattern = str(world.root / "mi-{lam}.safetensors")
    with pytest.raises(OutputError, match=os.strerror(errno.EIO)):
        sweep_checkpoint(
            world.instruct, world.thinking, pattern, [0.25, 0.5, 0.75], progress=False, overwrite=True, io="buffered"
        )
    assert snapshot(world.root) == before


# What is at the path already.


def test_an_existing_file_is_refused(world: FileWorld, capsys: pytest.CaptureFixture[str]) -> None:
    world.out.write_text("precious")
    assert_refused(capsys, world.root, world.argv(), f"{world.out}: exists", "--overwrite")


def test_an_existing_file_is_replaced_at_once(world: FileWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    write_in_order(world.out, tiny(3))
    seen: list[Tensors] = []
    real = OutputFile.publish

    def publish(self: OutputFile) -> None:
        seen.append(load_file(world.out))
        real(self)
        seen.append(load_file(world.out))

    monkeypatch.setattr(OutputFile, "publish", publish)
    world.merge(overwrite=True)
    assert_same_tensors(seen[0], tiny(3))
    assert_same_tensors(seen[1], merge_reference(world.a, world.b, 0.5))
    world.assert_right()


@pytest.mark.parametrize("content", [["model.safetensors"], ["notes.txt"]])
def test_a_folder_is_never_replaced_by_a_file(
    world: FileWorld, capsys: pytest.CaptureFixture[str], content: list[str]
) -> None:
    world.out.mkdir()
    for name in content:
        (world.out / name).write_text("")
    assert_refused(capsys, world.root, world.argv(), "exists and is not empty")
    if content == ["notes.txt"]:
        assert_refused(capsys, world.root, world.argv("--overwrite"), "does not look like a model folder")
        return
    world.merge(overwrite=True)
    assert_same_tensors(load(world.out), merge_reference(world.a, world.b, 0.5))


def test_a_folder_with_the_name_of_a_file(world: FileWorld) -> None:
    """Its merge can be computed again, and a sweep does not mix it with files."""
    lerp_checkpoint(world.instruct, world.thinking, world.root / "folder", 0.5, progress=False)
    (world.root / "folder").rename(world.out)
    assert recompute_merge(str(world.out), progress=False).right
    world.out.rename(world.root / "1.safetensors")
    outs = str(world.root / "{lam}.safetensors")
    with pytest.raises(ArgumentError, match="is a folder, but other outputs of the sweep are files"):
        sweep_checkpoint(world.instruct, world.thinking, outs, [0.5, 1], progress=False, overwrite=True)


def test_a_broken_link_is_refused(world: FileWorld, capsys: pytest.CaptureFixture[str]) -> None:
    world.out.symlink_to("none")
    assert_refused(capsys, world.root, world.argv("--overwrite"), "broken link")


def test_a_link_is_followed(world: FileWorld) -> None:
    (world.root / "elsewhere").mkdir()
    write_in_order(world.root / "elsewhere" / "x.safetensors", tiny(3))
    world.out.symlink_to(world.root / "elsewhere" / "x.safetensors")
    world.merge(overwrite=True)
    assert world.out.is_symlink()
    found = load_file(world.root / "elsewhere" / "x.safetensors")
    assert_same_tensors(found, merge_reference(world.a, world.b, 0.5))


def test_a_link_to_an_input_is_refused(world: FileWorld, capsys: pytest.CaptureFixture[str]) -> None:
    world.out.symlink_to(next(world.instruct.glob("*.safetensors")))
    assert_refused(capsys, world.root, world.argv("--overwrite"), "is inside the input")


def test_a_hard_link_to_an_input_is_refused(world: FileWorld, capsys: pytest.CaptureFixture[str]) -> None:
    os.link(next(world.thinking.glob("*.safetensors")), world.out)
    assert_refused(capsys, world.root, world.argv("--overwrite"), "is a hard link to the input")


def test_a_file_that_appears_during_the_merge(world: FileWorld) -> None:
    with output_at(world.out) as file:
        file.write_file(SINGLE, b"mine")
        world.out.write_text("of another program")
        with pytest.raises(OutputError, match="exists"):
            file.publish()
    assert world.out.read_text() == "of another program"
    assert not world.work.exists()


def test_a_second_process_with_the_same_output(world: FileWorld, capsys: pytest.CaptureFixture[str]) -> None:
    with output_at(world.out) as first:
        first.write_file(SINGLE, b"x")
        before = snapshot(world.root)
        assert run_cli(world.argv()) == 2
        assert_message(capsys.readouterr().err, str(world.out), "another process")
        assert snapshot(world.root) == before
        first.publish()
    assert world.out.read_bytes() == b"x"


def test_the_name_decides(tmp_path: Path) -> None:
    assert isinstance(output_at(tmp_path / "x.safetensors"), OutputFile)
    for name in ("x", "x.safetensors.d", "safetensors"):
        assert type(output_at(tmp_path / name)) is OutputFolder
    for slashes in ("/", "//"):
        file = output_at(f"{tmp_path}/x.safetensors{slashes}")
        assert isinstance(file, OutputFile)
        assert file.given == str(tmp_path / "x.safetensors")


# Failures, and resuming.


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("writes", [0, 1])
def test_a_full_disk_leaves_everything_as_it_was(
    world: FileWorld, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], writes: int, old: bool
) -> None:
    if old:
        write_in_order(world.out, tiny(3))
    before = snapshot(world.root)
    left = [writes]
    real = ShardFile.write

    def write(self: ShardFile, data: memoryview, offset: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self, data, offset)

    monkeypatch.setattr(ShardFile, "write", write)
    assert run_cli(world.argv("--overwrite", "--max-memory", "8KiB")) == 2
    assert_message(capsys.readouterr().err, str(world.out), os.strerror(errno.ENOSPC))
    assert snapshot(world.root) == before


def test_created_parents_are_removed(world: FileWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(world.root)

    def write(self: ShardFile, data: memoryview, offset: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(ShardFile, "write", write)
    with pytest.raises(OutputError):
        lerp_checkpoint(world.instruct, world.thinking, world.root / "x" / "y" / "z.safetensors", 0.5, progress=False)
    assert snapshot(world.root) == before


def killed_at(world: FileWorld, run: Runner, argv: list[str], old: bool, after: int) -> None:
    """Kills the merge `after` events after the one that publishes the file, which replaces another one if `old`."""
    for event in (None, "exchange" if old else "rename"):
        world.out.unlink(missing_ok=True)
        if old:
            write_in_order(world.out, tiny(3))
        if event is None:
            events = run(Run(argv)).events
        else:
            assert run(Run(argv, event=events.index(event) + after)).status == -signal.SIGKILL


@pytest.mark.parametrize("old", [False, True])
def test_a_finished_file_is_not_written_again(
    world: FileWorld, run: Runner, capsys: pytest.CaptureFixture[str], old: bool
) -> None:
    """The kill comes right before the rename, so the file is whole and its journal says so."""
    argv = world.argv("--overwrite")
    killed_at(world, run, argv, old, 0)
    before = (world.work / "model" / SINGLE).stat()
    assert run_cli(argv) == 0
    assert "resumed: 1 of 1 shards were finished" in capsys.readouterr().out
    assert (world.out.stat().st_ino, world.out.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    world.assert_right()


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("changed", [False, True])
def test_a_file_that_was_published_before_the_kill(world: FileWorld, run: Runner, old: bool, changed: bool) -> None:
    argv = world.argv("--overwrite", "--quiet")
    killed_at(world, run, argv, old, 1)
    before = world.out.stat()
    if changed:
        content = bytearray(world.out.read_bytes())
        content[-1] ^= 1
        world.out.write_bytes(content)
    assert run_cli(argv) == 0
    assert (world.out.stat().st_ino == before.st_ino) is not changed
    world.assert_right()


def test_another_request_is_refused(world: FileWorld, run: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    events = run(Run(world.argv())).events
    world.out.unlink()
    assert run(Run(world.argv(), event=events.index("rename"))).status == -signal.SIGKILL
    assert_refused(capsys, world.root, world.argv("--lam", "0.75"), "started with lam 0.5, not 0.75", "--restart")
    assert run_cli(world.argv("--lam", "0.75", "--restart", "--quiet")) == 0
    world.assert_right(0.75)


def test_the_file_is_synced_before_it_is_published(world: FileWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    done: list[str] = []
    real_sync, real_rename = os.fsync, os.rename

    def fsync(fd: int) -> None:
        done.append(os.readlink(f"/proc/self/fd/{fd}"))
        real_sync(fd)

    def rename(source: str, target: str) -> None:
        done.append(f"rename {target}")
        real_rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr("mi_kernels.output.writer.ShardFile.close.__defaults__", (fsync,))
    monkeypatch.setattr(os, "rename", rename)
    world.merge()
    at = done.index(f"rename {world.out}")
    staged = str(world.work / "model")
    assert done.count(os.path.join(staged, SINGLE)) == 1
    assert os.path.join(staged, SINGLE) in done[:at]
    assert done[at - 2 : at] == [staged, str(world.work)]
    assert done[at + 1] == str(world.root)


# What a file cannot have.


def test_options_that_need_a_folder(world: FileWorld, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(capsys, world.root, world.argv("--max-shard-size", "1GB"), "is one file", "--max-shard-size is set")
    assert_refused(capsys, world.root, world.argv("--push", "org/name"), "--push uploads a model folder")
    assert_refused(capsys, world.root, world.argv("--sigma"), "has no model card for sigma")
    with pytest.raises(ArgumentError, match="max_shard_size"):
        world.merge(max_shard_size=1000)


def test_verify_needs_a_folder(world: FileWorld, capsys: pytest.CaptureFixture[str]) -> None:
    world.merge()
    for extra in ([], ["--record"], ["--recompute"]):
        assert_refused(capsys, world.root, ["verify", str(world.out), *extra], "is one file", "folder")
    for function in (verify_checkpoint, record_checksums):
        with pytest.raises(CheckpointError, match="is one file"):
            function(world.out)
    with pytest.raises(OutputError, match="no safetensors weights"):
        push(world.out, "org/name")


def test_a_dry_run_writes_nothing(world: FileWorld, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(world.root)
    assert run_cli(world.argv("--dry-run")) == 0
    assert "nothing was written" in capsys.readouterr().out
    assert snapshot(world.root) == before
