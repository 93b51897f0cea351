"""One table of everything that is done to a merge: kills, failing system calls, hostile inputs, flipped bits.

python -m tests.hostile.robustness                                   # mi_kernels
python -m tests.hostile.robustness --with mergekit,paper [--json]    # and the neighbours, on what can be run on them
"""
