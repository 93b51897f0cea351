"""Checkpoints in, model folders out: checked, planned, streamed, published."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from . import job
from ._version import __version__
from .alignment import Alignment, align
from .checkpoint import Checkpoint, open_checkpoint
from .errors import ArgumentError
from .job import Report
from .lam import checked_lam
from .masks import Layers, Modules
from .options import Options
from .recipe import Recipe
from .stream import Source

NUMERICS = "Bit-identical to torch.lerp(a.float(), b.float(), lam).to(dtype); lam 0 and 1 copy bytes."


def lerp_checkpoint(
    instruct: str | os.PathLike[str],
    thinking: str | os.PathLike[str],
    out: str | os.PathLike[str],
    lam: float,
    *,
    layers: Layers = None,
    modules: Modules = None,
    device: str = "auto",
    backend: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    max_memory: int | None = None,
    overwrite: bool = False,
    progress: bool | Callable[[int, int], None] = True,
    extrapolate: bool = False,
    copy_from: str = "thinking",
    max_shard_size: int | None = None,
    io: str = "auto",
) -> Report:
    """Writes the model (1 - lam) * instruct + lam * thinking to the folder `out`.

    Every tensor is bit-identical to ``torch.lerp(a.float(), b.float(), lam).to(dtype)``; see `mi_kernels.ops.linear`.
    Memory stays flat whatever the model's size. `out` appears by one rename after everything is written and synced.

    Args:
        instruct, thinking: model folders, or Hub ids ORG/NAME[@REVISION].
        out: the folder to make: INSTRUCT's shard layout, small files from `copy_from`.
        lam: from 0 (instruct) to 1 (thinking); others only with `extrapolate`.
        layers, modules: masks, see `mi_kernels.masks.select`; what they leave out keeps INSTRUCT's bytes.
        device: "auto" or "cpu".
        backend: "cpu", or None for the best.
        dtype: "bfloat16", "float16" or "float32" to convert every floating tensor; None keeps INSTRUCT's dtypes.
        threads: computing threads; None for all cores.
        max_memory: bytes for buffers; None for at most 128 MiB.
        overwrite: replace a model that stands at `out`; it stays until the new one is whole.
        progress: a bar on a terminal's stderr, or a function called with (bytes done, bytes in all).
        copy_from: "thinking" or "instruct": whose config, tokenizer and chat template the output gets.
        max_shard_size: bytes of data in a shard; None keeps INSTRUCT's layout.
        io: "direct" (past the page cache), "buffered", or "auto": direct where the file system can.

    Returns:
        A Report.

    Raises:
        MIKernelsError: a refusal, before anything is written: what is wrong, and the remedy. OutputError also where
            the disk fails while writing; nothing is left behind then.
    """
    options = Options(device, backend, dtype, threads, max_memory, overwrite, progress, copy_from, max_shard_size, io)
    recipe = Recipe(checked_lam(lam, extrapolate), layers, modules, extrapolate=extrapolate)
    return _lerp(instruct, thinking, [(out, recipe)], options)[0]


def sweep_checkpoint(
    instruct: str | os.PathLike[str],
    thinking: str | os.PathLike[str],
    out: str,
    lams: Sequence[float],
    *,
    layers: Layers = None,
    modules: Modules = None,
    extrapolate: bool = False,
    **options: Any,
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
    values = [checked_lam(lam, extrapolate) for lam in lams]
    if not values:
        raise ArgumentError("lams is empty", "Give at least one value.")
    if len(set(values)) != len(values):
        raise ArgumentError(f"lams holds a value twice: {', '.join(f'{v:g}' for v in values)}", "Give distinct values.")
    if "{lam}" not in out:
        raise ArgumentError(f"out {out!r} does not say where lam goes", "Write {lam} in it, as in 'runs/mi-{lam}'.")
    outs = [(out.replace("{lam}", f"{v:g}"), Recipe(v, layers, modules, extrapolate=extrapolate)) for v in values]
    return _lerp(instruct, thinking, outs, Options(**options))


def _lerp(
    instruct: str | os.PathLike[str],
    thinking: str | os.PathLike[str],
    outs: Sequence[tuple[str | os.PathLike[str], Recipe]],
    options: Options,
) -> list[Report]:
    started = time.perf_counter()
    models = [open_checkpoint(instruct), open_checkpoint(thinking)]
    folders = [job.open_output(out, models, options) for out, _ in outs]
    if len({folder.path for folder in folders}) != len(folders):
        raise ArgumentError("two outputs of the sweep have the same name", "Give lam values that print differently.")
    alignment = align(models)
    sources = _lerp_sources(alignment, [recipe for _, recipe in outs])
    outputs = [
        job.Output(folder, _record(recipe, models, options, sources, i))
        for i, (folder, (_, recipe)) in enumerate(zip(folders, outs))
    ]
    return job.run(models, alignment, sources, outputs, options, started)


def _lerp_sources(alignment: Alignment, recipes: Sequence[Recipe]) -> dict[str, Source]:
    names = [row.name for row in alignment.rows]
    weights = [recipe.weights(names) for recipe in recipes]
    return {
        # What is not floating is the same in both models, and copied.
        row.name: Source(row.inputs, tuple(w[row.name] if row.floating else 0.0 for w in weights))
        for row in alignment.rows
    }


def _record(
    recipe: Recipe, models: Sequence[Checkpoint], options: Options, sources: dict[str, Source], output: int
) -> dict[str, Any]:
    """What mi_kernels.json holds: enough to make the same folder again."""

    def plain(mask: object) -> object:
        return mask if mask is None or isinstance(mask, (str, int)) else str(mask)

    copied = sum(s.weights[output] in (0, 1) for s in sources.values())
    masks = {"layers": plain(recipe.layers), "modules": plain(recipe.modules)}
    shown = "".join(f", {key} {value}" for key, value in masks.items() if value is not None)
    return {
        "mi_kernels": __version__,
        "role": "merged",
        "method": "lerp",
        "summary": f"`merged = (1 - lam) * INSTRUCT + lam * THINKING` with lam = {recipe.lam:g}{shown}.",
        "lam": recipe.lam,
        **masks,
        "dtype": options.out_dtype,
        "copy_from": options.copy_from,
        "instruct": models[0].identity(),
        "thinking": models[1].identity(),
        "tensors_interpolated": len(sources) - copied,
        "tensors_copied": copied,
        "numerics": NUMERICS,
    }
