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

from .client import set_lam, set_lam_async

LIVE = "mi_kernels.integrations.vllm.worker.LiveWorker"
LOAD_FORMAT = "mi_kernels"

__all__ = ["LIVE", "LOAD_FORMAT", "register", "set_lam", "set_lam_async"]


def register() -> None:
    """Registers the load format "mi_kernels". vLLM calls this in every process, possibly several times."""
    from vllm.model_executor import model_loader

    from .loader import MergeLoader

    if not isinstance(model_loader._LOAD_FORMAT_TO_MODEL_LOADER.get(LOAD_FORMAT), type):
        model_loader.register_model_loader(LOAD_FORMAT)(MergeLoader)
