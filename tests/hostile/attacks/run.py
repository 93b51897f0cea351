"""Runs each attack in its own process with limits on time and memory, and judges the outcome."""

from __future__ import annotations

import os
import re
import resource
import shlex
import signal
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ...support.checks import without_announcements
from . import configs, files, indexes, recipes, shards
from .case import COMMANDS, SECRET, Attack, Scene

ATTACKS: list[Attack] = [
    attack
    for family in (shards.FAMILY, indexes.FAMILY, files.FAMILY, configs.FAMILY, recipes.FAMILY)
    for attack in family.attacks
]

# Runs in the child and returns its exit status. None: the tool does not support this attack.
Tool = Callable[[Attack, Scene], "list[str] | None"]


_HANGS = (signal.SIGXCPU, signal.SIGALRM)


@dataclass(frozen=True)
class Limits:
    """Limits for one attack: seconds of processor time and of wall time, and peak memory in bytes.

    Processor time does not depend on the load of the machine. The limit on wall time detects blocking calls.
    """

    seconds: int = 30
    wait: int = 300
    resident: int = 3 << 29


@dataclass(frozen=True)
class Outcome:
    """The outcome of an attack.

    Attributes:
        verdict: "accepted" or "refused"; or a failure: "harm" (code ran, or a file outside was read or written),
            "hang", "crash", "bloat" (memory), "traceback", "rude" (rejected, but not with a message of two lines).
        detail: one line that explains the verdict.
        seconds, resident: processor time and peak memory in bytes.
    """

    verdict: str
    detail: str
    seconds: float
    resident: int


def ours(attack: Attack, scene: Scene) -> list[str]:
    """Returns the arguments of mi-kernels."""
    places = {"a": scene.a, "b": scene.b, "adapter": scene.adapter, "config": scene.recipe, "out": scene.out}
    return [part.format(**places) for part in COMMANDS[attack.command].split()]


def foreign(template: str) -> Tool:
    """Returns the command line of another program from a template with {a}, {b}, {config} and {out}."""

    def command(attack: Attack, scene: Scene) -> list[str] | None:
        if attack.ours or attack.command not in ("lerp", "merge") or (attack.command == "merge" and "{a}" in template):
            return None
        places = {"a": scene.a, "b": scene.b, "config": scene.recipe, "out": scene.out}
        return [part.format(**places) for part in shlex.split(template)]

    return command


def run(attack: Attack, tool: Tool = ours, limits: Limits = Limits()) -> Outcome | None:
    """Runs `attack` against `tool`. Returns None if the tool does not support it."""
    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        scene = Scene(Path(os.path.realpath(folder)))
        scene.build()
        attack.make(scene)
        argv = tool(attack, scene)
        if argv is None:
            return None
        before = _tree(scene)
        status, usage, seconds = _in_a_child(argv, tool is ours, scene, limits, attack.looks)
        text = [_read(scene.root / "log" / name) for name in ("out", "err", "opened")]
        if SECRET.decode() in text[0] + text[1]:
            text[2] += "the secret, and showed it"
        harm = next(_harm(scene, before, text[2]), None)
        verdict, detail = _judge(status, text[0], text[1], tool is ours)
        resident = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        if harm is not None:
            verdict, detail = "harm", harm
        elif resident > limits.resident and verdict in ("accepted", "refused"):
            verdict, detail = "bloat", f"{resident >> 20} MiB resident"
        _make_removable(scene.root)
        return Outcome(verdict, detail, seconds, resident)


def _in_a_child(
    argv: list[str], in_process: bool, scene: Scene, limits: Limits, looks: bool
) -> tuple[int, resource.struct_rusage, float]:
    import time

    (scene.root / "log").mkdir()
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        _become(argv, in_process, scene, limits, looks)
    _, status, usage = os.wait4(child, 0)
    return status, usage, time.perf_counter() - started


def _become(argv: list[str], in_process: bool, scene: Scene, limits: Limits, looks: bool) -> NoReturn:
    try:
        for fd, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(scene.root / "log" / name, os.O_WRONLY | os.O_CREAT, 0o600), fd)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(scene.out.parent)
        os.environ.update(HF_HUB_OFFLINE="1", HF_HOME=str(scene.root / "work" / "hub"))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
        # The default action of both signals always ends the process, and both limits survive exec.
        for number in _HANGS:
            signal.signal(number, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CPU, (limits.seconds, limits.seconds + 5))
        signal.alarm(limits.wait)
        if not in_process:
            os.execvp(argv[0], argv)
        status = _main(argv, scene, looks)
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _main(argv: list[str], scene: Scene, looks: bool) -> int:
    from mi_kernels.cli import program as cli

    _record_opens(scene, looks)
    try:
        return cli.main(argv)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1


# What a merge may open besides inputs and output: the interpreter, libraries, and information about the machine.
_LIBRARIES = tuple(
    os.path.realpath(p) for p in {sys.prefix, sys.base_prefix, os.path.dirname(os.__file__), *sys.path} if p
)
_MACHINE = ("/proc/", "/sys/", "/usr/", "/lib", "/etc/ld.so", "/dev/null", "/dev/urandom", "/etc/localtime")


