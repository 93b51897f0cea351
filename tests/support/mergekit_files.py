"""mergekit's configurations as text."""

from __future__ import annotations

import yaml

from mi_kernels.recipe.mergekit import from_mergekit
from mi_kernels.recipe.models import MergeRecipe
from mi_kernels.recipe.yaml_loader import Loader

PAIR = "models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]\n"


def read(text: str) -> MergeRecipe:
    """Returns the recipe of a configuration in the file c.yml."""
    return from_mergekit(yaml.load(text, Loader), "c.yml")
