"""Attacks by the type of a file: links, loops, devices, FIFOs, sockets, huge files, pickles."""

from __future__ import annotations

import json
import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mi_kernels.checksums.record import NAME as CHECKSUMS
from mi_kernels.checksums.record import FileSum, Record

from .case import CONFIG, INDEX, MODEL, SECRET, SHARDS, SINGLE, Family, Scene, shard
from .indexes import indexed

FAMILY = Family("file")
_GIGABYTE = 1 << 30


def _fifo(path: Path, scene: Scene) -> None:
    os.mkfifo(path)


def _socket(path: Path, scene: Scene) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        # The path of a socket is limited to about 100 bytes, and temporary folders have longer paths on some systems.
        here = os.open(path.parent, os.O_RDONLY)
        try:
            server.bind(f"/proc/self/fd/{here}/{path.name}")
        finally:
            os.close(here)


def _sparse(path: Path, scene: Scene) -> None:
    path.touch()
    os.truncate(path, _GIGABYTE)


KINDS: dict[str, Callable[[Path, Scene], object]] = {
    "fifo": _fifo,
    "socket": _socket,
    "folder": lambda path, scene: path.mkdir(),
    "dev_zero": lambda path, scene: path.symlink_to("/dev/zero"),
    "dev_random": lambda path, scene: path.symlink_to("/dev/random"),
    "dev_stdin": lambda path, scene: path.symlink_to("/dev/stdin"),
    "proc_mem": lambda path, scene: path.symlink_to("/proc/self/mem"),
    "loop": lambda path, scene: path.symlink_to(path.name),
    "loop_of_two": lambda path, scene: (
        path.symlink_to(f"{path.name}.2"),
        path.with_name(f"{path.name}.2").symlink_to(path.name),
    ),
    "dangling": lambda path, scene: path.symlink_to("../../blobs/none"),
    "gigabyte": _sparse,
    "secret": lambda path, scene: path.symlink_to(scene.secret),
}
_READ = (SINGLE, INDEX, "config.json", "tokenizer.json", "chat_template.jinja", "LICENSE")


def _becomes(scene: Scene, name: str, kind: str) -> None:
    if name == INDEX:
        indexed(scene)
    path = scene.b / name
    path.unlink(missing_ok=True)
    KINDS[kind](path, scene)


for _kind in KINDS:
    for _file in _READ:
        # A folder with the name of a small file is ignored.
        _other = _kind == "folder" and _file not in (SINGLE, INDEX, "config.json")
        FAMILY.add(
            f"{_file}_is_{_kind}",
            lambda scene, name=_file, kind=_kind: _becomes(scene, name, kind),
            *(() if _other else (_file,)),
            harmless=_other,
            looks=_kind == "secret" and _file in (SINGLE, INDEX, "config.json"),
        )
    FAMILY.add(
        f"mi_kernels.json_is_{_kind}",
        lambda scene, kind=_kind: _becomes(scene, "mi_kernels.json", kind),
        "mi_kernels.json",
        command="inspect",
        ours=True,
        looks=_kind == "secret",
    )
    if _kind != "secret":  # if checksums are wrong, verify reports them and exits with another status
        FAMILY.add(
            f"{CHECKSUMS}_is_{_kind}",
            lambda scene, kind=_kind: _becomes(scene, CHECKSUMS, kind),
            CHECKSUMS,
            command="verify",
            ours=True,
        )
    if _kind != "secret":  # a recipe is from the user and can be anywhere
        FAMILY.add(
            f"recipe_is_{_kind}",
            lambda scene, kind=_kind: (scene.recipe.unlink(), KINDS[kind](scene.recipe, scene)),
            "recipe.yml",
            command="merge",
        )


@FAMILY.attack("in", "MiB")
def small_files_that_add_up(scene: Scene) -> None:
    for number in range(20):
        (scene.b / f"{number}.json").touch()
        os.truncate(scene.b / f"{number}.json", 200 << 20)


def _hub_cache(scene: Scene) -> None:
    """Makes b a snapshot in a Hub cache, in which every file is a link to a blob."""
    blobs = scene.root / "in" / "models--org--b" / "blobs"
    blobs.mkdir(parents=True)
    (scene.b / "tokenizer.json").write_text("{}")
    snapshot = blobs.parent / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(scene.b.iterdir())):
        path.rename(blobs / f"{number:064x}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number:064x}")
    scene.b.rmdir()
    scene.b.symlink_to(snapshot)


FAMILY.add("hub_cache", _hub_cache, harmless=True)


@FAMILY.attack(harmless=True)
def hub_cache_linked_file_by_file(scene: Scene) -> None:
    """A local folder as huggingface_hub before 0.23 wrote it."""
    _hub_cache(scene)
    snapshot = scene.b.resolve()
    scene.b.unlink()
    scene.b.mkdir()
    for path in snapshot.iterdir():
        (scene.b / path.name).symlink_to(path.resolve())


