"""A merge tool of your own: your files, your weights, your loop; the kernels do the arithmetic. No torch.

python tool.py
"""

import argparse
import json
import struct
from pathlib import Path

import numpy as np

import mi_kernels

argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()

INSTRUCT, THINKING, OUT = "./instruct", "./thinking", "./merged-by-tool"
DTYPES = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}  # NumPy has no bf16: uint16 holds its bits


def lam_of(name: str) -> float:
    """The tool's own rule: attention mostly from THINKING, norms from INSTRUCT, the rest half and half."""
    return 0.0 if "norm" in name else 0.9 if "self_attn" in name else 0.5


def mapped(model: mi_kernels.Checkpoint, name: str) -> np.ndarray:
    """A tensor of a checkpoint, mapped from its file and not read yet."""
    tensor = model.tensors[name]
    path = model.shards[tensor.shard]
    return np.memmap(path, DTYPES[tensor.dtype], "r", offset=tensor.begin, shape=tensor.shape)


def write(path: Path, tensors: dict[str, np.ndarray], dtypes: dict[str, str]) -> None:
    """Writes a safetensors file: the length of a JSON header, the header, and the bytes of the tensors."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, value in tensors.items():
        begin, end = end, end + value.nbytes
        header[name] = {"dtype": dtypes[name], "shape": value.shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for value in tensors.values():
            file.write(value.tobytes())


a, b = mi_kernels.open_checkpoint(INSTRUCT), mi_kernels.open_checkpoint(THINKING)
Path(OUT).mkdir(exist_ok=True)
where = {}
for number, shard in enumerate(a.shards):
    names = [name for name, tensor in a.tensors.items() if tensor.shard == number]
    ours, theirs = ([mapped(model, name) for name in names] for model in (a, b))
    # One call for all tensors of the shard: it shares the work among the cores, whatever the tensors' sizes.
    merged = mi_kernels.multi_lerp(ours, theirs, [lam_of(name) for name in names])
    file = Path(shard).name
    write(Path(OUT, file), dict(zip(names, merged)), {name: a.tensors[name].dtype for name in names})
    where.update(dict.fromkeys(names, file))

index = {"metadata": {"total_size": a.nbytes}, "weight_map": where}
Path(OUT, "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
Path(OUT, "config.json").write_text(json.dumps(a.config, indent=2))
print(f"{OUT}: {len(where)} tensors in {len(a.shards)} files")
