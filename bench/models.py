"""The checkpoints of the benchmarks: layouts of real models, options, and the folder that keeps the files."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mi_kernels.output.synthetic import Shapes, qwen3_config, qwen3_like, qwen3_shapes, write_checkpoint

# The published configurations of Qwen3.
MODELS: dict[str, Callable[[], Shapes]] = {
    "0.6B": partial(qwen3_shapes, hidden=1024, layers=28, ffn=3072, heads=16, kv_heads=8),
    "1.7B": partial(qwen3_shapes, hidden=2048, layers=28, ffn=6144, heads=16, kv_heads=8),
    "4B": partial(qwen3_shapes, hidden=2560, layers=36, ffn=9728, heads=32, kv_heads=8),
    "30B-A3B": partial(
        qwen3_shapes,
        hidden=2048,
        layers=48,
        ffn=0,
        heads=32,
        kv_heads=4,
        tied=False,
        experts=128,
        expert_ffn=768,
    ),
}


class Layout(NamedTuple):
    """A checkpoint's tensors.

    Attributes:
        name: the name in the tables.
        shapes: of each tensor, after shrinking.
        shrink: the divisor of the first dimension of each tensor (the quotient is rounded up).
        config: the configuration of the model before shrinking.
    """

    name: str
    shapes: Shapes
    shrink: int
    config: dict[str, Any]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in bf16."""
        return size_of(self.shapes)


def size_of(shapes: Shapes) -> int:
    return sum(2 * math.prod(shape) for shape in shapes.values())


def layout(model: str, most: int | None = None) -> Layout:
    """The layout of one of MODELS. It keeps all tensors, with fewer rows if they would exceed `most` bytes."""
    shapes = MODELS[model]()
    config = qwen3_config(shapes)
    whole = size_of(shapes)
    shrink = 1 if most is None else max(1, -(-whole // most))
    if shrink == 1:
        return Layout(f"Qwen3-{model}", shapes, 1, config)
    fewer = {name: (-(-shape[0] // shrink), *shape[1:]) for name, shape in shapes.items()}
    return Layout(f"Qwen3-{model} / {shrink}", fewer, shrink, config)


def sized(gigabytes: float) -> Layout:
    """As many layers of Qwen3-0.6B as make so many GB, so that sizes differ only in the number of layers."""
    shapes = qwen3_like(int(gigabytes * 1e9))
    return Layout(f"{gigabytes:g} GB", shapes, 1, qwen3_config(shapes))


def parser(program: str, doc: str | None, rounds: int) -> argparse.ArgumentParser:
    """The options of a benchmark with the layout of one model."""
    made = argparse.ArgumentParser(
        prog=f"python -m {program}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--model", choices=MODELS, default="0.6B", help="the model whose layout is used (default: 0.6B)")
    made.add_argument("--most", type=float, metavar="GB", help="shrink the model to this size (default: its own size)")
    made.add_argument("--rounds", type=int, default=rounds, help=f"runs of each contestant (default: {rounds})")
    made.add_argument("--folder", help="the working folder, which keeps the inputs")
    made.add_argument("--json", type=Path, help="also write the results to this file")
    return made


def wanted_layout(arguments: argparse.Namespace) -> Layout:
    """The layout that the options of `parser` select."""
    return layout(arguments.model, None if arguments.most is None else int(arguments.most * 1e9))


def home(folder: str | None) -> Path:
    """The working folder: `folder`, or mi-kernels-bench in the folder of temporary files. Created if missing."""
    path = Path(folder or os.path.join(tempfile.gettempdir(), "mi-kernels-bench")).resolve()
    path.mkdir(parents=True, exist_ok=True)
    return path


def checkpoint(folder: Path, wanted: Layout, seed: int, shards: int = 1) -> Path:
    """The checkpoint of this layout and seed below `folder`. It is written on first use, and kept."""
    content = json.dumps([wanted.shapes, wanted.config, seed, shards])
    path = folder / "inputs" / hashlib.sha256(content.encode()).hexdigest()[:16]
    if not path.exists():
        part = path.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        write_checkpoint(part, wanted.shapes, seed=seed, shards=shards, config=wanted.config)
        part.rename(path)
    return path


def room_for(folder: Path, copies: int) -> int:
    """The size in bytes at which `copies` checkpoints fit on the disk of `folder`, with a tenth to spare."""
    kept = sum(file.stat().st_size for file in (folder / "inputs").glob("*/*"))
    return int((shutil.disk_usage(folder).free + kept) * 0.9) // copies
