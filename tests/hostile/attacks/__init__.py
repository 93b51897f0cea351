"""Attacks: model folders, adapters and recipes made by somebody who means harm, built by code, and what must happen.

    python -m tests.hostile.attacks [NAME ...] [--json]                         against mi-kernels
    python -m tests.hostile.attacks --command 'TOOL {config} {out}' [--json]    against any other merging program

`case` says what an attack is, the modules beside it hold them by class, `run` runs one and judges the outcome.
"""
