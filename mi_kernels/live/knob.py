"""lam as a knob on a model that is loaded: any torch module, on the CPU or on a GPU, changed in place.

    knob = mi_kernels.live.attach(model, "Qwen/Qwen3-4B-Thinking-2507")   # or a second module
    knob.set_lam(0.55)                                                    # milliseconds later, `model` is that merge
    knob.set_lam(0.8, layers="12:36", modules="ffn")

The parameters get the bits `lerp_checkpoint` writes (`ops.linear` has the contract). Each change is computed from the
two sides and never from the merge before it: any order of changes gives the same bits, and lam 0 gives back the bytes
the model had. Parameters keep their memory, their `requires_grad` and their ties, so what `torch.compile` has compiled
stays valid and compiles nothing anew. (Not so where the compiler was told to freeze parameters into the code.)

A change is not atomic for a forward that runs at the same time: `with knob.lock:` around the forward keeps changes out.
On a GPU the work is queued on the calling thread's current stream. A backward through a graph from before a change is
refused by autograd, as after any change in place. What training adds to the parameters is gone at the next change.

Nothing is touched before everything is checked. A change that fails midway, or is interrupted, is undone. Where that
fails too, the model's forward raises until a change succeeds. (A compiled forward may not see that; `knob.broken` says
it.)
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
from .match import Part, check_others, located, match, parts_of
from .sides import Held, Mapped, Sides, placed, read_side

Model: TypeAlias = torch.nn.Module | str | os.PathLike[str]

_attached: WeakSet[torch.nn.Module] = WeakSet()


def attach(
    model: torch.nn.Module,
    other: Model,
    *,
    base: str | os.PathLike[str] | None = None,
    resident: bool | str = True,
) -> Knob:
    """Makes `model` an interpolation of itself, lam 0, and `other`, lam 1. Nothing changes before the first `set_lam`.

    Args:
        model: the live module: dense bf16, float16 or float32 parameters; others must be the same in both models.
            Parameters and the buffers that belong to its state_dict are interpolated, tied ones once.
        other: a module with the same parameters (its tensors are used as they are: leave them alone), or a model folder
            or Hub id whose tensors have the names of the model's parameters.
        resident: True keeps both sides on the model's device: two more copies of the weights, less what `other` holds.
            "host" keeps them in the host's memory, pinned for a GPU. False keeps none: both sides are read from their
            folders at every change, at the page cache's speed.
        base: the folder or Hub id of the model's own weights, for resident=False; None for where transformers loaded
            it from.

    Raises:
        MismatchError: names, shapes, dtypes or ties that differ, or live values that are not `base`'s.
        ArgumentError: a model that has a knob already, a device that does not fit.
        CheckpointError: a folder that cannot be read.
    """
    if resident not in (True, False, "host"):
        raise ArgumentError(f"resident is {resident!r}", 'Say True, "host" or False.')
    model = unwrapped(model)
    if model in _attached:
        raise ArgumentError("this model has a knob already", "Use it, or call its detach() first.")
    if resident is False:
        sides, parts = _map(model, other, base)
    elif base is not None:
        raise ArgumentError("base is given, and the live model is kept as it is", "Leave base out, or resident=False.")
    else:
        sides, parts = _hold(model, other, host=resident == "host")
    _attached.add(model)
    return Knob(model, parts, sides)


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The module inside what torch.compile returned, whose names have no `_orig_mod.`."""
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, torch.nn.Module) else model


def _hold(model: torch.nn.Module, other: Any, host: bool) -> tuple[Sides, list[Part]]:
    """Both sides as tensors."""
    parts = parts_of(model, "the live model")
    live = {part.name: part.tensor for part in parts if part.floating}
    if isinstance(other, torch.nn.Module):
        b = check_others(parts, unwrapped(other), same_device=not host)
        if host:
            b = {name: placed(t, live[name].device, host) for name, t in b.items()}
    else:
        found = match(parts, [located(other)])
        b = read_side(found.models[0], found.rows, live, host)
    return Held({name: placed(t, t.device, host) for name, t in live.items()}, b), parts


def _map(model: torch.nn.Module, other: Any, base: Any) -> tuple[Sides, list[Part]]:
    """Both sides as checkpoints, of which the first is proved to be what the model holds."""
    if isinstance(other, torch.nn.Module):
        raise ArgumentError(
            "other is a module, which is resident", "Give the folder it was loaded from, or resident=True."
        )
    parts = parts_of(model, "the live model")
    found = match(parts, [located(base if base is not None else _origin(model)), located(other)])
    sides = Mapped(found.models, found.rows)
    try:
        sides.check_origin({part.name: part.tensor for part in parts if part.floating}, found.models[0].source)
    except BaseException:
        sides.close()
        raise
    return sides, parts


