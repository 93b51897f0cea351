"""Change lam inside a vLLM worker: vLLM adds this class to the bases of its workers (`worker_extension_cls`).

`client` calls `mi_kernels_check` on all workers first, and `mi_kernels_set` only if all of them accept.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from ...errors import CheckpointError, MIKernelsError
from ...recipe.interpolation import Recipe

Answer = dict[str, Any]
_EXTRAPOLATE = "Use a number from 0 to 1, or start the engine with extrapolate (`mi-kernels serve --extrapolate`)."
_CHANGED = "The weights in use stay as they are. Restart the engine to change lam."


class LiveWorker:
    """Methods for `collective_rpc`. They return errors as values: exceptions lose their type between processes."""

    def mi_kernels_check(self, wanted: dict[str, Any]) -> Answer:
        """Checks the change that `mi_kernels_set` would make. Does not change anything.

        Returns:
            {"selected": how many tensors of this worker lam and then each rule select}; {"refused": (problem, remedy)};
            {"fixed": (problem, remedy)} if this engine cannot change lam at all; {"changed": (problem, remedy)} if it
            no longer can, because files of the models have changed; or {"broken": reason} if this worker answers no
            more requests.
        """
        answer, _ = self._mi_kernels_checked(wanted)
        return answer

    def mi_kernels_set(self, wanted: dict[str, Any]) -> Answer:
        """Changes the weights to the merge with the given "lam", "layers", "modules" and "rules".

        Returns:
            The recipe that is served now, and "seconds" until the device had changed the weights; {"refused": (problem,
            remedy)} if no weight of this worker changed; or {"broken": reason} if it answers no more requests.
        """
        answer, recipe = self._mi_kernels_checked(wanted)
        if recipe is None:
            return answer
        began = time.perf_counter()
        try:
            self._mi_kernels_live().change(recipe)
        except Exception as error:
            why = f"changing the weights failed midway, and this engine has stopped: {error}"
            self.mi_kernels_stop(why)
            return {"broken": why}
        return {**self.mi_kernels_get(), "seconds": time.perf_counter() - began}

    def mi_kernels_stop(self, why: str) -> None:
        """Lets this worker answer no more requests. The error of each request says why."""
        live = self._mi_kernels_live()
        live.broken = live.broken or why
        self.execute_model = _refuse(live.broken)

    def mi_kernels_get(self) -> Answer:
        """Returns the recipe that is served, as a dict; empty if the model was not loaded as an interpolation.

        {"broken": reason} if this worker answers no more requests.
        """
        live = self._mi_kernels_live()
        if live is None:
            return {}
        return {"broken": live.broken} if live.broken else live.recipe.to_dict()

    def mi_kernels_self_check(self) -> Answer:
        """Returns the result of the self-check, the fields of `self_check.SelfCheck`."""
        return asdict(self._mi_kernels_live().self_check)

    def _mi_kernels_checked(self, wanted: dict[str, Any]) -> tuple[Answer, Recipe | None]:
        """Returns an answer, and the recipe if the change is possible."""
        live = self._mi_kernels_live()
        if live is None or not live.changeable:
            problem = "this engine cannot change lam"
            remedy = 'Start it with load_format="mi_kernels" and "live": true in model_loader_extra_config.'
            return {"fixed": (problem, remedy)}, None
        if live.broken:
            return {"broken": live.broken}, None
        content = {key: value for key, value in wanted.items() if value not in (None, [], ())}
        try:
            recipe = Recipe.from_dict({**content, "extrapolate": live.extrapolate})
            return {"selected": live.check(recipe)}, recipe
        except CheckpointError as error:
            return {"changed": (error.problem, _CHANGED)}, None
        except MIKernelsError as error:
            remedy = _EXTRAPOLATE if not live.extrapolate and _extrapolates(content) else error.remedy
            return {"refused": (error.problem, remedy)}, None

    def _mi_kernels_live(self) -> Any:
        model = self.get_model()  # type: ignore[attr-defined]  # a method of the worker
        return getattr(model, "mi_kernels_live", None)


def _extrapolates(content: dict[str, Any]) -> bool:
    """Returns whether a refused recipe would be valid if lam could be outside [0, 1]."""
    try:
        Recipe.from_dict({**content, "extrapolate": True})
    except MIKernelsError:
        return False
    try:
        Recipe.from_dict(content)
    except MIKernelsError:
        return True
    return False


def _refuse(why: str) -> Any:
    def execute_model(*_: Any, **__: Any) -> Any:
        raise RuntimeError(why)

    return execute_model
