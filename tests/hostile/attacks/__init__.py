"""Attacks: malicious model folders, adapters and recipes, built by code, and the required outcome of each.

    python -m tests.hostile.attacks [NAME ...] [--json]                         against mi-kernels
    python -m tests.hostile.attacks --command 'TOOL {config} {out}' [--json]    against any other merging program

`case` defines what an attack is, the other modules contain the attacks by class, and `run` runs and judges one.
"""
