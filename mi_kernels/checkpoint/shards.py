"""Decides which safetensors files are a model, and which of them each tensor is read from.

    an index, and every file that it lists    these files
    an index that lists a missing file        another complete model in the folder; without one, the download is broken
    no index                                  model.safetensors, or a complete set NAME-0000i-of-0000N
    only consolidated*.safetensors            the same three, in Mistral's format

Whatever else is in the folder is named in a note and not read. Two models of which nothing says which one is meant are
rejected.

transformers reads every tensor of every file that the index lists, and ignores entries of the index that no file has.
So does this module. The index decides only for a tensor that several files hold.
"""

from __future__ import annotations

import glob
import os
import re
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from typing import NamedTuple

from ..errors import CheckpointError, shortened
from ..system.faults import problem, remedy
from .files import read_json
from .header import refuse_too_many
from .model_files import ADAPTER, PICKLES, kind_of
from .record import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONSOLIDATED, INDEX, MISTRAL_INDEX, SINGLE
from .tensor import TensorInfo

WEIGHTS = ".safetensors"
INDEX_END = ".safetensors.index.json"
MISTRAL = "consolidated"  # names of files in Mistral's format start with it
_PARAMS, _CONFIG = "params.json", "config.json"
_NUMBERED = re.compile(r"(?P<stem>.+)-(?P<number>\d+)-of-(?P<total>\d+)\.safetensors", re.ASCII | re.DOTALL)


@dataclass
class ModelFiles:
    """The files of a model.

    Attributes:
        names: the names of the safetensors files, sorted.
        index: the name of the index; None if there is none, or if it is not used.
        weight_map: the name of a file for each tensor, as the index says; empty without an index.
        mistral: the files are in Mistral's format, so their names start with "consolidated".
        alone: the model is one file of a folder that is not its own, so the small files there are not part of it.
        notes: one line for each irregularity that was handled.
    """

    names: list[str]
    index: str | None = None
    weight_map: dict[str, str] = field(default_factory=dict)
    mistral: bool = False
    alone: bool = False
    notes: list[str] = field(default_factory=list)


class _Folder(NamedTuple):
    """The names in the folder of a model, or in a repository on the Hub. All lists are sorted.

    Attributes:
        root: the folder, or the Hub id.
        path: the folder with the indexes.
        entries: the names in the folder. Of a repository, all names except indexes that were not downloaded.
        known: `entries`, and names in the repository that were not downloaded because the model does not need them.
        files: the safetensors files in `known` that are not hidden.
        remote: the names are those of a repository.
    """

    root: str
    path: str
    entries: list[str]
    known: list[str]
    files: list[str]
    remote: bool = False

    @classmethod
    def listed(cls, root: str, left_out: Collection[str]) -> _Folder:
        try:
            entries = sorted(os.listdir(root))
        except OSError as error:
            raise CheckpointError(f"{root}: cannot be listed: {problem(error)}", remedy(error, reading=True)) from error
        known = sorted({*entries, *(name for name in left_out if "/" not in name)})
        # A folder is no file with weights. One with the name of a complete model is refused when it is read.
        files = [n for n in _visible(known, WEIGHTS) if n == SINGLE or not os.path.isdir(os.path.join(root, n))]
        return cls(root, root, entries, known, files)

    @classmethod
    def repository(cls, source: str, snapshot: str, names: Collection[str]) -> _Folder:
        known = sorted(names)
        entries = [n for n in known if not n.endswith(INDEX_END) or os.path.exists(os.path.join(snapshot, n))]
        return cls(source, snapshot, entries, known, _visible(known, WEIGHTS), remote=True)

    def advice(self, local: str, remote: str) -> str:
        """Returns the first text for a folder. For a repository, the second one with the command for {hf}."""
        name, _, revision = self.root.partition("@")
        return remote.format(hf=f"hf download {name}{revision and f' --revision {revision}'}") if self.remote else local

    @property
    def indexes(self) -> list[str]:
        return _visible(self.entries, INDEX_END)

    def mistral(self, names: Sequence[str]) -> bool:
        """Returns whether files with these names are in Mistral's format. config.json alone describes another one."""
        named = all(name.startswith(MISTRAL) for name in names)
        return named and (_PARAMS in self.entries or _CONFIG not in self.entries)


