"""The command line: its output, its exit statuses, and its light imports."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from mi_kernels import ArgumentError, __version__
from mi_kernels.cli import program as cli
from mi_kernels.cli.text import parse_count, parse_size, show_bytes

from ..support.checks import PROGRAM, World, assert_message, run_cli, snapshot
from ..support.models import assert_same_tensors, load, merge_reference, tiny


def program(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, *(str(w) for w in words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload, no-any-return]


def test_garbage_collection_is_less_frequent_while_a_command_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    real, before, seen = cli.build_parser, gc.get_threshold(), []
    monkeypatch.setattr(cli, "build_parser", lambda command: seen.append(gc.get_threshold()[0]) or real(command))
    assert run_cli(["env"]) == 0
    assert seen == [200_000]
    assert gc.get_threshold() == before


def test_a_merge(tmp_path: Path) -> None:
    world = World(tmp_path)
    done = program(*world.argv("--lam", "0.8", "--threads", "2"))
    assert done.returncode == 0
    assert re.fullmatch(r"mi-kernels: reads .* kB, writes .* kB to .* \(.* free\)\n", done.stderr)
    first, second = done.stdout.splitlines()[-2:]
    assert first.startswith(f"{world.out}: ")
    assert f"2 shards, {len(world.a)} tensors interpolated, 0 copied" in first
    assert "B/s read and written" in second
    assert "2 threads" in second
    assert_same_tensors(load(world.out), merge_reference(world.a, world.b, 0.8))


def test_a_refusal_in_a_process_of_its_own(tmp_path: Path) -> None:
    world = World(tmp_path)
    before = snapshot(tmp_path)
    done = program(*world.argv("--lam", "abc"))
    assert (done.returncode, done.stdout) == (2, "")
    assert_message(done.stderr, "'abc'", "not a number")
    assert snapshot(tmp_path) == before


def test_options_reach_the_merge(tmp_path: Path) -> None:
    world = World(tmp_path)
    argv = world.argv(
        *("--lam", "1.5", "--extrapolate", "--layers", "1:", "--modules", "ffn,attn", "--dtype", "float32"),
        *("--copy-from", "instruct", "--max-shard-size", "2kB", "--threads", "3", "--max-memory", "64KiB"),
        *("--io", "buffered", "--device", "cpu", "--backend", "cpu", "--quiet"),
    )
    assert run_cli(argv) == 0
    record = json.loads((world.out / "mi_kernels.json").read_text())
    asked = {"lam": 1.5, "layers": "1:", "modules": "ffn,attn", "dtype": "F32", "copy_from": "instruct"}
    assert {key: record[key] for key in asked} == asked
    assert len(list(world.out.glob("*.safetensors"))) > 2


def test_quiet_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_cli(World(tmp_path).argv("-q")) == 0
    assert capfd.readouterr() == ("", "")


def test_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    world = World(tmp_path)
    assert run_cli(world.argv("--json", "--threads", "3")) == 0
    out, err = capfd.readouterr()
    assert err == ""
    report = json.loads(out)
    assert (report["out"], report["threads"], report["shards"]) == (str(world.out), 3, 2)


def test_notes_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    world = World(tmp_path, tiny(1), tiny(2, dtype=torch.float32))
    assert run_cli(world.argv()) == 0
    assert "note: " in capsys.readouterr().out


def test_overwriting(tmp_path: Path) -> None:
    world = World(tmp_path)
    for lam in ("0.2", "0.7"):
        assert run_cli(world.argv("--lam", lam, "--overwrite", "-q")) == 0
        assert_same_tensors(load(world.out), merge_reference(world.a, world.b, float(lam)))


def test_the_progress_bar_needs_a_terminal(tmp_path: Path) -> None:
    """stderr is a pseudo-terminal of 80 columns. With 0 columns, tqdm draws nothing."""
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    world = World(tmp_path)
    seen = {}
    for extra in ((), ("--quiet",), ("--json",)):
        master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
        command = [*PROGRAM, *world.argv("--overwrite", *extra)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=slave, timeout=120)
        os.set_blocking(master, False)
        try:
            seen[extra] = os.read(master, 1 << 16)
        except BlockingIOError:
            seen[extra] = b""
        os.close(slave)
        os.close(master)
        assert done.returncode == 0
    assert b"%" in seen[()]
    assert seen[("--quiet",)] == seen[("--json",)] == b""


@pytest.mark.parametrize("command", [[], ["lerp"], ["inspect"], ["demo"], ["env"]])
def test_help_shows_an_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli([*command, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"mi-kernels {' '.join(command)}" in out[out.index("example:") :]


def test_version() -> None:
    done = program("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"mi-kernels {__version__}\n", "")


HEAVY = ("numpy", "torch", "transformers", "safetensors", "huggingface_hub", "tqdm", "yaml", "triton")


@pytest.mark.parametrize("module", ["mi_kernels", "mi_kernels.cli"])
def test_imports_are_light(module: str) -> None:
    code = f"import sys, {module}; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_merge_needs_no_torch(tmp_path: Path) -> None:
    world = World(tmp_path)
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'triton', 'ml_dtypes'): sys.modules[name] = None\n"
        "from mi_kernels.cli import main\n"
        "sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code, *world.argv("-q")], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert_same_tensors(load(world.out), merge_reference(world.a, world.b, 0.5))


def test_a_closed_pipe() -> None:
    """Like `mi-kernels env | true`: no traceback, also not at exit."""
    read, write = os.pipe()
    os.close(read)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run([*PROGRAM, "env"], stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, env=buffered)
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == 141


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    world = World(tmp_path)
    out = os.fsencode(tmp_path) + b"/\xff/out-\xff"
    os.mkdir(os.path.dirname(out))
    argv = [os.fsencode(word) for word in world.argv()]
    done = subprocess.run([*PROGRAM, *argv, "-o", out], capture_output=True, timeout=60)
    assert done.returncode == 0
    assert re.fullmatch(rb"mi-kernels: reads .*/\\udcff \(.* free\)\n", done.stderr)
    assert os.path.isfile(os.path.join(out, b"README.md"))


def test_a_negative_range_needs_no_equals_sign(tmp_path: Path) -> None:
    assert run_cli(World(tmp_path).argv("--layers", "-1:", "-q")) == 0


def test_sigterm_is_handled_while_a_command_runs_and_no_longer(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert run_cli(World(tmp_path).argv("-q")) == 0
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1B", 1), ("1000000", 10**6), ("4096B", 4096),
        ("5GB", 5 * 10**9), ("5G", 5 * 10**9), ("64MiB", 64 << 20), ("64mib", 64 << 20),
        ("1.5kB", 1500), (" 2 TiB ", 2 << 40), ("10B", 10), ("3Ki", 3072),
    ],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text, "--x") == size


@pytest.mark.parametrize("text", ["5", "1", "999999", "0.5"])
def test_a_small_number_needs_a_unit(text: str) -> None:
    with pytest.raises(ArgumentError, match=f"--x '{text}' is a number of bytes without a unit"):
        parse_size(text, "--x")


@pytest.mark.parametrize(
    "text", ["", "0", "0GB", "-1", "1e6", "five", "5 apples", "GB", "1.2.3", "5GBB", "inf", "0.0001B", "٣GB"]
)
def test_invalid_sizes(text: str) -> None:
    with pytest.raises(ArgumentError, match=r"--x .* is not a size"):
        parse_size(text, "--x")


def test_missing_values() -> None:
    assert parse_size(None, "--x") is None
    assert parse_count(None, "--x") is None
    assert parse_count("12", "--x") == 12


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1_190_000_000, "1.19 GB"), (2.5e6, "2.5 MB")]
)
def test_show_bytes(count: float, text: str) -> None:
    assert show_bytes(count) == text
