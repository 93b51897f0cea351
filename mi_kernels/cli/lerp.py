"""mi-kernels lerp: two checkpoints in, one out."""

from __future__ import annotations

import argparse
import json

from ..job import Report
from ..merge import lerp_checkpoint
from .values import parse_count, parse_size, show_bytes


def run(arguments: argparse.Namespace) -> int:
    report = lerp_checkpoint(
        arguments.instruct,
        arguments.thinking,
        arguments.out,
        arguments.lam,
        layers=arguments.layers,
        modules=arguments.modules,
        device=arguments.device,
        backend=arguments.backend,
        dtype=arguments.dtype,
        threads=parse_count(arguments.threads, "--threads"),
        max_memory=parse_size(arguments.max_memory, "--max-memory"),
        overwrite=arguments.overwrite,
        progress=not (arguments.quiet or arguments.json),
        extrapolate=arguments.extrapolate,
        copy_from=arguments.copy_from,
        max_shard_size=parse_size(arguments.max_shard_size, "--max-shard-size"),
        io=arguments.io,
    )
    if arguments.json:
        print(json.dumps(report.as_dict(), indent=2))
    elif not arguments.quiet:
        print(describe(report))
    return 0


def describe(report: Report) -> str:
    """The report in a few lines for people."""
    lines = [f"note: {note}" for note in report.notes]
    lines.append(
        f"{report.out}: {show_bytes(report.bytes_written)} in {report.shards} "
        f"shard{'s' if report.shards != 1 else ''}, {report.tensors_interpolated} tensors interpolated, "
        f"{report.tensors_copied} copied"
    )
    lines.append(
        f"{report.seconds:.2f} s, {report.gigabytes_per_second:.1f} GB/s read and written "
        f"({report.isa}, {report.threads} thread{'s' if report.threads != 1 else ''})"
    )
    return "\n".join(lines)
