"""Values: handles to what a computation will have, and how new ones are made."""

from __future__ import annotations

import ctypes
import math
from typing import Any, Sequence

from . import _library
from .errors import InvalidArgument

__all__ = ["Value", "constant", "make_elementwise", "make_value"]


class Value:
    """One value of a computation that is being written: operators and functions make new ones. Nothing is computed yet."""

    def __init__(self, handle: _library.Handle) -> None:
        self._handle = handle

    @property
    def dtype(self) -> str:
        text: str = _library.library.zoe_value_dtype(self._handle).decode()
        return text

    @property
    def shape(self) -> tuple[int, ...]:
        extents = ctypes.POINTER(ctypes.c_int64)()
        rank = _library.library.zoe_value_shape(self._handle, ctypes.byref(extents))
        return tuple(extents[i] for i in range(rank))

    def __repr__(self) -> str:
        return f"Value({self.dtype}{list(self.shape)})"

    def cast(self, dtype: str) -> Value:
        """Rounded to another dtype: precision is written in the computation, nowhere else."""
        return make_value("cast", [self], dtype=dtype)

    def reshape(self, *shape: int) -> Value:
        """The same elements in the same order; one extent may be -1."""
        extents = list(shape)
        if extents.count(-1) == 1:
            rest = -math.prod(extents)
            extents[extents.index(-1)] = math.prod(self.shape) // rest if rest else -1
        return make_value("reshape", [self], shape=extents)

    def permute(self, *axes: int) -> Value:
        """Axis i of the result is axis axes[i] of this."""
        return make_value("permute", [self], axes=list(axes))

    def slice(self, axis: int, begin: int, end: int) -> Value:
        """Elements [begin, end) of one axis."""
        return make_value("slice", [self], axis=axis, begin=begin, end=end)

    def flip(self, axis: int) -> Value:
        """One axis in reverse order."""
        return make_value("flip", [self], axis=axis)

    def swap_pairs(self) -> Value:
        """x[..., 2i] and x[..., 2i + 1] change places."""
        return make_value("swap_pairs", [self])

    def __add__(self, other: Value | float) -> Value:
        return make_elementwise("add", (self, other))

    def __radd__(self, other: float) -> Value:
        return make_elementwise("add", (other, self))

    def __sub__(self, other: Value | float) -> Value:
        return make_elementwise("sub", (self, other))

    def __rsub__(self, other: float) -> Value:
        return make_elementwise("sub", (other, self))

    def __mul__(self, other: Value | float) -> Value:
        return make_elementwise("mul", (self, other))

    def __rmul__(self, other: float) -> Value:
        return make_elementwise("mul", (other, self))

    def __truediv__(self, other: Value | float) -> Value:
        return make_elementwise("div", (self, other))

    def __rtruediv__(self, other: float) -> Value:
        return make_elementwise("div", (other, self))

    def __neg__(self) -> Value:
        return make_elementwise("neg", (self,))


def make_value(what: str, operands: Sequence[Value | None], **attributes: Any) -> Value:
    for operand in operands:
        if operand is not None and not isinstance(operand, Value):
            raise InvalidArgument(f"[{what}] got a {type(operand).__name__}, expected a Value. Make it an argument of the function, or a constant.")
    handles = _library.handles([operand._handle if operand is not None else None for operand in operands])
    return Value(_library.Handle.made("zoe_value_close", "zoe_value_make", what.encode(), handles, len(operands), _library.dumped(attributes)))


def make_elementwise(name: str, operands: Sequence[Any]) -> Value:
    """Numbers become constants of the other operand's dtype."""
    dtype = next((each.dtype for each in operands if isinstance(each, Value)), "f32")
    return make_value(name, [constant(each, dtype) if isinstance(each, (int, float)) else each for each in operands])


def constant(value: float, dtype: str = "f32") -> Value:
    """A number, of rank 0: it broadcasts."""
    return make_value("constant", [], value=float(value), dtype=dtype)
