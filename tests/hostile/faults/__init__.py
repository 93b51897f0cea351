"""Merges on a failing disk: inject.c makes system calls fail, server.py runs commands, table.py has the cases.

python -m tests.hostile.faults            # runs all cases and prints a summary
python -m tests.hostile.faults --json     # the same as JSON
"""
