"""The procedure of the paper, as published: loads both models, interpolates every tensor in bf16, and saves.

python -m bench.programs.paper INSTRUCT THINKING OUT LAM
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def main(instruct: str, thinking: str, out: str, lam: float) -> None:
    merged: dict[str, torch.Tensor] = {}
    theirs: dict[str, torch.Tensor] = {}
    for file in sorted(Path(thinking).glob("*.safetensors")):
        theirs.update(load_file(file))
    for file in sorted(Path(instruct).glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            merged[name] = (1 - lam) * tensor + lam * theirs[name]
    Path(out).mkdir()
    save_file(merged, Path(out) / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(Path(thinking) / "config.json", out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]))
