"""Layouts of real models, for benchmark checkpoints, and where such checkpoints are kept."""

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
        name: as the tables call it.
        shapes: of each tensor, after shrinking.
        shrink: what every tensor's elements were divided by, about (its first dimension was, rounded up).
        config: the whole model's.
    """

    name: str
    shapes: Shapes
    shrink: int
    config: dict[str, Any]

    @property
    def nbytes(self) -> int:
        """Of the tensors, in bf16."""
        return size_of(self.shapes)


def size_of(shapes: Shapes) -> int:
    return sum(2 * math.prod(shape) for shape in shapes.values())


def layout(model: str, most: int | None = None) -> Layout:
    """The layout of one of MODELS; all tensors stay, with fewer rows where they would be more than `most` bytes."""
    shapes = MODELS[model]()
    config = qwen3_config(shapes)
    whole = size_of(shapes)
    shrink = 1 if most is None else max(1, -(-whole // most))
    if shrink == 1:
        return Layout(f"Qwen3-{model}", shapes, 1, config)
    fewer = {name: (-(-shape[0] // shrink), *shape[1:]) for name, shape in shapes.items()}
    return Layout(f"Qwen3-{model} / {shrink}", fewer, shrink, config)


def sized(gigabytes: float) -> Layout:
    """Qwen3-0.6B's layers, as many as make so many GB: sizes that differ in nothing else."""
    shapes = qwen3_like(int(gigabytes * 1e9))
    return Layout(f"{gigabytes:g} GB", shapes, 1, qwen3_config(shapes))


def parser(program: str, doc: str | None, rounds: int) -> argparse.ArgumentParser:
    """The options of a benchmark on one model's layout."""
    made = argparse.ArgumentParser(
        prog=f"python -m {program}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--model", choices=MODELS, default="0.6B", help="whose layout (default: 0.6B)")
    made.add_argument("--most", type=float, metavar="GB", help="shrink the model to this (default: not at all)")
    made.add_argument("--rounds", type=int, default=rounds, help=f"runs of each (default: {rounds})")
    made.add_argument("--folder", help="where to work and keep the inputs")
    made.add_argument("--json", type=Path, help="also write the results there")
    return made


def wanted_layout(arguments: argparse.Namespace) -> Layout:
    """What `parser`'s options ask for."""
    return layout(arguments.model, None if arguments.most is None else int(arguments.most * 1e9))


def home(folder: str | None) -> Path:
    """Where benchmarks work and keep their inputs: `folder`, or mi-kernels-bench among the temporary files."""
    path = Path(folder or os.path.join(tempfile.gettempdir(), "mi-kernels-bench")).resolve()
    path.mkdir(parents=True, exist_ok=True)
    return path


def checkpoint(folder: Path, wanted: Layout, seed: int, shards: int = 1) -> Path:
    """The checkpoint of this layout and seed under `folder`; written on first use, and kept."""
    content = json.dumps([wanted.shapes, wanted.config, seed, shards])
    path = folder / "inputs" / hashlib.sha256(content.encode()).hexdigest()[:16]
    if not path.exists():
        part = path.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        write_checkpoint(part, wanted.shapes, seed=seed, shards=shards, config=wanted.config)
        part.rename(path)
    return path


def room_for(folder: Path, copies: int) -> int:
    """Bytes that each of `copies` checkpoints may have on the disk of `folder`, with a tenth left over."""
    kept = sum(file.stat().st_size for file in (folder / "inputs").glob("*/*"))
    return int((shutil.disk_usage(folder).free + kept) * 0.9) // copies
