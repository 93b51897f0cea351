"""Checks a merged model: every byte against its checksums, and against the merge done again in memory.

python merge.py && python verify.py
"""

import argparse
import sys

import mi_kernels

argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()

OUT = "./merged"

# recompute=[] takes the models that OUT/mi_kernels.json names; without recompute, only the checksums are checked.
found = mi_kernels.verify_checkpoint(OUT, recompute=[])
for damage in found.damage:  # which file, which tensor, which byte
    print(damage)
print("right" if found.right else "damaged", f"- {found.files} files, {found.bytes:,} bytes")
sys.exit(not found.right)