def _record_opens(scene: Scene, looks: bool) -> None:
    """Starts to log every path outside the allowed places that this process opens, lists or creates, and every program
    that it runs."""
    log = os.open(scene.root / "log" / "opened", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    allowed = tuple(
        os.path.join(scene.root, part, "") for part in ("in", "disk", "work", *(["secret"] if looks else []))
    )
    allowed += (*(os.path.join(p, "") for p in _LIBRARIES), *_MACHINE)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect"):
            os.write(log, f"{event} {arguments!r}\n".encode(errors="replace"))
        elif event in ("open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.link", "os.symlink"):
            path = arguments[0]
            if not isinstance(path, (str, bytes)):
                return
            path = os.fsdecode(path)
            follows = event in ("os.listdir", "os.scandir") or (event == "open" and not arguments[2] & os.O_NOFOLLOW)
            folder, name = (path, "") if follows else os.path.split(path)
            real = os.path.join(os.path.realpath(folder), name, "")
            # Names of devices: to detect a GPU.
            if not real.startswith(allowed) and (event, real) not in (("os.scandir", "/dev/"), ("os.listdir", "/dev/")):
                os.write(log, f"{event} {path!r}\n".encode(errors="replace"))

    sys.addaudithook(hook)


def _read(path: Path) -> str:
    return path.read_text(errors="surrogateescape") if path.exists() else ""


def _tree(scene: Scene) -> dict[str, object]:
    """Returns kinds, link targets, sizes and times of all files except the output and the log. Reads no file."""
    found: dict[str, object] = {}
    for folder, folders, names in os.walk(scene.root):
        if folder == str(scene.root):
            folders[:] = [f for f in folders if f != "log"]
        for name in (*folders, *names):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            kind = stat.S_IFMT(status.st_mode)
            if stat.S_ISDIR(status.st_mode):
                found[path] = kind
            else:
                target = os.readlink(path) if stat.S_ISLNK(status.st_mode) else ""
                found[path] = (kind, status.st_size, status.st_mtime_ns, status.st_nlink, target)
        folders[:] = [f for f in folders if os.path.join(folder, f) != str(scene.out)]
    return found


def _harm(scene: Scene, before: dict[str, object], opened: str) -> Iterable[str]:
    """Returns a description of the harm that was done, if any."""
    if scene.marker.is_dir():
        yield "code from an input ran"
    if opened:
        yield f"opened outside: {opened.splitlines()[0][:200]}"
    made = (str(scene.out), str(scene.root / "work" / "hub"))
    after = {k: v for k, v in _tree(scene).items() if not k.startswith(made) or k in before}
    if after != before:
        changed = sorted(k for k in {*before, *after} if before.get(k) != after.get(k))
        yield f"changed outside of the output: {changed[0]!r}"
    if scene.out.is_dir() and not scene.out.is_symlink():
        yield from _harm_in(scene.out)


def _harm_in(out: Path) -> Iterable[str]:
    from safetensors import SafetensorError, safe_open

    for path in out.iterdir():
        if path.is_symlink() or not path.is_file():
            yield f"{path.name!r} in the output is no plain file"
        elif SECRET in path.read_bytes():
            yield f"{path.name!r} in the output holds the secret"
        elif path.suffix == ".safetensors":
            try:
                with safe_open(path, framework="numpy"):
                    pass
            except SafetensorError as error:
                yield f"{path.name!r} in the output cannot be read: {error}"
        elif path.name == "README.md":
            yield from _harm_in_card(path.read_text(encoding="utf-8"))


def _harm_in_card(text: str) -> Iterable[str]:
    import yaml

    _, front, body = text.split("---\n", 2)
    body = re.sub(r"\[paper\]\(https://arxiv\.org/abs/[0-9.]+\)", "", body)  # our own link
    try:
        content = yaml.safe_load(front)
    except yaml.YAMLError as error:
        yield f"the card's metadata is no YAML: {error}"
    else:
        if "license" in content or "---" in body or "<script" in body or "](" in body or "\x1b" in body:
            yield "a name got into the card as more than text"


def _judge(status: int, out: str, err: str, form: bool) -> tuple[str, str]:
    last = err.strip().splitlines()[-1][:300] if err.strip() else ""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return ("hang", "") if number in _HANGS else ("crash", signal.Signals(number).name)
    if "Traceback (most recent call last)" in err:
        return "traceback", last
    if any(not (c.isprintable() or c == "\n") for c in (out + err if form else "")):
        return "rude", "control characters on the terminal"
    if os.WEXITSTATUS(status) == 0:
        return ("rude", "thousands of characters of output") if form and len(out) > 40_000 else ("accepted", "")
    lines = without_announcements(err).splitlines()
    if form and not (
        os.WEXITSTATUS(status) == 2 and len(lines) == 2 and err.startswith("mi-kernels: ") and len(err) < 8000
    ):
        return "rude", f"status {os.WEXITSTATUS(status)}: {err[:300]!r}"
    return "refused", err.strip()


def _make_removable(root: Path) -> None:
    for folder, _, _ in os.walk(root):
        os.chmod(folder, 0o700)


def expected(attack: Attack) -> str:
    return "accepted" if attack.harmless else "refused"


def as_expected(attack: Attack, outcome: Outcome) -> bool:
    """Returns True if the verdict is as required, and the message of a rejection has all required words."""
    return outcome.verdict == expected(attack) and all(word in outcome.detail for word in attack.words)


def chosen(names: Sequence[str]) -> list[Attack]:
    """Returns the attacks whose "family/name" contains one of `names`; all attacks if there are no names."""
    return [a for a in ATTACKS if not names or any(re.search(n, f"{a.family}/{a.name}") for n in names)]
