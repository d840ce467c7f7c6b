"""Exceptions, one for each kind of failure. The text is one line: where, what, got, expected, what to do."""

from __future__ import annotations

__all__ = [
    "ZoetropeError", "InvalidArgument", "Unsupported", "OutOfMemory", "FileFailure", "CompileFailure", "DeviceFailure", "Cancelled",
    "InternalError", "of_kind",
]


class ZoetropeError(Exception):
    """What all others are. ``kind`` is the word that the command's exit codes and the server's answers follow from."""

    kind = "error"


class InvalidArgument(ZoetropeError, ValueError):
    """The request or a file makes no sense."""

    kind = "invalid_argument"


class Unsupported(ZoetropeError, NotImplementedError):
    """It makes sense, but this build or device cannot do it."""

    kind = "unsupported"


class OutOfMemory(ZoetropeError, MemoryError):
    """It does not fit; the text says what it needs, what is free, and what to lower."""

    kind = "out_of_memory"


class FileFailure(ZoetropeError, OSError):
    """Reading or writing failed."""

    kind = "io"


class CompileFailure(ZoetropeError, RuntimeError):
    """A generated kernel did not build."""

    kind = "compile"


class DeviceFailure(ZoetropeError, RuntimeError):
    """A platform's library reported a failure."""

    kind = "device"


class Cancelled(ZoetropeError):
    """The caller asked to stop."""

    kind = "cancelled"


class InternalError(ZoetropeError, RuntimeError):
    """A bug of Zoetrope's."""

    kind = "internal"


_BY_KIND: dict[str, type[ZoetropeError]] = {
    each.kind: each
    for each in (InvalidArgument, Unsupported, OutOfMemory, FileFailure, CompileFailure, DeviceFailure, Cancelled, InternalError)
}


def of_kind(kind: str, text: str) -> ZoetropeError:
    """The exception for a kind; an unknown one is InternalError."""
    return _BY_KIND.get(kind, InternalError)(text)
