"""What the server answers to each error of a change of lam."""

from __future__ import annotations

from typing import NamedTuple

from ...errors import MIKernelsError
from .client import EngineError, FilesChangedError, NotLiveError
from .efforts import NoSuchEffort
from .lam_request import RequestError, param_of


class Refusal(NamedTuple):
    """The arguments of `lam_request.error_body`."""

    status: int
    problem: str
    remedy: str = ""
    param: str | None = None


def answer_to(error: MIKernelsError) -> Refusal:
    """Returns the answer to `error`, see docs/serve.md.

    Example:
        >>> from mi_kernels.integrations.vllm.client import EngineError
        >>> from mi_kernels.integrations.vllm.refusals import answer_to
        >>> answer_to(EngineError("half changed", "")).status
        503
    """
    if isinstance(error, EngineError):
        return Refusal(503, error.problem, "Restart the server.")
    if isinstance(error, FilesChangedError):
        remedy = "The weights in use stay as they are. Restart the server to change lam."
        return Refusal(409, error.problem, remedy)
    if isinstance(error, NotLiveError):
        return Refusal(409, error.problem, "Start the server with `mi-kernels serve`.")
    if isinstance(error, RequestError):
        status = 404 if isinstance(error, NoSuchEffort) else 400
        return Refusal(status, error.problem, error.remedy, error.param)
    return Refusal(400, error.problem, error.remedy, param_of(error.problem))
