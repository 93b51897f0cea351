"""Change lam of a loaded model in place: of any torch module, on the CPU or on a GPU.

    knob = mi_kernels.live.attach(model, "Qwen/Qwen3-4B-Thinking-2507")   # or a second module
    knob.set_lam(0.55)                                                    # `model` becomes this merge in milliseconds
    knob.set_lam(0.8, layers="12:36", modules="ffn")

The parameters get the bits that `lerp_checkpoint` writes (`ops.linear` has the numerics contract). Each change is
computed from the two original models and never from the previous merge. So every order of changes gives the same bits,
and lam 0 restores the original bytes. Parameters keep their memory, their `requires_grad` and their ties, so code that
`torch.compile` has compiled stays valid and is not compiled again. (This does not hold if the compiler was told to
freeze parameters into the code.)

A change is not atomic for a forward pass that runs at the same time. To exclude changes, run the forward pass inside
`with knob.lock:`. On a GPU the work is queued on the current stream of the calling thread. Autograd raises an error for
a backward pass through a graph from before a change, as after every in-place change. The next change discards what
training has added to the parameters. A change skips a parameter that has its values already: the same lam, and no write
since. torch counts writes, except those through `.data`.

Everything is checked before anything is changed. A change that fails midway, or is interrupted, is undone. If undoing
fails too, the forward pass of the model raises until a change succeeds. (A compiled forward pass may not raise; check
`knob.broken`.)
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias
from weakref import WeakSet

import torch

from ..errors import ArgumentError, MIKernelsError
from ..recipe.interpolation import Recipe
from ..recipe.masks import Layers, Modules
from ..recipe.rules import Lam, Rule
from ..system.arguments import checks_names, checks_names_after
from .match import Part, check_others, match, open_source, parts_of
from .sides import CheckpointSides, Sides, TensorSides, copies, read_side
from .watch import Watch

Model: TypeAlias = torch.nn.Module | str | os.PathLike[str]

_attached: WeakSet[torch.nn.Module] = WeakSet()


def _refuse_unloaded(model: object) -> None:
    if not isinstance(model, torch.nn.Module):
        raise ArgumentError(
            f"model is {model!r:.80}, a {type(model).__name__}, but attach changes a module that is loaded",
            "Load it first: AutoModelForCausalLM.from_pretrained(FOLDER), and pass the result.",
        )


@checks_names_after(_refuse_unloaded)
def attach(
    model: torch.nn.Module,
    other: Model,
    *,
    lam: Lam | Recipe | None = None,
    base: str | os.PathLike[str] | None = None,
    resident: bool | str = True,
) -> Knob:
    """Makes `model` an interpolation of itself (lam 0) and `other` (lam 1). `set_lam` of the result changes it.

    Args:
        model: the live module, with dense parameters of any shape. The knob interpolates all bf16, float16 and float32
            parameters, and all such buffers in the state_dict; tied ones once. Tensors of other dtypes must be equal in
            both models.
        other: a module with the same parameters, or a model folder or Hub id whose tensors have the names of the
            model's parameters. The knob uses the tensors of a module directly, so do not change them while the knob
            is attached.
        lam: None does not change the model before the first `set_lam`. A number, or a `mi_kernels.Recipe` with masks,
            rules and schedules, changes it at once, as `set_lam` does.
        resident: True keeps the weights of both models on the device of `model`, which needs two more copies of the
            weights (one if `other` is a module). "host" keeps them in the host's memory, pinned for a GPU. False keeps
            no copy: every change reads both models from their folders, through the page cache.
        base: for resident=False, the folder or Hub id of the weights of `model`. None means the folder or id that
            transformers loaded it from.

    Returns:
        A Knob with `set_lam` and `detach`.

    Raises:
        MismatchError: names, shapes, dtypes or ties of the models differ, or `model` does not have the weights of
            `base`.
        DTypeError: a tensor is sparse.
        ArgumentError: the model already has a knob, or an argument, a device or the memory of a tensor cannot be used.
        CheckpointError: a folder cannot be read.

    Example:
        >>> import torch
        >>> import mi_kernels
        >>> a, b = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
        >>> knob = mi_kernels.live.attach(a, b)
        >>> knob.set_lam(1)
        >>> torch.equal(a.weight, b.weight)
        True
        >>> knob.set_lam(mi_kernels.Recipe(0.8, rules=[mi_kernels.Rule(0, pattern="bias")]))
    """
    _refuse_unloaded(model)
    if not isinstance(other, (str, os.PathLike, torch.nn.Module)):
        raise ArgumentError(
            f"other is {other!r:.80}, of type {type(other).__name__}",
            "Pass a model folder, a Hub id or a torch module.",
        )
    if base is not None and not isinstance(base, (str, os.PathLike)):
        raise ArgumentError(f"base is {base!r:.80}, a {type(base).__name__}", "Pass a model folder or a Hub id.")
    recipe = None if lam is None else Recipe.given(lam)  # refuse it before the slow part
    if not isinstance(resident, (bool, str)) or resident not in (True, False, "host"):
        raise ArgumentError(f"resident is {resident!r}", 'Use True, "host" or False.')
    model = unwrapped(model)
    if model in _attached:
        raise ArgumentError("this model already has a knob", "Use that knob, or call its detach() first.")
    if resident is False:
        sides, parts = _checkpoint_sides(model, other, base)
    elif base is not None:
        raise ArgumentError(
            f"base is {str(base)!r}, but resident is {resident!r} and does not use it",
            "Leave out base, or use resident=False.",
        )
    else:
        sides, parts = _tensor_sides(model, other, host=resident == "host")
    _attached.add(model)
    knob = Knob(model, parts, sides)
    if recipe is not None:
        try:
            knob.set_lam(recipe)
        except BaseException:
            knob.detach()
            raise
    return knob


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """Returns the module that torch.compile wrapped, whose names have no `_orig_mod.`; or `model` itself.

    Example:
        >>> import torch
        >>> from mi_kernels.live import unwrapped
        >>> model = torch.nn.Linear(2, 2)
        >>> unwrapped(torch.compile(model)) is model
        True
    """
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, torch.nn.Module) else model


def _tensor_sides(model: torch.nn.Module, other: Any, host: bool) -> tuple[Sides, list[Part]]:
    """Keeps both models as tensors."""
    parts = parts_of(model, "the live model")
    live = {part.name: part.tensor for part in parts if part.floating}
    devices = {name: tensor.device for name, tensor in live.items()}
    if isinstance(other, torch.nn.Module):
        b = check_others(parts, unwrapped(other), same_device=not host)
        if host:
            b = copies(b, devices, host)
    else:
        found = match(parts, [open_source(other)])
        b = read_side(found.models[0], found.rows, live, host)
    return TensorSides(copies(live, devices, host), b), parts


def _checkpoint_sides(model: torch.nn.Module, other: Any, base: Any) -> tuple[Sides, list[Part]]:
    """Keeps both models as open checkpoints, after checking that the live model has the weights of the first."""
    if isinstance(other, torch.nn.Module):
        raise ArgumentError(
            "other is a module, but resident=False reads both models from folders",
            "Pass the folder that other was loaded from, or use resident=True.",
        )
    parts = parts_of(model, "the live model")
    found = match(parts, [open_source(base if base is not None else _origin(model)), open_source(other)])
    sides = CheckpointSides(found.models, found.rows)
    try:
        sides.check_origin({part.name: part.tensor for part in parts if part.floating}, found.models[0].source)
    except BaseException:
        sides.close()
        raise
    return sides, parts


def _origin(model: torch.nn.Module) -> str:
    """Returns the folder or Hub id that transformers loaded the model from.

    Raises:
        ArgumentError: the model does not have this information.
    """
    config = getattr(model, "config", None)
    name, commit = getattr(config, "_name_or_path", ""), getattr(config, "_commit_hash", None)
    if not name:
        raise ArgumentError(
            "the model's config does not say where it was loaded from", "Pass the folder or Hub id as base=."
        )
    return name if os.path.isdir(name) or commit is None else f"{name}@{commit}"


class Knob:
    """Changes lam of one live model. Created by `attach`.

    Attributes:
        recipe: the recipe of the current weights.
        lock: held during a change. Hold it during a forward pass that a change in another thread must not affect.
        broken: why the model must not be used, if a change failed midway and could not be undone. Otherwise empty.

    Example:
        >>> import torch
        >>> import mi_kernels
        >>> knob = mi_kernels.live.attach(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
        >>> knob.set_lam(0.55)
        >>> knob.recipe.lam, knob.broken
        (0.55, '')
    """

    def __init__(self, model: torch.nn.Module, parts: Sequence[Part], sides: Sides) -> None:
        self.recipe = Recipe(0.0)
        self.lock = threading.RLock()
        self.broken = ""
        self._model, self._sides = model, sides
        self._names = [part.name for part in parts]
        self._kinds = {part.name: part.kind for part in parts}
        self._refusal: torch.utils.hooks.RemovableHandle | None = None
        self._watch: Watch | None = None

    @checks_names
    def set_lam(
        self,
        lam: Lam | Recipe,
        layers: Layers = None,
        modules: Modules = None,
        rules: Sequence[Rule] = (),
        *,
        extrapolate: bool = False,
    ) -> None:
        """Sets every parameter to (1 - lam) * original + lam * other, in place.

        The bits are those of `torch.lerp(a.float(), b.float(), lam).to(dtype)`; see csrc/README.md.

        Args:
            lam: the weight of `other`, from 0 (the original model) to 1; anchors over the layers; or a
                `mi_kernels.Recipe`, which holds all of the following.
            layers, modules, rules, extrapolate: as for `mi_kernels.Recipe`. Parameters that they do not select keep
                the original value.

        Raises:
            ArgumentError: lam, a mask or a rule is invalid; or the model was moved, converted or given other parameters
                since `attach`. No parameter has changed.
            CheckpointError: with resident=False, a file has changed since `attach`. If it changed before this call, no
                parameter has changed. If it changed during this call, `broken` is set.

        Example:
            >>> import torch
            >>> import mi_kernels
            >>> model = torch.nn.Linear(2, 2)
            >>> original = model.weight.detach().clone()
            >>> knob = mi_kernels.live.attach(model, torch.nn.Linear(2, 2))
            >>> knob.set_lam(0.8)
            >>> knob.set_lam(0)
            >>> torch.equal(model.weight, original)
            True
        """
        recipe = Recipe.given(lam, layers, modules, rules, extrapolate)
        with self.lock:
            live = self._live()
            weights = recipe.weights(self._names)
            self._sides.check()
            try:
                self._write(live, weights)
            except BaseException as error:
                self._undo(live, error)
                raise
            self.recipe = recipe
            self._clear_broken()

    def detach(self) -> None:
        """Releases the weights of both models, or their files. The live model keeps its current weights."""
        with self.lock:
            if self._names:
                _attached.discard(self._model)
                self._sides.close()
                self._names, self._watch = [], None

    def _live(self) -> dict[str, torch.Tensor]:
        """Returns the live tensors to interpolate, after checking that they are those of `attach`."""
        if not self._names:
            raise ArgumentError("this knob was detached", "Call mi_kernels.live.attach again.")
        if self._watch is not None and self._watch.unchanged():
            return self._watch.tensors
        parts = parts_of(self._model, "the live model")
        changed = [part.name for part in parts if part.kind != self._kinds.get(part.name)]
        if changed or len(parts) != len(self._kinds):
            name = changed[0] if changed else "a parameter"
            raise ArgumentError(
                f"{name}: device, dtype, shape or ties have changed since attach()",
                "Call knob.detach() and attach again. Move and convert a model before you attach it.",
            )
        self._watch = Watch(self._model, {part.name: part.tensor for part in parts if part.floating})
        return self._watch.tensors

    def _write(self, live: Mapping[str, torch.Tensor], weights: Mapping[str, float]) -> None:
        with torch.no_grad():
            self._sides.write(live, weights)

    def _undo(self, live: Mapping[str, torch.Tensor], cause: BaseException) -> None:
        try:
            self._write(live, self.recipe.weights(self._names))
        except BaseException as error:
            self.broken = f"changing lam failed midway ({cause!r}), and undoing the change failed too ({error!r})"
            if self._refusal is None:
                self._refusal = self._model.register_forward_pre_hook(self._refuse)

    def _refuse(self, *_: Any) -> None:
        raise MIKernelsError(self.broken, "Call set_lam again. If it fails again, load the model from its files.")

    def _clear_broken(self) -> None:
        self.broken = ""
        if self._refusal is not None:
            self._refusal.remove()
            self._refusal = None


class InterpolatedModel(torch.nn.Module):  # type: ignore[misc]
    """A module that behaves like `model_a`, whose weights it makes the interpolation of `model_a` and `model_b`.

    `forward`, `generate`, `config`, `device`, `save_pretrained` and all other attributes are those of `model_a`. Its
    `state_dict` has the interpolated weights under the names of `model_a`. Only `set_lam` and `knob` are additional.

    Args:
        model_a, model_b: `model` and `other` of `attach`. The weights of `model_a` change in place.
        lam: the initial weight of `model_b`, from 0 to 1, or a `mi_kernels.Recipe`.
        options: the keyword arguments of `attach`.

    Raises:
        MIKernelsError: see `attach` and `Knob.set_lam`. `model_a` is then unchanged.

    Example:
        >>> import torch
        >>> from mi_kernels.live import InterpolatedModel
        >>> model = InterpolatedModel(torch.nn.Linear(4, 2), torch.nn.Linear(4, 2), lam=0.55)
        >>> model(torch.zeros(3, 4)).shape
        torch.Size([3, 2])
        >>> model.set_lam(0.8)
        >>> sorted(model.state_dict())
        ['bias', 'weight']
    """

    @checks_names
    def __init__(self, model_a: torch.nn.Module, model_b: Model, lam: Lam | Recipe = 0.0, **options: Any) -> None:
        super().__init__()
        knob = attach(model_a, model_b, lam=lam, **options)
        self.live = model_a
        self.knob = knob
        self.set_lam = knob.set_lam

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.live(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.live.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.live.load_state_dict(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "live":  # before __init__ has set it
                raise
            return getattr(self.live, name)
