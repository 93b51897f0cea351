"""Merges two checkpoints, and looks at what came out.

python merge.py
"""

import argparse

import mi_kernels

argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()

INSTRUCT = "./instruct"  # lam 0: a model folder, or a Hub id such as Qwen/Qwen3-4B-Instruct-2507
THINKING = "./thinking"  # lam 1
OUT = "./merged"

report = mi_kernels.lerp_checkpoint(INSTRUCT, THINKING, OUT, lam=0.8, overwrite=True)
print(f"{report.out}: {report.tensors_interpolated} tensors interpolated, {report.tensors_copied} copied")
print(f"{report.seconds:.2f} s, {report.gigabytes_per_second:.1f} GB/s read and written")
for note in report.notes:  # what differs between the two models, or is odd about one
    print("note:", note)

merged = mi_kernels.open_checkpoint(OUT)
print(f"{len(merged.tensors)} tensors, {merged.nbytes:,} bytes, {len(merged.shards)} shards")
