"""Parameters that differ by model, by depth and by tensor, as merge configurations write them.

A setting is a number (or true, false); a list of anchors, a gradient over the layers; or a list of conditions, each
``{filter: TEXT, value: SETTING}``, of which the first whose text occurs in the tensor's name decides. These are
mergekit's rules (0.1.5, config.py, evaluate_setting), so that its configurations mean here what they mean there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import ArgumentError

Setting = Any  # a number, a list of numbers, or conditions: as YAML reads it


def evaluate(setting: Setting, name: str, t: float) -> float | bool | None:
    """The value of `setting` for the tensor `name` at depth `t`, from 0 (first layer) to 1 (last one).

    A gradient of k anchors at t: s = t (k - 1), j = floor(s), f = s - j, and then
    (1 - f) anchors[j] + f anchors[min(j + 1, k - 1)].

    Returns:
        The value, or None when no condition matches.
    """
    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, list):
        return _number(setting)
    if any(isinstance(item, Mapping) for item in setting):
        for condition in setting:
            text = condition.get("filter")
            if text is None or text == "*" or text in name:
                return evaluate(condition["value"], name, t)
        return None
    anchors = [_number(item) for item in setting]
    scaled = t * (len(anchors) - 1)
    low = int(scaled)
    fraction = scaled - low
    return (1 - fraction) * anchors[low] + fraction * anchors[min(low + 1, len(anchors) - 1)]


def check(setting: Setting, where: str) -> None:
    """Refuses what `evaluate` could not evaluate.

    Raises:
        ArgumentError: names the parameter and what is wrong with it.
    """
    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, list):
        if not isinstance(setting, (int, float)) and not _is_number(setting):
            raise ArgumentError(f"{where}: {setting!r} is not a number", "Give a number, a list, or conditions.")
        return
    if not setting:
        raise ArgumentError(f"{where}: an empty list", "Give at least one anchor or condition.")
    conditions = [item for item in setting if isinstance(item, Mapping)]
    if conditions and len(conditions) < len(setting):
        raise ArgumentError(f"{where}: numbers and conditions in one list", "Give the numbers as `- value: NUMBER`.")
    for item in setting:
        if not isinstance(item, Mapping):
            if isinstance(item, list):
                raise ArgumentError(f"{where}: a list within a list", "Give a list of numbers.")
            check(item, where)
        elif "value" not in item or set(item) - {"value", "filter"}:
            raise ArgumentError(
                f"{where}: {dict(item)!r} is not a condition", "Give it `value` and, if wanted, `filter`."
            )
        elif item.get("filter") is not None and not isinstance(item["filter"], str):
            raise ArgumentError(f"{where}: filter {item['filter']!r} is not text", "Give a part of a tensor's name.")
        else:
            check(item["value"], where)


def _is_number(value: object) -> bool:
    # YAML 1.1 reads 1e-3 as text.
    try:
        return isinstance(value, str) and float(value) == float(value)
    except ValueError:
        return False


def _number(value: Any) -> float | bool:
    return value if isinstance(value, bool) else float(value)
