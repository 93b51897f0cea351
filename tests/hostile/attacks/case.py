"""Defines attacks and their scene: two valid models, and a secret file that no merge may read."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
SECRET = b"this line was never meant to leave its folder"
CONFIG = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "tie_word_embeddings": False}
SHAPES = {
    "model.embed_tokens.weight": (8, 4),
    "model.layers.0.self_attn.q_proj.weight": (4, 4),
    "model.layers.0.mlp.up_proj.weight": (6, 4),
    "model.layers.1.self_attn.q_proj.weight": (4, 4),
    "model.layers.1.mlp.up_proj.weight": (6, 4),
    "model.norm.weight": (4,),
    "lm_head.weight": (8, 4),
}
SIZES = {"BF16": 2, "F16": 2, "F32": 4, "F8_E4M3": 1, "I64": 8, "U8": 1, "BOOL": 1}

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]  # dtype and shape by name
MODEL: Tensors = {name: ("BF16", shape) for name, shape in SHAPES.items()}


def raw(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """Returns a shard. `header`: bytes or a JSON value. `length`: the length prefix (None: the correct one)."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def shard(tensors: Tensors, metadata: object = None) -> bytes:
    """Returns a valid shard of `tensors`. Every byte of the data is 0x3f."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name, (dtype, shape) in tensors.items():
        size = SIZES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    return raw(header, b"\x3f" * end)


@dataclass(frozen=True)
class Scene:
    """The folders of one attack. Only files in `root / "in"`, `root / "disk"` and `root / "work"` may be opened."""

    root: Path

    @property
    def a(self) -> Path:
        return self.root / "in" / "a"

    @property
    def b(self) -> Path:
        return self.root / "in" / "b"

    @property
    def adapter(self) -> Path:
        return self.root / "in" / "adapter"

    @property
    def recipe(self) -> Path:
        """The recipe or mergekit configuration. It merges a and b unless the attack replaces it."""
        return self.root / "in" / "recipe.yml"

    @property
    def disk(self) -> Path:
        """A folder that stands for another disk with weights."""
        return self.root / "disk"

    @property
    def secret(self) -> Path:
        return self.root / "secret" / "secret.txt"

    @property
    def marker(self) -> Path:
        """The file that malicious code creates if it runs."""
        return self.root / "marker"

    @property
    def out(self) -> Path:
        return self.root / "work" / "out"

    def build(self) -> None:
        """Builds the scene before the attack: valid models a (two shards) and b (one file)."""
        for folder in (self.a, self.b, self.disk, self.secret.parent, self.out.parent):
            folder.mkdir(parents=True)
        self.secret.write_bytes(SECRET)
        names = list(MODEL)
        for number, file in enumerate(SHARDS):
            (self.a / file).write_bytes(shard({name: MODEL[name] for name in names[number::2]}))
        self.write_index(self.a, {name: SHARDS[i % 2] for i, name in enumerate(names)})
        (self.b / SINGLE).write_bytes(shard(MODEL))
        for folder in (self.a, self.b):
            (folder / "config.json").write_text(json.dumps(CONFIG))
        self.recipe.write_text(
            json.dumps(
                {
                    "merge_method": "linear",
                    "models": [{"model": str(m), "parameters": {"weight": 0.5}} for m in (self.a, self.b)],
                    "dtype": "bfloat16",
                }
            )
        )

    def write_index(self, folder: Path, weight_map: object, **others: object) -> None:
        (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map, **others}))

    def weights(self, folder: Path, content: bytes) -> None:
        """Replaces the weights of `folder` by `content`."""
        for path in folder.glob("model*"):
            path.unlink()
        (folder / SINGLE).write_bytes(content)


Make = Callable[[Scene], object]


@dataclass(frozen=True)
class Attack:
    """One attack.

    Attributes:
        family: the class it belongs to.
        make: changes a valid scene into the attack.
        harmless: True if it must be accepted, False if it must be rejected.
        words: words that the message of the rejection must contain.
        command: the command to run, see `COMMANDS`.
        ours: it attacks a format that only this package has.
        looks: a file that is parsed but never copied is a link to the secret. Opening it is allowed, showing it is not.
    """

    name: str
    family: str
    make: Make
    words: tuple[str, ...] = ()
    harmless: bool = False
    command: str = "lerp"
    ours: bool = False
    looks: bool = False


# {config}: the mergekit configuration or recipe of the scene.
COMMANDS = {
    "lerp": "lerp {a} {b} -o {out} --lam 0.5 --threads 1 --io buffered",
    "swapped": "lerp {b} {a} -o {out} --lam 0.5 --threads 1 --io buffered --max-shard-size 1GB",
    "merge": "merge {config} -o {out} --threads 1 --io buffered",
    "adapter": "lerp {a}+{adapter} {b} -o {out} --lam 0.5 --threads 1 --io buffered",
    "inspect": "inspect {b}",
    "inspect-json": "inspect {b} --json",
    "verify": "verify {b} --threads 1",
    "compare": "compare {a} {b} --threads 1",
}


class Family:
    """Collects the attacks of one module."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.attacks: list[Attack] = []

    def add(self, name: str, make: Make, *words: str, **options: Any) -> None:
        self.attacks.append(Attack(name, self.name, make, words, **options))

    def attack(self, *words: str, **options: Any) -> Callable[[Make], Make]:
        """Returns a decorator for a function that makes an attack. The function gives the attack its name."""

        def register(make: Make) -> Make:
            self.add(getattr(make, "__name__"), make, *words, **options)  # noqa: B009
            return make

        return register
