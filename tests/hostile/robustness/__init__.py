"""One table of all robustness tests of a merge: kills, failing system calls, hostile inputs, flipped bits.

python -m tests.hostile.robustness                                   # mi_kernels
python -m tests.hostile.robustness --with mergekit,paper [--json]    # and other programs, if they support it
"""
