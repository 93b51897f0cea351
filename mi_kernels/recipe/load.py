"""Recipes from YAML files and from dicts of the same content: our own, and mergekit's configurations."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from ..errors import ArgumentError, printable, spelled
from ..system.faults import problem
from .mergekit import from_mergekit, is_mergekit
from .models import KEYS, MergeRecipe, from_dict
from .settings import plain_setting
from .yaml_loader import Loader

THE_RECIPE = "the recipe"  # names one without a file in messages
_MOST_CHARACTERS = 256 << 10  # of a recipe: PyYAML takes a second for this many


def load(path: str | os.PathLike[str]) -> MergeRecipe:
    """A recipe from a YAML file: ours, or a mergekit configuration as it is.

    Raises:
        ArgumentError: the file cannot be read, is not YAML, or asks for what is not supported.

    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "recipe.yml"
    ...     _ = path.write_text("method: ties\\nbase: B\\nmodels: [I, T]\\ndensity: 0.2\\n")
    ...     recipe = load(path)
    >>> recipe.method, recipe.base, recipe.models
    ('ties', 'B', ('I', 'T'))
    """
    where = os.fspath(path)
    try:
        content = yaml.load(_read(where), Loader)
    except (yaml.YAMLError, RecursionError) as error:
        if isinstance(error, yaml.composer.ComposerError) and "single document" in str(error.context):
            raise ArgumentError(
                f"{where}: holds several configurations, separated by `---`", "Write each one to a file of its own."
            ) from error
        problem = " ".join(str(error).split())[:200]
        raise ArgumentError(f"{where}: is not valid YAML: {problem}", "Fix the file.") from error
    if not isinstance(content, Mapping):
        raise ArgumentError(f"{where}: does not hold a mapping", "Write `method: ...` and `models: ...`.")
    return from_content(content, where)


def from_content(content: Mapping[str, Any], where: str = THE_RECIPE) -> MergeRecipe:
    """A recipe from the content of its file: ours, or a mergekit configuration.

    Raises:
        ArgumentError: see `load`. The message starts with `where`.

    >>> from_content({"merge_method": "ties", "base_model": "B", "models": [{"model": "I"}, {"model": "T"}]}).models
    Traceback (most recent call last):
    ...
    mi_kernels.errors.ArgumentError: the recipe: I: weight is missing, which ties needs
    Add `parameters: {weight: ...}` to the model, or to the file for all models.
    """
    with naming(where):
        if "merge_method" in content or is_mergekit(content):
            return from_mergekit(plain_setting(content), where)
        return from_dict(content, where)


@contextlib.contextmanager
def naming(where: str) -> Iterator[None]:
    """Names the recipe in every error that is about one of its values, and spells arguments as keys of its file.

    For errors of code that checks arguments of any origin: masks, lam, options.

    >>> with naming("recipe.yml"):
    ...     raise ArgumentError("lam is 2", "Use a smaller one, or allow it with `extrapolate=True`.", argument="lam")
    Traceback (most recent call last):
    ...
    mi_kernels.errors.ArgumentError: recipe.yml: lam is 2
    Use a smaller one, or allow it with `extrapolate: true`.
    """
    try:
        yield
    except ArgumentError as error:
        if error.problem.startswith(printable(where)):
            raise
        error.argument = None
        problem, remedy = spelled(error, _as_key)
        raise ArgumentError(f"{where}: {problem}", remedy) from error


def _as_key(name: str, value: str | None) -> str | None:
    if name not in KEYS:
        return None
    return f"`{name}`" if value is None else f"`{name}: {value.lower() if value in ('True', 'False') else value}`"


def _read(where: str) -> str:
    # Reading a FIFO would wait, and reading a device might never end.
    if os.path.lexists(where) and not os.path.isfile(where):
        raise ArgumentError(f"{where}: cannot be read: it is not a regular file", "Write the recipe to a file.")
    try:
        with open(where, encoding="utf-8") as file:
            content = file.read(_MOST_CHARACTERS + 1)
    except OSError as error:
        raise ArgumentError(f"{where}: cannot be read: {problem(error)}", "Check the path of the recipe.") from error
    except UnicodeDecodeError as error:
        raise ArgumentError(f"{where}: is not valid YAML: {error}", "Fix the file.") from error
    if len(content) > _MOST_CHARACTERS:
        raise ArgumentError(
            f"{where}: is larger than {_MOST_CHARACTERS >> 10} KiB", "Give the recipe's file, not the model's."
        )
    return content
