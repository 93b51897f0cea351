"""The command line: `python -m eval run | sweep | report | demo`, one module for each command."""
