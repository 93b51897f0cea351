"""The command line: `program` is its entry, each command a module of its own with `add` and `run`."""

from .program import main

__all__ = ["main"]
