"""Shared by lerp, sweep and merge: parses the options, runs a job, prints the result, uploads it."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import Field, replace
from functools import partial
from typing import Any, cast

from ..errors import ArgumentError, counted, printable
from ..merge.forecast import Forecast
from ..merge.job import Job, Report
from ..merge.options import FLAGS, HOW, MergeOptions
from ..output import upload
from ..system.progress import say
from .arguments import silence_downloads
from .colour import coloured_notes
from .early import Announcer, progress_of
from .recipe_table import format_table, recipe_table
from .text import parse_count, parse_size, show_bytes


def options_of(arguments: argparse.Namespace) -> MergeOptions:
    """Returns the options of a merge from the parsed command line."""
    silence_downloads(arguments)
    found: dict[str, Any] = {"progress": progress_of(arguments)}
    for option in FLAGS:
        if not hasattr(arguments, option.name):
            continue
        value, flag = getattr(arguments, option.name), "--" + option.name.replace("_", "-")
        if option.metadata["kind"] == "size":
            value = parse_size(value, flag)
        elif option.metadata["kind"] == "count":
            value = parse_count(value, flag)
        found[option.name] = value
    if "sigma" in found:  # an upload takes minutes, and reading both models once more takes seconds
        found["sigma"] = bool(found["sigma"] or arguments.push) and not arguments.dry_run
    return cast(MergeOptions, found)


def _on_cluster(arguments: argparse.Namespace) -> bool:
    """Returns whether a cluster runs or plans the job."""
    return any(value is not None for value in (arguments.ray, arguments.nodes, arguments.node_speed))


def finish(job: Job, arguments: argparse.Namespace, announcer: Announcer | None = None) -> int:
    """Runs the job, prints its reports and uploads its outputs. With --dry-run, only describes the job.

    Args:
        announcer: prints the forecast. None: nothing was announced before.
    """
    announcer = announcer or Announcer(arguments)
    repos = _repos(job, arguments)
    forecast = announcer.measured(job.forecast())
    forecast = replace(forecast, uploaded=forecast.bytes_written if repos else 0)
    if arguments.dry_run:
        _describe(job, arguments, forecast)
        announcer.announce(forecast)
        announcer.check(forecast)
        return 0
    announcer.check(forecast)
    for i, output in enumerate(job.outputs):
        output.card["command"] = shlex.join(["mi-kernels", *_lasting(arguments.argv)])
        output.card["repo"] = repos[i] if repos else None
    if repos:
        upload.check_access(repos[0])
    announce = partial(announcer.announce, forecast)
    if _on_cluster(arguments):
        from . import ray

        reports = ray.run(job, arguments, announce)
    else:
        announce()
        reports = job.run()
    if not (arguments.json or arguments.quiet):
        print(coloured_notes(describe(reports), sys.stdout), flush=True)
    addresses = []
    for report, repo in zip(reports, repos):
        if not (arguments.json or arguments.quiet):
            say(f"mi-kernels: uploading {printable(report.out)} to {repo} ({show_bytes(upload.size(report.out))})")
        addresses.append(upload.push(report.out, repo, private=arguments.private))
    if arguments.json:
        content = [{**report.as_dict(), "forecast": forecast.as_dict()} for report in reports]
        for entry, address in zip(content, addresses):
            entry["pushed"] = address
        print(json.dumps(content[0] if len(content) == 1 else content, indent=2))
    elif not arguments.quiet:
        print(*addresses, sep="\n", end="\n" if addresses else "")
    return 0


def _lasting(words: Sequence[str]) -> list[str]:
    """Returns the words of a command without the options that do not change the output: how it ran, and what it showed.

    So the card of a merge is the same however it was run, and the address of a cluster is not published.
    """
    values = {f"--{f.name.replace('_', '-')}": f.metadata["kind"] != "flag" for f in FLAGS if _is_passing(f)}
    values |= {"--ray": True, "--nodes": True, "--node-speed": True, "-q": False, "--quiet": False, "--json": False}
    kept, value_follows = [], False
    for word in words:
        name, equals, _ = word.partition("=")
        if value_follows or name in values:
            value_follows = not value_follows and values[name] and not equals
        else:
            kept.append(word)
    return kept


def _is_passing(option: Field[Any]) -> bool:
    return option.metadata["group"] == HOW or option.name in ("overwrite", "restart")


def _describe(job: Job, arguments: argparse.Namespace, forecast: Forecast) -> None:
    """Prints what the job would do, and how a cluster would split it."""
    split = []
    if _on_cluster(arguments):
        from . import ray

        split = [ray.describe_split(job, arguments)]
    if arguments.json:
        outputs = [{"out": o.folder.given, "summary": o.record.summary} for o in job.outputs]
        content = {"dry_run": True, "outputs": outputs, "notes": job.notes(), "forecast": forecast.as_dict()}
        print(json.dumps(content, indent=2), flush=True)
    else:
        print(
            coloured_notes(describe_plan(job), sys.stdout),
            *split,
            "nothing was written (--dry-run)",
            sep="\n",
            flush=True,
        )


def _repos(job: Job, arguments: argparse.Namespace) -> list[str]:
    """Returns the repository on the Hub for each output, or an empty list without --push."""
    if arguments.push is None:
        if arguments.private:
            raise ArgumentError("--private needs --push", "Add --push ORG/NAME.")
        return []
    if job.single_file:
        raise ArgumentError(
            f"--push uploads a model folder, but {job.outputs[0].folder.given} is one file", "Give a folder as OUT."
        )
    if len(job.outputs) > 1 and "{lam}" not in arguments.push:
        raise ArgumentError(
            f"--push {arguments.push}: does not contain {{lam}}", "Write {lam} where lam goes: 'ORG/NAME-{lam}'."
        )
    lams = [output.record.parameters.get("lam") for output in job.outputs]
    return [
        upload.checked_repo(arguments.push.replace("{lam}", f"{lam:g}") if isinstance(lam, float) else arguments.push)
        for lam in lams
    ]


def describe(reports: list[Report]) -> str:
    """Returns a short text about the reports for the user."""
    first = reports[0]
    lines = [printable(f"note: {note}") for note in first.notes]
    for r in reports:
        lines.append(
            f"{printable(r.out)}: {show_bytes(r.bytes_written)} in {counted(r.shards, 'shard')}, "
            f"{counted(r.tensors_interpolated, 'tensor')} interpolated, {r.tensors_copied:,} copied"
        )
    moved = first.bytes_read + sum(r.bytes_written for r in reports)
    seconds = max(r.seconds for r in reports)
    how = f"{first.isa}, {counted(first.threads, 'thread')}"
    if first.device != "cpu":
        how = f"{first.backend} on {first.device}, {how}"
    lines.append(f"{seconds:.2f} s, {show_bytes(moved / seconds)}/s read and written ({how})")
    return "\n".join(lines)


def describe_plan(job: Job) -> str:
    """Returns a text about what a job would do. For interpolation, it shows the lam of each layer and module."""
    lines = [printable(f"note: {note}") for note in job.notes()]
    sizes = {row.name: row.inputs[0].nbytes for row in job.alignment.merged}
    kept = [row.inputs[0].nbytes for row in job.alignment.rows if row.kept is not None]
    for i, output in enumerate(job.outputs):
        lines.append(f"{printable(output.folder.given)}: {output.record.summary}")
        if all(source.formula is None for source in job.sources.values()):
            weights = {name: job.sources[name].weights[i] for name in sizes}
            lines.append(format_table(recipe_table(sizes, weights), show_bytes))
        else:
            merged = [name for name in sizes if not job.sources[name].copied]
            total = sum(sizes[name] for name in merged)
            copied = f"{len(sizes) - len(merged):,} copied from the first model"
            lines.append(f"{counted(len(merged), 'tensor')}, {show_bytes(total)}, merged; {copied}")
        if kept:
            what = counted(len(kept), "tensor"), "it is" if len(kept) == 1 else "they are"
            lines.append(f"{what[0]}, {show_bytes(sum(kept))}, that only one model has, kept as {what[1]}")
    return "\n".join(lines)
