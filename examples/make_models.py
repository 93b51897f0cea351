"""Makes ./base, ./instruct and ./thinking: tiny models with Qwen3's layout and random weights, to try the examples on.

python make_models.py
"""

import argparse
from pathlib import Path

from mi_kernels.output.synthetic import qwen3_shapes, write_checkpoint

argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()

shapes = qwen3_shapes(hidden=64, layers=6, ffn=128, heads=4, kv_heads=2, head_dim=16, vocab=512)
for seed, name in enumerate(["base", "instruct", "thinking"]):
    write_checkpoint(Path(name), shapes, seed=seed, shards=2)
    print(f"made ./{name}")
