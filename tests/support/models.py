"""Tiny checkpoints: valid ones of any layout and dtype, broken ones, and a Qwen3 model that transformers can load."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from mi_kernels.output.synthetic import qwen3_shapes

Tensors = dict[str, torch.Tensor]

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}
FLOATS = (torch.bfloat16, torch.float16, torch.float32)
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def random_bits(shape: Sequence[int], dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Returns uniformly random bit patterns of `dtype`, including NaN payloads, inf, subnormals and -0."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.empty(0, dtype=dtype).element_size()
    count = int(torch.Size(shape).numel())
    raw = torch.randint(0, 256, (count * size,), generator=generator, dtype=torch.uint8)
    return raw.view(dtype).reshape(tuple(shape))


def tiny(seed: int, *, layers: int = 2, tied: bool = False, dtype: torch.dtype = torch.bfloat16) -> Tensors:
    """Returns the tensors of a Qwen3 with `layers` layers and a few thousand parameters of random bits."""
    shapes = qwen3_shapes(hidden=16, layers=layers, ffn=24, heads=2, kv_heads=1, head_dim=8, vocab=50, tied=tied)
    return {name: random_bits(shape, dtype, seed * 1000 + i) for i, (name, shape) in enumerate(shapes.items())}


def save(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    shards: int | Sequence[Sequence[str]] = 1,
    config: Mapping[str, Any] | None = CONFIG,
    files: Mapping[str, bytes | str] | None = None,
) -> Path:
    """Writes a valid checkpoint with the safetensors library.

    Args:
        shards: the number of files, which get the tensors in turn; or the names in each file. Several files have an
            index, a single one has not.
        config: the content of config.json; None writes no config.json.
        files: further small files, by name.
    """
    folder.mkdir(parents=True)
    names = list(tensors)
    groups = [names[i::shards] for i in range(shards)] if isinstance(shards, int) else [list(g) for g in shards]
    shard_names = [f"model-{i + 1:05}-of-{len(groups):05}.safetensors" for i in range(len(groups))]
    if len(groups) == 1:
        shard_names = [SINGLE]
    for shard, group in zip(shard_names, groups):
        save_file({name: tensors[name].contiguous() for name in group}, folder / shard, metadata={"format": "pt"})
    if len(groups) > 1:
        write_index(folder, {name: shard for shard, group in zip(shard_names, groups) for name in group})
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config, indent=2))
    for name, content in (files or {}).items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def write_index(folder: Path, weight_map: object) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))


def write_raw(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    """Writes a shard by hand. `header`: bytes or a JSON value. `length`: the length prefix (None: the correct one)."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def write_in_order(path: Path, tensors: Mapping[str, torch.Tensor], lead: int = 0) -> Path:
    """Writes a valid shard with `tensors` in the given order, without alignment.

    Args:
        lead: number of spaces after the JSON, so that the data can start at any byte.
    """
    header: dict[str, Any] = {}
    data = b""
    for name, tensor in tensors.items():
        raw = bits(tensor)
        header[name] = {
            "dtype": SAFETENSORS_DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    return write_raw(path, json.dumps(header).encode() + b" " * lead, data)


SAFETENSORS_DTYPES = {
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
}


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def load(folder: Path) -> Tensors:
    """Reads all tensors of all shards with the safetensors library."""
    tensors: Tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, tensor in load_file(path).items():
            assert name not in tensors, f"{name} stands in two shards"
            tensors[name] = tensor
    return tensors


def lerp_reference(a: torch.Tensor, b: torch.Tensor, lam: float, dtype: torch.dtype | None = None) -> torch.Tensor:
    """The numerics contract: torch.lerp in float32, rounded once to `dtype` (None: the dtype of `a`).

    lam 0, lam 1 and dtypes that cannot be interpolated copy. All other NaN are canonical here, because the NaN of torch
    (0x7FC0 or 0xFFFF) depends on its vector path.
    """
    if a.dtype not in FLOATS:
        return a.clone()
    target = dtype or a.dtype
    if lam in (0, 1):
        source = b if lam else a
        if source.dtype == target:
            return source.clone()
        result = source.float().to(target)
    else:
        result = torch.lerp(a.float(), b.float(), lam).to(target)
    return torch.where(result.isnan(), torch.tensor(float("nan"), dtype=target), result)


def merge_reference(
    a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor], lam: float, dtype: torch.dtype | None = None
) -> Tensors:
    return {name: lerp_reference(a[name], b[name], lam, dtype) for name in a}


def assert_same_tensors(actual: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Asserts that names, dtypes, shapes and all bits are equal."""
    assert sorted(actual) == sorted(expected)
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype, name
        assert actual[name].shape == tensor.shape, name
        if bits(actual[name]) != bits(tensor):
            integers = _INTEGERS[tensor.element_size()]
            x, y = actual[name].reshape(-1).view(integers), tensor.reshape(-1).view(integers)
            at = int((x != y).nonzero()[0, 0])
            raise AssertionError(f"{name}[{at}] is {x[at].item():#x}, expected {y[at].item():#x}")


def as_hub_cache(model: Path, cache: Path, repo: str = "org/name", revision: str = "0123abcd") -> Path:
    """Moves `model` into a Hub cache. Returns the snapshot, a folder of links to blobs."""
    home = cache / f"models--{repo.replace('/', '--')}"
    blobs, snapshot = home / "blobs", home / "snapshots" / revision
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(model.iterdir())):
        path.rename(blobs / f"{number:064x}")
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", f"{number:064x}"))
    model.rmdir()
    return snapshot


def qwen3_model(seed: int, *, tied: bool, **config: Any) -> Any:
    """Returns a Qwen3ForCausalLM with random bf16 weights. `config` overrides the default sizes."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    torch.manual_seed(seed)
    built = Qwen3Config(**{**sizes, **config}, tie_word_embeddings=tied)
    return Qwen3ForCausalLM(built).to(torch.bfloat16).eval()