class _Set(NamedTuple):
    """The files STEM-number-of-TOTAL."""

    stem: str
    total: str
    names: list[str]
    numbers: list[int]

    @property
    def complete(self) -> bool:
        return len(self.numbers) == int(self.total) and set(self.numbers) == set(range(1, len(self.numbers) + 1))

    @property
    def pattern(self) -> str:
        return f"{glob.escape(self.stem)}-*-of-{self.total}{WEIGHTS}"

    def problem(self) -> str:
        """Returns why the set is not complete: the names of the first files that are missing, and how many more."""
        # The total is a claim of a file name: never make a list of that length.
        width, present, total = len(_number_of(self.names[0])), set(self.numbers), int(self.total)
        absent = total - sum(1 <= i <= total for i in present)
        if absent == 0:
            return "a number is there twice"
        first = islice((i for i in count(1) if i not in present), min(3, absent))
        names = [f"{self.stem}-{i:0{width}}-of-{self.total}{WEIGHTS}" for i in first]
        more = f" and {absent - 3:,} more" if absent > 3 else ""
        return f"{', '.join(names)}{more} {'is' if absent == 1 else 'are'} missing"


def _visible(names: list[str], end: str) -> list[str]:
    """Returns names with this end. macOS writes a hidden file ._NAME beside each file on a disk of another system."""
    return [name for name in names if name.endswith(end) and not name.startswith(".")]


def model_files(root: str, given: str, left_out: Collection[str] = ()) -> ModelFiles:
    """Returns the files of the model in the folder `root`, which the user gave as `given`.

    Args:
        left_out: files of the repository that were not downloaded, see `hub.left_out`.

    Raises:
        CheckpointError: the folder has no complete model, or several, or its index is not valid.
    """
    return _chosen(_Folder.listed(root, left_out), given)


def repository_files(source: str, snapshot: str, names: Collection[str]) -> ModelFiles:
    """Returns the files of the model in a repository on the Hub, as `model_files` does when they are downloaded.

    Args:
        source: the Hub id as the user gave it.
        snapshot: the local folder. It has the indexes.
        names: the files in the root of the repository.

    Raises:
        CheckpointError: as `model_files`.
    """
    return _chosen(_Folder.repository(source, snapshot, names), source)


def _chosen(folder: _Folder, given: str) -> ModelFiles:
    others = [name for name in folder.files if not name.startswith(MISTRAL)]
    found = _of_format(folder, others, SINGLE, _usual_index(folder))
    if found is None and not any(name.startswith("model") for name in others):
        found = _mistral_files(folder)
    elif found is not None and not set(folder.entries) & set(found.names):
        mistral = _mistral_files(folder)  # the download left out the other format, but not its index
        if mistral is not None and set(mistral.names) <= set(folder.entries):
            mistral.notes.append(_stale(found.index, found.names, mistral.names))
            found = mistral
    if found is None:
        found = _lone_file(folder, given)
    found.notes.extend(_unread(folder, found))
    return found


