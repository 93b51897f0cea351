"""What a model is (Instruct, Thinking or merged), and how the paper samples it.

Sampling is that of section 3 of arXiv 2510.10977 (and of Qwen3-2507's model cards): Instruct T 0.7 and top_p 0.8,
Thinking and every merge T 0.6 and top_p 0.95, top_k 20 for all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mi_kernels.merge.record import read_content
from mi_kernels.output.sidefiles import RECORD

from .errors import EvalError
from .schema import ROLES, Sampling

_TEMPERATURE_TOP_P = {"instruct": (0.7, 0.8), "thinking": (0.6, 0.95), "merged": (0.6, 0.95)}
_TOP_K = 20


@dataclass(frozen=True)
class Identity:
    """What a model is: the parts of `schema.Run` that are read from its folder."""

    role: str
    lam: float | None
    merge: Mapping[str, Any] | None


def paper_sampling(role: str, max_tokens: int) -> Sampling:
    temperature, top_p = _TEMPERATURE_TOP_P[role]
    return Sampling(temperature, top_p, _TOP_K, max_tokens)


def identify(model: str, folder: str | None, role: str | None = None) -> Identity:
    """What `model` is: from its mi_kernels.json, else as `role` says, else from its name.

    A name tells where exactly one of the words "instruct" and "thinking" is in it.

    Args:
        model: as the user gave it. folder: where its files lie; None behind a server.

    Raises:
        EvalError: nothing tells the role, or `role` contradicts mi_kernels.json.
    """
    record = read_content(folder) if folder else None
    if record is not None:
        if role not in (None, "merged"):
            raise EvalError(
                f"{model}: its {RECORD} says that it is merged, --role says {role}",
                f"Leave --role out, or remove {RECORD} if the model was changed since.",
            )
        return Identity("merged", _plain_lam(record), record)
    if role is not None:
        if role not in ROLES:
            raise EvalError(f"--role is {role!r}", f"Give one of {', '.join(ROLES)}.")
        return Identity(role, None, None)
    named = [r for r in ("instruct", "thinking") if r in _last_part(model).lower()]
    if len(named) != 1:
        raise EvalError(
            f"{model}: nothing tells whether it is an instruct, a thinking or a merged model: it has no {RECORD}",
            "Say so: --role instruct|thinking|merged. It decides the sampling, and whether reasoning is stripped.",
        )
    return Identity(named[0], None, None)


def _last_part(model: str) -> str:
    """The name in a path or a Hub id; the Hub id in the path of a Hub cache."""
    cached = re.search(r"models--([\w.-]+)/snapshots/", model)
    return cached[1] if cached else os.path.basename(os.path.abspath(model))


def _plain_lam(record: Mapping[str, Any]) -> float | None:
    """lam of a merge of everything by one number; masks, rules and schedules make it another curve."""
    masked = any(record.get(key) for key in ("layers", "modules", "rules"))
    lam = record.get("lam")
    plain = record.get("method") == "lerp" and not masked and isinstance(lam, (int, float))
    return float(lam) if plain and lam is not None else None
