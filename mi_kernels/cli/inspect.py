"""Run `mi-kernels inspect`: check a checkpoint and show its contents, or show what a merge of two would do."""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from ..checkpoint.names import MODULES, OTHER, layer_count, places
from ..errors import MIKernelsError, printable, shortened
from .arguments import silence_downloads
from .shell import Parser
from .text import show_bytes

if TYPE_CHECKING:
    from ..checkpoint.record import Checkpoint
    from ..merge.preview import Preview

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
    print(json.dumps(summary, indent=2) if arguments.json else describe(summary))
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
    print(json.dumps({"mergeable": True, **found.as_dict()}, indent=2) if as_json else describe_preview(found))
    return 0


def describe_preview(found: Preview) -> str:
    """Returns what a merge would do as text."""
    one, two = found.models
    kept = f"; {found.kept:,} that only one has are kept" if found.kept else ""
    layers = f", {found.layers} layers" if found.layers else ""
    vocabulary = f", vocabulary {found.vocabulary:,}" if isinstance(found.vocabulary, int) else ""
    dtypes = ", ".join(f"{name} ({count:,})" for name, count in found.dtypes.items())
    lines = [
        f"{one} and {two} can be merged: {found.merged:,} tensors match{kept}",
        f"output: {found.architecture or 'no config.json'}, {show_bytes(found.bytes)} in {found.shards} "
        f"shard{'s' if found.shards != 1 else ''}, {'tied' if found.tied else 'untied'} embeddings{layers}{vocabulary}",
        f"dtypes: {dtypes}; tokenizers: {found.tokenizers}",
        f"files: {', '.join(found.files)}",
    ]
    lines += [f"note: {note.text}{' (rejected with --strict)' if note.strict else ''}" for note in found.notes]
    return "\n".join(printable(line, _MAX_LINE) for line in lines)


def summarize(model: Checkpoint) -> dict[str, Any]:
    """Returns tensors and bytes by dtype and module, the architecture, and the record of the merge if there is one."""
    from ..merge.record import content_of

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
        "architecture": _architecture(model),
        "shards": len(model.shards),
        "tensors": len(model.tensors),
        "parameters": sum(t.elements for t in model.tensors.values()),
        "bytes": model.nbytes,
        "layers": layer_count(model.tensors),
        "tied_embeddings": model.tied,
        "dtypes": dict(dtypes),
        "modules": {m: modules[m] for m in (*MODULES, OTHER) if m in modules},
        "other": others,
        "merged": content_of(model),
        "notes": [*model.notes, *model.risks],
    }


def _architecture(model: Checkpoint) -> str | None:
    names = model.config.get("architectures")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None


def _record_lines(record: dict[str, Any]) -> list[str]:
    """Describes the merge that mi_kernels.json records. Checks the types, because the folder may be untrusted."""
    version, summary = record.get("mi_kernels"), record.get("summary")
    if not isinstance(version, str) or not isinstance(summary, str):
        return ["", "mi_kernels.json was not written by mi_kernels"]
    models = [record.get(key) for key in ("base", "instruct", "thinking")]
    models += record["models"] if isinstance(record.get("models"), list) else []
    named = [str(m["source"]) for m in models if isinstance(m, dict) and "source" in m]
    from ..methods.method import MAX_MODELS

    return ["", f"merged by mi_kernels {version} from {shortened(named, MAX_MODELS)}", f"  {summary}"]


def describe(summary: dict[str, Any]) -> str:
    """Returns the result of `summarize` as text."""
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
            f"other (not selected by module masks): {', '.join(s['other'][:5])}{' ...' if len(s['other']) > 5 else ''}"
        )
    if s["merged"]:
        lines += _record_lines(s["merged"])
    return "\n".join(printable(line, _MAX_LINE) for line in [*lines, *(f"note: {note}" for note in s["notes"])])