@FAMILY.attack("tokenizer.json", "link")
def hub_cache_with_a_link_out(scene: Scene) -> None:
    _hub_cache(scene)
    link = scene.b.resolve() / "tokenizer.json"
    link.unlink()
    link.symlink_to("../../../../secret/secret.txt")


@FAMILY.attack("tokenizer.json", "link")
def hub_cache_whose_blob_is_a_link_out(scene: Scene) -> None:
    _hub_cache(scene)
    blob = (scene.b / "tokenizer.json").resolve()
    blob.unlink()
    blob.symlink_to(scene.secret)


@FAMILY.attack("tokenizer.json", "link")
def link_through_a_linked_folder(scene: Scene) -> None:
    (scene.b / "sub").symlink_to(scene.secret.parent)
    (scene.b / "tokenizer.json").symlink_to("sub/secret.txt")


FAMILY.add(
    "link_within_the_folder",
    lambda s: ((s.b / "real.bin").write_text("{}"), (s.b / "tokenizer.json").symlink_to("real.bin")),
    harmless=True,
)
FAMILY.add("link_of_the_folder", lambda s: (s.b.rename(s.disk / "b"), s.b.symlink_to(s.disk / "b")), harmless=True)
FAMILY.add(
    "shard_on_another_disk",
    lambda s: ((s.b / SINGLE).rename(s.disk / "w"), (s.b / SINGLE).symlink_to(s.disk / "w")),
    harmless=True,
)


@FAMILY.attack(harmless=True)
def one_file_as_two_shards(scene: Scene) -> None:
    indexed(scene)
    (scene.b / SHARDS[1]).unlink()
    (scene.b / SHARDS[0]).write_bytes(shard(MODEL))
    (scene.b / SHARDS[1]).symlink_to(SHARDS[0])


# Subfolders that modules.json names are copied.
_MODULES = {
    "up": "../../secret",
    "up_in_the_middle": "1_Pooling/../../../secret",
    "windows_up": "..\\..\\secret",
    "hidden": ".git",
    "nul": "1_Pooling\0",
    "shard": SINGLE,
}