def single_file(path: str, left_out: Collection[str] = ()) -> ModelFiles:
    """Returns the file at `path` as a model.

    The config and the other small files of its folder belong to it if it is the only file with weights there, or has
    the name of a complete model.

    Raises:
        CheckpointError: the file is one shard of several, or an adapter.
    """
    root, name = os.path.split(path)
    root = root or "."
    folder = _Folder.listed(root, left_out)
    if name == ADAPTER_WEIGHTS and ADAPTER_CONFIG in folder.entries:
        raise CheckpointError(f"{path}: is an adapter, not a model", f"Write BASE+{root} to add it to its base.")
    numbered = _NUMBERED.fullmatch(name)
    listing = [index for index in folder.indexes if {name} < set(_read_index(root, index).values())]
    if listing or (numbered and int(numbered["total"]) > 1):
        raise CheckpointError(
            f"{path}: is one shard of several{f', as {listing[0]} says' if listing else ''}",
            f"Give the folder that contains all of them: {root}",
        )
    mistral = folder.mistral([name])
    settings = [n for n in (_CONFIG, *([_PARAMS] if mistral else [])) if n in folder.entries]
    owner = bool(settings) and (folder.files == [name] or name in (SINGLE, CONSOLIDATED))
    unused = "the folder has other weights too, so its config.json and other small files are not used"
    return ModelFiles(
        [name], mistral=mistral, alone=not owner, notes=[unused] if _CONFIG in settings and not owner else []
    )


def _usual_index(folder: _Folder) -> str | None:
    """Returns the name of the index of the usual format."""
    indexes = [n for n in folder.indexes if n != MISTRAL_INDEX]
    if INDEX in folder.entries:
        return INDEX
    if len(indexes) > 1:
        raise CheckpointError(
            f"{folder.root}: has several indexes: {shortened(indexes)}",
            folder.advice(
                "Keep one model per folder.",
                f"Run `{{hf}} --exclude {_quoted(indexes[-1])} --local-dir FOLDER` without the wrong one, and give "
                "FOLDER.",
            ),
        )
    return indexes[0] if indexes else None


def _mistral_files(folder: _Folder) -> ModelFiles | None:
    files = [name for name in folder.files if name.startswith(MISTRAL)]
    return _of_format(folder, files, CONSOLIDATED, MISTRAL_INDEX if MISTRAL_INDEX in folder.entries else None)


def _of_format(folder: _Folder, files: list[str], single: str, index: str | None) -> ModelFiles | None:
    """Returns the model of one format; None if there is none, or if it is not complete.

    Args:
        files: the files with weights in this format.
        single: the name of a model in one file.
        index: the name of the index, if there is one.
    """
    if index is None:
        names = _complete(folder, files, single)
        if names is None:
            return None
        mistral = folder.mistral(names)
        usual = MISTRAL_INDEX if mistral else INDEX
        notes = [f"has no {usual}; the model is the complete set {_span(names)}"] if len(names) > 1 else []
        return ModelFiles(names, mistral=mistral, notes=notes)
    weight_map = _read_index(folder.path, index)
    named, present = set(weight_map.values()), set(folder.known)
    listed = sorted(named)
    missing = sorted(named - present)
    if single in files and single not in named and not missing:
        raise CheckpointError(
            f"{folder.root}: has both {single} and {index}, which does not list it",
            folder.advice(
                f"Remove the one that is not the model, or give the path of {single}: loaders choose different ones.",
                f"If {single} is the model, run `{{hf}} {single}`, then give the path that it prints. Loaders choose "
                "different ones.",
            ),
        )
    if missing:
        names = _complete(folder, [name for name in files if name not in named], single)
        if names is not None:
            return ModelFiles(names, mistral=folder.mistral(names), notes=[_stale(index, missing, names)])
    mistral = index == MISTRAL_INDEX and folder.mistral(listed)
    return ModelFiles(listed, index, weight_map, mistral)  # reading the first missing file raises


def _complete(folder: _Folder, files: list[str], single: str) -> list[str] | None:
    """Returns the files that are a complete model without an index; None if there are none."""
    if single in files:
        return [single]
    sets = _numbered_sets(files)
    complete = [s for s in sets if s.complete]
    if not complete:
        return None
    if len(sets) > 1:
        first, second = complete[0], next(s for s in sets if s is not complete[0])
        broken = "" if second.complete else f" ({second.problem()})"
        raise CheckpointError(
            f"{folder.root}: has two sets of shards, {_span(first.names)} and {_span(second.names)}{broken}, and no "
            "index",
            folder.advice(
                "Remove the set that is not the model.",
                f"Run `{{hf}} --exclude {_quoted(second.pattern)} --local-dir FOLDER` without the set that is not the "
                "model, and give FOLDER.",
            ),
        )
    return complete[0].names


