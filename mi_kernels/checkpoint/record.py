"""The Checkpoint class: files, tensors, config and adapter of an open checkpoint."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .config import declared_tied
from .stamp import Content, Stamp, check_unchanged
from .virtual import Tensor

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MISTRAL_INDEX = "consolidated.safetensors.index.json"
CONSOLIDATED = "consolidated.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


class Adapter(NamedTuple):
    """The location of an adapter.

    Attributes:
        source: the folder or Hub id that the user gave.
        root: the folder.
        revision: the commit if `source` is a Hub id, otherwise None.
    """

    source: str
    root: str
    revision: str | None

    @property
    def file(self) -> str:
        return os.path.join(self.root, ADAPTER_WEIGHTS)


@dataclass
class Checkpoint:
    """A validated checkpoint, as `mi_kernels.open_checkpoint` returns it.

    Attributes:
        source: the folder, file, Hub id or BASE+ADAPTER that the user gave.
        root: the folder of the model; with an adapter, the folder of the base. The path of the file if the model is
            one file without a folder of its own, so that it has no config and no other small files.
        shards: paths of the safetensors files, sorted by name.
        tensors: every tensor by name, in file order, shard after shard. Each has `name`, `dtype` (the safetensors
            name, such as "BF16"), `shape`, `elements` and `nbytes`. See `TensorInfo`, and module `virtual` for FP8
            weights and adapters.
        metadata: the `__metadata__` of the first shard.
        config: the content of config.json; empty if it is missing.
        revision: the commit if `source` is a Hub id, otherwise None.
        notes: one line for each irregularity that was handled.
        risks: one line for each irregularity that can spoil a model. A strict merge rejects them.
        adapter: the LoRA adapter that is added, if any.
        stamps: for each file with weights, by path, its state before its header was read.
        headers: for each file with weights, by path, the SHA-256 of its header in hexadecimal.
        mistral: the files are in Mistral's format: consolidated*.safetensors, described by params.json.

    Example:
        >>> import mi_kernels, numpy, tempfile
        >>> from safetensors.numpy import save_file
        >>> folder = tempfile.mkdtemp()
        >>> save_file({"model.norm.weight": numpy.ones(3, numpy.float16)}, folder + "/model.safetensors")
        >>> model = mi_kernels.open_checkpoint(folder)
        >>> len(model.shards), model.nbytes, model.config, model.tied
        (1, 6, {}, False)
    """

    source: str
    root: str
    shards: list[str]
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    config: dict[str, Any]
    revision: str | None = None
    notes: list[str] = field(default_factory=list)
    risks: list[str] = field(default_factory=list)
    adapter: Adapter | None = None
    stamps: dict[str, Stamp] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    mistral: bool = False

    @property
    def files(self) -> list[str]:
        """Paths of all files with weights, including the adapter. `TensorInfo.shard` is an index into this list."""
        return self.shards if self.adapter is None else [*self.shards, self.adapter.file]

    @property
    def alone(self) -> bool:
        """True if the model is one file without a folder of its own."""
        return self.root in self.shards

    @property
    def base(self) -> str:
        """`source` without the adapter."""
        return self.source if self.adapter is None else self.source.removesuffix(f"+{self.adapter.source}")

    @property
    def nbytes(self) -> int:
        """Bytes to read for all tensors."""
        return sum(t.nbytes for t in self.tensors.values())

    def paths(self) -> list[str]:
        """Returns the folders and files that a merge reads."""
        return [self.root, *([self.adapter.root] if self.adapter else []), *self.files]

    def check_unchanged(self) -> None:
        """Checks that no file has changed since the checkpoint was opened. Call it before publishing a result.

        Raises:
            CheckpointError: a file with weights was written, replaced or removed.
        """
        check_unchanged(self.stamps)

    def evidence(self) -> list[dict[str, str | int]]:
        """Returns plain values that identify the content of each file with weights, in the order of `files`.

        The device number is left out because it can change when the disk is mounted again.
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
        """Returns the content that another machine must find for each file with weights, in the order of `files`."""
        stamps = self.stamps
        return [
            Content(os.path.abspath(path), stamps[path].size, stamps[path].mtime_ns, self.headers[path])
            for path in self.files
        ]

    def identity(self) -> dict[str, Any]:
        """Returns the identity of this model for mi_kernels.json. `headers` is SHA-256 of all joined header digests."""
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
        """True if lm_head shares the weights of the embedding, according to config.json and the class of the model."""
        return declared_tied(self.config)
