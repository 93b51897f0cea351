"""vLLM serves a merge without a merged folder: interpolated while loading, and again whenever lam changes.

    from vllm import LLM
    llm = LLM(INSTRUCT, load_format="mi_kernels", model_loader_extra_config={"other": THINKING, "lam": 0.8})

With ``worker_extension_cls=mi_kernels.integrations.vllm.LIVE`` besides, ``set_lam(llm, 0.55)`` changes the model in
place. docs/vllm.md has the options, the HTTP route and what concurrent requests meet.

vLLM finds the loader through the entry point `vllm.general_plugins`, in each of its processes.
"""

from __future__ import annotations

from .client import set_lam, set_lam_async

LIVE = "mi_kernels.integrations.vllm.worker.LiveWorker"
LOAD_FORMAT = "mi_kernels"

__all__ = ["LIVE", "LOAD_FORMAT", "register", "set_lam", "set_lam_async"]


def register() -> None:
    """Makes the load format known. vLLM calls this in every process, maybe more than once."""
    from vllm.model_executor import model_loader

    from .loader import MergeLoader

    if not isinstance(model_loader._LOAD_FORMAT_TO_MODEL_LOADER.get(LOAD_FORMAT), type):
        model_loader.register_model_loader(LOAD_FORMAT)(MergeLoader)
