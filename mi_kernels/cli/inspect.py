"""Run `mi-kernels inspect`: check a checkpoint and show its contents, or show what a merge of two would do."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from ..checkpoint.files import read_file
from ..checkpoint.names import MODULES, OTHER, layer_count, places
from ..checkpoint.virtual import stored_dtype
from ..checksums.record import NAME as CHECKSUMS
from ..checksums.record import Record
from ..errors import MIKernelsError, counted, printable, shortened
from ..system.sizes import show_bytes, show_count
from .arguments import silence_downloads
from .colour import coloured_notes
from .shell import Parser

if TYPE_CHECKING:
    from ..checkpoint.record import Checkpoint
    from ..merge.preview import Preview

_MAX_CHECKSUMS = 256 << 20  # bytes: ten times the record of the largest models
_MOST_OTHERS = 5  # tensors of no module that a line names
_MAX_LINE = 10_000  # characters: the record may come from an untrusted folder


def add(p: Parser) -> None:
    p.add_argument("model", metavar="MODEL", help="model folder, safetensors file or Hub id")
    p.add_argument("other", metavar="OTHER", nargs="?", help="another model: show what a merge of the two would do")
    p.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    silence_downloads(arguments)
    if arguments.other is not None:
        return _preview(arguments.model, arguments.other, arguments.json)
    from ..checkpoint.open import open_checkpoint

    summary = summarize(open_checkpoint(arguments.model))
    print(json.dumps(summary, indent=2) if arguments.json else coloured_notes(describe(summary), sys.stdout))
    return 0


def _preview(model: str, other: str, as_json: bool) -> int:
    from ..merge.preview import preview_merge

    try:
        found = preview_merge(model, other)
    except MIKernelsError as error:
        if not as_json:
            raise
        print(json.dumps({"mergeable": False, "problem": error.problem, "remedy": error.remedy}, indent=2))
        return 2
    print(
        json.dumps({"mergeable": True, **found.as_dict()}, indent=2)
        if as_json
        else coloured_notes(describe_preview(found), sys.stdout)
    )
    return 0


def describe_preview(found: Preview) -> str:
    """Returns what a merge would do as text."""
    one, two = found.models
    matching = counted(found.merged, "tensor matches", "tensors match")
    only = counted(found.kept, "that only one has is", "that only one has are")
    kept = f"; {only} kept" if found.kept else ""
    layers = f", {_layers(found.layers)}" if found.layers else ""
    vocabulary = f", vocabulary {found.vocabulary:,}" if isinstance(found.vocabulary, int) else ""
    lines = [
        f"{one} and {two} can be merged: {matching}{kept}",
        f"output: {_architecture_text(found.architecture, 'config.json' in found.files)}, {show_bytes(found.bytes)} in "
        f"{counted(found.shards, 'shard')}, {'tied' if found.tied else 'untied'} embeddings{layers}{vocabulary}",
        f"dtypes: {_dtypes(found.dtypes)}; tokenizers: {found.tokenizers}",
        f"files: {', '.join(found.files)}",
    ]
    lines += [f"note: {note.text}{' (rejected with --strict)' if note.strict else ''}" for note in found.notes]
    return "\n".join(printable(line, _MAX_LINE) for line in lines)


def summarize(model: Checkpoint) -> dict[str, Any]:
    """Returns tensors and bytes by dtype and module, the architecture, and the record of the merge if there is one.

    `dtypes` counts the tensors as the files hold them, `merged_as` as a merge writes them by default: FP8 weights
    become bf16. Scales and the matrices of an adapter belong to the tensor that they are for.
    """
    from ..merge.record import content_of, made

    modules: dict[str, dict[str, int]] = defaultdict(lambda: {"tensors": 0, "bytes": 0})
    dtypes: Counter[str] = Counter()
    merged_as: Counter[str] = Counter()
    others = []
    content = content_of(model)
    found = places(model.tensors)
    for tensor in model.tensors.values():
        module = found[tensor.name].module
        modules[module]["tensors"] += 1
        modules[module]["bytes"] += tensor.nbytes
        dtypes[stored_dtype(tensor)] += 1
        merged_as[tensor.dtype] += 1
        if module == OTHER:
            others.append(tensor.name)
    return {
        "model": model.source,
        "architecture": _architecture(model),
        "config": bool(model.config),
        "adapter": None if model.adapter is None else model.adapter.source,
        "shards": len(model.shards),
        "tensors": len(model.tensors),
        "parameters": sum(t.elements for t in model.tensors.values()),
        "bytes": model.nbytes,
        "layers": layer_count(model.tensors),
        "tied_embeddings": model.tied,
        "dtypes": dict(dtypes),
        "merged_as": dict(merged_as),
        "modules": {m: modules[m] for m in (*MODULES, OTHER) if m in modules},
        "other": others,
        "merged": content,
        "made": made(content),
        "weights_digest": _digest(model),
        "notes": [*model.notes, *model.risks],
    }


def _architecture(model: Checkpoint) -> str | None:
    names = model.config.get("architectures")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None


def _digest(model: Checkpoint) -> str | None:
    """Returns the digest of the weights from the recorded checksums, which are not checked here; None without them."""
    path = os.path.join(model.root, CHECKSUMS)
    if model.alone or model.adapter is not None or not os.path.isfile(path):
        return None
    try:
        return Record.decode(read_file(path, _MAX_CHECKSUMS), path).weights_digest
    except MIKernelsError:
        return None  # `mi-kernels verify` says what is wrong


def _architecture_text(name: str | None, config: bool) -> str:
    return name or ("config.json names no architecture" if config else "no config.json")


def _layers(count: int) -> str:
    """Returns the number of layers, and all of them as `--layers` reads them."""
    return f"{counted(count, 'layer')}{f' (0:{count})' if count else ''}"


def _dtypes(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} ({count:,})" for name, count in counts.items())


def describe(summary: dict[str, Any]) -> str:
    """Returns the result of `summarize` as text."""
    s = summary
    tied = ", tied embeddings" if s["tied_embeddings"] else ""
    become = f"; a merge writes {_dtypes(s['merged_as'])}" if s["merged_as"] != s["dtypes"] else ""
    lines = [
        f"{s['model']}: {_architecture_text(s['architecture'], s['config'])}{tied}",
        f"{show_count(s['parameters'])} parameter{'s' if s['parameters'] != 1 else ''}, {show_bytes(s['bytes'])}, "
        f"{counted(s['tensors'], 'tensor')}, "
        f"{counted(s['shards'], 'shard')}, {_layers(s['layers'])}",
        f"dtypes: {_dtypes(s['dtypes'])}{become}",
        *([f"adapter: {s['adapter']}"] if s["adapter"] else []),
        *([s["made"]] if s["made"] else []),
        *([f"recorded digest of the weights: {s['weights_digest']}"] if s["weights_digest"] else []),
        "",
        f"{'module':<8} {'tensors':>8} {'bytes':>10}",
    ]
    lines += [f"{name:<8} {m['tensors']:>8,} {show_bytes(m['bytes']):>10}" for name, m in s["modules"].items()]
    if s["other"]:
        lines.append(f"other (not selected by module masks): {shortened(s['other'], _MOST_OTHERS)}")
    return "\n".join(printable(line, _MAX_LINE) for line in [*lines, *(f"note: {note}" for note in s["notes"])])
