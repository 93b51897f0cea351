"""Opens a model folder or Hub id: reads its config, index and headers, and checks every file before use."""

from __future__ import annotations

import os
import re

from ..errors import CheckpointError, shortened
from ..system.faults import problem, remedy
from . import fp8, hub, lora
from .differences import TOKENIZER_FILES
from .files import read_json
from .header import read_header, refuse_too_many
from .record import ADAPTER_CONFIG, ADAPTER_WEIGHTS, INDEX, SINGLE, Adapter, Checkpoint
from .tensor import TensorInfo

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def open_checkpoint(source: str | os.PathLike[str]) -> Checkpoint:
    """Opens a checkpoint and validates its config, its index and the headers of all shards. Reads no weights.

    Args:
        source: a model folder; or a Hub id ORG/NAME or ORG/NAME@REVISION, which is downloaded first; or BASE+ADAPTER,
            a base model and a LoRA adapter, each a folder or a Hub id.

    Returns:
        The checkpoint: its tensors by name with dtype, shape and place in a file.

    Raises:
        CheckpointError: the folder, its index or one of its shards cannot be used. Names the file and the remedy.
        MismatchError: the base of an adapter uses an unsupported quantisation.

    Example:
        >>> import mi_kernels, numpy, tempfile
        >>> from safetensors.numpy import save_file
        >>> folder = tempfile.mkdtemp()
        >>> save_file({"model.norm.weight": numpy.ones(3, numpy.float16)}, folder + "/model.safetensors")
        >>> model = mi_kernels.open_checkpoint(folder)
        >>> for name, tensor in model.tensors.items():
        ...     print(name, tensor.dtype, tensor.shape)
        model.norm.weight F16 (3,)
    """
    given = os.fspath(source)
    if os.path.exists(given) or "+" not in given:
        return _open(given)
    base, addition = _split(given)
    root, revision = _locate(addition, [ADAPTER_CONFIG, ADAPTER_WEIGHTS, *TOKENIZER_FILES])
    path = os.path.join(root, ADAPTER_CONFIG)
    if not os.path.exists(path):
        raise CheckpointError(
            f"{path}: missing",
            f"After the +, give a PEFT adapter: a folder with {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}.",
        )
    return lora.attach(_open(base), Adapter(addition, root, revision), read_json(path), given)


def _split(given: str) -> tuple[str, str]:
    """Returns BASE and ADAPTER. A path may contain a +, so existing folders are preferred to possible Hub ids."""
    plus = [i for i, c in enumerate(given) if c == "+"]
    pairs = [(given[:i], given[i + 1 :]) for i in plus]
    for known in (os.path.isdir, lambda text: os.path.isdir(text) or hub.looks_like_id(text)):
        for pair in pairs:
            if all(map(known, pair)):
                return pair
    raise CheckpointError(
        f"{given}: no such folder, and not BASE+ADAPTER",
        "Give an existing folder or a Hub id such as ORG/NAME on both sides of the +.",
    )


def _locate(given: str, files: list[str]) -> tuple[str, str | None]:
    """Returns the folder, and the commit if `given` is a Hub id."""
    if os.path.isdir(given):
        return given, None
    if os.path.exists(given):
        raise CheckpointError(f"{given}: is a file, not a model folder", "Give the folder that contains it.")
    if not hub.looks_like_id(given):
        raise CheckpointError(f"{given}: no such folder", "Give a model folder or a Hub id such as ORG/NAME.")
    return hub.download(given, files)


def _open(given: str) -> Checkpoint:
    root, revision = _locate(given, hub.MODEL_FILES)
    names, weight_map = _shards_of(root)
    config_path = os.path.join(root, "config.json")
    config = read_json(config_path) if os.path.lexists(config_path) else {}
    model = Checkpoint(given, root, [os.path.join(root, n) for n in names], {}, {}, config, revision)
    for number, name in enumerate(names):
        header = read_header(model.shards[number], number)
        model.stamps[model.shards[number]], model.headers[model.shards[number]] = header.stamp, header.digest
        if number == 0:
            model.metadata = header.metadata
        _take_tensors(model, name, header.tensors, weight_map)
        refuse_too_many(len(model.tensors), model.root)
    _check_complete(model, names, weight_map)
    fp8.dequantise(model)
    return model


