"""The merge that one writes by hand: `torch.lerp` over safetensors, tensor by tensor, into one file.

python -m bench.programs.torch_lerp INSTRUCT THINKING OUT LAM
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def main(instruct: str, thinking: str, out: str, lam: float) -> None:
    merged: dict[str, torch.Tensor] = {}
    for file in sorted(Path(instruct).glob("*.safetensors")):
        with safe_open(file, "pt") as ours, safe_open(Path(thinking) / file.name, "pt") as theirs:
            for name in ours.keys():  # noqa: SIM118 (safe_open is no dict)
                merged[name] = torch.lerp(ours.get_tensor(name), theirs.get_tensor(name), lam)
    Path(out).mkdir()
    save_file(merged, Path(out) / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(Path(thinking) / "config.json", out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]))
