"""Serve a merge with vLLM without a merged folder: interpolate while loading, and again when lam changes.

    from vllm import LLM
    llm = LLM(INSTRUCT, load_format="mi_kernels", model_loader_extra_config={"other": THINKING, "lam": 0.8})

To change lam of the running model, also pass ``worker_extension_cls=mi_kernels.integrations.vllm.LIVE`` and
``"live": True`` in ``model_loader_extra_config``, and call ``set_lam(llm, 0.55)``. docs/vllm.md describes the options,
the HTTP route and the effect on concurrent requests.

vLLM finds the loader through the entry point `vllm.general_plugins`, in each of its processes.

Example:
    >>> from mi_kernels.integrations import vllm
    >>> vllm.LOAD_FORMAT, vllm.LIVE
    ('mi_kernels', 'mi_kernels.integrations.vllm.worker.LiveWorker')
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client import set_lam, set_lam_async

LIVE = "mi_kernels.integrations.vllm.worker.LiveWorker"
LOAD_FORMAT = "mi_kernels"

__all__ = ["LIVE", "LOAD_FORMAT", "register", "set_lam", "set_lam_async"]

if not TYPE_CHECKING:  # with it, type checkers would accept any name

    def __getattr__(name: str) -> Any:  # `mi-kernels serve --help` must not wait for asyncio
        if name not in ("set_lam", "set_lam_async"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import client

        return getattr(client, name)


def register() -> None:
    """Registers the load format "mi_kernels". vLLM calls this in every process, possibly several times."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor import model_loader

    from .loader import MergeLoader

    if not isinstance(model_loader._LOAD_FORMAT_TO_MODEL_LOADER.get(LOAD_FORMAT), type):
        model_loader.register_model_loader(LOAD_FORMAT)(MergeLoader)
    _check_early(EngineArgs)


def _check_early(arguments: Any) -> None:
    """Lets vLLM check our options and both models before it starts the engine's process.

    vLLM has no hook for that. Without it, a typo is found by the engine, half a minute and 200 lines of log later.

    Args:
        arguments: vLLM's class EngineArgs.
    """
    import functools
    import sys

    create = arguments.create_engine_config
    if getattr(create, "checks_mi_kernels", False):
        return

    @functools.wraps(create)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.load_format == LOAD_FORMAT:
            from ...errors import MIKernelsError
            from .preflight import check_models, options_of
            from .uncaught import print_in_two_lines

            revision = f"@{self.revision}" if self.revision else ""
            try:
                check_models(f"{self.model}{revision}", options_of(self.model_loader_extra_config))
            except MIKernelsError:
                print_in_two_lines(sys.modules["__main__"])
                raise
        return create(self, *args, **kwargs)

    checked.checks_mi_kernels = True  # type: ignore[attr-defined]
    arguments.create_engine_config = checked