def _lone_file(folder: _Folder, given: str) -> ModelFiles:
    """Returns the only safetensors file of a folder, whatever its name.

    Raises:
        CheckpointError: there are none, or several.
    """
    root, known, files = folder.root, folder.known, folder.files
    if ADAPTER_CONFIG in known:
        adapter = [name for name in known if kind_of(name) is ADAPTER and name.endswith((WEIGHTS, *PICKLES))]
        files = [name for name in files if name not in adapter]
    else:
        adapter = []
    if adapter and not files:
        raise CheckpointError(f"{root}: is an adapter, not a model", f"Write BASE+{given} to add it to its base.")
    for broken in _numbered_sets(files):
        raise CheckpointError(
            f"{root}: has {shortened(broken.names)}, but {broken.problem()}",
            folder.advice(
                "Download all shards of the model.",
                "Choose another revision, or ask the author of the model to upload all shards.",
            ),
        )
    if len(files) == 1:
        return ModelFiles(files, mistral=folder.mistral(files))
    if files:
        raise CheckpointError(
            f"{root}: has {shortened(files)}, but {INDEX} is missing",
            folder.advice(
                "Download the index if they are shards of one model. If one of them is the model, give its path.",
                f"If one of them is the model, download it as with `{{hf}} {_quoted(files[0])}`, and give its path.",
            ),
        )
    pickles = [n for n in known if n.endswith(PICKLES)]
    if pickles:
        raise CheckpointError(
            f"{root}: has only pickled weights ({shortened(pickles)}), which are never opened",
            "Get the safetensors version of the model, or convert it in a sandbox: a pickle can run any code.",
        )
    raise CheckpointError(
        f"{root}: has no safetensors weights",
        folder.advice(
            f"Give the folder that contains {SINGLE} or {INDEX}.", "Choose a repository that has safetensors weights."
        ),
    )


def _unread(folder: _Folder, found: ModelFiles) -> list[str]:
    """Returns notes that name the files with weights that are not part of the model."""
    names = set(found.names)
    # The weights of an adapter belong to its config, and the notes on files that are not copied name both.
    adapter = {ADAPTER_WEIGHTS} if ADAPTER_CONFIG in folder.known else set()
    unread = [name for name in folder.files if name not in names | adapter]
    mistral = [name for name in unread if name.startswith(MISTRAL) and not found.names[0].startswith(MISTRAL)]
    others = [name for name in unread if name not in mistral]
    notes = []
    if mistral:
        notes.append(f"{shortened(mistral)}: not read, because it is the same model in Mistral's format")
    if others:
        why = f"{found.index} does not list it" if found.index is not None else f"the model is {_span(found.names)}"
        notes.append(f"{shortened(others)}: not read, because {why}")
    return notes


def _numbered_sets(files: Sequence[str]) -> list[_Set]:
    sets: dict[tuple[str, str], _Set] = {}
    for name in files:
        match = _NUMBERED.fullmatch(name)
        if match and int(match["total"]) > 0:
            found = sets.setdefault((match["stem"], match["total"]), _Set(match["stem"], match["total"], [], []))
            found.names.append(name)
            found.numbers.append(int(match["number"]))
    return list(sets.values())


def _quoted(name: str) -> str:
    """Returns the name for a command, as a part of a text for `_Folder.advice`."""
    return shlex.quote(name).replace("{", "{{").replace("}", "}}")


def _number_of(name: str) -> str:
    match = _NUMBERED.fullmatch(name)
    assert match is not None
    return match["number"]


