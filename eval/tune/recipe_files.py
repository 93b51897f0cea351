"""What a search leaves to use: recipes as files, and the model that it recommends."""

from __future__ import annotations

import os
import re

from mi_kernels import MergeRecipe, Recipe
from mi_kernels.merge.api import plan_lerp
from mi_kernels.merge.options import Options
from mi_kernels.recipe.plain_recipe import plain_recipe
from mi_kernels.recipe.yaml_writer import yaml_block
from mi_kernels.system.atomic import write_file

from ..report.tables import counts, spread
from .outcome import Candidate, Outcome

BEST, FRONT = "best.yml", "front"


def write(outcome: Outcome) -> list[str]:
    """Writes best.yml and front/*.yml, which `mi-kernels merge` reads; returns their paths.

    Files in front/ are those of the front that the search chose, by ascending tokens. Others there are removed.
    """
    out = outcome.prepared.out
    folder = os.path.join(out, FRONT)
    os.makedirs(folder, exist_ok=True)
    chosen = sorted((c for c in outcome.candidates if c.on_search_front), key=lambda c: c.searched[1])
    paths = [os.path.join(out, BEST)]
    _write(paths[0], outcome, outcome.candidates[outcome.recommended])
    for number, candidate in enumerate(chosen, 1):
        paths.append(os.path.join(folder, f"{number:02}-{_file_name(candidate.name)}.yml"))
        _write(paths[-1], outcome, candidate)
    for name in os.listdir(folder):
        if name.endswith(".yml") and os.path.join(folder, name) not in paths:
            os.unlink(os.path.join(folder, name))
    return paths


def check_model(pair: tuple[str, str], out: str) -> None:
    """Checks that a model can be written to `out`.

    Raises:
        mi_kernels.MIKernelsError: the pair cannot be merged, or not to `out`.
    """
    plan_lerp(*pair, [(out, Recipe(0.5))], Options())


def write_model(outcome: Outcome, out: str, progress: bool) -> None:
    """Merges the recommended recipe into the folder `out`, with a model card that says how it was found."""
    prepared, found = outcome.prepared, outcome.candidates[outcome.recommended]
    job = plan_lerp(prepared.instruct, prepared.thinking, [(out, found.recipe)], Options(progress=progress))
    job.outputs[0].card["origin"] = origin(outcome)
    job.run()


def origin(outcome: Outcome) -> str:
    """How the recommended recipe was found, as a paragraph."""
    prepared, found = outcome.prepared, outcome.candidates[outcome.recommended]
    plan = prepared.plan
    where = " and ".join(
        f"{s.benchmark.title} ({len(s.search)} problems to search on, {len(s.validation)} others to validate)"
        for s in prepared.splits
    )
    text = (
        f"The weights were found by a search over `{plan.space}` with the sampler `{plan.sampler}` (seed {plan.seed}): "
        f"{outcome.evaluated} candidates, {len(plan.lams)} of them plain interpolations, on {where}. On the problems "
        f"that the search has not seen, Mean@k is {spread(found.mean)} % with {counts(found.tokens)} tokens per answer "
        "(95 % intervals over problems)."
    )
    plain = outcome.candidates[outcome.best_plain]
    if found is plain:
        return text + " It is a plain interpolation: the search found nothing clearly better."
    return text + (
        f" The plain interpolation that the same rule chooses, {plain.name}, has {spread(plain.mean)} % with "
        f"{counts(plain.tokens)} tokens there."
    )


def _write(path: str, outcome: Outcome, candidate: Candidate) -> None:
    prepared = outcome.prepared
    recipe = MergeRecipe("lerp", (prepared.instruct, prepared.thinking), pair=candidate.recipe)
    note = f"# {candidate.name}: Mean@k {spread(candidate.mean)} % with {counts(candidate.tokens)} tokens per answer\n"
    note += "# on problems that the search has not seen (95 % intervals)\n"
    write_file(path, (note + yaml_block(plain_recipe(recipe)) + "\n").encode())


def _file_name(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
