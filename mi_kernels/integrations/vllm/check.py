"""Start an engine, let each of its workers make the self-check, and return the results."""

from __future__ import annotations

from argparse import Namespace

from ...errors import BackendError, MIKernelsError
from .self_check import SelfCheck


def check_engine(options: Namespace) -> list[SelfCheck]:
    """Starts a vLLM engine that loads with "check": true, and stops it again.

    Args:
        options: from `server.ServerOptions.parse`. Those that an engine does not have, such as port, have no effect.

    Returns:
        The result of each worker.

    Raises:
        MIKernelsError: the models cannot be loaded.
        BackendError: vLLM cannot start the engine.
    """
    from vllm import LLM
    from vllm.engine.arg_utils import EngineArgs

    try:
        llm = LLM.from_engine_args(EngineArgs.from_cli_args(options))
    except MIKernelsError:
        raise
    except Exception as error:
        raise BackendError(
            f"vLLM cannot start the engine: {error}", "See vLLM's messages above. Pass options to vLLM after --."
        ) from error
    try:
        return [SelfCheck.from_dict(answer) for answer in llm.collective_rpc("mi_kernels_self_check")]
    finally:
        llm.llm_engine.engine_core.shutdown()
