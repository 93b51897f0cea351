"""A YAML loader that builds plain values only, reads 12:36 as text, and refuses what is an attack or a mistake.

YAML 1.1 reads 12:36 as a number in base 60, so that a range of layers would silently become layer 756.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import yaml

_MOST_BITS = 10_000
_MOST_VALUES = 100_000  # a list of weights for each layer and module of a large model is a few thousand


@contextlib.contextmanager
def _fitting() -> Iterator[None]:
    """Turns PyYAML's exceptions for tags that do not fit their value (`!!int ""`, `!!map [1]`) into a YAMLError."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise yaml.constructor.ConstructorError(problem="a tag does not fit its value") from error


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader without numbers in base 60.

    A key given twice is an error, and so are aliases that unfold to too many values: a few lines of aliases to aliases
    can stand for more values than any memory holds.

    >>> yaml.load("layers: 12:36", Loader)
    {'layers': '12:36'}
    """

    def construct_document(self, node: yaml.Node) -> Any:
        _size(node, {})
        with _fitting():
            return super().construct_document(node)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        value = super().construct_object(node, deep)
        # Python does not convert longer numbers to decimal, so that no message could show one.
        if isinstance(value, int) and value.bit_length() > _MOST_BITS:
            raise yaml.constructor.ConstructorError(problem="a number of thousands of digits")
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"the key {key.value!r} is given twice in one mapping"
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _size(node: yaml.Node, known: dict[int, int | None]) -> int:
    """How many values `node` stands for, aliases unfolded."""
    if id(node) not in known:
        known[id(node)] = None  # until it is counted: an alias to what it stands in
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        items = [item for part in parts for item in (part if isinstance(part, tuple) else (part,))]
        known[id(node)] = 1 + sum(_size(item, known) for item in items)
    size = known[id(node)]
    if size is None or size > _MOST_VALUES:
        raise yaml.constructor.ConstructorError(problem="its aliases stand for more values than any recipe has")
    return size


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_INT, _FLOAT)]
    for _INT, _FLOAT in [("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0x[0-9a-fA-F]+|[0-9][0-9_]*)$"), list("-+0123456789")
)
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.nan$"
    ),
    list("-+0123456789."),
)
