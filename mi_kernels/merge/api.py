"""Checkpoints in, model folders out: checked, planned, streamed, published."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..checkpoint.alignment import align
from ..checkpoint.open import open_checkpoint
from ..errors import ArgumentError
from ..output.folder import OutputFolder
from ..recipe.interpolation import Recipe
from ..recipe.lam import checked_lam
from ..recipe.masks import Layers, Modules
from . import job
from .job import Job, Report
from .options import MergeOptions, Options, takes_options
from .record import MergeRecord
from .sources import lerp_sources

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..recipe.models import MergeRecipe


@takes_options
def lerp_checkpoint(
    instruct: str | os.PathLike[str],
    thinking: str | os.PathLike[str],
    out: str | os.PathLike[str],
    lam: float,
    *,
    layers: Layers = None,
    modules: Modules = None,
    extrapolate: bool = False,
    **options: Unpack[MergeOptions],
) -> Report:
    """Writes the model (1 - lam) * instruct + lam * thinking to the folder `out`.

    Every tensor is bit-identical to ``torch.lerp(a.float(), b.float(), lam).to(dtype)``; see `mi_kernels.ops.linear`.
    Memory stays flat whatever the model's size. `out` appears by one rename after everything is written and synced.

    Args:
        instruct, thinking: model folders, or Hub ids ORG/NAME[@REVISION].
        out: the folder to make: INSTRUCT's shard layout, small files from `copy_from`.
        lam: from 0 (instruct) to 1 (thinking); other values only with `extrapolate`.
        layers, modules: masks, see `mi_kernels.recipe.masks.select`. Tensors outside them keep INSTRUCT's bytes.
        extrapolate: allow lam outside [0, 1].
        options: the fields of `mi_kernels.merge.options.Options`: dtype, device, threads, overwrite, strict, ...

    Returns:
        A Report.

    Raises:
        MIKernelsError: a refusal, before anything is written: what is wrong, and the remedy. OutputError also where
            the disk fails while writing, StrictError where `strict` finds something; nothing is left behind then.

    Example:
        >>> import mi_kernels
        >>> report = mi_kernels.lerp_checkpoint("instruct", "thinking", "mi-0.8", lam=0.8, progress=False)
        >>> report.out
        'mi-0.8'
    """
    recipe = Recipe(checked_lam(lam, extrapolate), layers, modules, extrapolate=extrapolate)
    return plan_lerp(instruct, thinking, [(out, recipe)], Options(**options)).run()[0]


@takes_options
def sweep_checkpoint(
    instruct: str | os.PathLike[str],
    thinking: str | os.PathLike[str],
    out: str,
    lams: Sequence[float],
    *,
    layers: Layers = None,
    modules: Modules = None,
    extrapolate: bool = False,
    **options: Unpack[MergeOptions],
) -> list[Report]:
    """`lerp_checkpoint` for every lam in `lams`, in one pass: both inputs are read once, all outputs are written.

    Each output has the bytes of its own `lerp_checkpoint`. None becomes visible before all of them are whole.

    Args:
        out: the folders to make, with ``{lam}`` where the value goes: "runs/mi-{lam}".
        lams: distinct values, as `lerp_checkpoint` takes them.
        instruct, thinking, layers, modules, extrapolate, options: as for `lerp_checkpoint`.

    Returns:
        A Report for each lam.

    Raises:
        As `lerp_checkpoint`.
    """
    return plan_sweep(
        instruct, thinking, out, lams, layers=layers, modules=modules, extrapolate=extrapolate, **options
    ).run()


def plan_sweep(
    instruct: str | os.PathLike[str],
    thinking: str | os.PathLike[str],
    out: str,
    lams: Sequence[float],
    *,
    layers: Layers = None,
    modules: Modules = None,
    extrapolate: bool = False,
    **options: Unpack[MergeOptions],
) -> Job:
    """`sweep_checkpoint` up to the point where writing would begin."""
    values = [checked_lam(lam, extrapolate) for lam in lams]
    if not values:
        raise ArgumentError("lams is empty", "Give at least one value.")
    if len(set(values)) != len(values):
        raise ArgumentError(f"lams holds a value twice: {', '.join(f'{v:g}' for v in values)}", "Give distinct values.")
    if "{lam}" not in out:
        raise ArgumentError(f"out {out!r} does not say where lam goes", "Write {lam} in it, as in 'runs/mi-{lam}'.")
    outs = [(out.replace("{lam}", f"{v:g}"), Recipe(v, layers, modules, extrapolate=extrapolate)) for v in values]
    return plan_lerp(instruct, thinking, outs, Options(**options))


@takes_options
def merge_checkpoint(
    recipe: str | os.PathLike[str] | Mapping[str, Any] | MergeRecipe,
    out: str | os.PathLike[str],
    **options: Unpack[MergeOptions],
) -> Report:
    """Merges by any method: what `recipe` says, into the folder `out`.

    The numerics of each method stand in `mi_kernels.methods`; the safety, the memory and the layout are those of
    `lerp_checkpoint`. The output has the first model's dtypes and shards, or the base's where there is one.

    Args:
        recipe: a YAML file (ours, or a mergekit configuration as it is), the same as a dict, or a MergeRecipe.
        options: as for `lerp_checkpoint`; `dtype` and `copy_from` override the recipe's.

    Returns:
        A Report.

    Raises:
        As `lerp_checkpoint`; ArgumentError for a recipe that asks for what is not supported.
    """
    return plan_merge(recipe, out, **options).run()[0]


def plan_merge(
    recipe: str | os.PathLike[str] | Mapping[str, Any] | MergeRecipe,
    out: str | os.PathLike[str],
    **options: Unpack[MergeOptions],
) -> Job:
    """`merge_checkpoint` up to the point where writing would begin."""
    # Here and not above: interpolation has no use for them, and a tenth of a merge's time may be its start.
    from ..recipe.load import load
    from ..recipe.models import MergeRecipe, from_dict
    from .combined import combined_sources

    started = time.perf_counter()
    if isinstance(recipe, Mapping):
        recipe = from_dict(recipe)
    elif not isinstance(recipe, MergeRecipe):
        recipe = load(recipe)
    by_recipe: MergeOptions = {"dtype": recipe.dtype, "copy_from": recipe.copy_from}
    by_recipe.update(options)
    chosen = Options(**by_recipe)
    if chosen.copy_from == "base" and recipe.base is None:
        raise ArgumentError("copy_from is 'base', and the recipe has no base", "Use 'thinking' or 'instruct'.")
    if recipe.pair is not None:
        instruct, thinking = recipe.models
        return plan_lerp(instruct, thinking, [(out, recipe.pair)], chosen)
    chosen.refuse_gpu(recipe.method)
    if chosen.sigma:
        raise ArgumentError(
            f"sigma is asked for under method {recipe.method!r}", "It compares the two models of an interpolation."
        )
    sources = ([recipe.base] if recipe.base is not None else []) + list(recipe.models)
    folder = OutputFolder(out, sources, chosen.overwrite)
    models = [open_checkpoint(source) for source in sources]
    folder.protect(path for m in models for path in m.paths())
    alignment = align(models)
    found = combined_sources(recipe, models, alignment, chosen.thread_count)
    output = job.Output(folder, MergeRecord.of_recipe(recipe, models, chosen, found))
    return Job(models, recipe.base is not None, alignment, found, [output], chosen, started)


def plan_lerp(
    instruct: str | os.PathLike[str],
    thinking: str | os.PathLike[str],
    outs: Sequence[tuple[str | os.PathLike[str], Recipe]],
    options: Options,
) -> Job:
    """`lerp_checkpoint` for several outputs, up to the point where writing would begin."""
    started = time.perf_counter()
    given = [os.fspath(instruct), os.fspath(thinking)]
    folders = [OutputFolder(out, given, options.overwrite) for out, _ in outs]
    models = [open_checkpoint(instruct), open_checkpoint(thinking)]
    for folder in folders:
        folder.protect(path for m in models for path in m.paths())
    if len({folder.path for folder in folders}) != len(folders):
        raise ArgumentError("two outputs of the sweep have the same name", "Give lam values that print differently.")
    alignment = align(models)
    sources = lerp_sources(alignment, [recipe for _, recipe in outs])
    outputs = [
        job.Output(folder, MergeRecord.of_lerp(recipe, models, options, sources, i))
        for i, (folder, (_, recipe)) in enumerate(zip(folders, outs))
    ]
    if options.copy_from == "base":
        raise ArgumentError("copy_from is 'base', and interpolation has no base", "Use 'thinking' or 'instruct'.")
    return Job(models, False, alignment, sources, outputs, options, started)
