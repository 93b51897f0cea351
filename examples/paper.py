"""Makes the models of the paper's main experiments: a sweep over lam, and ablations of layers and of modules.

python paper.py
"""

import argparse

import mi_kernels

argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()

INSTRUCT = "./instruct"  # in the paper: Qwen/Qwen3-4B-Instruct-2507
THINKING = "./thinking"  # in the paper: Qwen/Qwen3-4B-Thinking-2507
OUT = "./runs/models"

SWEEP = [round(0.1 * i, 1) for i in range(1, 10)]  # lam 0 and 1 are the two models themselves
ABLATED = 0.8  # lam of all ablations
LAYERS = {  # thirds of the depth: layers 0-11, 12-23 and 24-35 of 36
    "first-third": "0/3:1/3",
    "second-third": "1/3:2/3",
    "last-third": "2/3:3/3",
    "first-two-thirds": "0/3:2/3",
    "last-two-thirds": "1/3:3/3",
}
MODULES = {"no-attn": "ffn,norm,embed", "no-ffn": "attn,norm,embed"}

# One pass over both models for all lam of the sweep.
reports = mi_kernels.sweep_checkpoint(INSTRUCT, THINKING, f"{OUT}/mi-{{lam}}", SWEEP, overwrite=True)
for name, layers in LAYERS.items():
    out = f"{OUT}/{name}"
    reports.append(mi_kernels.lerp_checkpoint(INSTRUCT, THINKING, out, lam=ABLATED, layers=layers, overwrite=True))
for name, modules in MODULES.items():
    out = f"{OUT}/{name}"
    reports.append(mi_kernels.lerp_checkpoint(INSTRUCT, THINKING, out, lam=ABLATED, modules=modules, overwrite=True))
for report in reports:
    print(f"{report.out}: {report.tensors_interpolated} tensors interpolated, {report.tensors_copied} copied")

# Evaluate them in a clone of the repository, then report on all:
print(f"next: for model in {OUT}/*; do python -m eval run $model --benchmark aime25,ifeval,gpqa; done")
print("      python -m eval report runs/")
