"""Which files of a repository on the Hub a model or an adapter needs. Copies in other formats are never among them.

A selection yields the files in steps, because the later ones depend on what the earlier ones say: the index names the
shards, and modules.json names the folders of sentence-transformers. Names in these files are untrusted. They only
choose among files of the repository.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

from ..errors import CheckpointError, shortened
from .model_files import CODE, UNKNOWN, kind_of
from .record import ADAPTER_CONFIG, ADAPTER_WEIGHTS, INDEX, SINGLE

LARGE = 64 << 20  # bytes; the largest small file of a real model, a tokenizer.json, has 35 MB
_MOST_SHARDS = 10_000  # real models have up to 1,000
_WEIGHTS = ".safetensors"
_INDEX = ".safetensors.index.json"
_MODULES = "modules.json"
_TEMPLATE = re.compile(r"additional_chat_templates/[^/]+\.jinja")
_TEXT = (".txt", ".yaml", ".yml")  # code or a config of the model may read them
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{1,9})-of-(?P<total>\d{1,9})\.safetensors")
_COPIES = re.compile(r"onnx|openvino|original|checkpoint-.*")  # folders
# The tokenizer and chat template that a trainer saves beside an adapter.
_OF_ADAPTERS = re.compile(
    r"tokenizer.*\.(json|model)|chat_template\.(jinja|json)|special_tokens_map\.json|added_tokens\.json"
    r"|vocab\.(json|txt)|merges\.txt|.*\.tiktoken"
)


class File(NamedTuple):
    """A file of a repository.

    Attributes:
        size: in bytes.
        blob: the name of its content in the cache; None if not known.
    """

    size: int
    blob: str | None = None


class Repository(NamedTuple):
    """A repository at one commit.

    Attributes:
        source: the id as the user gave it.
        folder: the local snapshot. It has the files of the earlier steps.
        files: all files of the repository by path.
    """

    source: str
    folder: str
    files: dict[str, File]

    @property
    def root(self) -> list[str]:
        """Names of the files that are not in a subfolder."""
        return [name for name in self.files if "/" not in name]

    def is_large(self, name: str) -> bool:
        """Whether a user wants to know about the file before its download."""
        return name.endswith(_WEIGHTS) or self.files[name].size > LARGE


class Selection(NamedTuple):
    """What to download of a repository.

    Attributes:
        first: names of tiny files. They are downloaded before the files of the repository are known.
        steps: yields the names of all other files, step by step.
    """

    first: tuple[str, ...]
    steps: Callable[[Repository], Iterator[list[str]]]


def model_files(repository: Repository) -> Iterator[list[str]]:
    """Yields the index and the small files of a model, then its shards and the files of its modules.

    Raises:
        CheckpointError: the repository lacks shards, or has too many, or its index is too large.
    """
    root = repository.root
    indexes = _indexes(root)
    for name in indexes:
        if repository.files[name].size > LARGE:
            raise CheckpointError(
                f"{repository.source}: {name} is larger than {LARGE >> 20} MiB, the limit for such files",
                "Do not use this model unless you trust its source.",
            )
    small = [name for name in root if _is_small(name)]
    templates = [name for name in repository.files if _TEMPLATE.fullmatch(name)]
    yield [*indexes, *(name for name in (*small, *templates) if not repository.is_large(name))]
    weights = _shards(repository, indexes[0]) if len(indexes) == 1 else [] if indexes else _without_index(root)
    yield [*weights, *_files_of_modules(repository), *filter(repository.is_large, (*small, *templates))]


def adapter_files(repository: Repository) -> Iterator[list[str]]:
    """Yields the config, tokenizer and chat template of an adapter, then its weights."""
    root = [ADAPTER_CONFIG, *(name for name in repository.root if _OF_ADAPTERS.fullmatch(name))]
    templates = [name for name in repository.files if _TEMPLATE.fullmatch(name)]
    small = [name for name in (*root, *templates) if name in repository.files]
    yield [name for name in small if not repository.is_large(name)]
    yield [*filter(repository.is_large, small), *(n for n in (ADAPTER_WEIGHTS,) if n in repository.files)]


def unselected(repository: Repository, selected: Collection[str]) -> list[str]:
    """Returns the names of files in the root that were not selected, except a copy of the model in Mistral's format."""
    own = any(name.endswith(_WEIGHTS) and not _is_copy(name) for name in selected)
    return [name for name in repository.root if name not in selected and not (own and _is_copy(name))]


def _is_small(name: str) -> bool:
    """Whether `name` is a small file of a model: what a merge can copy, code and its text files, the model card."""
    kind = kind_of(name)
    return (
        kind.copied
        or kind is CODE
        or (kind is UNKNOWN and name.endswith(_TEXT))
        or name in (ADAPTER_CONFIG, "README.md")
    )