def _span(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _stale(index: str | None, missing: list[str], names: list[str]) -> str:
    are = "is" if len(missing) == 1 else "are"
    return f"{index} is ignored: it lists {shortened(missing)}, which {are} missing; the model is {_span(names)}"


def _read_index(root: str, name: str) -> dict[str, str]:
    path = os.path.join(root, name)
    index = read_json(path, unique=True)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path}: has no weight_map", "Download the index again.")
    refuse_too_many(len(weight_map), path)
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or not shard.endswith(WEIGHTS) or any(c in shard for c in "/\\\0"):
            raise CheckpointError(
                f"{path}: puts {tensor} in {shard!r}, which is not the name of a safetensors file in this folder",
                "Do not use this model unless you trust its source: an index must only name files in its own folder.",
            )
    return weight_map


class Chosen(NamedTuple):
    """The tensors of a model in file order, and one line for each irregularity that was handled."""

    tensors: dict[str, TensorInfo]
    notes: list[str]


def chosen_tensors(root: str, files: ModelFiles, found: Sequence[Sequence[TensorInfo]]) -> Chosen:
    """Returns each tensor of a model once. A tensor that several files hold is read where the index says.

    Args:
        root: the folder of the model, for messages.
        files: the files of the model.
        found: the tensors in each of them.

    Raises:
        CheckpointError: several files hold a tensor, and no index says which one is right. Or there are no tensors.
    """
    numbers = {name: i for i, name in enumerate(files.names)}
    listed = {tensor: numbers[name] for tensor, name in files.weight_map.items()}
    held: dict[str, list[int]] = {}
    for number, tensors in enumerate(found):
        for t in tensors:
            held.setdefault(t.name, []).append(number)
    place: dict[str, int] = {}
    for name, holders in held.items():
        if listed.get(name) in holders:
            place[name] = listed[name]
        elif len(holders) == 1:
            place[name] = holders[0]
        else:
            raise _ambiguous(root, files, name, [files.names[i] for i in holders])
    if not place:
        raise CheckpointError(f"{root}: no tensors in {', '.join(files.names)}", "Give a folder that contains weights.")
    notes = _index_notes(files, listed, held) if files.index is not None else []
    for number, tensors in enumerate(found):
        ignored = sum(place[t.name] != number for t in tensors)
        if ignored:
            are = "tensor is" if ignored == 1 else "tensors are"
            notes.append(f"{ignored} {are} ignored in {files.names[number]}: the index lists other shards")
    return Chosen({t.name: t for n, tensors in enumerate(found) for t in tensors if place[t.name] == n}, notes)


def _index_notes(files: ModelFiles, listed: dict[str, int], held: dict[str, list[int]]) -> list[str]:
    """Returns notes on tensors that are not where the index says."""
    notes = []
    absent = [name for name in listed if name not in held]
    if absent:
        are = "it is" if len(absent) == 1 else "they are"
        notes.append(f"{files.index} lists {shortened(absent)}, which no shard has; as in transformers, {are} ignored")
    moved = [name for name, number in listed.items() if name in held and number not in held[name]]
    if moved:
        where = f"{moved[0]} is in {files.names[held[moved[0]][0]]}, not in {files.weight_map[moved[0]]}"
        more = f"; the index is wrong about {len(moved) - 1:,} more tensors" if len(moved) > 1 else ""
        notes.append(f"{where} as {files.index} says; it is read where it is{more}")
    unlisted = [name for name in held if name not in listed]
    if unlisted:
        are = "it is" if len(unlisted) == 1 else "they are"
        notes.append(f"{files.index} does not list {shortened(unlisted)}; as in transformers, {are} part of the model")
    return notes


def _ambiguous(root: str, files: ModelFiles, name: str, holders: list[str]) -> CheckpointError:
    both = f"{root}: {shortened([name])} is in {shortened(holders)}"
    if files.index is None:
        usual = MISTRAL_INDEX if files.mistral else INDEX
        return CheckpointError(
            f"{both}, and no index says which one is right",
            f"Add {usual}, with a weight_map that names one shard for every tensor.",
        )
    said = files.weight_map.get(name)
    says = f"puts it in {said}" if said is not None else "does not list it"
    return CheckpointError(
        f"{both}, but {files.index} {says}", f"Correct its entry in {files.index}: name the shard to read it from."
    )
