"""Run `mi-kernels demo`: merge two generated checkpoints, check every element and measure the speed."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from .early import announce
from .shell import Parser
from .text import parse_size


def add(p: Parser) -> None:
    p.add_argument("--size", metavar="SIZE", default="200MB", help="size of each checkpoint (default: 200MB)")
    p.add_argument("--folder", metavar="DIR", help="folder for the files (default: the system's temporary folder)")


def run(arguments: argparse.Namespace) -> int:
    from .demonstration import demonstrate

    size = parse_size(arguments.size, "--size")
    assert size is not None
    parent = arguments.folder or os.environ.get("TMPDIR") or tempfile.gettempdir()
    with tempfile.TemporaryDirectory(prefix="mi-kernels-demo-", dir=parent) as name:
        return demonstrate(Path(name), size, lambda forecast: announce(arguments, forecast))
