"""mi-kernels-mergekit: runs mergekit-yaml with the methods of mi_kernels. Prints an error if mergekit is missing."""

from __future__ import annotations

import sys

from .shell import guarded

SERVE = "--serve-linear"


def main() -> int:
    """Runs mergekit-yaml with the arguments of this program, except `--serve-linear`, which can be at any position."""
    return guarded("mi-kernels-mergekit", _run, "")


def _run() -> int:
    words = [word for word in sys.argv[1:] if word != SERVE]
    if words in ([], ["help"]):
        words = ["--help"]
    from ..integrations import mergekit as ours

    if SERVE in sys.argv[1:]:
        ours.serve_linear()
    from mergekit.scripts.run_yaml import main as mergekit_yaml

    mergekit_yaml(args=words, prog_name="mi-kernels-mergekit")
    return 0


if __name__ == "__main__":
    sys.exit(main())
