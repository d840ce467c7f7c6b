"""libzoetrope.so through ctypes. The interpreter's lock is free while a call is in the library."""

from __future__ import annotations

import ctypes
import json
import os
import pathlib
from ctypes import POINTER, c_char_p, c_double, c_float, c_int, c_int32, c_int64, c_size_t, c_uint8, c_void_p
from typing import Any

from . import errors

FOLDER = pathlib.Path(__file__).resolve().parent


class Step(ctypes.Structure):
    _fields_ = [("video", c_size_t), ("step", c_int32), ("total", c_int32), ("sigma", c_double), ("internal", c_void_p)]


OnLog = ctypes.CFUNCTYPE(None, c_void_p, c_int, c_char_p)
OnProgress = ctypes.CFUNCTYPE(c_int, c_void_p, c_char_p, c_size_t, c_size_t, c_size_t)
OnStep = ctypes.CFUNCTYPE(c_int, c_void_p, POINTER(Step))


class Callbacks(ctypes.Structure):
    _fields_ = [("user", c_void_p), ("progress", OnProgress), ("step", OnStep)]


class Results(ctypes.Structure):
    _fields_ = [("frames", c_void_p), ("frames_bytes", c_size_t), ("latents", c_void_p), ("latents_bytes", c_size_t)]


_TEXT = POINTER(c_void_p)
_HANDLE = POINTER(c_void_p)
_HANDLES = POINTER(c_void_p)
# What each function takes, as zoetrope_c.h declares it; all that return a status.
_FUNCTIONS: dict[str, list[Any]] = {
    "zoe_request_fields": [_TEXT],
    "zoe_session_options": [_TEXT],
    "zoe_platforms": [_TEXT],
    "zoe_embedded_model": [c_char_p, _TEXT],
    "zoe_session_open": [c_char_p, OnLog, c_void_p, _HANDLE],
    "zoe_session_info": [c_void_p, _TEXT],
    "zoe_session_counts": [c_void_p, _TEXT],
    "zoe_session_explain": [c_void_p, c_char_p, _TEXT],
    "zoe_job_prepare": [c_void_p, c_char_p, c_char_p, c_int, _HANDLE],
    "zoe_job_info": [c_void_p, _TEXT],
    "zoe_job_run": [c_void_p, POINTER(Callbacks), POINTER(Results), _TEXT],
    "zoe_step_latents": [POINTER(Step), c_int, c_void_p, c_size_t],
    "zoe_write_video": [c_char_p, c_void_p, c_size_t, c_size_t, c_size_t, c_double, c_int],
    "zoe_elementwise": [_TEXT],
    "zoe_value_make": [c_char_p, _HANDLES, c_size_t, c_char_p, _HANDLE],
    "zoe_graph_make": [c_char_p, _HANDLES, c_size_t, _HANDLES, c_size_t, _HANDLE],
    "zoe_graph_info": [c_void_p, _TEXT],
    "zoe_graph_call": [c_void_p, c_char_p, _HANDLES, c_size_t, _HANDLES],
    "zoe_graph_source": [c_void_p, c_char_p, _TEXT],
    "zoe_graph_interpret": [c_void_p, POINTER(c_void_p), POINTER(c_void_p)],
    "zoe_platform_open": [c_char_p, _HANDLE],
    "zoe_platform_info": [c_void_p, _TEXT],
    "zoe_tensor_make": [c_void_p, c_char_p, POINTER(c_int64), c_size_t, _HANDLE],
    "zoe_tensor_borrow": [c_void_p, c_void_p, c_char_p, POINTER(c_int64), c_size_t, _HANDLE],
    "zoe_tensor_upload": [c_void_p, c_void_p, c_size_t],
    "zoe_tensor_download": [c_void_p, c_void_p, c_size_t],
    "zoe_plan_compile": [c_void_p, c_void_p, c_char_p, _HANDLE],
    "zoe_plan_info": [c_void_p, _TEXT],
    "zoe_plan_run": [c_void_p, _HANDLES, c_size_t, _HANDLES, c_size_t, c_size_t, POINTER(c_double)],
}
# What they return otherwise.
_OTHERS: dict[str, tuple[Any, list[Any]]] = {
    "zoe_error_text": (c_char_p, []),
    "zoe_status_name": (c_char_p, [c_int]),
    "zoe_version": (c_char_p, []),
    "zoe_free": (None, [c_void_p]),
    "zoe_session_close": (None, [c_void_p]),
    "zoe_job_close": (None, [c_void_p]),
    "zoe_job_cancel": (None, [c_void_p]),
    "zoe_value_close": (None, [c_void_p]),
    "zoe_value_dtype": (c_char_p, [c_void_p]),
    "zoe_value_shape": (c_size_t, [c_void_p, POINTER(POINTER(c_int64))]),
    "zoe_graph_close": (None, [c_void_p]),
    "zoe_platform_close": (None, [c_void_p]),
    "zoe_tensor_close": (None, [c_void_p]),
    "zoe_tensor_data": (c_void_p, [c_void_p]),
    "zoe_plan_close": (None, [c_void_p]),
}


def _open() -> ctypes.CDLL:
    """The wheel has the library beside this file; a build folder's is named by ZOETROPE_LIBRARY."""
    path = os.environ.get("ZOETROPE_LIBRARY") or str(FOLDER / "libzoetrope.so")
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise ImportError(
            f"cannot open {path}: {error}. Install the package (pip install .), or say with ZOETROPE_LIBRARY where a build has it."
        ) from error
    for name, arguments in _FUNCTIONS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, c_int
    for name, (result, arguments) in _OTHERS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, result
    return library


library: Any = _open()
version: str = library.zoe_version().decode()


def check(status: int) -> None:
    """Raises what a status of the calling thread's last call says."""
    if status:
        raise errors.of_kind(library.zoe_status_name(status).decode(), library.zoe_error_text().decode("utf-8", "replace"))


def take_text(pointer: c_void_p) -> str:
    """A text that the library handed over."""
    try:
        return ctypes.string_at(pointer.value or 0).decode("utf-8", "replace")
    finally:
        library.zoe_free(pointer)


def text(function: str, *arguments: Any) -> str:
    """Calls a function whose last argument gets a text."""
    pointer = c_void_p()
    check(getattr(library, function)(*arguments, ctypes.byref(pointer)))
    return take_text(pointer)


def parsed(function: str, *arguments: Any) -> Any:
    """Calls a function whose last argument gets JSON."""
    return json.loads(text(function, *arguments))


def dumped(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


class Handle:
    """One of the library's objects, closed when nothing refers to it any more."""

    def __init__(self, close: str, value: int) -> None:
        self.value: int | None = value
        self._close = getattr(library, close)

    @classmethod
    def made(cls, close: str, function: str, *arguments: Any) -> Handle:
        """Of a function whose last argument gets the handle."""
        pointer = c_void_p()
        check(getattr(library, function)(*arguments, ctypes.byref(pointer)))
        return cls(close, pointer.value or 0)

    @property
    def _as_parameter_(self) -> c_void_p:
        return c_void_p(self.value)

    def close(self) -> None:
        if self.value:
            self._close(c_void_p(self.value))
            self.value = None

    def __del__(self) -> None:
        self.close()


def handles(of: list[Handle | None]) -> Any:
    """An array of them for C."""
    return (c_void_p * max(len(of), 1))(*[each.value if each else None for each in of])


__all__ = [
    "Callbacks", "FOLDER", "Handle", "OnLog", "OnProgress", "OnStep", "Results", "Step", "c_double", "c_float", "c_int64", "c_uint8",
    "check", "dumped", "handles", "library", "parsed", "text", "version",
]
