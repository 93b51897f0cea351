"""The fuzz targets: functions that take bytes and raise an exception only for a defect."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from typing import Any

from mi_kernels.checkpoint import fp8, lora
from mi_kernels.checkpoint.files import parse_json
from mi_kernels.checkpoint.header import read_header
from mi_kernels.checkpoint.names import places
from mi_kernels.checkpoint.open import open_checkpoint
from mi_kernels.checkpoint.record import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Adapter, Checkpoint
from mi_kernels.checkpoint.tensor import TensorInfo
from mi_kernels.checkpoint.virtual import LoraTensor, ScaledTensor
from mi_kernels.checksums.record import NAME as CHECKSUMS
from mi_kernels.checksums.record import Record, repaired
from mi_kernels.cli.text import parse_count, parse_lams, parse_size
from mi_kernels.dtypes import is_known, item_size
from mi_kernels.errors import MIKernelsError
from mi_kernels.merge.journal import read as read_journal
from mi_kernels.methods.registry import METHODS
from mi_kernels.recipe.lam import checked_lam
from mi_kernels.recipe.load import load
from mi_kernels.recipe.masks import parse_layers, parse_modules
from mi_kernels.recipe.models import MergeRecipe

from ..attacks.case import INDEX, MODEL, SHARDS, raw, shard

NAMES = list(MODEL)
_UP = "model.layers.0.mlp.up_proj"


@contextlib.contextmanager
def _refusal() -> Any:
    """Context: allows any MIKernelsError with a message of two short lines."""
    try:
        yield
    except MIKernelsError as error:
        lines = str(error).splitlines()
        assert 1 <= len(lines) <= 2, lines
        assert all(line.isprintable() and len(line) < 5000 for line in lines), lines


@cache
def _folder() -> str:
    """Returns a folder for the inputs of this process, in memory if possible."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = tempfile.mkdtemp(prefix="fuzz-", dir=memory)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _write(name: str, data: bytes) -> str:
    path = os.path.join(_folder(), name)
    with open(path, "wb") as file:
        file.write(data)
    return path


def header(data: bytes) -> None:
    """A shard. If it is accepted, the safetensors library reads the same, and each data byte is in one tensor."""
    from safetensors import safe_open

    data = _whole(data)
    path = _write("x.safetensors", data)
    with _refusal():
        found = read_header(path, 0)
        with safe_open(path, framework="numpy") as file:
            assert sorted(t.name for t in found.tensors) == sorted(file.keys())
            for t in found.tensors:
                part = file.get_slice(t.name)
                assert (t.dtype, list(t.shape)) == (part.get_dtype(), part.get_shape())
        assert found.stamp.size == len(data)
        assert all(isinstance(k, str) and isinstance(v, str) for k, v in found.metadata.items())
        _check_ranges(found.tensors, data)


def _whole(data: bytes) -> bytes:
    """Adds the length and the data to a bare header. Mutations rarely find both."""
    if not data.startswith(b"{"):
        return data
    ends = [int(n) for n in re.findall(rb",\s*(\d{1,4})\s*\]", data)]
    return raw(data, bytes(max(ends, default=0)))


def _check_ranges(tensors: list[TensorInfo], data: bytes) -> None:
    end = 8 + int.from_bytes(data[:8], "little")
    for t in tensors:
        assert t.begin == end
        assert t.end >= t.begin
        assert t.nbytes == t.elements * item_size(t.dtype) if is_known(t.dtype) else True
        end = t.end
    assert end == len(data)


def index(data: bytes) -> None:
    """An index of two valid shards. If it is accepted, the model is in their folder and has no other tensors."""
    if not os.path.exists(os.path.join(_folder(), "m", INDEX)):
        os.makedirs(os.path.join(_folder(), "m"), exist_ok=True)
        for i, name in enumerate(SHARDS):
            _write(os.path.join("m", name), shard({n: MODEL[n] for n in NAMES[i::2]}))
    _write(os.path.join("m", INDEX), data)
    root = os.path.join(_folder(), "m")
    with _refusal():
        model = open_checkpoint(root)
        assert all(os.path.dirname(path) == root for path in model.shards)
        assert {t.name for t in model.tensors.values()} <= set(NAMES)


def json(data: bytes) -> None:
    """The JSON of a small file. If it is accepted, it can be written again and has the same value."""
    import json as library

    with _refusal():
        value = parse_json(data, "config.json", unique=True)
        assert repr(library.loads(library.dumps(value))) == repr(value)


