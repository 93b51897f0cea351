"""The command line: `python -m eval run | sweep | report | grade | demo`, one module for each command."""
