"""Changes lam on a model that is loaded in transformers, without loading it again.

python -m pip install torch transformers
python live.py
"""

import argparse

import torch
from transformers import AutoModelForCausalLM

import mi_kernels

argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()

INSTRUCT = "./instruct"
THINKING = "./thinking"

model = AutoModelForCausalLM.from_pretrained(INSTRUCT, dtype="auto")
knob = mi_kernels.live.attach(model, THINKING)  # keeps both sides in memory; docs/live.md lists the other choices
tokens = torch.tensor([[1, 2, 3, 4]])
for lam in (0.0, 0.5, 1.0):
    knob.set_lam(lam)  # changes the parameters in place, to the bits of lerp_checkpoint
    with torch.no_grad():
        logits = model(tokens).logits
    print(f"lam {lam}: the most likely next token is {int(logits[0, -1].argmax())}")
knob.set_lam(0)  # the weights of INSTRUCT again
knob.detach()  # frees the copies