def _modules(scene: Scene, path: str) -> None:
    (scene.b / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": path, "type": "x.Y"}]))
    (scene.b / ".git").mkdir()
    (scene.b / ".git" / "config").write_bytes(SECRET)


for _name, _path in _MODULES.items():
    FAMILY.add(f"module_{_name}", lambda s, path=_path: _modules(s, path), "modules.json", "folder")
FAMILY.add("module_absolute", lambda s: _modules(s, str(s.secret.parent)), "modules.json", "folder")
FAMILY.add(
    "module_a_link_out",
    lambda s: (_modules(s, "1_Pooling"), (s.b / "1_Pooling").symlink_to(s.secret.parent)),
    "1_Pooling",
    "link",
)
FAMILY.add(
    "module_a_link_to_hidden_files",
    lambda s: (_modules(s, "1_Pooling"), (s.b / "1_Pooling").symlink_to(".git")),
    "1_Pooling",
    "link",
)


def _module_with(scene: Scene, make: Callable[[Path], object]) -> None:
    _modules(scene, "1_Pooling")
    (scene.b / "1_Pooling").mkdir()
    make(scene.b / "1_Pooling")


FAMILY.add(
    "module_with_a_link_out", lambda s: _module_with(s, lambda f: (f / "config.json").symlink_to(s.secret)), "link"
)
FAMILY.add("module_with_a_circle", lambda s: _module_with(s, lambda f: (f / "a").symlink_to(f)), "link")
FAMILY.add("module_with_a_fifo", lambda s: _module_with(s, lambda f: os.mkfifo(f / "config.json")), "config.json")
FAMILY.add(
    "module_with_deep_folders", lambda s: _module_with(s, lambda f: (f / ("d/" * 900)).mkdir(parents=True)), "deep"
)
FAMILY.add(
    "module_with_a_pickle",
    lambda s: _module_with(s, lambda f: (f / "pytorch_model.bin").write_bytes(_pickled(s))),
    "pytorch_model.bin",
    "pickle",
)
FAMILY.add(
    "module_with_code",
    lambda s: _module_with(s, lambda f: (f / "json.py").write_text(f"import os; os.mkdir({str(s.marker)!r})")),
    harmless=True,
)
FAMILY.add("modules_nested", lambda s: (s.b / "modules.json").write_text("[" * 100_000), harmless=True)


def _linked_secret(scene: Scene, name: str, beside: dict[str, bytes], link: str = "tokenizer.json") -> None:
    """Makes a small file a link to a file with the secret, in a folder with other files."""
    folder = scene.secret.parent
    for other, content in beside.items():
        (folder / other).write_bytes(content)
    (folder / name).write_bytes(SECRET)
    (scene.b / link).symlink_to(folder / name)


_CONFIG = json.dumps({"model_type": "qwen3"}).encode()
_BESIDE: dict[str, tuple[str, dict[str, bytes]]] = {
    "alone": ("tokenizer.json", {}),
    "without_weights": ("tokenizer.json", {"config.json": b"{}"}),
    "with_weights_only": ("tokenizer.json", {"w.safetensors": b"x"}),
}
for _name, (_target, _others) in _BESIDE.items():
    FAMILY.add(
        f"link_to_a_file_{_name}",
        lambda s, target=_target, others=_others: _linked_secret(s, target, others),
        "tokenizer.json",
        "link",
        looks=True,
    )
for _target in ("id_rsa", "notes.txt", "config.json", "credentials.json", "upload.py"):
    FAMILY.add(
        f"link_to_{_target}_of_another_model",
        lambda s, target=_target: _linked_secret(s, target, {"w.safetensors": shard(MODEL), "config.json": _CONFIG}),
        "tokenizer.json",
        "link",
        looks=True,
    )
FAMILY.add(
    "link_to_hidden_files", lambda s: (_modules(s, ""), (s.b / "tokenizer.json").symlink_to(".git/config")), "link"
)


def _code(scene: Scene, code: bytes) -> None:
    (scene.b / "config.json").write_text(json.dumps({**CONFIG, "auto_map": {"AutoModel": "own.Own"}}))
    (scene.b / "own.py").write_bytes(code)


_SOURCES = {
    "imports": b"from . import (" * 300_000,
    "lines": b"\n" * 4_000_000,
    "spaces": b"from ." + b" " * 4_000_000,
    "names": b"from ." + b"x" * 4_000_000 + b" import y",
    "circle": b"from .own import x\nfrom . import own",
    "bytes": bytes(range(256)) * 1000,
    "paths": b"from .../secret/secret import x\nfrom ../../secret import y",
}
for _name, _source in _SOURCES.items():
    FAMILY.add(f"code_with_{_name}", lambda s, source=_source: _code(s, source), harmless=True)
FAMILY.add(
    "code_a_link_out",
    lambda s: (_code(s, b""), (s.b / "own.py").unlink(), (s.b / "own.py").symlink_to(s.secret)),
    "link",
)


def _recorded(scene: Scene, name: str) -> None:
    """Writes a record of checksums that lists `name`."""
    (scene.b / CHECKSUMS).write_bytes(Record({}, {name: FileSum(len(SECRET), 0)}).encode())


for _name in ("../../secret/secret.txt", "a/../../../secret/secret.txt", "/etc/passwd", "..", "a//b"):
    FAMILY.add(
        f"{CHECKSUMS}_names_{_name.replace('/', '_')}",
        lambda s, name=_name: _recorded(s, name),
        CHECKSUMS,
        command="verify",
        ours=True,
    )


def _out_is(scene: Scene, link: Callable[[Path], object]) -> None:
    link(scene.out)


FAMILY.add("out_is_a_link_to_an_input", lambda s: s.out.symlink_to(s.b), "out", "input")
FAMILY.add("out_is_a_link_to_nothing", lambda s: s.out.symlink_to(s.root / "marker"), "out")
FAMILY.add("out_is_a_hard_link_to_a_shard", lambda s: os.link(s.b / SINGLE, s.out), "out")
FAMILY.add("out_is_a_fifo", lambda s: os.mkfifo(s.out), "out")
FAMILY.add(
    "work_folder_is_a_link",
    lambda s: s.out.with_name(".out.mi-kernels-work").symlink_to(s.secret.parent),
    "out",
    ours=True,
)


class _Runs:
    """Creates the file `marker` when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def _pickled(scene: Scene) -> bytes:
    return pickle.dumps(_Runs(scene.marker))


for _file in ("pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "model.pkl", "consolidated.00.pth"):
    FAMILY.add(
        f"pickle_alone_{_file}",
        lambda s, name=_file: ((s.b / name).write_bytes(_pickled(s)), (s.b / SINGLE).unlink()),
        _file,
        "pickle",
    )
FAMILY.add("pickle_called_safetensors", lambda s: s.weights(s.b, _pickled(s)), SINGLE)
FAMILY.add("pickle_beside", lambda s: (s.b / "pytorch_model.bin").write_bytes(_pickled(s)), harmless=True)
FAMILY.add("pickle_as_config", lambda s: (s.b / "config.json").write_bytes(_pickled(s)), "config.json")
FAMILY.add(
    "code_beside",
    lambda s: [
        (s.b / name).write_text(f"import os; os.mkdir({str(s.marker)!r})")
        for name in ("modeling_own.py", "conftest.py", "sitecustomize.py", "json.py", "numpy.py", "setup.py")
    ],
    harmless=True,
)
