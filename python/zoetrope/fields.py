"""The table of a request's fields, and of a session's options, as the library has them: keyword arguments follow from it."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from . import _library
from .errors import InvalidArgument

# How a kind of value of the table is written in Python.
_PYTHON_TYPES = {
    "texts": "str | Sequence[str]",
    "text": "str",
    "whole number": "int",
    "number": "float",
    "numbers": "Sequence[float]",
    "whole numbers": "int | Sequence[int]",
    "true or false": "bool",
    "WIDTHxHEIGHT": "str | tuple[int, int]",
    "file": "Picture",
    "files": "str | Sequence[str]",
    "bytes": "int",
}


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of a request: docs/requests.md is made from the same table."""

    name: str
    type: str
    range: str
    unit: str
    default: str
    help: str
    choices: tuple[str, ...]
    aliases: tuple[str, ...]
    taken_by: str
    is_list: bool
    is_file: bool

    @property
    def python_type(self) -> str:
        """How it is annotated."""
        if self.choices:
            return "Literal[" + ", ".join(f'"{choice}"' for choice in self.choices) + "]"
        if self.is_file:
            return "Picture | Sequence[Picture]" if self.is_list or self.name in ("video", "mask") else "Picture"
        return _PYTHON_TYPES[self.type]

    @property
    def description(self) -> str:
        """A line of text."""
        unit = f" {self.unit}" if self.unit else ""
        taken_by = "" if self.taken_by == "all" else f" Taken by {self.taken_by}."
        return f"{self.help} ({self.range}{unit}; default: {self.default or 'must be said'}).{taken_by}"


def _read_fields() -> dict[str, Field]:
    rows = _library.parsed("zoe_request_fields")
    return {
        row["name"]: Field(
            name=row["name"], type=row["type"], range=row["range"] or row["type"], unit=row["unit"], default=row["default"],
            help=row["help"], choices=tuple(row["choices"]), aliases=tuple(row["aliases"]), taken_by=row["taken_by"],
            is_list=row["is_list"], is_file=row["is_file"])
        for row in rows
    }


FIELDS: dict[str, Field] = _read_fields()
_BY_ANY_NAME = {name: field for field in FIELDS.values() for name in (field.name, *field.aliases)}

SESSION_OPTIONS: dict[str, dict[str, str]] = {row["name"]: row for row in _library.parsed("zoe_session_options")}


def find(name: str) -> Field | None:
    """By name or by another program's name for the same."""
    return _BY_ANY_NAME.get(name)


def docstring(names: list[str] | None = None) -> str:
    """The fields as the section ``Args`` of a docstring."""
    return "\n".join(f"            {field.name}: {field.description}" for name, field in FIELDS.items() if not names or name in names)


def plain(name: str, value: Any) -> Any:
    """A field's value as JSON has it. Pictures are files by now."""
    field = find(name)
    if field is not None and field.type == "WIDTHxHEIGHT" and isinstance(value, (tuple, list)) and len(value) == 2:
        return f"{value[0]}x{value[1]}"
    if isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (list, tuple)):
        return [plain(name, each) for each in value]
    if hasattr(value, "tolist"):  # numbers and arrays of numpy and torch
        return plain(name, value.tolist())
    raise InvalidArgument(f"[{name}] got a {type(value).__name__}, expected {field.type if field else 'a text or a number'}.")