def recipe(data: bytes) -> None:
    """A recipe or a mergekit configuration, down to the parameters of every tensor."""
    path = _write("recipe.yml", data)
    with _refusal():
        found = load(path)
        _use(found)


mergekit = recipe


def _use(found: MergeRecipe) -> None:
    where = places(NAMES)
    if found.pair is not None:
        weights = found.pair.weights(NAMES)
        assert list(weights) == NAMES
        assert found.pair.extrapolate or all(0 <= w <= 1 for w in weights.values())
        return
    for name in NAMES:
        values = found.parameters(name, where[name], 2)
        for parameter in METHODS[found.method].parameters:
            value = values[parameter.name]
            numbers = value if parameter.by_model else [value]
            assert len(numbers) == (len(found.models) if parameter.by_model else 1)
            # A seed is an integer of any size.
            assert all(isinstance(n, int) or (isinstance(n, float) and abs(n) <= 3.5e38) for n in numbers)


def adapter(data: bytes) -> None:
    """An adapter_config.json with valid factors. If it is accepted, it is a LoRA that fits."""
    factors = {
        f"base_model.model.{_UP}.lora_A.weight": ("F32", (2, 4)),
        f"base_model.model.{_UP}.lora_B.weight": ("F32", (6, 2)),
    }
    if not os.path.exists(os.path.join(_folder(), ADAPTER_WEIGHTS)):
        _write(ADAPTER_WEIGHTS, shard(factors))
    root = _folder()
    with _refusal():
        given = Adapter("adapter", root, None)
        found = lora.attach(_model({}), given, parse_json(data, ADAPTER_CONFIG), "base+adapter")
        adapted = found.tensors[f"{_UP}.weight"]
        assert isinstance(adapted, LoraTensor)
        assert adapted.rank == 2
        assert isinstance(adapted.scale, float)


def fp8_config(data: bytes) -> None:
    """A config.json of a model with an FP8 weight. If it is dequantised, it has one scale for each block."""
    with _refusal():
        model = _model(parse_json(data, "config.json"))
        model.tensors[f"{_UP}.weight"] = TensorInfo(f"{_UP}.weight", "F8_E4M3", (6, 4), 0, 0, 24)
        model.tensors[f"{_UP}.weight_scale_inv"] = TensorInfo(f"{_UP}.weight_scale_inv", "F32", (3, 2), 0, 24, 48)
        fp8.dequantise(model)
        fp8.refuse_quantised(model)
        found = model.tensors[f"{_UP}.weight"]
        if isinstance(found, ScaledTensor):
            assert [-(-n // b) for n, b in zip((6, 4), found.block)] == [3, 2]
            assert f"{_UP}.weight_scale_inv" not in model.tensors
        assert isinstance(model.tied, bool)


def _model(config: dict[str, Any]) -> Checkpoint:
    tensors: dict[str, Any] = {n: TensorInfo(n, d, s, 0, 0, 0) for n, (d, s) in MODEL.items()}
    return Checkpoint("base", "base", ["base/x.safetensors"], tensors, {}, config)


def masks(data: bytes) -> None:
    """Text of the command line: layers, modules, lam, sizes."""
    text = data.decode(errors="surrogateescape")
    where = list(places(NAMES).values())
    with _refusal():
        assert parse_layers(text, 36) <= set(range(36))
    with _refusal():
        assert parse_modules(text, where)
    with _refusal():
        assert all(0 <= checked_lam(v) <= 1 for v in parse_lams(text))
    with _refusal():
        checked_lam(text)
    with _refusal():
        assert (parse_size(text, "--size") or 0) >= 0
    with _refusal():
        assert isinstance(parse_count(text, "--threads"), int)


def checksums(data: bytes) -> None:
    """A record of checksums. If it is accepted, it can be written again and is the same record."""
    wrong = repaired(data)
    assert wrong is None or wrong.content is None or repaired(wrong.content) is None
    with _refusal():
        found = Record.decode(data, CHECKSUMS)
        assert Record.decode(found.encode(), CHECKSUMS) == found


def journal(data: bytes) -> None:
    """The journal of a killed merge, perhaps damaged by the disk. It is valid up to the first damage."""
    state = read_journal(_write("journal", data))
    assert 0 <= state.length <= len(data)
    again = read_journal(_write("journal", data[: state.length]))
    assert again == state


TARGETS: dict[str, Callable[[bytes], None]] = {
    "header": header,
    "index": index,
    "json": json,
    "recipe": recipe,
    "mergekit": mergekit,
    "adapter": adapter,
    "fp8": fp8_config,
    "masks": masks,
    "checksums": checksums,
    "journal": journal,
}
