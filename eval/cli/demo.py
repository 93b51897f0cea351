"""python -m eval demo: the whole loop on the tiny pair, on a CPU."""

from __future__ import annotations

import argparse
import time

from .arguments import add_quiet


def add(p: argparse.ArgumentParser) -> None:
    p.add_argument("--out", default="runs/demo", metavar="DIR", help="folder for runs and report (default: runs/demo)")
    p.add_argument("--engine", choices=("vllm", "transformers"), help="(default: vllm where it is installed)")
    add_quiet(p)


def run(arguments: argparse.Namespace) -> int:
    from .. import report
    from ..tiny_pair import demo
    from .report import write_report

    report.require()
    started = time.monotonic()
    folders = demo.run(arguments.out, arguments.engine or demo.installed_engine(), progress=not arguments.quiet)
    page = write_report(arguments.out)
    if not arguments.quiet:
        print("\n".join(demo.table(folders)))
        print(f"{page} shows the three stages; {time.monotonic() - started:.0f} s in total.")
    return 0
