"""Merges on a disk that fails: inject.c makes calls fail, server.py runs a command under it, table.py has the cases.

python -m tests.hostile.faults            # every case; a summary
python -m tests.hostile.faults --json     # the same, to be read by programs
"""
