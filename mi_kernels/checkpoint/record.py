"""What an open checkpoint is: its files, its tensors, its config, and the adapter that was added."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .stamp import Content, Stamp, check_unchanged
from .virtual import Tensor

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


class Adapter(NamedTuple):
    """Where an adapter is: as it was given, its folder, its commit for a Hub id."""

    source: str
    root: str
    revision: str | None

    @property
    def file(self) -> str:
        return os.path.join(self.root, ADAPTER_WEIGHTS)


@dataclass
class Checkpoint:
    """A validated checkpoint.

    Attributes:
        source: the folder, Hub id or BASE+ADAPTER as it was given.
        root: the folder; the base's where there is an adapter.
        shards: paths of the safetensors files, in the order of their names.
        tensors: every tensor by name, in file order, shard after shard. Some may be virtual: see `virtual`.
        metadata: the `__metadata__` of the first shard.
        config: config.json, or an empty dict.
        revision: the commit, for a Hub id.
        notes: oddities worth one line to the user.
        adapter: the LoRA adapter that was added.
        stamps: of each file with weights, by path, from before its header was read.
        headers: SHA-256 of the header of each of them, by path.
    """

    source: str
    root: str
    shards: list[str]
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    config: dict[str, Any]
    revision: str | None = None
    notes: list[str] = field(default_factory=list)
    adapter: Adapter | None = None
    stamps: dict[str, Stamp] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def files(self) -> list[str]:
        """Paths of all files with weights; `TensorInfo.shard` counts in them."""
        return self.shards if self.adapter is None else [*self.shards, self.adapter.file]

    @property
    def base(self) -> str:
        """`source` without the adapter."""
        return self.source if self.adapter is None else self.source.removesuffix(f"+{self.adapter.source}")

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.tensors.values())

    def paths(self) -> list[str]:
        """The folders and the files that a merge reads."""
        return [self.root, *([self.adapter.root] if self.adapter else []), *self.files]

    def check_unchanged(self) -> None:
        """To be called when all has been read, before what was made of it is shown to anyone.

        Raises:
            CheckpointError: a file with weights has been written or replaced since the checkpoint was opened.
        """
        check_unchanged(self.stamps)

    def evidence(self) -> list[dict[str, str | int]]:
        """What stands for the content of each file with weights, in their order, as plain values.

        Without the device, whose number may be another one after a mount.
        """
        return [
            {
                "path": os.path.realpath(path),
                "size": self.stamps[path].size,
                "mtime_ns": self.stamps[path].mtime_ns,
                "inode": self.stamps[path].inode,
                "header": self.headers[path],
            }
            for path in self.files
        ]

    def contents(self) -> list[Content]:
        """What another machine must find at the path of each file with weights, in their order."""
        stamps = self.stamps
        return [
            Content(os.path.abspath(path), stamps[path].size, stamps[path].mtime_ns, self.headers[path])
            for path in self.files
        ]

    def identity(self) -> dict[str, Any]:
        """What this model was, for records. `headers` is SHA-256 of its shards' hexadecimal digests in a row."""
        adapter = self.adapter
        return {
            "source": self.base,
            "revision": self.revision,
            **({"adapter": {"source": adapter.source, "revision": adapter.revision}} if adapter else {}),
            "tensors": len(self.tensors),
            "bytes": self.nbytes,
            "headers": hashlib.sha256("".join(self.headers[path] for path in self.shards).encode()).hexdigest(),
        }

    @property
    def tied(self) -> bool:
        """True when config.json says that lm_head shares the embedding's weights."""
        text = self.config.get("text_config")
        tied = text.get("tie_word_embeddings") if isinstance(text, dict) else None
        return bool(self.config.get("tie_word_embeddings", tied))