def _is_copy(name: str) -> bool:
    """Whether `name` is a weight file or index in Mistral's format. Many repositories have a model in both formats."""
    return name.startswith("consolidated") and name.endswith((_WEIGHTS, _INDEX))


def _indexes(root: list[str]) -> list[str]:
    """Returns the index of the model. Several if the model is refused for having them."""
    if INDEX in root:
        return [INDEX]
    found = [name for name in root if name.endswith(_INDEX)]
    own = [name for name in found if not _is_copy(name)]
    return own or ([] if _complete(root) else found)


def _shards(repository: Repository, index: str) -> list[str]:
    """Returns the shards that the index lists; none if the model is refused when its index is read."""
    root = repository.root
    listed = _listed(os.path.join(repository.folder, index))
    if SINGLE in root and SINGLE not in listed:
        return []
    absent = sorted(listed.difference(root))
    if absent:
        if complete := _complete(root):
            return [*complete, *(name for name in root if name in listed and name not in complete)]
        raise CheckpointError(
            f"{repository.source}: the repository lacks {shortened(absent)}, which {index} lists",
            "Choose another revision, or ask the author of the model to upload it.",
        )
    if len(listed) > _MOST_SHARDS:
        raise CheckpointError(
            f"{repository.source}: {index} lists {len(listed):,} files, more than {_MOST_SHARDS:,}",
            "Do not use this model unless you trust its source.",
        )
    return sorted(listed)


def _listed(path: str) -> set[str]:
    """Returns the names in the weight_map of the index; none if it has one that is not a name in its own folder."""
    content = _json(path)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    right = all(isinstance(n, str) and n.endswith(_WEIGHTS) and not re.search(r"[/\\\0]", n) for n in names)
    return set(names) if right else set()


def _complete(root: list[str]) -> list[str]:
    """Returns the weights that are a model without an index: model.safetensors, or model-0000i-of-0000N for all i."""
    if SINGLE in root:
        return [SINGLE]
    return next((names for stem, names in _complete_sets(root) if stem == "model"), [])


def _without_index(root: list[str]) -> list[str]:
    """Returns the weights of a model without an index; none if it is refused because they could be several models."""
    if complete := _complete(root):
        return complete
    found = [name for name in root if name.endswith(_WEIGHTS) and name != ADAPTER_WEIGHTS]
    sets = [names for _, names in _complete_sets(found)]
    one = len(found) == 1 and not _PART.fullmatch(found[0])
    return found if one or found in sets or all(map(_is_copy, found)) else []


def _complete_sets(names: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yields (STEM, shards) for each set STEM-1-of-N ... STEM-N-of-N."""
    sets: dict[tuple[str, int], dict[str, int]] = defaultdict(dict)
    for name in names:
        if part := _PART.fullmatch(name):
            sets[part["stem"], int(part["total"])][name] = int(part["number"])
    for (stem, total), numbers in sets.items():
        if len(numbers) == total and set(numbers.values()) == set(range(1, total + 1)):
            yield stem, list(numbers)


def _files_of_modules(repository: Repository) -> list[str]:
    """Returns the files in the folders that modules.json names: the modules of a sentence-transformers model."""
    modules = _json(os.path.join(repository.folder, _MODULES)) if _MODULES in repository.files else None
    entries = [entry.get("path") for entry in modules if isinstance(entry, dict)] if isinstance(modules, list) else []
    folders = {posixpath.normpath(path) for path in entries if isinstance(path, str)} - {"."}
    return [
        name
        for name in repository.files
        if _is_in(name, folders) and (name.endswith((_WEIGHTS, _INDEX)) or _is_small(name.rsplit("/", 1)[-1]))
    ]


def _is_in(name: str, folders: set[str]) -> bool:
    """Whether the file is in one of the folders, and not in a folder with copies inside of it."""
    for parent in PurePosixPath(name).parents:
        if str(parent) in folders:
            return True
        if _COPIES.fullmatch(parent.name):
            return False
    return False


def _json(path: str) -> object:
    """Returns the content of a file; None if it is not JSON, which is refused when the checkpoint is opened."""
    try:
        if not os.path.isfile(path) or os.path.getsize(path) > LARGE:
            return None
        with open(path, "rb") as file:
            content: object = json.loads(file.read(LARGE))
            return content
    except (OSError, ValueError, RecursionError):
        return None


MODEL_FILES = Selection(("config.json", "params.json", "README.md"), model_files)
ADAPTER_FILES = Selection((ADAPTER_CONFIG,), adapter_files)
