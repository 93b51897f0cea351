"""Plain values as YAML that `yaml_loader`, PyYAML and the Hub read back unchanged.

Strings are quoted unless they are plain words, because YAML 1.1 reads `12:36`, `no` and `1e5` as something else. What
YAML cannot hold, such as control characters and halves of surrogate pairs, is escaped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./+@-]*")  # of these, the words below have another meaning
_RESERVED = re.compile(r"(?i:y|n|yes|no|on|off|true|false|null|\.nan|\.inf)|\.[0-9_]+(?:[eE].*)?|\.+|---")


def yaml_value(value: Any) -> str:
    """Returns a value on one line.

    Args:
        value: None, a bool, a number, a string, or a list or mapping of such values.

    Example:
        >>> yaml_value([{"filter": "mlp", "value": [0, 1e-05]}, "12:36", "no", None])
        '[{filter: mlp, value: [0, 1.0e-05]}, "12:36", "no", null]'
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{yaml_value(key)}: {yaml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(yaml_value, value)) + "]"
    text = str(value)
    if _PLAIN.fullmatch(text) and not _RESERVED.fullmatch(text):
        return text
    return '"' + "".join(map(_escaped, text)) + '"'


def yaml_block(content: Mapping[str, Any]) -> str:
    """Returns a mapping with one key on each line. Lists of mappings get a line for each of their keys.

    Example:
        >>> print(yaml_block({"models": ["A", {"model": "B", "weight": 3}], "layers": "1:"}))
        models:
        - A
        - model: B
          weight: 3
        layers: "1:"
    """
    lines = []
    for key, value in content.items():
        name = yaml_value(key)
        if isinstance(value, list) and value and (key == "models" or isinstance(value[0], Mapping)):
            lines += [f"{name}:", *(line for item in value for line in _item(item))]
        else:
            lines.append(f"{name}: {yaml_value(value)}")
    return "\n".join(lines)


def _item(item: Any) -> list[str]:
    if not isinstance(item, Mapping) or not item:
        return [f"- {yaml_value(item)}"]
    first, *others = yaml_block(item).splitlines()
    return [f"- {first}", *(f"  {line}" for line in others)]


def _number(value: float) -> str:
    if not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    digits, e, exponent = repr(float(value)).partition("e")  # NumPy's have another repr
    return f"{digits if '.' in digits or not e else digits + '.0'}{e}{exponent}"  # YAML 1.1 needs the dot


def _escaped(character: str) -> str:
    code = ord(character)
    if character in '"\\':
        return "\\" + character
    if character.isprintable() and code not in (0xFEFF, 0xFFFE, 0xFFFF):
        return character
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
