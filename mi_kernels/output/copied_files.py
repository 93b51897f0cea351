"""Decides which files of a model's folder a merge copies: config, tokenizer, templates, code, licences, modules."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from ..checkpoint.files import read_file, refuse_link_out
from ..checkpoint.header import read_header
from ..checkpoint.hub import left_out
from ..checkpoint.model_files import (
    ADAPTER,
    CODE,
    OTHER_WEIGHTS,
    PICKLES,
    TEXTS,
    UNKNOWN,
    Kind,
    kind_of,
    kind_of_folder,
)
from ..checkpoint.record import ADAPTER_CONFIG, Checkpoint
from ..checkpoint.subfolders import GENERATION, MODULES, ROUTER, TEMPLATES, belongs, copies, files_in, needed
from ..checksums.record import NAME as CHECKSUMS
from ..errors import CheckpointError, shortened
from ..system.faults import reading_failed
from .sidefiles import MAX_SIZE, RECORD

_OURS = (RECORD, CHECKSUMS)
_MAX_READ = 16 << 20  # bytes of a config or of code that is searched for names
_CLASS = re.compile(r"([A-Za-z_]\w*)\.[A-Za-z_]\w*", re.ASCII)  # MODULE.CLASS, as configs name code
_IMPORT = re.compile(rb"^[ \t]*from[ \t]+\.(\w*)[ \t]+import[ \t]+", re.MULTILINE)  # as in transformers
_IMPORTED = 4096  # bytes after `from . import` that are searched for modules
_STRING = re.compile(rb"(?=\"([^\"\\\n]{1,255})\"|'([^'\\\n]{1,255})')")  # as JSON and Python have a name


class CopiedFiles(NamedTuple):
    """The files that a merge copies from the folder of a model.

    Attributes:
        names: their paths within the folder.
        notes: one sentence on the files that are not copied, and one on weights that are copied.
    """

    names: list[str]
    notes: list[str]


def survey(source: Checkpoint, others: Collection[str] = ()) -> CopiedFiles:
    """Returns which files of the folder of `source` belong to the model, besides weights and model card.

    The table in `checkpoint.model_files` decides. Python files are copied if a config names them, or a file that is
    copied imports them. Subfolders are copied if they belong to the model, see `checkpoint.subfolders`.

    Args:
        others: files that the output gets from another model. They are not returned.

    Raises:
        CheckpointError: a file that must be read cannot be read; a subfolder of the model is a link out of the folder,
            is outside of it, or has pickled weights.
    """
    if source.alone:  # the files beside it are not its own
        return CopiedFiles([], [])
    root = source.root
    replaced = {*_OURS, *map(os.path.basename, source.shards)}  # the output has its own
    try:
        entries = [name for name in sorted(os.listdir(root)) if not name.startswith(".") and name not in replaced]
    except OSError as error:
        raise reading_failed(error, root) from error
    folders = [name for name in entries if os.path.isdir(os.path.join(root, name))]
    files = sorted({*entries} - {*folders})
    copied = {name for name in files if kind_of(name).copied}
    copied |= _named(root, "", [name for name in files if name not in copied], sorted(copied))
    left = [(name, kind_of(name)) for name in files if name not in copied]

    subfolders = needed(root)
    weights: list[str] = []
    for folder in subfolders:
        inside = list(files_in(root, folder))
        module = folder not in (TEMPLATES, GENERATION)
        if module:
            others = [name for name in (copies(name, folder) for name in inside) if name is not None]
            left += [(f"{name}/", kind_of_folder(os.path.basename(name))) for name in dict.fromkeys(others)]
            inside = [name for name in inside if copies(name, folder) is None]
            _refuse_pickles(root, folder, [*inside, *_left_on_hub(root, folder)])
        taken = [name for name in inside if belongs(name, folder)]
        if module:
            own = [os.path.basename(name) for name in inside if os.path.dirname(name) == folder]
            configs = [name for name in own if kind_of(name).copied]
            taken += [f"{folder}/{name}" for name in _named(root, folder, own, configs)]
        left += [(name, kind_of(name)) for name in sorted({*inside} - {*taken})]
        weights += [name for name in taken if name.endswith(".safetensors") and name not in copied]
        copied |= set(taken)
    _check_weights(root, weights)
    used = {folder.split("/")[0] for folder in subfolders}
    left += [(f"{name}/", kind_of_folder(name)) for name in folders if name not in used]
    left = [(name, kind) for name, kind in left if name not in copied]  # one module can be in the folder of another
    if _adapter_is_applied(source):
        left = [(name, kind) for name, kind in left if kind is not ADAPTER]
    notes = [*_left_out(source.base, left)]
    weights = [name for name in weights if name not in others]
    if weights:
        notes.append(f"{shortened(weights)}: copied from {source.base}, not interpolated")
    return CopiedFiles(sorted(copied.difference(others)), notes)


def _left_on_hub(root: str, folder: str) -> list[str]:
    """Returns the files in the folder of a module that were not downloaded."""
    return [n for n in left_out(root) if n.startswith(f"{folder}/") and copies(n, folder) is None]


def _refuse_pickles(root: str, folder: str, names: Sequence[str]) -> None:
    with_weights = {os.path.dirname(name) for name in names if name.endswith(".safetensors")}
    for name in names:
        pickled = name.endswith(PICKLES) and kind_of(name) is OTHER_WEIGHTS
        if pickled and os.path.dirname(name) not in with_weights:
            raise CheckpointError(
                f"{os.path.join(root, name)}: is a pickle, and pickles are never opened, but the model needs {folder}",
                "Load the model with sentence-transformers, and save it with save_pretrained(FOLDER), which writes "
                "safetensors.",
            )


def _check_weights(root: str, names: Sequence[str]) -> None:
    """Checks the weights in subfolders, which are copied as they are."""
    total = 0
    for name in names:
        path = os.path.join(root, name)
        refuse_link_out(path, root)
        total += read_header(path, 0).stamp.size
        if total > MAX_SIZE:
            raise CheckpointError(
                f"{path}: the weights in subfolders up to this one have more than {MAX_SIZE >> 20} MiB",
                f"Move {MODULES} and the folders that it names out of the model, and into the output after the merge.",
            )


def _left_out(source: str, left: Sequence[tuple[str, Kind]]) -> Iterator[str]:
    groups: dict[str, list[str]] = {}
    for name, kind in left:
        if kind.noted:
            groups.setdefault(kind.label, []).append(name)
    if groups:
        text = "; ".join(f"{shortened(names)} ({label})" for label, names in groups.items())
        yield f"{source}: not copied to the output: {text}"


def _named(root: str, folder: str, files: Sequence[str], copied: Sequence[str]) -> set[str]:
    """Returns the files that the configs of a model name: code, directly or by an import, and text that code reads.

    Args:
        root: the folder of the model.
        folder: the subfolder that has the files and the configs; "" for `root` itself.
        files: names of files that are not configs.
        copied: names of files that are copied. The configs are among them.
    """
    modules = {name.removesuffix(".py"): name for name in files if kind_of(name) is CODE}
    texts = {name for name in files if kind_of(name) is UNKNOWN and name.endswith(TEXTS)}
    todo = [n for n in copied if n.endswith(".json") and ("config" in n or n in (MODULES, ROUTER))]
    named: set[str] = set()
    size = 0
    while todo and (modules or texts) and size <= MAX_SIZE:  # otherwise `collect` rejects the model
        name = todo.pop()
        content = _text(os.path.join(root, folder, name), root)
        size += len(content)
        mentioned = _imports(content) if name.endswith(".py") else _classes(content)
        found = {modules.pop(m) for m in {*mentioned} if m in modules}
        todo += found
        named |= found | _quoted(content, texts)
        texts -= named
    return named


def _quoted(content: bytes, names: Collection[str]) -> set[str]:
    """Returns which of the names are strings in JSON or Python. Reads the content once for all names."""
    wanted = {os.fsencode(name): name for name in names}
    strings = (match[1] or match[2] for match in _STRING.finditer(content)) if wanted else ()
    return {wanted[string] for string in strings if string in wanted}


def _text(path: str, root: str) -> bytes:
    """Returns the content of a config or of code; nothing if the file is so large that it cannot be one."""
    with suppress(OSError):  # `read_file` reports it
        if os.path.getsize(path) > _MAX_READ:
            return b""
    return read_file(path, _MAX_READ, root)


def _classes(content: bytes) -> Iterator[str]:
    """Yields the module of each MODULE.CLASS in a JSON file: auto_map, custom_pipelines, types of modules."""
    try:
        values = [json.loads(content)]
    except (ValueError, RecursionError):  # loaders reject the file, so it names no code
        return
    while values:
        value = values.pop()
        if isinstance(value, (dict, list)):
            values += value.values() if isinstance(value, dict) else value
        elif isinstance(value, str) and (match := _CLASS.fullmatch(value.rpartition("--")[2])):  # REPO--MODULE.CLASS
            yield match[1]


def _imports(code: bytes) -> Iterator[str]:
    """Yields the modules of the same folder that a Python file imports."""
    for match in _IMPORT.finditer(code):
        if match[1]:
            yield match[1].decode(errors="replace")
        else:
            names = code[match.end() : match.end() + _IMPORTED]
            names = names.split(b")")[0] if names.startswith(b"(") else names.split(b"\n")[0]
            names = re.sub(rb"#.*", b"", names)
            yield from re.findall(r"(\w+)(?:[ \t]+as[ \t]+\w+)?", names.decode(errors="replace"))


def unused_adapter(model: Checkpoint) -> list[str]:
    """Returns a note if a model that is not the origin of the small files has an adapter beside its weights."""
    found = os.path.lexists(os.path.join(model.root, ADAPTER_CONFIG)) and not _adapter_is_applied(model)
    return [f"{model.base}: has {ADAPTER_CONFIG} beside its weights; the adapter is not applied"] if found else []


def _adapter_is_applied(model: Checkpoint) -> bool:
    """Returns whether the adapter of BASE+ADAPTER is in the folder of the base."""
    return model.adapter is not None and os.path.realpath(model.adapter.root) == os.path.realpath(model.root)