def _take_tensors(model: Checkpoint, name: str, tensors: list[TensorInfo], weight_map: dict[str, str] | None) -> None:
    if weight_map is None:
        model.tensors.update((t.name, t) for t in tensors)
        return
    unlisted = [t.name for t in tensors if t.name not in weight_map]
    if unlisted:
        raise CheckpointError(
            f"{os.path.join(model.root, name)}: the index does not list {shortened(unlisted)}",
            "Download the model again: the index and the shards are from different versions.",
        )
    kept = [t for t in tensors if weight_map[t.name] == name]
    if len(kept) < len(tensors):
        model.notes.append(
            f"{model.source}: {len(tensors) - len(kept)} tensors in {name} are ignored: the index lists other shards"
        )
    model.tensors.update((t.name, t) for t in kept)


def _check_complete(model: Checkpoint, names: list[str], weight_map: dict[str, str] | None) -> None:
    missing = [name for name in weight_map or () if name not in model.tensors]
    if missing:
        assert weight_map is not None
        path = os.path.join(model.root, weight_map[missing[0]])
        raise CheckpointError(
            f"{path}: lacks {shortened(missing)}, which the index lists for this shard",
            "Download the model again: the index and the shards are from different versions.",
        )
    if not model.tensors:
        raise CheckpointError(f"{model.root}: no tensors in {', '.join(names)}", "Give a folder that contains weights.")


def _shards_of(root: str) -> tuple[list[str], dict[str, str] | None]:
    """Returns the names of the shards, and the weight_map of the index (None for a single file)."""
    try:
        entries = sorted(os.listdir(root))
    except OSError as error:
        raise CheckpointError(f"{root}: cannot be listed: {problem(error)}", remedy(error, reading=True)) from error
    indexes = [n for n in entries if n.endswith(".safetensors.index.json")]
    files = [n for n in entries if n.endswith(".safetensors")]
    if INDEX in indexes:
        indexes = [INDEX]
    if len(indexes) > 1:
        raise CheckpointError(f"{root}: has several indexes: {shortened(indexes)}", "Keep one model in the folder.")
    if indexes:
        weight_map = _read_index(os.path.join(root, indexes[0]))
        listed = sorted(set(weight_map.values()))
        if SINGLE in files and SINGLE not in listed:
            raise CheckpointError(
                f"{root}: has both {SINGLE} and {indexes[0]}, which does not list it",
                "Remove the one that is not the model: different loaders choose different ones.",
            )
        return listed, weight_map
    if SINGLE in files:
        return [SINGLE], None
    if ADAPTER_CONFIG in entries:
        raise CheckpointError(f"{root}: is an adapter, not a model", f"Write BASE+{root} to add it to its base.")
    if len(files) == 1 and not re.search(r"-of-0*([2-9]|[1-9]\d+)\.", files[0]):
        return files, None
    if files:
        raise CheckpointError(
            f"{root}: has {shortened(files)}, but {INDEX} is missing", "Download the complete model with its index."
        )
    pickles = [n for n in entries if n.endswith(_PICKLES)]
    if pickles:
        raise CheckpointError(
            f"{root}: has only pickled weights ({shortened(pickles)}), which are never opened",
            "Get the safetensors version of the model, or convert it in a sandbox: a pickle can run any code.",
        )
    raise CheckpointError(f"{root}: has no safetensors weights", f"Give the folder that contains {SINGLE} or {INDEX}.")


def _read_index(path: str) -> dict[str, str]:
    index = read_json(path, unique=True)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path}: has no weight_map", "Download the index again.")
    refuse_too_many(len(weight_map), path)
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or not shard.endswith(".safetensors") or any(c in shard for c in "/\\\0"):
            raise CheckpointError(
                f"{path}: puts {tensor} in {shard!r}, which is not the name of a safetensors file in this folder",
                "Do not use this model unless you trust its source: an index must only name files in its own folder.",
            )
    return weight_map
