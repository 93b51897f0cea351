"""What a user types by mistake, how errors name options, colours, and the ways to start the program."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mi_kernels import ArgumentError
from mi_kernels.cli import colour, completion, shell
from mi_kernels.cli import program as cli
from mi_kernels.errors import MIKernelsError, counted, spelled

from ..support.checks import World, assert_message, assert_refused, run_cli
from ..support.models import save, tiny

PAIR = ["a", "b", "-o", "c"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["lrep"], ("unknown command 'lrep'", "Did you mean lerp?", "`mi-kernels --help`")),
        (["interpolate"], ("unknown command", "Did you mean lerp?")),
        (["diff"], ("Did you mean compare?",)),
        (["zzz"], ("unknown command 'zzz'", "`mi-kernels --help`")),
        (["help", "vrify"], ("Did you mean verify?",)),
        (["--vresion"], ("unknown option --vresion", "Did you mean --version?")),
        (["lerp", *PAIR, "--lam", "1", "--layer", "1"], ("unknown option --layer\n", "Did you mean --layers?")),
        (["lerp", *PAIR, "--lam", "1", "--module", "ffn"], ("Did you mean --modules?", "`mi-kernels lerp --help`")),
        (["lerp", *PAIR, "--alpha", "0.8"], ("unknown option --alpha", "Did you mean --lam?")),
        (["lerp", *PAIR, "--lambda", "0.8"], ("Did you mean --lam?",)),
        (["lerp", *PAIR, "--weight=0.8"], ("unknown option --weight\n", "Did you mean --lam?")),
        (["lerp", *PAIR, "-t", "0.8"], ("unknown option -t", "Did you mean --lam?")),
        (["lerp", *PAIR, "-lam", "0.8"], ("unknown option -lam", "Did you mean --lam?")),
        (["lerp", "a", "b", "--output", "c", "--lam", "1"], ("unknown option --output", "Did you mean --out?")),
        (["lerp", "a", "b", "-out", "c", "--lam", "1"], ("unknown option -out", "Did you mean --out?")),
        (["lerp", *PAIR, "--lam", "1", "--max_shard_size", "5GB"], ("Did you mean --max-shard-size?",)),
        (["lerp", *PAIR, "--lam", "1", "--overwrit"], ("unknown option --overwrit", "Did you mean --overwrite?")),
        (["lerp", *PAIR, "--lam", "1", "--zzz"], ("unknown option --zzz", "See `mi-kernels lerp --help`")),
        (["lerp", "a", "b", "d", "-o", "c", "--lam", "1"], ("unexpected argument: 'd'", "mi-kernels merge RECIPE")),
        (["lerp", *PAIR, "--lam", "0.2,0.8"], ("--lam 0.2,0.8: lerp takes one lam", "mi-kernels sweep")),
        (["lerp", *PAIR, "--lam", "0:1:0.1"], ("lerp takes one lam", "mi-kernels sweep")),
        (["sweep", "a", "b", "-o", "c-{lam}", "--lam", "0.2", "0.8"], ("unexpected argument: '0.8'", "--lam 0.2,0.8")),
        (["merge", "r.yml", "-o", "c", "--lam", "0.5"], ("unknown option --lam", "The recipe sets it", "use lerp")),
        (["merge", "r.yml", "-o", "c", "--sigma"], ("unknown option --sigma", "Only lerp and sweep have it")),
        (["serve", "a", "b", "--lam", "1", "--max-model-len", "9"], ("--max-model-len", "tions of vLLM come after --")),
        (["serve", "a", "b", "--lam", "1", "--resident", "hots"], ("'hots' is not one of device, host", "mean host?")),
        (["completion", "fsh"], ("'fsh' is not one of", "Did you mean fish?")),
    ],
)  # fmt: skip
def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], words: tuple[str, ...]) -> None:
    assert_refused(capsys, tmp_path, argv, *(word.rstrip("\n") for word in words))


@pytest.mark.parametrize("given", ["--modu", "--layer", "--dev", "--overw"])
def test_abbreviations_are_not_guessed(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["lerp", *PAIR, "--lam", "1", given, "x"]) == 2
    assert f"unknown option {given}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "remedy"),
    [(["swep"], "Did you mean sweep?"), (["run", "m", "--benchmark", "b", "--sample", "8"], "Did you mean --samples?")],
)
def test_the_evaluation_has_the_same_parser(words: list[str], remedy: str, capsys: pytest.CaptureFixture[str]) -> None:
    from eval.cli.program import main

    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("python -m eval: unknown ")
    assert remedy in second


def test_attached_and_negative_values_are_no_unknown_options(tmp_path: Path) -> None:
    world = World(tmp_path)
    argv = ["lerp", str(world.instruct), str(world.thinking), f"-o{world.out}", "--lam", "-0.5", "--extrapolate", "-q"]
    assert run_cli([*argv, "--layers", "-1:"]) == 0


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--lam", "1.5"], ("--lam is 1.5", "allow it with --extrapolate.")),
        (["--layers", "x"], ("--layers: 'x' is not a range",)),
        (["--modules", "mlp"], ("--modules: mlp unknown", "Did you mean ffn?")),
        (["--modules", "self_attn"], ("Did you mean attn?",)),
        (["--threads", "0"], ("--threads is 0",)),
        (["--copy-from", "x"], ("--copy-from 'x' is unknown",)),
        (["--max-memory", "1kB"], ("--max-memory is 1000 bytes",)),
        (["--backend", "cuda", "--device", "cpu"], ("Use --device cuda or --backend cpu.",)),
        (["--backend", "triton", "--device", "gpu"], ("--device 'gpu': unknown device",)),
    ],
)
def test_errors_name_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str], words: tuple[str, ...]
) -> None:
    assert_refused(capsys, tmp_path, World(tmp_path).argv(*extra), *words)


def test_a_file_that_exists_is_named_with_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(tmp_path)
    assert run_cli(world.argv("-q")) == 0
    assert_refused(capsys, tmp_path, world.argv(), "exists and is not empty", "or pass --overwrite.")


def test_a_path_that_is_spelled_like_an_argument_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "m", tiny(1))
    (tmp_path / "out").write_text("")
    assert run_cli(["lerp", "m", "m", "-o", "out", "--lam", "1"]) == 2
    assert capsys.readouterr().err.startswith("mi-kernels: out: exists and is not a folder")


def test_python_sees_its_own_arguments() -> None:
    error = ArgumentError("lam is 2", "Pass `extrapolate=True`, or a smaller `max_memory`.", argument="lam")
    assert str(error) == "lam is 2\nPass `extrapolate=True`, or a smaller `max_memory`."
    assert pickle.loads(pickle.dumps(error)).argument == "lam"  # as from a worker of a cluster


def test_each_medium_spells_arguments() -> None:
    error = ArgumentError("lam is 2", "Pass `extrapolate=True`, `io='auto'` or `hf auth login`.", argument="lam")
    http = {"lam": '"lam"', "extrapolate": '"extrapolate"'}
    problem, remedy = spelled(error, lambda name, value: http.get(name) and f"{http[name]}: {value}".lower())
    assert problem == '"lam": none is 2'
    assert remedy == "Pass \"extrapolate\": true, `io='auto'` or `hf auth login`."
    elsewhere = MIKernelsError("ties.yml: lam is 2", "Change it.")
    assert spelled(elsewhere, lambda name, value: "--lam") == ("ties.yml: lam is 2", "Change it.")


def test_an_option_that_the_command_lacks_stays_as_in_python(capsys: pytest.CaptureFixture[str]) -> None:
    def run() -> int:
        shell.Parser(prog="p").parse_args([])
        raise MIKernelsError("bad", "Pass `overwrite=True`.")

    assert shell.guarded("p", run, "") == 2
    assert capsys.readouterr().err == "p: bad\n  Pass `overwrite=True`.\n"


@pytest.mark.parametrize("words", [["-m", "mi_kernels"], ["-m", "mi_kernels.cli"]])
def test_python_m(words: list[str]) -> None:
    done = subprocess.run([sys.executable, *words, "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("mi-kernels ")


def test_the_program_alone_prints_its_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert all(name in err for name in cli.COMMANDS)


@pytest.mark.parametrize("command", ["", *cli.COMMANDS])
def test_help_is_a_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["help", *([command] if command else [])]) == 0
    first = capsys.readouterr()
    assert run_cli([*([command] if command else []), "--help"]) == 0
    assert capsys.readouterr() == first
    assert first.out.startswith(f"usage: mi-kernels {command}".rstrip())


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_help_imports_nothing_heavy(command: str) -> None:
    packages = ("numpy", "torch", "transformers", "safetensors", "huggingface_hub", "tqdm", "yaml", "triton", "shtab")
    slow = (
        "asyncio",
        "ssl",
        "socket",
        "http",
        "email",
        "importlib.metadata",
        "multiprocessing",
        "subprocess",
        "ctypes",
    )
    heavy = (*packages, *slow)  # the second ones are Python's own, and took half of the time of `serve --help`
    code = (
        "import sys\nbefore = set(sys.modules)  # of site-packages' own start files\nfrom mi_kernels.cli import main\n"
        f"try: main([{command!r}, '--help'])\nexcept SystemExit: pass\n"
        f"print(sorted((set({heavy!r}) & set(sys.modules)) - before), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr == "[]\n"


@pytest.mark.parametrize(
    ("environment", "terminal", "expected"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "0"}, False, False),
        ({"CLICOLOR_FORCE": "1", "TERM": "dumb"}, False, True),
        ({"TERM": "dumb"}, True, False),
        ({"TERM": "xterm"}, True, True),
    ],
)
def test_when_colours_are_wanted(environment: dict[str, str], terminal: bool, expected: bool) -> None:
    assert colour.wanted(environment, terminal) is expected


def test_errors_and_notes_in_colour(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("NO_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert run_cli(["inspect", "./none"]) == 2
    assert capsys.readouterr().err.startswith("\x1b[1;31mmi-kernels:\x1b[0m ./none: no such folder\n")
    assert run_cli(["lrep"]) == 2
    assert capsys.readouterr().err.startswith("\x1b[1;31mmi-kernels:\x1b[0m unknown command")
    assert colour.coloured_notes("note: a\nb note: c", io.StringIO()) == "\x1b[33mnote:\x1b[0m a\nb note: c"
    monkeypatch.setenv("NO_COLOR", "1")
    assert colour.coloured_notes("note: a", io.StringIO()) == "note: a"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 tensors"), (1, "1 tensor"), (2, "2 tensors"), (12345, "12,345 tensors")]
)
def test_counted(count: int, text: str) -> None:
    assert counted(count, "tensor") == text


def test_completion_in_bash(tmp_path: Path) -> None:
    """The script is loaded by a real bash, whose completion function is called as the Tab key does."""
    pytest.importorskip("shtab")
    script = tmp_path / "script"
    script.write_text(completion.script("bash"))

    def complete(*words: str) -> list[str]:
        given = " ".join(f"'{word}'" for word in words)
        code = (
            f"source {script}; COMP_WORDS=({given}); COMP_CWORD={len(words) - 1}; _shtab_mi_kernels; "
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=60)
        return done.stdout.split()

    assert {"lerp", "sweep", "completion"} <= set(complete("mi-kernels", ""))
    assert complete("mi-kernels", "le") == ["lerp"]
    assert complete("mi-kernels", "lerp", "--lay") == ["--layers"]
    assert complete("mi-kernels", "lerp", "--dtype", "b") == ["bfloat16"]


@pytest.mark.parametrize("name", completion.SHELLS)
def test_completion_for_every_shell(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert run_cli(["completion", name]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("max-shard-size", "bfloat16", "sweep"))


def test_completion_without_shtab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert run_cli(["completion", "bash"]) == 2
    assert_message(capsys.readouterr().err, "needs shtab", "pip install 'shtab>=1.8'")


def test_completion_offers_values_that_exist() -> None:
    """The metavars that the table of values names are those of options, and their values are valid ones."""
    seen = {action.metavar for action in completion._actions(cli.build_parser()) if isinstance(action.metavar, str)}
    assert set(completion._VALUES) <= seen
    assert {*completion._FILES, *completion._FOLDERS} <= seen
    from mi_kernels.checkpoint.names import MODULES
    from mi_kernels.dtypes import CODE_TORCH, OUTPUTS

    script = completion.script("bash")
    for option, values in (("modules", MODULES), ("dtype", CODE_TORCH)):
        offered = re.search(rf"lerp___{option}_choices=\(([^)]*)\)", script)
        assert offered
        assert offered[1].replace("'", "").split() == list(values)
    assert set(CODE_TORCH) <= set(OUTPUTS)


def _tree(root: Path) -> Path:
    """A copy of the package without its compiled parts, in a folder that looks like the source."""
    import shutil

    import mi_kernels

    package = Path(mi_kernels.__file__).parent
    shutil.copytree(package, root / "mi_kernels", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (root / "setup.py").write_text("")
    (root / "csrc").mkdir()
    return root


def test_the_source_folder_says_that_its_kernels_are_not_built(tmp_path: Path) -> None:
    """Python started in the source folder after `pip install .` imports the source, which comes first in sys.path."""
    import mi_kernels

    source = _tree(tmp_path / "source")
    env = {**os.environ, "PYTHONPATH": str(Path(mi_kernels.__file__).parent.parent), "PYTHONSAFEPATH": ""}
    code = (
        "import mi_kernels, numpy as np\n"
        "try: mi_kernels.lerp(np.ones(2, np.float32), np.ones(2, np.float32), 0.5)\n"
        "except mi_kernels.BackendError as error: print(error.problem, error.remedy, sep='\\n')"
    )
    commands = [[sys.executable, "-c", code], [sys.executable, "-m", "mi_kernels", "env"]]
    for command in commands:
        done = subprocess.run(command, cwd=source, env=env, capture_output=True, text=True, timeout=60)
        said = done.stdout + done.stderr
        assert "Traceback" not in said
        assert f"{source}: Python imports mi_kernels from this source folder, whose kernels are not built" in said
        assert "run Python in another folder" in said
        assert "python -m pip install -e ." in said
    elsewhere = subprocess.run(commands[1], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert (elsewhere.returncode, elsewhere.stderr) == (0, "")  # the remedy works


def test_an_extension_for_another_python_is_named(tmp_path: Path) -> None:
    source = _tree(tmp_path / "source")
    (source / "setup.py").unlink()
    other = source / "mi_kernels" / "_cpu.cpython-33m-x86_64-linux-gnu.so"
    other.write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "mi_kernels", "env"],
        cwd=source, env={**os.environ, "PYTHONPATH": str(source)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert_message(done.stderr, str(other), "another Python")


def test_choices_are_checked_as_before() -> None:
    parser = shell.Parser(prog="p")
    parser.add_argument("--side", choices=("a", "b"))
    assert parser.parse_args(["--side", "b"]) == argparse.Namespace(side="b")
