"""Makes the results readable: bench/results/REPORT.md with its plots, and the figures of README.md.

    python -m bench.report            # bench/results/REPORT.md and bench/results/plots
    python -m bench.report --readme   # only the figures of README.md, between their markers; needs no matplotlib

Every figure comes from the JSON files. A test fails if README.md and the JSON files disagree.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from .. import results
from . import markdown, readme


def main(argv: Sequence[str] | None = None) -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m bench.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--readme", action="store_true", help="write the figures of README.md instead")
    parser.add_argument("--results", type=Path, default=results.RESULTS, help="the folder of the result files")
    arguments = parser.parse_args(argv)
    if arguments.readme:
        for page, content in readme.pages(arguments.results):
            page.write_text(readme.with_figures(page.read_text(), content))
            print(f"written to {page}")
    else:
        print(f"written to {markdown.write(arguments.results)}")


if __name__ == "__main__":
    main()
