"""The element-wise functions of the engine, each of one or two values: made from its table (src/ir/opcodes.def)."""

from __future__ import annotations

from typing import Any, Callable

from . import _library
from .values import Value, make_elementwise


def _function(name: str, operands: int) -> Callable[..., Any]:
    def function(*values: Any) -> Any:
        if len(values) != operands or not any(isinstance(value, Value) for value in values):
            raise TypeError(f"{name} takes {operands} value{'s' if operands > 1 else ''}")
        return make_elementwise(name, values)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"{name} of {'a value' if operands == 1 else 'two values, or a value and a number; shapes broadcast as in numpy'}, rounded once to its dtype."
    return function


FUNCTIONS: dict[str, int] = {row["name"]: row["operands"] for row in _library.parsed("zoe_elementwise")}
globals().update({name: _function(name, operands) for name, operands in FUNCTIONS.items()})
__all__ = sorted(FUNCTIONS)
