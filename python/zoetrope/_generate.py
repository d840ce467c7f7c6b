"""Writes the files that follow from the library's tables: request_types.py and elementwise.pyi.

    python -m zoetrope._generate FOLDER
"""

from __future__ import annotations

import pathlib
import sys

from . import elementwise, fields

_HEAD = '''"""Arguments as types, made from the library's tables by `python -m zoetrope._generate`: not to be changed by hand."""

from __future__ import annotations

import os
from typing import Any, Literal, Sequence, TypedDict, Union

Picture = Union[str, "os.PathLike[str]", Any]
"""A path, a PIL image, or an array [height, width, 3]."""

'''


def request_types() -> str:
    lines = [_HEAD, "class RequestFields(TypedDict, total=False):", '    """The fields of a request (docs/requests.md), and other programs\' names for them."""', ""]
    for field in fields.FIELDS.values():
        lines.append(f"    {field.name}: {field.python_type} | None")
        lines.append(f"    {field.description!r}" if '"' in field.description else f'    "{field.description}"'.replace("\\", "\\\\"))
        lines += [f"    {alias}: {field.python_type} | None" for alias in field.aliases]
    lines += ["", "", "class SessionOptions(TypedDict, total=False):", '    """What opens a model, beside dtype and device."""', ""]
    types = {"text": "str", "whole number": "int", "bytes": "int", "true or false": "bool", "texts": "Sequence[str]"}
    for name, option in fields.SESSION_OPTIONS.items():
        if name in ("model", "dtype", "platform"):  # arguments of their own
            continue
        lines += [f"    {name}: {types[option['type']]}", f'    "{option["help"]}"']
    names = sorted(name for field in fields.FIELDS.values() if field.is_file for name in (field.name, *field.aliases))
    lines += ["", "", "FILE_FIELDS = frozenset({", *[f'    "{name}",' for name in ["input_reference", *names]], "})", '"""Fields whose values are files."""', ""]
    return "\n".join(lines)


def elementwise_stub() -> str:
    lines = ['"""Made by `python -m zoetrope._generate`: not to be changed by hand."""', "", "from .values import Value", "", "FUNCTIONS: dict[str, int]", "__all__ = [" + ", ".join(f'"{name}"' for name in elementwise.__all__) + "]", ""]
    for name, operands in sorted(elementwise.FUNCTIONS.items()):
        lines.append(f"def {name}(x: Value) -> Value: ..." if operands == 1 else f"def {name}(a: Value | float, b: Value | float) -> Value: ...")
    return "\n".join(lines) + "\n"


FILES = {"request_types.py": request_types, "elementwise.pyi": elementwise_stub}

if __name__ == "__main__":
    for file, make in FILES.items():
        (pathlib.Path(sys.argv[1]) / file).write_text(make(), encoding="utf-8")
