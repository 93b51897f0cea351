"""Names that a module does not have: the error of its `__getattr__`, with the name that is meant."""

from __future__ import annotations

import opcode
import sys
from collections.abc import Iterable

from ..errors import did_you_mean


def no_such_name(module: str, name: str, known: Iterable[str]) -> AttributeError | ImportError:
    """Returns the error for `module.name`, or for `from module import name`. Call it in the module's `__getattr__`.

    Python replaces the AttributeError of an import by an error of its own, which names no other name before Python
    3.12. So an import gets an ImportError, which Python keeps.

    Args:
        known: the names that the module has.

    >>> str(no_such_name("mi_kernels", "lerb", ["lerp", "combine"]))
    "module 'mi_kernels' has no attribute 'lerb'. Did you mean lerp?"
    """
    # Python asks for private names on its own, such as __path__ and __wrapped__, and nobody reads those errors.
    hint = "" if name.startswith("_") else did_you_mean(name, known)
    if hint and _importing():
        return ImportError(f"cannot import name {name!r} from {module!r}. {hint}", name=module)
    return AttributeError(f"module {module!r} has no attribute {name!r}{'. ' * bool(hint)}{hint}")


def _importing() -> bool:
    """Returns whether the code that called `__getattr__` runs `from MODULE import NAME`."""
    caller = sys._getframe(3)  # of __getattr__, which called no_such_name
    return caller.f_code.co_code[max(caller.f_lasti, 0)] == opcode.opmap["IMPORT_FROM"]
