"""Change lam inside a vLLM worker: vLLM adds this class to the bases of its workers (`worker_extension_cls`)."""

from __future__ import annotations

import time
from typing import Any

from ...errors import MIKernelsError
from ...recipe.interpolation import Recipe

Answer = dict[str, Any]


class LiveWorker:
    """Methods for `collective_rpc`. They return errors as values: exceptions lose their type between processes."""

    def mi_kernels_set(self, wanted: dict[str, Any]) -> Answer:
        """Changes the weights to the merge with the given "lam", "layers", "modules" and "rules".

        Returns:
            The recipe that is served now, and "seconds"; {"refused": (problem, remedy)} if the change was rejected and
            no weight changed; or {"broken": reason} if this worker answers no more requests.
        """
        live = self._mi_kernels_live()
        if live is None or not live.changeable:
            return {
                "refused": (
                    "this engine cannot change lam",
                    'Start it with load_format="mi_kernels" and "live": true in model_loader_extra_config.',
                )
            }
        if live.broken:
            return {"broken": live.broken}
        try:
            recipe = Recipe.from_dict({key: value for key, value in wanted.items() if value not in (None, [], ())})
            live.check(recipe)
        except MIKernelsError as error:
            return {"refused": (error.problem, error.remedy)}
        began = time.perf_counter()
        try:
            live.change(recipe)
        except Exception as error:
            live.broken = f"changing the weights failed midway, and this engine has stopped: {error}"
            self.execute_model = _refuse(live.broken)
            return {"broken": live.broken}
        return {**self.mi_kernels_get(), "seconds": time.perf_counter() - began}

    def mi_kernels_get(self) -> Answer:
        """Returns the recipe that is served, as a dict; empty if the model was not loaded as an interpolation."""
        live = self._mi_kernels_live()
        return {} if live is None else live.recipe.to_dict()

    def _mi_kernels_live(self) -> Any:
        model = self.get_model()  # type: ignore[attr-defined]  # a method of the worker
        return getattr(model, "mi_kernels_live", None)


def _refuse(why: str) -> Any:
    def execute_model(*_: Any, **__: Any) -> Any:
        raise RuntimeError(why)

    return execute_model
