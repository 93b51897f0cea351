"""mi-kernels verify: is a model folder what it was when it was made?"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import ArgumentError, printable
from .shell import Parser
from .text import parse_count, show_bytes

if TYPE_CHECKING:
    from ..checksums.damage import Damage
    from ..verify.verify import Verification

_SHOWN = 20  # lines for each file


def add(p: Parser) -> None:
    p.add_argument("model", metavar="OUT", help="model folder")
    p.add_argument(
        "--recompute",
        nargs="*",
        metavar="MODEL",
        help="do the merge again in memory, from these models in mi_kernels.json's order (none: those named there)",
    )
    p.add_argument("--record", action="store_true", help="write the checksums of the files as they are now")
    p.add_argument("--overwrite", action="store_true", help="with --record: replace those that are there")
    p.add_argument("--threads", metavar="N", help="computing threads (default: all cores)")
    p.add_argument("-q", "--quiet", action="store_true", help="print nothing but what is wrong")
    p.add_argument("--json", action="store_true", help="print what was found as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Returns 0 where everything is right, 1 where something is damaged."""
    from ..verify.verify import record_checksums, verify_checkpoint

    threads = parse_count(arguments.threads, "--threads")
    progress = not (arguments.quiet or arguments.json)
    if arguments.record:
        if arguments.recompute is not None:
            raise ArgumentError("--record and --recompute are two things", "Give one of them.")
        found = record_checksums(arguments.model, overwrite=arguments.overwrite, threads=threads, progress=progress)
    elif arguments.overwrite:
        raise ArgumentError("--overwrite replaces a record of checksums", "Give --record as well.")
    else:
        found = verify_checkpoint(arguments.model, arguments.recompute, threads=threads, progress=progress)
    if arguments.json:
        print(json.dumps(found.as_dict(), indent=2))
    elif not arguments.quiet or not found.right:
        print(describe(found, "recorded" if arguments.record else "right"))
    return 0 if found.right else 1


def describe(found: Verification, verdict: str) -> str:
    """What is wrong, a line each, then the verdict."""
    lines = [f"note: {note}" for note in found.notes]
    if found.recomputed is not None:
        lines += [f"note: {note}" for note in found.recomputed.notes]
    by_file: dict[str, list[Damage]] = {}
    for damage in found.damage:
        by_file.setdefault(damage.file, []).append(damage)
    for file, damages in by_file.items():
        lines += _first_lines(damages, file)
    if found.files:
        speed = f"{show_bytes(found.bytes)} in {found.seconds:.2f} s, {found.gigabytes_per_second:.1f} GB/s"
        state = f"{len(by_file)} damaged" if found.damage else verdict
        lines.append(f"{found.out}: {found.files} file{'s' if found.files != 1 else ''}, {state} ({speed})")
    if found.recomputed is not None:
        again = found.recomputed
        lines += _first_lines(again.differences, "the merge")
        state = "not the merge that mi_kernels.json says" if again.differences else "the merge, bit for bit"
        speed = f"{show_bytes(again.bytes)} in {again.seconds:.2f} s"
        lines.append(f"{found.out}: {again.tensors} tensors computed again: {state} ({speed})")
    return "\n".join(printable(line) for line in lines)


def _first_lines(items: Sequence[object], what: str) -> list[str]:
    lines = [str(item) for item in items[:_SHOWN]]
    if len(items) > _SHOWN:
        lines.append(f"{what}: and {len(items) - _SHOWN:,} more (--json lists all)")
    return lines
