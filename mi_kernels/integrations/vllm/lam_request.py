"""The route that changes lam over HTTP: what its requests may say, and the shape of its errors."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from ...errors import ArgumentError, did_you_mean, printable

PATH = "/v1/mi_kernels/lam"
_RULE = ("lam", "layers", "modules", "pattern")
_KEYS = ("lam", "layers", "modules", "rules", "drain")
# Names of JSON's types, because a client need not know Python's.
_NAMES = {str: "text", bool: "a boolean", type(None): "null", list: "a list", dict: "an object"}
_TYPES = {
    400: "BadRequestError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    405: "Method Not Allowed",
    409: "ConflictError",
    503: "ServiceUnavailableError",
}


class RequestError(ArgumentError):
    """A request is invalid.

    Attributes:
        param: the key of the body that is wrong; None if it is the body as a whole.
    """

    def __init__(self, problem: str, remedy: str, param: str | None = None) -> None:
        super().__init__(problem, remedy)
        self.param = param


def error_body(status: int, problem: str, remedy: str = "", param: str | None = None) -> dict[str, Any]:
    """Returns the JSON of an error, in the shape of vLLM's own errors.

    Example:
        >>> from mi_kernels.integrations.vllm.lam_request import error_body
        >>> error_body(400, "lam is missing", 'Send {"lam": 0.55}.', "lam")["error"]["message"]
        'lam is missing. Send {"lam": 0.55}.'
    """
    message = printable(f"{problem}. {remedy}" if remedy else problem)
    return {
        "error": {"message": message, "type": _TYPES[status], "param": param and printable(param, 100), "code": status}
    }


def read_request(content: bytes) -> dict[str, Any]:
    """Returns the arguments for `set_lam_async` from the body of a request.

    Raises:
        RequestError: the body is not JSON, or a key or the type of a value is wrong.

    Example:
        >>> from mi_kernels.integrations.vllm.lam_request import read_request
        >>> read_request(b'{"lam": 0.8, "layers": "12:36"}')
        {'lam': 0.8, 'layers': '12:36'}
    """
    try:
        body = json.loads(content)
    except RecursionError:
        raise RequestError("the body is nested too deeply", 'Send {"lam": 0.55}.') from None
    except ValueError as error:
        problem = "the body is empty" if not content.strip() else f"the body is not JSON: {error}"
        raise RequestError(problem, 'Send {"lam": 0.55}.') from None
    if not isinstance(body, dict):
        raise RequestError(f"the body is {_shown(body)}, not an object", 'Send {"lam": 0.55}.')
    _check_keys(body, _KEYS, "")
    drain = body.get("drain", True)
    if not isinstance(drain, bool):
        raise RequestError(f"drain is {_shown(drain)}", "Send true or false.", "drain")
    _check_recipe(body)
    return {key: value for key, value in body.items() if value is not None}


def read_recipe(content: Any) -> dict[str, Any]:
    """Returns lam, masks and rules from a part of a request.

    Raises:
        RequestError: a key or the type of a value is wrong.
    """
    if not isinstance(content, dict):
        raise RequestError(f"{_shown(content)} is not an object", 'Send {"lam": 0.55}.')
    _check_keys(content, [key for key in _KEYS if key != "drain"], "")
    _check_recipe(content)
    return {key: value for key, value in content.items() if value is not None}


def _check_recipe(body: dict[str, Any]) -> None:
    _check_values(body, "")
    rules = body.get("rules")
    if not isinstance(rules, list | None):
        raise RequestError(
            f"rules is {_shown(rules)}", 'Send a list such as [{"lam": 0.2, "modules": "attn"}].', "rules"
        )
    for number, rule in enumerate(rules or (), 1):
        where = f"rule {number}: "
        if not isinstance(rule, dict):
            raise RequestError(
                f"{where}{_shown(rule)} is not an object", 'Send {"lam": 0.2, "modules": "attn"}.', "rules"
            )
        _check_keys(rule, _RULE, where)
        _check_values(rule, where)


def param_of(problem: str) -> str | None:
    """Returns the key of the body that the message of an engine is about."""
    if problem.startswith("rule "):
        return "rules"
    return next((key for key in _KEYS if problem.startswith((f"{key} ", f"{key}:"))), None)


def _check_keys(content: dict[str, Any], known: Collection[str], where: str) -> None:
    for key in content:
        if key not in known:
            hint = did_you_mean(key, known)
            remedy = f"{hint} The keys are {', '.join(known)}.".strip()
            raise RequestError(f"{where}unknown key {json.dumps(key)}", remedy, "rules" if where else key)
    if "lam" not in content:
        raise RequestError(f"{where}lam is missing", 'Send {"lam": 0.55}.', "rules" if where else "lam")


def _check_values(content: dict[str, Any], where: str) -> None:
    lam = content["lam"]
    if not _number(lam) and not (isinstance(lam, list) and lam and all(map(_number, lam))):
        raise RequestError(
            f"{where}lam is {_shown(lam)}",
            "Send a number without quotes, or a list of numbers for a schedule over the layers.",
            "rules" if where else "lam",
        )
    for key, one, what in (
        ("layers", int, 'Send text such as "12:36", or a list of layer numbers.'),
        ("modules", str, 'Send text such as "attn,ffn", or a list of names.'),
    ):
        value = content.get(key)
        allowed = (str, one)
        if value is None or (_is(value, allowed)):
            continue
        if not (isinstance(value, list) and value and all(_is(item, allowed) for item in value)):
            raise RequestError(f"{where}{key} is {_shown(value)}", what, "rules" if where else key)


def _number(value: Any) -> bool:
    return _is(value, (int, float))


def _is(value: Any, kinds: tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    name = _NAMES.get(type(value), "a number")
    shown = text if len(text) <= 60 else f"{text[:57]}..."
    return "null" if value is None else f"{name}, {shown}"
