"""The role of a model (Instruct, Thinking or merged), and how the paper samples each role.

Sampling is that of section 3 of arXiv 2510.10977 (and of Qwen3-2507's model cards): Instruct T 0.7 and top_p 0.8,
Thinking and every merge T 0.6 and top_p 0.95, top_k 20 for all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mi_kernels.checkpoint.hub import cached_id
from mi_kernels.merge.record import read_content
from mi_kernels.output.sidefiles import RECORD

from ..engines.live_pair import LivePair
from ..engines.merged_files import merged_files
from ..errors import EvalError
from ..schema import ROLES, Sampling

_TEMPERATURE_TOP_P = {"instruct": (0.7, 0.8), "thinking": (0.6, 0.95), "merged": (0.6, 0.95)}
_TOP_K = 20


LIVE = "live merge of "  # begins `Run.model` where an engine held a merge without a folder


@dataclass(frozen=True)
class Identity:
    """The fields of `schema.Run` that follow from the model."""

    role: str
    lam: float | None
    merge: Mapping[str, Any] | None


def paper_sampling(role: str, max_tokens: int) -> Sampling:
    temperature, top_p = _TEMPERATURE_TOP_P[role]
    return Sampling(temperature, top_p, _TOP_K, max_tokens)


def identify(model: str, folder: str | None, role: str | None = None) -> Identity:
    """Determines the role of `model` from its mi_kernels.json, otherwise from `role`, otherwise from its name.

    A name determines the role if it contains exactly one of the words "instruct" and "thinking".

    Args:
        model: as the user gave it. folder: its files; None if a server has them.

    Raises:
        EvalError: the role is unknown, or `role` contradicts mi_kernels.json.
    """
    record = read_content(folder) if folder else None
    if record is not None:
        if role not in (None, "merged"):
            raise EvalError(
                f"{model}: {RECORD} says that the model is merged, but --role is {role}",
                f"Remove --role, or remove {RECORD} if the model has changed since the merge.",
            )
        return Identity("merged", _plain_lam(record), record)
    if role is not None:
        if role not in ROLES:
            raise EvalError(f"--role is {role!r}", f"Choose one of {', '.join(ROLES)}.")
        return Identity(role, None, None)
    named = [r for r in ("instruct", "thinking") if r in _last_part(model).lower()]
    if len(named) != 1:
        raise EvalError(
            f"{model}: the role is unknown: {RECORD} is missing, and the name does not contain instruct or thinking",
            "Add --role instruct|thinking|merged. It determines the sampling and whether reasoning is graded.",
        )
    return Identity(named[0], None, None)


def identify_pair(pair: LivePair, role: str | None = None) -> Identity:
    """The role of a merge without a folder, with the content that the mi_kernels.json of its folder would have.

    At lam 0 or 1 with the small files of that model it is that model itself.

    Raises:
        EvalError: `role` contradicts the recipe.
        mi_kernels.errors.MIKernelsError: the models cannot be merged, or not with this recipe.
    """
    own = pair.side if pair.end is not None else "merged"
    if role not in (None, own):
        raise EvalError(f"{described(pair)}: the role is {own}, not {role}", f"Give the role {own}, or none.")
    if own != "merged":
        return Identity(own, float(own == "thinking"), None)
    record = merged_files(pair).record
    return Identity("merged", _plain_lam(record), record)


def described(pair: LivePair) -> str:
    """`Run.model` of a merge without a folder. Equal for equal merges."""
    models = f"{LIVE}{pair.instruct} and {pair.thinking}"
    return f"{models}: {json.dumps(pair.recipe.to_dict())}{' with the files of INSTRUCT' * (pair.side == 'instruct')}"


def is_live(model: str) -> bool:
    """Whether `Run.model` is from `described`."""
    return model.startswith(LIVE)


def _last_part(model: str) -> str:
    """The last part of a path or Hub id; for a path in the Hub's cache, the Hub id."""
    return cached_id(model) or os.path.basename(os.path.abspath(model))


def _plain_lam(record: Mapping[str, Any]) -> float | None:
    """lam of a merge that uses one lam for all tensors. With masks, rules or schedules it is None."""
    masked = any(record.get(key) for key in ("layers", "modules", "rules"))
    lam = record.get("lam")
    plain = record.get("method") == "lerp" and not masked and isinstance(lam, (int, float))
    return float(lam) if plain and lam is not None else None
