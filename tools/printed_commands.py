#!/usr/bin/env python
"""Runs what the pages print: every Python block and every command, on tiny models, in a copy of the repository.

    python tools/printed_commands.py                           every page
    python tools/printed_commands.py docs/merge.md README.md   some pages
    python tools/printed_commands.py --having minutes,eval     also what needs more time, and the packages of .[eval]
    python tools/printed_commands.py --list                    what would run and what would not, and why

A block that cannot run everywhere has a comment before it: `<!-- not run: needs vLLM -->`. Such a block runs where all
that it needs is named in --having; tests/support/printed.py lists the words. Exit status: 0 if all that ran succeeded.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from eval.engines.imports import hide_cuda_extras  # noqa: E402

hide_cuda_extras()  # beside vLLM's CPU build, they break transformers' models

from tests.support import printed  # noqa: E402
from tests.support.clones import copy_repository  # noqa: E402
from tests.support.documents import WITH_COMMANDS, blocks  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, metavar="PAGE", help="(default: all)")
    parser.add_argument("--having", default="", metavar="NEEDS", help=f"any of: {', '.join(printed.NEEDS)}")
    parser.add_argument("--seconds", type=float, default=600, help="the limit of one command (default: %(default)g)")
    parser.add_argument("--list", action="store_true", help="run nothing")
    arguments = parser.parse_args(argv)
    having = {word.strip() for word in arguments.having.split(",") if word.strip()}
    if unknown := having - set(printed.NEEDS):
        parser.error(f"--having {', '.join(sorted(unknown))}: known are {', '.join(printed.NEEDS)}")
    pages = [page.resolve() for page in arguments.pages] or WITH_COMMANDS
    if arguments.list:
        _list(pages, having)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        return _run(pages, having, arguments.seconds, Path(scratch))


def _list(pages: Sequence[Path], having: set[str]) -> None:
    for page in pages:
        for block in blocks(page):
            missing = [need for need in printed.needs(block) if need not in having]
            for part in [block.text] if block.language == "python" else block.commands:
                why = f"   (needs {', '.join(missing)})" if missing else ""
                print(f"{block.place}: {_first_line(part)}{why}")


def _run(pages: Sequence[Path], having: set[str], seconds: float, scratch: Path) -> int:
    counts: Counter[str] = Counter()
    package = scratch / "package"  # each page's copy may be changed by its commands; this one is imported
    copy_repository(package)
    variables = printed.environment(scratch / "bin", package, scratch, vllm="vLLM" in having)
    for name in ("PATH", "PYTHONPATH", "HF_HUB_OFFLINE", "HF_HOME"):
        os.environ[name] = variables[name]  # for Python blocks, which run in this process
    for page in pages:
        folder = scratch / page.relative_to(ROOT).as_posix().replace("/", "-")
        folder.mkdir()
        copy_repository(folder)
        printed.make_models(folder)
        if "vLLM" in having:
            printed.add_tokenizers(folder)
        os.chdir(folder)
        for outcome in printed.run_page(page, folder, variables, having, seconds):
            word = "FAILED" if outcome.problem else "not run" if outcome.skipped else "ok"
            counts[word] += 1
            why = f"   ({outcome.skipped})" if outcome.skipped else ""
            print(f"{word:8}{outcome.place}: {_first_line(outcome.text)}{why}", flush=True)
            if outcome.problem:
                print("        " + outcome.problem.rstrip().replace("\n", "\n        "))
    print(", ".join(f"{count} {word}" for word, count in counts.items()))
    return 1 if counts["FAILED"] else 0


def _first_line(text: str) -> str:
    return next(line.strip() for line in text.splitlines() if line.strip())


if __name__ == "__main__":
    sys.exit(main())
