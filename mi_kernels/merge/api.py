"""The public functions that merge checkpoints into model folders, and the planning step of each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..checkpoint.alignment import align
from ..checkpoint.open import open_checkpoint
from ..errors import ArgumentError
from ..output.file import output_at
from ..recipe.interpolation import Recipe
from ..recipe.lam import numeric_lam
from ..recipe.masks import Layers, Modules
from ..recipe.rules import Rule
from ..system.arguments import checked_path, items
from ..system.progress import without_functions
from . import job
from .forecast import Forecast
from .job import Job, Report
from .options import MergeOptions, Options, takes_options
from .record import MergeRecord
from .sources import lerp_sources

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..recipe.models import MergeRecipe

_SEVERAL = (
    "Give one number. For a model at each lam, call sweep_checkpoint; for a schedule over depth, pass Recipe(lam)."
)


@takes_options
def lerp_checkpoint(
    instruct: str | os.PathLike[str],
    thinking: str | os.PathLike[str],
    out: str | os.PathLike[str],
    lam: float | Recipe,
    *,
    layers: Layers = None,
    modules: Modules = None,
    rules: Sequence[Rule] = (),
    extrapolate: bool = False,
    **options: Unpack[MergeOptions],
) -> Report:
    """Writes the model (1 - lam) * instruct + lam * thinking to the folder or file `out`.

    Every tensor is bit-identical to ``torch.lerp(a.float(), b.float(), lam).to(dtype)``; see `mi_kernels.ops.linear`.
    Memory use does not depend on the size of the model. `out` appears by one rename after all files are written and
    synced. After a kill, the same call resumes the merge.

    Args:
        instruct, thinking: model folders, paths of safetensors files, or Hub ids ORG/NAME[@REVISION].
        out: the folder to create. It has the shard layout of `instruct` and the small files of `copy_from`. A name that
            ends with ".safetensors" is one file to create, with nothing beside it.
        lam: from 0 (instruct) to 1 (thinking). Other values need `extrapolate`. Or a `mi_kernels.Recipe`, which holds
            masks, rules and schedules over depth itself.
        layers, modules: masks, see `mi_kernels.recipe.masks.select`. Other tensors keep the bytes of `instruct`.
        rules: see `mi_kernels.Rule`. lam and the masks apply first, then the rules in order: the last match decides.
        extrapolate: allow lam outside [0, 1].
        options: the fields of `mi_kernels.merge.options.Options`: dtype, device, threads, overwrite, strict, ...

    Returns:
        A Report.

    Raises:
        ArgumentError: an argument has a value that is not supported, or a mask selects no tensor.
        BackendError: the device or the backend is not available.
        CheckpointError: an input cannot be read, is not a valid checkpoint, or changes during the merge.
        MismatchError: the two models do not fit together: names, shapes or dtypes differ.
        OutputError: `out` must not be written, an unfinished merge with other arguments exists, or the disk fails.
        StrictError: `strict` is set, and the merge found a problem that can spoil the model.

        All are subclasses of MIKernelsError. Unless the message says otherwise, `out` is unchanged.

    Example:
        >>> import mi_kernels
        >>> report = mi_kernels.lerp_checkpoint("instruct", "thinking", "mi-0.8", lam=0.8, progress=False)
        >>> report.out
        'mi-0.8'
        >>> rules = [mi_kernels.Rule(0, modules="attn")]  # attention keeps the bytes of instruct
        >>> report = mi_kernels.lerp_checkpoint("instruct", "thinking", "mi-ffn", 0.8, rules=rules, progress=False)
        >>> recipe = mi_kernels.Recipe([0, 0.8], modules="ffn")  # from 0 to 0.8 over the layers
        >>> report = mi_kernels.lerp_checkpoint("instruct", "thinking", "mi-depth", recipe, progress=False)
    """
    if isinstance(lam, (list, tuple)):  # a recipe takes anchors, but here several lam most likely are several models
        numeric_lam(lam, several=_SEVERAL)
    recipe = Recipe.given(lam, layers, modules, rules, extrapolate)
    return plan_lerp(instruct, thinking, [(out, recipe)], Options(**options)).run()[0]


@takes_options
def sweep_checkpoint(
    instruct: str | os.PathLike[str],
    thinking: str | os.PathLike[str],
    out: str,
    lams: Sequence[float | Recipe],
    *,
    layers: Layers = None,
    modules: Modules = None,
    rules: Sequence[Rule] = (),
    extrapolate: bool = False,
    **options: Unpack[MergeOptions],
) -> list[Report]:
    """Writes one model for every lam in `lams`. Reads both inputs only once.

    Each output has the same bytes as a separate `lerp_checkpoint`. No output appears before all of them are complete.

    Args:
        out: the folders or files to create, with ``{lam}`` in place of the value, such as "runs/mi-{lam}".
        lams: distinct values in the range that `lerp_checkpoint` accepts. An item may be a `mi_kernels.Recipe` whose
            lam is a number, which stands for it in `out`.
        instruct, thinking, layers, modules, rules, extrapolate, options: see `lerp_checkpoint`.

    Returns:
        A Report for each lam, in the order of `lams`.

    Raises:
        ArgumentError: `lams` is empty or contains duplicates, or `out` does not contain ``{lam}``.
        BackendError, CheckpointError, MismatchError, OutputError, StrictError: see `lerp_checkpoint`.

    Example:
        >>> import mi_kernels
        >>> reports = mi_kernels.sweep_checkpoint("instruct", "thinking", "mi-{lam}", [0.4, 0.6], progress=False)
        >>> [report.out for report in reports]
        ['mi-0.4', 'mi-0.6']
    """
    return plan_sweep(
        instruct, thinking, out, lams, layers=layers, modules=modules, rules=rules, extrapolate=extrapolate, **options
    ).run()


def plan_sweep(
    instruct: str | os.PathLike[str],
    thinking: str | os.PathLike[str],
    out: str,
    lams: Sequence[float | Recipe],
    *,
    layers: Layers = None,
    modules: Modules = None,
    rules: Sequence[Rule] = (),
    extrapolate: bool = False,
    **options: Unpack[MergeOptions],
) -> Job:
    """Does the checks and the planning of `sweep_checkpoint`. Writes nothing."""
    out = checked_path(out, "out", "the name of a folder with {lam}")
    recipes = [Recipe.given(lam, layers, modules, rules, extrapolate) for lam in _listed(lams)]
    values = [_named_by(recipe, i) for i, recipe in enumerate(recipes)]
    if not values:
        raise ArgumentError("lams is empty", "Pass at least one value.")
    if len(set(values)) != len(values):
        raise ArgumentError(f"lams contains a value twice: {', '.join(f'{v:g}' for v in values)}", "Remove duplicates.")
    if "{lam}" not in out:
        raise ArgumentError(
            f"out {out!r} does not contain {{lam}}", "Write {lam} where lam goes: 'runs/mi-{lam}'.", argument="out"
        )
    outs = [(out.replace("{lam}", f"{v:g}"), recipe) for v, recipe in zip(values, recipes)]
    return plan_lerp(instruct, thinking, outs, Options(**options))


def _listed(lams: Any) -> list[Any]:
    """The items of `lams`: a list, an array with one dimension, or another iterable."""
    lams = lams if (numbers := items(lams)) is None else numbers
    if isinstance(lams, (list, tuple, set, range)) or (isinstance(lams, Iterator) and not isinstance(lams, Mapping)):
        return list(lams)
    if isinstance(lams, Recipe) or (isinstance(lams, (int, float)) and not isinstance(lams, bool)):
        one = "recipe" if isinstance(lams, Recipe) else f"{lams:g}"
        raise ArgumentError(
            f"lams is {one}, one value and not a list", f"Pass lams=[{one}], or call lerp_checkpoint(..., lam={one})."
        )
    raise ArgumentError(f"lams is {lams!r:.80}, which is not a list of numbers", "Pass a list such as [0.2, 0.5, 0.8].")


def _named_by(recipe: Recipe, number: int) -> float:
    """The number that stands for a recipe of a sweep in the names of its outputs."""
    if isinstance(recipe.lam, (list, tuple)):
        raise ArgumentError(
            f"lams[{number}] is a schedule over depth, {recipe.lam}, which cannot stand for {{lam}} in a name",
            "Call lerp_checkpoint once for each schedule.",
        )
    return numeric_lam(recipe.lam, recipe.extrapolate)


@takes_options
def merge_checkpoint(
    recipe: str | os.PathLike[str] | Mapping[str, Any] | MergeRecipe,
    out: str | os.PathLike[str],
    **options: Unpack[MergeOptions],
) -> Report:
    """Merges models with any method, as `recipe` describes, into the folder or file `out`.

    `mi_kernels.methods` documents the numerics of each method. Safety, memory use and resuming are the same as for
    `lerp_checkpoint`. The output has the dtypes and shards of the base if the recipe has one, otherwise of the first
    model. On a GPU (`device`), the formula of each tensor runs there. The CPU computes the thresholds (TIES) and angles
    (SLERP, NuSLERP, Model Stock) that it needs, FP8 weights with scales, and adapters.

    Args:
        recipe: a YAML file (a recipe of mi_kernels or an unmodified mergekit configuration), a dict with the content of
            either, or a MergeRecipe. A `mi_kernels.Recipe` names no models: pass it to
            `lerp_checkpoint` as lam, or as the `pair` of a MergeRecipe.
        out: the folder to create, or one file NAME.safetensors.
        options: see `lerp_checkpoint`. `dtype` and `copy_from` override the recipe.

    Returns:
        A Report.

    Raises:
        ArgumentError: the recipe is not valid, or asks for something that is not supported.
        BackendError: see `lerp_checkpoint`; or the backend is Triton, and the method is TIES or DARE.
        CheckpointError, MismatchError, OutputError, StrictError: see `lerp_checkpoint`.

    Example:
        >>> import mi_kernels
        >>> recipe = {"method": "ties", "base": "instruct", "models": ["thinking"], "density": 0.5}
        >>> report = mi_kernels.merge_checkpoint(recipe, "ties-0.5", progress=False)
        >>> report.out
        'ties-0.5'
        >>> pair = mi_kernels.Recipe(0.8, rules=[mi_kernels.Rule(0, modules="attn")])
        >>> recipe = mi_kernels.MergeRecipe("lerp", ("instruct", "thinking"), pair=pair)
        >>> report = mi_kernels.merge_checkpoint(recipe, "lerp-ffn", progress=False)
    """
    return plan_merge(recipe, out, early=Forecast.check, **options).run()[0]


def plan_merge(
    recipe: str | os.PathLike[str] | Mapping[str, Any] | MergeRecipe,
    out: str | os.PathLike[str],
    *,
    early: Callable[[Forecast], None] | None = None,
    **options: Unpack[MergeOptions],
) -> Job:
    """Does the checks and the planning of `merge_checkpoint`. Writes nothing.

    Args:
        early: called with a first forecast before this function reads tensors, if the method needs that.
    """
    # Imported here because interpolation does not need them, and imports can take a tenth of the time of a merge.
    from ..methods.registry import METHODS
    from ..recipe.load import THE_RECIPE, from_content, load, naming
    from ..recipe.models import MergeRecipe, checked
    from .combined import combined_sources, wanted_values

    started = time.perf_counter()
    checked_path(out, "out", "the name of a folder or a file to create")
    where = THE_RECIPE
    if isinstance(recipe, Mapping):
        recipe = from_content(recipe)
    elif isinstance(recipe, MergeRecipe):
        recipe = checked(recipe, recipe.spelling.where if recipe.spelling is not None else "the recipe")
    elif isinstance(recipe, Recipe):
        raise ArgumentError(
            "recipe is a Recipe, which names no models",
            "Call lerp_checkpoint(instruct, thinking, out, recipe), or pass MergeRecipe('lerp', (instruct, thinking), "
            "pair=recipe).",
        )
    else:
        where = checked_path(recipe, "recipe", "a YAML file, a dict or a MergeRecipe")
        recipe = load(where)
    by_recipe: MergeOptions = {"dtype": recipe.dtype, "copy_from": recipe.copy_from}
    by_recipe.update(options)
    has_base = recipe.base is not None
    with naming(where):  # what no option replaces
        own: MergeOptions = {}
        own |= {} if "dtype" in options else {"dtype": recipe.dtype}
        own |= {} if "copy_from" in options else {"copy_from": recipe.copy_from}
        Options(**own).refuse_copy_from(len(recipe.models), has_base, THE_RECIPE)
    chosen = Options(**by_recipe)
    chosen.refuse_copy_from(len(recipe.models), has_base, THE_RECIPE)
    if recipe.pair is not None:
        instruct, thinking = recipe.models
        with naming(where):
            return plan_lerp(instruct, thinking, [(out, recipe.pair)], chosen)
    chosen.refuse_method(recipe.method, METHODS[recipe.method].weighted_sum)
    if chosen.sigma:
        raise ArgumentError(
            f"sigma is set, but the method is {recipe.method!r}", "Leave out sigma, which only method 'lerp' supports."
        )
    sources = ([recipe.base] if recipe.base is not None else []) + list(recipe.models)
    folder = output_at(out, sources, chosen.overwrite)
    models = [open_checkpoint(source) for source in sources]
    if recipe.conditions is not None:
        recipe.conditions.check(models, job.origin_of(models, has_base, chosen))
    folder.protect(path for m in models for path in m.paths())
    alignment = align(models)
    reads = METHODS[recipe.method].reads
    if early is not None and reads != "nothing":
        early(job.first_forecast(models, alignment, folder, chosen, reads))
    with naming(where):
        wanted = wanted_values(recipe, alignment)
    shown = without_functions(chosen.progress)
    found = combined_sources(recipe, wanted, models, alignment, chosen.thread_count, shown)
    output = job.Output(folder, MergeRecord.of_recipe(recipe, models, chosen, found))
    return Job(models, has_base, alignment, found, [output], chosen, started, recipe_notes=recipe.notes)


def plan_lerp(
    instruct: str | os.PathLike[str],
    thinking: str | os.PathLike[str],
    outs: Sequence[tuple[str | os.PathLike[str], Recipe]],
    options: Options,
) -> Job:
    """Does the checks and the planning of `lerp_checkpoint`, for one or more outputs. Writes nothing."""
    started = time.perf_counter()
    options.refuse_copy_from(2, False, "interpolation")
    given = [checked_path(instruct, "instruct"), checked_path(thinking, "thinking")]
    for out, _ in outs:
        checked_path(out, "out", "the name of a folder or a file to create")
    folders = [output_at(out, given, options.overwrite) for out, _ in outs]
    models = [open_checkpoint(instruct), open_checkpoint(thinking)]
    for folder in folders:
        folder.protect(path for m in models for path in m.paths())
    if len({folder.path for folder in folders}) != len(folders):
        raise ArgumentError(
            f"two outputs of the sweep have the same name: {', '.join(folder.given for folder in folders)}",
            "Put {lam} in the last part of out, and use lam values that differ in their first six digits.",
        )
    if len({folder.single_file for folder in folders}) > 1:
        existing = next(folder.given for folder in folders if not folder.single_file)
        raise ArgumentError(
            f"{existing}: is a folder, but other outputs of the sweep are files", "Remove it, or use another name."
        )
    alignment = align(models)
    sources = lerp_sources(alignment, [recipe for _, recipe in outs])
    outputs = [
        job.Output(folder, MergeRecord.of_lerp(recipe, models, options, sources, i))
        for i, (folder, (_, recipe)) in enumerate(zip(folders, outs))
    ]
    return Job(models, False, alignment, sources, outputs, options, started)
