"""Which files of a repository on the Hub a model or an adapter needs. Copies in other formats are never among them.

What belongs to a model is decided as for a local folder: by `shards` for the weights, by `subfolders` and `model_files`
for the other files. A selection yields the files in steps, because the later ones depend on what the earlier ones say:
the index names the shards, and modules.json names the folders of sentence-transformers. Names in these files are
untrusted. They only choose among files of the repository.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import NamedTuple

from ..errors import CheckpointError, shortened
from .model_files import CODE, TEXTS, UNKNOWN, kind_of
from .record import ADAPTER_CONFIG, ADAPTER_WEIGHTS, INDEX, MISTRAL_INDEX
from .shards import INDEX_END, MISTRAL, WEIGHTS, repository_files
from .subfolders import GENERATION, TEMPLATES, belongs, copies, module_folders

LARGE = 64 << 20  # bytes; the largest small file of a real model, a tokenizer.json, has 35 MB
_MOST_SHARDS = 10_000  # real models have up to 1,000
_TEMPLATE = re.compile(r"additional_chat_templates/[^/]+\.jinja")
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
        return name.endswith(WEIGHTS) or self.files[name].size > LARGE


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
        CheckpointError: the repository would be refused as a folder too; or it lacks shards, or has too many, or its
            index is too large.
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
    small += [name for folder in (TEMPLATES, GENERATION) for name in _inside(repository, folder)]
    yield [*indexes, *(name for name in small if not repository.is_large(name))]
    yield [*_weights(repository), *_files_of_modules(repository), *filter(repository.is_large, small)]


def adapter_files(repository: Repository) -> Iterator[list[str]]:
    """Yields the config, tokenizer and chat template of an adapter, then its weights."""
    root = [ADAPTER_CONFIG, *(name for name in repository.root if _OF_ADAPTERS.fullmatch(name))]
    templates = [name for name in repository.files if _TEMPLATE.fullmatch(name)]
    small = [name for name in (*root, *templates) if name in repository.files]
    yield [name for name in small if not repository.is_large(name)]
    yield [*filter(repository.is_large, small), *(n for n in (ADAPTER_WEIGHTS,) if n in repository.files)]


def unselected(repository: Repository, selected: Collection[str]) -> list[str]:
    """Returns the names of files that were not selected: in the root, and in the folders of modules.

    A copy of the model in Mistral's format is not among them.
    """
    own = any(name.endswith(WEIGHTS) and not _is_copy(name) for name in selected)
    root = [name for name in repository.root if not (own and _is_copy(name))]
    folders = tuple(f"{folder}/" for folder in _modules(repository))
    return [name for name in (*root, *(n for n in repository.files if n.startswith(folders))) if name not in selected]


def _is_small(name: str) -> bool:
    """Whether `name` is a small file of a model: what a merge can copy, code and its text files, the model card."""
    kind = kind_of(name)
    return (
        kind.copied
        or kind is CODE
        or (kind is UNKNOWN and name.endswith(TEXTS))
        or name in (ADAPTER_CONFIG, "README.md")
    )


def _is_copy(name: str) -> bool:
    """Whether `name` is a weight file or index in Mistral's format. Many repositories have a model in both formats."""
    return name.startswith(MISTRAL) and name.endswith((WEIGHTS, INDEX_END))


def _indexes(root: list[str]) -> list[str]:
    """Returns the index of the model. Several if the model is refused for having them."""
    found = [name for name in root if name.endswith(INDEX_END) and name != MISTRAL_INDEX]
    usual = [INDEX] if INDEX in found else found
    # As in `shards`: a file with such a name is of the usual format, which is then the model.
    own = any(name.startswith("model") and name.endswith(WEIGHTS) for name in root)
    return [*usual, *([MISTRAL_INDEX] if MISTRAL_INDEX in root and not own else [])]


def _weights(repository: Repository) -> list[str]:
    """Returns the safetensors files of the model."""
    root = repository.root
    found = repository_files(repository.source, repository.folder, root)
    absent = sorted(set(found.names).difference(root))
    if absent:
        raise CheckpointError(
            f"{repository.source}: the repository lacks {shortened(absent)}, which {found.index} lists",
            "Choose another revision, or ask the author of the model to upload it.",
        )
    if len(found.names) > _MOST_SHARDS:
        raise CheckpointError(
            f"{repository.source}: {found.index or 'the model'} lists {len(found.names):,} files, more than "
            f"{_MOST_SHARDS:,}",
            "Do not use this model unless you trust its source.",
        )
    return found.names


def _files_of_modules(repository: Repository) -> list[str]:
    """Returns the files in the folders of modules: what a merge copies, and code that their configs may name."""
    found = [name for folder in _modules(repository) for name in _inside(repository, folder)]
    return list(dict.fromkeys(found))


def _modules(repository: Repository) -> list[str]:
    """Returns the folders of the modules of sentence-transformers; none if a merge refuses to copy them."""
    with suppress(CheckpointError):
        return module_folders(repository.folder)
    return []


def _inside(repository: Repository, folder: str) -> list[str]:
    """Returns the files in a subfolder that belong to the model or may do so."""
    module = folder not in (TEMPLATES, GENERATION)
    inside = [name for name in repository.files if name.startswith(f"{folder}/")]
    visible = [name for name in inside if not any(p.startswith(".") for p in name[len(folder) + 1 :].split("/"))]
    if not module:
        return [name for name in visible if belongs(name, folder)]
    return [n for n in visible if copies(n, folder) is None and (belongs(n, folder) or kind_of(n) is CODE)]


MODEL_FILES = Selection(("config.json", "params.json", "README.md"), model_files)
ADAPTER_FILES = Selection((ADAPTER_CONFIG,), adapter_files)
