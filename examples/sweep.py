"""Merges at many lam in one pass: both checkpoints are read once, and a model is written for each lam.

python sweep.py
"""

import argparse

import mi_kernels

argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()

INSTRUCT = "./instruct"
THINKING = "./thinking"
OUT = "./runs/mi-{lam}"  # runs/mi-0.2, runs/mi-0.4, ...
LAMS = [0.2, 0.4, 0.6, 0.8]

distance = mi_kernels.similarity(INSTRUCT, THINKING)
print(f"sigma {distance.overall.sigma:.4f}: how far apart the two models are")

reports = mi_kernels.sweep_checkpoint(INSTRUCT, THINKING, OUT, LAMS, modules="attn,ffn", overwrite=True)
for lam, report in zip(LAMS, reports):
    print(f"lam {lam}: {report.out}, {report.tensors_interpolated} tensors interpolated")
