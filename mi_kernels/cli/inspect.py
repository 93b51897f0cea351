"""mi-kernels inspect: what a checkpoint holds."""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from typing import Any

from ..checkpoint import Checkpoint, open_checkpoint
from ..names import MODULES, OTHER, layer_count, places
from ..sidefiles import read_record
from .values import show_bytes


def run(arguments: argparse.Namespace) -> int:
    summary = summarize(open_checkpoint(arguments.model))
    print(json.dumps(summary, indent=2) if arguments.json else describe(summary))
    return 0


def summarize(model: Checkpoint) -> dict[str, Any]:
    """Counts by dtype and by module, in tensors and bytes; the architecture; how the model was made, if we made it."""
    modules: dict[str, dict[str, int]] = defaultdict(lambda: {"tensors": 0, "bytes": 0})
    dtypes: Counter[str] = Counter()
    others = []
    found = places(model.tensors)
    for tensor in model.tensors.values():
        module = found[tensor.name].module
        modules[module]["tensors"] += 1
        modules[module]["bytes"] += tensor.nbytes
        dtypes[tensor.dtype] += 1
        if module == OTHER:
            others.append(tensor.name)
    return {
        "model": model.source,
        "architecture": (model.config.get("architectures") or [None])[0],
        "shards": len(model.shards),
        "tensors": len(model.tensors),
        "parameters": sum(t.elements for t in model.tensors.values()),
        "bytes": model.nbytes,
        "layers": layer_count(model.tensors),
        "tied_embeddings": model.tied,
        "dtypes": dict(dtypes),
        "modules": {m: modules[m] for m in (*MODULES, OTHER) if m in modules},
        "other": others,
        "merged": read_record(model.root),
        "notes": model.notes,
    }


def describe(summary: dict[str, Any]) -> str:
    s = summary
    dtypes = ", ".join(f"{name} ({count:,})" for name, count in s["dtypes"].items())
    tied = ", tied embeddings" if s["tied_embeddings"] else ""
    lines = [
        f"{s['model']}: {s['architecture'] or 'no config.json'}{tied}",
        f"{s['parameters'] / 1e9:.3g} B parameters, {show_bytes(s['bytes'])}, {s['tensors']:,} tensors, "
        f"{s['shards']} shard{'s' if s['shards'] != 1 else ''}, {s['layers']} layers",
        f"dtypes: {dtypes}",
        "",
        f"{'module':<8} {'tensors':>8} {'bytes':>10}",
    ]
    lines += [f"{name:<8} {m['tensors']:>8,} {show_bytes(m['bytes']):>10}" for name, m in s["modules"].items()]
    if s["other"]:
        lines.append(
            f"other, which no mask selects: {', '.join(s['other'][:5])}{' ...' if len(s['other']) > 5 else ''}"
        )
    if s["merged"]:
        m = s["merged"]
        masks = "".join(f", {key} {m[key]}" for key in ("layers", "modules") if m.get(key) is not None)
        lines += ["", f"merged by mi_kernels {m['mi_kernels']}: {m['method']} at lam {m['lam']:g}{masks},"]
        lines.append(f"  from {m['instruct']['source']} to {m['thinking']['source']}")
    return "\n".join([*lines, *(f"note: {note}" for note in s["notes"])])