def _origin(model: torch.nn.Module) -> str:
    """Where transformers loaded the model from."""
    config = getattr(model, "config", None)
    name, commit = getattr(config, "_name_or_path", ""), getattr(config, "_commit_hash", None)
    if not name:
        raise ArgumentError("nothing says where the model was loaded from", "Give its folder or Hub id as base=.")
    return name if os.path.isdir(name) or commit is None else f"{name}@{commit}"


class Knob:
    """Changes lam of one live model; made by `attach`.

    Attributes:
        recipe: what the model is now.
        lock: held during a change; hold it around a forward that another thread's change must not meet.
        broken: why the model must not be used: a change failed midway and could not be undone. Empty while all is well.
    """

    def __init__(self, model: torch.nn.Module, parts: Sequence[Part], sides: Sides) -> None:
        self.recipe = Recipe(0.0)
        self.lock = threading.RLock()
        self.broken = ""
        self._model, self._sides = model, sides
        self._names = [part.name for part in parts]
        self._kinds = {part.name: part.kind for part in parts}
        self._refusal: torch.utils.hooks.RemovableHandle | None = None

    def set_lam(
        self,
        lam: Lam,
        layers: Layers = None,
        modules: Modules = None,
        rules: Sequence[Rule] = (),
        *,
        extrapolate: bool = False,
    ) -> None:
        """Makes the model (1 - lam) * itself as it was + lam * other. All arguments are those of `mi_kernels.Recipe`.

        Raises:
            ArgumentError: lam, a mask or a rule that cannot be; or the model was moved, converted or given other
                parameters since `attach`. Nothing was touched.
            CheckpointError: a file of a side that is read from its folder has changed since `attach`, and nothing was
                touched; or it changed while it was read, and `broken` says so.
        """
        recipe = Recipe(lam, layers, modules, rules, extrapolate)
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
            self._mend()

    def detach(self) -> None:
        """Lets go of both sides. The model stays the merge that it is."""
        with self.lock:
            if self._names:
                _attached.discard(self._model)
                self._sides.close()
                self._names = []

    def _live(self) -> dict[str, torch.Tensor]:
        if not self._names:
            raise ArgumentError("this knob was detached", "Attach the models again.")
        parts = parts_of(self._model, "the live model")
        changed = [part.name for part in parts if part.kind != self._kinds.get(part.name)]
        if changed or len(parts) != len(self._kinds):
            name = changed[0] if changed else "a parameter"
            raise ArgumentError(
                f"{name}: not the same device, dtype, shape and ties as at attach()",
                "Move and convert the model first, then attach; now: knob.detach(), and attach again.",
            )
        return {part.name: part.tensor for part in parts if part.floating}

    def _write(self, live: Mapping[str, torch.Tensor], weights: Mapping[str, float]) -> None:
        with torch.no_grad():
            self._sides.write({name: t.detach() for name, t in live.items()}, weights)
            # The kernels write memory, which autograd does not see: a graph that saved the old values must not use it.
            torch.autograd.graph.increment_version([t for t in live.values() if not t.is_inference()])

    def _undo(self, live: Mapping[str, torch.Tensor], cause: BaseException) -> None:
        try:
            self._write(live, self.recipe.weights(self._names))
        except BaseException as error:
            self.broken = f"changing lam failed midway ({cause!r}), and so did undoing it ({error!r})"
            if self._refusal is None:
                self._refusal = self._model.register_forward_pre_hook(self._refuse)

    def _refuse(self, *_: Any) -> None:
        raise MIKernelsError(self.broken, "Call set_lam again, or load the model again.")

    def _mend(self) -> None:
        self.broken = ""
        if self._refusal is not None:
            self._refusal.remove()
            self._refusal = None


class InterpolatedModel(torch.nn.Module):  # type: ignore[misc]
    """`attach` as a module: it calls `model_a`, which it makes the merge; everything else is `model_a`'s too.

    `forward`, `generate`, `config`, `device`, `save_pretrained` and all other attributes are those of `model_a`; its
    `state_dict` is the merge's, under the same names. `set_lam` and `knob` are its own.

    Args:
        model_a, model_b: as `model` and `other` of `attach`.
        lam: where to begin.
        options: as for `attach`.
    """

    def __init__(self, model_a: torch.nn.Module, model_b: Model, lam: Lam = 0.0, **options: Any) -> None:
        super().__init__()
        knob = attach(model_a, model_b, **options)
        self.live = model_a
        self.knob = knob
        self.set_lam = knob.set_lam
        try:
            self.set_lam(lam)
        except BaseException:
            knob.detach()
            raise

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
            if name == "live":  # not there yet
                raise
            return getattr(self.live, name)
