"""Parameters that differ by model, by depth and by tensor, as merge configurations write them.

A setting is a number (or true, false); a list of anchors, a gradient over the layers; or a list of conditions, each
``{filter: TEXT, value: SETTING}``, of which the first whose text occurs in the tensor's name decides. These are
mergekit's rules (0.1.5, config.py, evaluate_setting), so that its configurations mean here what they mean there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ArgumentError
from ..methods.method import Parameter

Setting = Any  # a number, a list of numbers, or conditions: as YAML reads it


def evaluate(setting: Setting, name: str, t: float, truth: bool = False) -> float | None:
    """The value of `setting` for the tensor `name` at depth `t`, from 0 (first layer) to 1 (last one).

    A gradient of k anchors at t: s = t (k - 1), j = floor(s), f = s - j, and then
    (1 - f) anchors[j] + f anchors[min(j + 1, k - 1)].

    Args:
        truth: the parameter is true (1) or false (0); a gradient steps from one anchor to the next: anchors[j].

    Returns:
        The value, or None where no condition matches.

    >>> evaluate([0, 1], "model.layers.9.mlp.up_proj.weight", t=0.25)
    0.25
    >>> evaluate([{"filter": "mlp", "value": 0.8}, {"value": 0.5}], "model.norm.weight", t=0)
    0.5
    """
    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, list):
        return float(setting)
    if any(isinstance(item, Mapping) for item in setting):
        for condition in setting:
            text = condition.get("filter")
            if text is None or text == "*" or text in name:
                return evaluate(condition["value"], name, t, truth)
        return None
    anchors = [float(item) for item in setting]
    scaled = t * (len(anchors) - 1)
    low = int(scaled)
    if truth:
        return anchors[low]
    fraction = scaled - low
    return (1 - fraction) * anchors[low] + fraction * anchors[min(low + 1, len(anchors) - 1)]


def check(setting: Setting, where: str, parameter: Parameter, user: str, name: str | None = None) -> None:
    """Refuses settings that `evaluate` cannot evaluate, and values outside the range of `parameter`.

    A gradient stays between its anchors, so that anchors in the range give values in the range.

    Args:
        where: the start of the message, such as the file.
        user: the name of the method.
        name: of the parameter in messages, where it is not ours.

    Raises:
        ArgumentError: names the parameter and what is wrong with it.
    """
    shown = f"{where}: {name or parameter.name}"
    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, list):
        parameter.checked(setting, where, user, name, text=True)
        return
    if parameter.kind == "whole":
        raise ArgumentError(f"{shown} is a list, which is not a whole number", "Give one number for all tensors.")
    if not setting:
        raise ArgumentError(f"{shown}: the list is empty", "Give at least one anchor or condition.")
    conditions = [item for item in setting if isinstance(item, Mapping)]
    if conditions and len(conditions) < len(setting):
        raise ArgumentError(f"{shown}: one list has numbers and conditions", "Write the numbers as `- value: NUMBER`.")
    for item in setting:
        if not isinstance(item, Mapping):
            if isinstance(item, list):
                raise ArgumentError(f"{shown}: a list is in a list", "Give a list of numbers.")
            check(item, where, parameter, user, name)
        elif "value" not in item or set(item) - {"value", "filter"}:
            raise ArgumentError(
                f"{shown}: {dict(item)!r} is not a condition", "Give it `value`, and `filter` if you need one."
            )
        elif item.get("filter") is not None and not isinstance(item["filter"], str):
            raise ArgumentError(f"{shown}: filter {item['filter']!r} is not text", "Give a part of a tensor's name.")
        else:
            check(item["value"], where, parameter, user, name)


def plain_setting(setting: Setting) -> Setting:
    """`setting` with lists for tuples and Python's numbers for NumPy's, as a file would hold it.

    >>> plain_setting(({"value": (0, 1)},))
    [{'value': [0, 1]}]
    """
    if isinstance(setting, Mapping):
        return {key: plain_setting(value) for key, value in setting.items()}
    if isinstance(setting, (list, tuple)):
        return [plain_setting(item) for item in setting]
    return setting.tolist() if hasattr(setting, "tolist") else setting
