"""`mi-kernels verify`: it names every flipped bit, and files that are missing, extra, shorter or longer."""

from __future__ import annotations

import errno
import json
import os
import random
from pathlib import Path

import pytest
import torch

import mi_kernels
from mi_kernels.checkpoint.header import read_header
from mi_kernels.checksums.accumulator import Layout
from mi_kernels.checksums.damage import Damage
from mi_kernels.checksums.folder import measure, record_folder
from mi_kernels.checksums.record import BLOCK, NAME, Record
from mi_kernels.errors import CheckpointError, OutputError
from mi_kernels.verify.verify import record_checksums, verify_checkpoint

from ..support.checks import World, assert_refused, run_cli, snapshot
from ..support.models import as_hub_cache, random_bits, save, tiny

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def record(folder: Path) -> None:
    (folder / NAME).write_bytes(record_folder(folder).encode())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two shards, an index and small files, one of them empty; and the record."""
    tensors = {**tiny(1), "empty": torch.empty(0, 4), "scalar": torch.tensor(1.5)}
    folder = save(tmp_path / "model", tensors, 2, files={"tokenizer.json": "x" * 5000, "merges.txt": b""})
    (folder / "mi_kernels.json").write_text('{"mi_kernels": "0"}')
    record(folder)
    return folder


def flip(path: Path, byte: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(byte)
        value = file.read(1)[0]
        file.seek(byte)
        file.write(bytes([value ^ 1 << bit]))


def expected(path: Path, byte: int, bit: int) -> Damage:
    """Returns the place of a flipped bit of a file, from the header of the intact file."""
    if path.suffix == ".safetensors":
        for t in read_header(str(path), 0).tensors:
            if t.begin <= byte < t.end:
                return Damage(path.name, "bit", t.name, byte - t.begin, byte - t.begin + 1, byte, bit)
    return Damage(path.name, "bit", None, byte, byte + 1, byte, bit)


def damage(folder: Path) -> list[Damage]:
    return verify_checkpoint(folder, progress=False).damage


def test_an_intact_folder_is_right(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = verify_checkpoint(model, progress=False)
    assert found.right
    assert found.files == 7
    assert found.bytes == sum(p.stat().st_size for p in model.iterdir() if p.name != NAME)
    assert run_cli(["verify", str(model)]) == 0
    assert "7 files OK" in capsys.readouterr().out
    assert run_cli(["verify", str(model), "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_a_flipped_bit_is_named_wherever_it_is(model: Path) -> None:
    rng = random.Random(7)
    for name in [*SHARDS, "model.safetensors.index.json", "config.json", "tokenizer.json", "mi_kernels.json", NAME]:
        path = model / name
        size = path.stat().st_size
        places = {0, 8 * size - 1, *(rng.randrange(8 * size) for _ in range(25))}
        if name in SHARDS:  # also the prefix, the header, and the first and last bit of each tensor
            places |= {63, 64, *(rng.randrange(512) for _ in range(10))}
            tensors = [t for t in read_header(str(path), 0).tensors if t.nbytes]
            places |= {p for t in tensors for p in (8 * t.begin, 8 * t.end - 1)}
        for byte, bit in (divmod(place, 8) for place in sorted(places)):
            right = expected(path, byte, bit)
            flip(path, byte, bit)
            assert damage(model) == [right]
            flip(path, byte, bit)
    assert damage(model) == []


def test_bits_flipped_in_several_places_are_all_named(model: Path) -> None:
    places = [(SHARDS[0], 20, 3), (SHARDS[1], 21, 7), ("config.json", 3, 0), (NAME, 40, 1)]
    header = read_header(str(model / SHARDS[0]), 0)
    places += [(SHARDS[0], t.begin + 1, 5) for t in header.tensors if t.nbytes > 1]
    right = {expected(model / name, byte, bit) for name, byte, bit in places}
    for place in places:
        flip(model / place[0], *place[1:])
    found = damage(model)
    assert set(found) == right
    assert len(found) == len(right)


def test_several_flipped_bits_in_a_block_are_reported_as_bytes(model: Path) -> None:
    path = model / SHARDS[0]
    tensor = max(read_header(str(path), 0).tensors, key=lambda t: t.nbytes)
    for byte in (5, 40):
        flip(path, tensor.begin + byte, 2)
    assert damage(model) == [Damage(path.name, "bytes", tensor.name, 0, tensor.nbytes, tensor.begin)]


def test_damage_in_a_large_tensor_is_reported_by_block(tmp_path: Path) -> None:
    size = 2 * BLOCK + 4096
    folder = save(tmp_path / "model", {"a": random_bits((3,), torch.bfloat16, 1), "big": torch.zeros(size // 4)})
    record(folder)
    path = folder / "model.safetensors"
    big = next(t for t in read_header(str(path), 0).tensors if t.name == "big")
    for byte in (0, BLOCK - 1, BLOCK, size - 1):
        flip(path, big.begin + byte, 6)
    flip(path, big.begin + 7, 0)
    assert damage(folder) == [
        Damage(path.name, "bytes", "big", 0, BLOCK, big.begin),
        Damage(path.name, "bit", "big", BLOCK, BLOCK + 1, big.begin + BLOCK, 6),
        Damage(path.name, "bit", "big", size - 1, size, big.begin + size - 1, 6),
    ]


def test_missing_extra_shorter_and_longer_files_are_named(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = read_header(str(model / SHARDS[1]), 0).tensors
    cut = next(t for t in tensors if t.nbytes > 64)
    sizes = {name: (model / name).stat().st_size for name in (SHARDS[1], "config.json")}
    (model / SHARDS[0]).unlink()
    (model / "stray.py").write_text("import os")
    os.truncate(model / SHARDS[1], cut.begin + 10)
    with (model / "config.json").open("a") as file:
        file.write(" ")
    (model / ".cache").mkdir()
    (model / "onnx").mkdir()
    assert damage(model) == [
        Damage(SHARDS[0], "missing"),
        Damage("stray.py", "extra"),
        Damage(SHARDS[1], "shorter", cut.name, sizes[SHARDS[1]], cut.begin + 10, cut.begin + 10),
        Damage("config.json", "longer", None, sizes["config.json"], sizes["config.json"] + 1, sizes["config.json"]),
    ]
    assert run_cli(["verify", str(model)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"{SHARDS[0]}: missing"
    assert out[1] == "stray.py: not in the record of checksums"
    assert (
        out[2]
        == f"{SHARDS[1]}: has {cut.begin + 10:,} bytes, but {sizes[SHARDS[1]]:,} are recorded, cut off in {cut.name}"
    )
    assert "4 damaged" in out[-1]


@pytest.mark.parametrize("left", [0, 5, 8, 100])
def test_a_shard_cut_off_within_its_header(model: Path, left: int) -> None:
    size = (model / SHARDS[0]).stat().st_size
    first = read_header(str(model / SHARDS[0]), 0).tensors[0].name
    os.truncate(model / SHARDS[0], left)
    assert damage(model) == [Damage(SHARDS[0], "shorter", first, size, left, left)]


def test_the_part_before_a_cut_is_checked(model: Path) -> None:
    tensors = [t for t in read_header(str(model / SHARDS[0]), 0).tensors if t.nbytes]
    os.truncate(model / SHARDS[0], tensors[-1].end - 1)
    flip(model / SHARDS[0], tensors[0].begin + 2, 4)
    assert [d.kind for d in damage(model)] == ["shorter", "bit"]
    assert damage(model)[1].tensor == tensors[0].name


def test_a_shortened_record_is_named_and_nothing_else_is_guessed(model: Path) -> None:
    size = (model / NAME).stat().st_size
    os.truncate(model / NAME, size - 7)
    found = verify_checkpoint(model, progress=False)
    assert found.damage == [Damage(NAME, "bytes", None, 0, size - 7, 0)]
    assert "cannot be corrected" in found.notes[0]


def test_damage_that_looks_like_one_bit_of_the_record_is_not_corrected(model: Path) -> None:
    """Several flipped bits that have the CRC of a single one: the bits of the polynomial, and one bit elsewhere."""
    content = bytearray((model / NAME).read_bytes())
    polynomial = 1 | 0x82F63B78 << 1  # x^32 first, in the reflected order of bits in a file
    for i in range(5):
        content[100 + i] ^= polynomial >> 8 * i & 0xFF
    content[3] ^= 2
    (model / NAME).write_bytes(content)
    found = verify_checkpoint(model, progress=False)
    assert found.damage == [Damage(NAME, "bytes", None, 0, len(content), 0)]


def test_the_json_of_the_command(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right = expected(model / SHARDS[1], 5000, 1)
    flip(model / SHARDS[1], 5000, 1)
    assert run_cli(["verify", str(model), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["right"] is False
    assert found["damage"] == [{**right.__dict__}]


def test_long_output_is_shortened_except_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save(tmp_path / "model", {f"t{i:02}": torch.ones(4) for i in range(30)})
    record(folder)
    path = folder / "model.safetensors"
    for t in read_header(str(path), 0).tensors:
        flip(path, t.begin + 3, 7)
    assert run_cli(["verify", str(folder)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert ": 10 more (use --json" in out[-2]
    assert len(out) == 22


def test_refusals(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(capsys, tmp_path, ["verify", str(tmp_path / "none")], "none: no such folder")
    assert_refused(capsys, tmp_path, ["verify", str(model), "--record"], NAME, "already exists")
    assert_refused(capsys, tmp_path, ["verify", str(model), "--overwrite"], "--record")
    assert_refused(capsys, tmp_path, ["verify", str(model), "--record", "--recompute"], "exclude each other")
    assert_refused(capsys, tmp_path, ["verify", str(model), "--threads", "0"], "threads")
    (model / NAME).unlink()
    assert_refused(capsys, tmp_path, ["verify", str(model)], NAME, "missing", "--record")
    (model / SHARDS[0]).write_bytes(b"12345678")
    assert_refused(capsys, tmp_path, ["verify", str(model), "--record"], SHARDS[0], "not a valid safetensors file")


@pytest.mark.parametrize(
    ("layout", "problem"),
    [
        (Layout("gone.json", 10, 10, []), "gone.json: cannot be read: No such file"),
        (Layout("config.json", 1 << 20, 10, []), "config.json: has become shorter while it was read"),
    ],
)
def test_files_that_change_meanwhile_are_refused(model: Path, layout: Layout, problem: str) -> None:
    with pytest.raises(CheckpointError, match=problem):
        measure(str(model), [layout, *(Layout(name, 10, 10, []) for name in SHARDS)])


def test_a_record_for_a_model_from_elsewhere(model: Path, tmp_path: Path) -> None:
    (model / NAME).unlink()
    snapshot = as_hub_cache(model, tmp_path / "hub")
    assert run_cli(["verify", str(snapshot), "--record", "--quiet"]) == 0
    assert sorted(p.name for p in snapshot.iterdir() if not p.is_symlink()) == [NAME]
    assert mi_kernels.verify_checkpoint(snapshot, progress=False).right
    flip(snapshot / SHARDS[0], 4000, 0)
    assert not mi_kernels.verify_checkpoint(snapshot, progress=False).right
    record_checksums(snapshot, overwrite=True, progress=False)
    assert mi_kernels.verify_checkpoint(snapshot, progress=False).right
    flip(snapshot / SHARDS[0], 4000, 0)
    assert [d.kind for d in damage(snapshot)] == ["bit"]


def test_a_record_that_cannot_be_written_leaves_the_old_one(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = snapshot(model)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match=f"{NAME}: cannot be written: {os.strerror(errno.ENOSPC)}"):
        record_checksums(model, overwrite=True, progress=False)
    assert snapshot(model) == before


def test_a_merge_of_merges_has_checksums_of_its_own(tmp_path: Path) -> None:
    """It does not copy the checksums of its inputs."""
    world = World(tmp_path)
    pair = [tmp_path / "first", tmp_path / "second"]
    for lam, out in zip((0.25, 0.75), pair):
        mi_kernels.lerp_checkpoint(world.instruct, world.thinking, out, lam, progress=False)
    mi_kernels.lerp_checkpoint(*pair, world.out, 0.5, progress=False)
    assert damage(world.out) == []
    names = {path.name for path in world.out.iterdir()}
    record = Record.decode((world.out / NAME).read_bytes(), NAME)
    assert {*record.shards, *record.files} == names - {NAME}


@pytest.fixture
def modular(model: Path) -> Path:
    """A model with modules in subfolders, other subfolders, and the record."""
    (model / "modules.json").write_text('[{"path": ""}, {"path": "1_Pooling"}, {"path": "deep/2_Dense"}]')
    for folder in ("1_Pooling", "deep/2_Dense", "additional_chat_templates", "checkpoint-5", "1_Pooling/.cache"):
        (model / folder).mkdir(parents=True)
        (model / folder / "config.json").write_text('{"a": 1}')
    save(model / "deep" / "2_Dense" / "more", {"w": torch.arange(100.0)}, config=None)
    record(model)
    return model


WEIGHTS = "deep/2_Dense/more/model.safetensors"
INSIDE = {"1_Pooling/config.json", "deep/2_Dense/config.json", "additional_chat_templates/config.json", WEIGHTS}


def test_subfolders_of_the_model_are_recorded_and_checked(modular: Path) -> None:
    recorded = Record.decode((modular / NAME).read_bytes(), NAME)
    assert {name for name in (*recorded.files, *recorded.shards) if "/" in name} == INSIDE
    assert list(recorded.shards) == SHARDS
    assert damage(modular) == []
    flip(modular / WEIGHTS, 200, 3)
    flip(modular / "1_Pooling" / "config.json", 2, 1)
    (modular / "deep" / "2_Dense" / "config.json").unlink()
    (modular / "deep" / "stray.txt").write_text("x")
    (modular / "checkpoint-5" / "stray.txt").write_text("x")
    found = sorted(damage(modular), key=lambda d: d.file)
    assert found == [
        Damage("1_Pooling/config.json", "bit", None, 2, 3, 2, 1),
        Damage("deep/2_Dense/config.json", "missing"),
        Damage(WEIGHTS, "bit", None, 200, 201, 200, 3),
        Damage("deep/stray.txt", "extra"),
    ]


def test_a_subfolder_that_became_a_link_is_not_followed(modular: Path, tmp_path: Path) -> None:
    (modular / "1_Pooling").rename(tmp_path / "elsewhere")
    (modular / "1_Pooling").symlink_to(tmp_path / "elsewhere")
    assert damage(modular) == [Damage("1_Pooling/config.json", "missing")]


@pytest.mark.parametrize("part", ["shards", "files"])
@pytest.mark.parametrize("name", ["../secret.json", "1_Pooling/../../secret.json", "/etc/passwd", "./a", "a//b", ""])
def test_a_record_with_a_path_out_of_the_folder_is_refused(
    modular: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str, name: str
) -> None:
    (tmp_path / "secret.json").write_text("secret")
    recorded = Record.decode((modular / NAME).read_bytes(), NAME)
    shards, files = dict(recorded.shards), dict(recorded.files)
    if part == "shards":
        shards[name] = shards[SHARDS[0]]
    else:
        files[name] = files["config.json"]
    (modular / NAME).write_bytes(Record(shards, files).encode())
    assert_refused(capsys, tmp_path, ["verify", str(modular)], NAME, "not a record of checksums")


def test_modules_out_of_the_folder_are_not_recorded(
    modular: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (modular / "modules.json").write_text('[{"path": "../model"}]')
    (modular / NAME).unlink()
    assert_refused(capsys, tmp_path, ["verify", str(modular), "--record"], "modules.json: names the folder '../model'")


def test_progress_counts_every_byte(model: Path) -> None:
    calls: list[tuple[int, int]] = []
    verify_checkpoint(model, progress=lambda done, total: calls.append((done, total)), threads=1)
    read = sum(p.stat().st_size for p in model.iterdir() if p.name != NAME)
    assert calls[-1] == (read, read)
