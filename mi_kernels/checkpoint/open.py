"""Opens a model: reads its config, index and headers, and checks every file before use."""

from __future__ import annotations

import os

from ..errors import CheckpointError, shortened
from ..system.arguments import checked_path, checks_names
from . import fp8, hub, lora, shards
from .files import read_json
from .header import read_header, refuse_too_many
from .needed_files import Selection
from .record import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Adapter, Checkpoint
from .spelling import clean
from .tensor import TensorInfo, refuse_empty
from .virtual import Tensor


@checks_names
def open_checkpoint(source: str | os.PathLike[str]) -> Checkpoint:
    """Opens a checkpoint and validates its config, its index and the headers of all shards. Reads no weights.

    Args:
        source: a model folder; or the path of one safetensors file; or a Hub id ORG/NAME or ORG/NAME@REVISION, which
            is downloaded first; or BASE+ADAPTER, a base model and a LoRA adapter, each a folder or a Hub id.

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
    given = checked_path(source, "source")
    if os.path.exists(given) or "+" not in given:
        return _open(given)
    base, addition = _split(given)
    root, revision = _locate(addition, hub.ADAPTER_FILES)
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
    for known in (_exists, lambda text: _exists(text) or hub.looks_like_id(text)):
        for pair in pairs:
            if all(map(known, pair)):
                return pair
    raise CheckpointError(
        f"{given}: no such folder, and not BASE+ADAPTER",
        "Give an existing folder or a Hub id such as ORG/NAME on both sides of the +.",
    )


def _is_weights(given: str) -> bool:
    """Returns whether `given` is the path of a safetensors file, or of something else with such a name."""
    return given.endswith(shards.WEIGHTS) and os.path.lexists(given) and not os.path.isdir(given)


def _exists(given: str) -> bool:
    return os.path.isdir(given) or _is_weights(given)


def _locate(given: str, files: Selection) -> tuple[str, str | None]:
    """Returns the folder, and the commit if `given` is a Hub id."""
    if os.path.isdir(given):
        return given, None
    if os.path.exists(given):
        raise CheckpointError(f"{given}: is a file, not a model folder", "Give the folder that contains it.")
    if given.endswith(shards.WEIGHTS):  # no repository has such a name
        raise CheckpointError(f"{given}: no such file", "Check the path.")
    if not hub.looks_like_id(given):
        raise hub.no_such_folder(given)
    return hub.download(given, files)


def _open(given: str) -> Checkpoint:
    if _is_weights(given):
        root, revision = os.path.dirname(given) or ".", None
        files, paths = shards.single_file(given, hub.left_out(root)), [given]
    else:
        root, revision = _locate(given, hub.MODEL_FILES)
        files = shards.model_files(root, given, hub.left_out(root))
        paths = [os.path.join(root, name) for name in files.names]
    config_path = os.path.join(root, "config.json")
    config = read_json(config_path) if os.path.lexists(config_path) and not files.alone else {}
    model = Checkpoint(given, given if files.alone else root, paths, {}, {}, config, revision, mistral=files.mistral)
    found: list[list[TensorInfo]] = []
    count = 0
    for number, path in enumerate(paths):
        header = read_header(path, number)
        model.stamps[path], model.headers[path] = header.stamp, header.digest
        if number == 0:
            model.metadata = header.metadata
        found.append(header.tensors)
        count += len(header.tensors)
        refuse_too_many(count, model.root)
    chosen = shards.chosen_tensors(model.root, files, found)
    model.tensors.update(chosen.tensors)
    model.notes += [f"{given}: {note}" for note in (*files.notes, *chosen.notes)]
    _clean_names(model)
    refuse_empty(model.root, model.tensors.values())
    fp8.dequantise(model)
    return model


def _clean_names(model: Checkpoint) -> None:
    """Removes the words that wrappers of training frameworks added to the names of tensors."""
    changed = {name: clean(name) for name in model.tensors if clean(name) != name}
    if not changed:
        return
    cleaned: dict[str, Tensor] = {}
    for name, tensor in model.tensors.items():
        new = changed.get(name, name)
        if new in cleaned:
            raise CheckpointError(
                f"{model.root}: {name} and another tensor both mean {new}",
                "Keep one of them, and save the model again without the wrapper: model._orig_mod or model.module.",
            )
        cleaned[new] = tensor._replace(name=new) if new != name and isinstance(tensor, TensorInfo) else tensor
    model.tensors = cleaned
    old = next(iter(changed))
    count = f"{len(changed)} names have" if len(changed) > 1 else "1 name has"
    model.notes.append(f"{model.source}: {count} words of a wrapper, such as {shortened([old])}; the words are removed")
