"""The scripts of `mi-kernels completion` in the shells themselves, where these are installed."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mi_kernels.cli import completion

pytest.importorskip("shtab")

# What a user types before the Tab key, and the last word of the line after it.
TYPED = {
    "mi-kernels le": "lerp",
    "mi-kernels lerp --lay": "--layers",
    "mi-kernels lerp --dtype bf": "bfloat16",
    "mi-kernels lerp --dtype=bf": "--dtype=bfloat16",
    "mi-kernels lerp ins": "instruct/",
    "mi-kernels lerp instruct thin": "thinking/",
    "mi-kernels merge tie": "ties.yml",
    "mi-kernels serve instruct thinking --resident h": "host",
    "mi-kernels verify --recompute ins": "instruct/",
    "mi-kernels completion z": "zsh",
}
PROMPT = "ready> "


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two models, a recipe and a file that is none of them."""
    for name in ("instruct", "thinking"):
        (tmp_path / name).mkdir()
    (tmp_path / "ties.yml").write_text("")
    return tmp_path


def script_of(shell: str, folder: Path) -> Path:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    path = folder.parent / f"{folder.name}-script" / "_mi-kernels"  # the name that zsh wants
    path.parent.mkdir()
    path.write_text(completion.script(shell))
    return path


def test_fish(folder: Path) -> None:
    script = script_of("fish", folder)
    for typed, expected in TYPED.items():
        command = ["fish", "--no-config", "-c", f"source {script}; complete -C {typed!r}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
        assert done.stderr == ""
        offered = [line.split("\t")[0] for line in done.stdout.splitlines()]
        assert offered == [expected]


class Shell:
    """An interactive shell on a pseudo-terminal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def until(self, text: str, seconds: float = 60) -> str:
        """Returns what the shell prints up to `text`."""
        printed, end = "", time.monotonic() + seconds
        while text not in printed:
            ready, _, _ = select.select([self._descriptor], [], [], max(0, end - time.monotonic()))
            assert ready, f"{text!r} does not come after {printed!r}"
            printed += os.read(self._descriptor, 1 << 16).decode()
        return printed

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())


@contextmanager
def interactive(argv: list[str], folder: Path) -> Iterator[Shell]:
    process, descriptor = pty.fork()
    if process == 0:  # the child
        os.chdir(folder)
        variables = {"PATH": os.environ["PATH"], "HOME": str(folder.parent), "TERM": "vt100", "LC_ALL": "C.UTF-8"}
        os.execvpe(argv[0], argv, variables)
    try:
        yield Shell(descriptor)
    finally:
        os.kill(process, 9)
        os.waitpid(process, 0)
        os.close(descriptor)


# How a shell is started, and what makes it ready. The command then prints its last argument.
_ZSH = 'mi-kernels() {{ print -r -- "got<$@[-1]>" }}; autoload -U compinit; compinit -u -D'
SETUP = {
    "zsh": (["zsh", "-f", "-i"], "fpath=({folder} $fpath); " + _ZSH, "PROMPT='{prompt}'"),
    "zsh eval": (["zsh", "-f", "-i"], _ZSH + '; eval "$(<{script})"', "PROMPT='{prompt}'"),
    "tcsh": (["tcsh", "-f"], "source {script}; alias mi-kernels 'echo got\\<\\!$\\>'", "set prompt='{prompt}'"),
}


@pytest.mark.parametrize("way", list(SETUP))
def test_shells_on_a_terminal(folder: Path, way: str) -> None:
    script = script_of(way.split()[0], folder)
    argv, setup, prompt = SETUP[way]
    with interactive(argv, folder) as shell:
        ready = prompt.format(prompt="rea%{%}dy> ")  # the line that sets the prompt must not look like it
        shell.type(f"{setup.format(script=script, folder=script.parent)}; {ready}\n")
        shell.until(PROMPT)
        for typed, expected in TYPED.items():
            shell.type(f"{typed}\t\n")
            printed = shell.until(PROMPT)
            (got,) = re.findall("got<(.*?)>", printed)
            assert got.rstrip("/") == expected.rstrip("/")  # zsh removes the slash when the line is accepted
