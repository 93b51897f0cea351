"""Run `mi-kernels verify`: check a model folder against its checksums, or against the merge computed again."""

from __future__ import annotations

import argparse
import glob
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from ..errors import ArgumentError, MIKernelsError, counted, printable
from .arguments import silence_downloads
from .colour import coloured_notes
from .early import announce, progress_of, shows
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
        help="merge again in memory and compare; MODEL: the merged models, in the order of mi_kernels.json "
        "(default: those that it names)",
    )
    p.add_argument("--record", action="store_true", help="record the checksums of the current files")
    p.add_argument("--overwrite", action="store_true", help="with --record: replace recorded checksums")
    p.add_argument("--threads", metavar="N", help="computing threads (default: all cores)")
    p.add_argument("-q", "--quiet", action="store_true", help="print only problems")
    p.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Returns 0 if everything is intact, 1 if something is damaged or differs."""
    from ..verify.verify import record_checksums, verify_checkpoint

    silence_downloads(arguments)
    threads = parse_count(arguments.threads, "--threads")
    progress = progress_of(arguments)
    if arguments.record:
        if arguments.recompute is not None:
            raise ArgumentError("--record and --recompute exclude each other", "Use one of them.")
        _announce(arguments)
        found = record_checksums(arguments.model, overwrite=arguments.overwrite, threads=threads, progress=progress)
    elif arguments.overwrite:
        raise ArgumentError("--overwrite without --record", "Add --record, or leave out --overwrite.")
    else:
        _announce(arguments)
        found = verify_checkpoint(arguments.model, arguments.recompute, threads=threads, progress=progress)
    if arguments.json:
        print(json.dumps(found.as_dict(), indent=2))
    elif not arguments.quiet or not found.right:
        text = describe(found, "recorded" if arguments.record else "OK")
        print(coloured_notes(text, sys.stdout))
    return 0 if found.right else 1


def _announce(arguments: argparse.Namespace) -> None:
    """Prints what will be read. Prints nothing if the command is about to be refused."""
    if shows(arguments) and os.path.isdir(arguments.model):
        from ..merge.forecast import reading

        with suppress(MIKernelsError):
            announce(arguments, reading(_files(arguments.model, arguments.recompute)).measured())


def _files(root: str, models: Sequence[str] | None) -> list[str]:
    """Returns the files that are read, each as often as it is read. Those of models on the Hub are not known yet."""
    from ..checksums.folder import file_sizes
    from ..merge.record import given, read_record

    files = [os.path.join(root, name) for name in file_sizes(root)]
    record = read_record(root) if models is not None else None
    if models is None or record is None:
        return files
    for folder in [root, *(models or map(given, record.inputs))]:
        files += glob.glob(os.path.join(glob.escape(folder), "*.safetensors"))
    return files


def describe(found: Verification, verdict: str) -> str:
    """Returns one line for each problem, and then a summary.

    Args:
        verdict: the text for files without damage.
    """
    lines = [f"note: {note}" for note in found.notes]
    if found.recomputed is not None:
        lines += [f"note: {note}" for note in found.recomputed.notes]
    by_file: dict[str, list[Damage]] = {}
    for damage in found.damage:
        by_file.setdefault(damage.file, []).append(damage)
    for file, damages in by_file.items():
        lines += _first_lines(damages, file)
    if found.files:
        speed = f"{show_bytes(found.bytes)} in {found.seconds:.2f} s, {show_bytes(found.gigabytes_per_second * 1e9)}/s"
        state = f"checked, {len(by_file):,} damaged" if found.damage else verdict
        lines.append(f"{found.out}: {counted(found.files, 'file')} {state} ({speed})")
    if found.recomputed is not None:
        again = found.recomputed
        lines += _first_lines(again.differences, found.out)
        state = "the folder differs from the merge" if again.differences else "bit-identical"
        speed = f"{show_bytes(again.bytes)} in {again.seconds:.2f} s"
        lines.append(f"{found.out}: {counted(again.tensors, 'tensor')} computed again, {state} ({speed})")
    return "\n".join(printable(line) for line in lines)


def _first_lines(items: Sequence[object], what: str) -> list[str]:
    lines = [str(item) for item in items[:_SHOWN]]
    if len(items) > _SHOWN:
        lines.append(f"{what}: {len(items) - _SHOWN:,} more (use --json to list all)")
    return lines
