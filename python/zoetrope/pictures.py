"""Pictures and videos to files and back: what requests name by path, and export_to_video."""

from __future__ import annotations

import ctypes
import os
import pathlib
from typing import Any, Callable, Sequence

from . import _library
from .errors import InvalidArgument
from .tensors import Tensor, as_tensor

__all__ = ["as_files", "export_to_video"]


def _as_bytes(pictures: Any, grey_rank: int) -> Any:
    """Arrays of numpy and torch as dense uint8 with three colours: floats are of 0 to 1, and one extent less is grey."""
    if type(pictures).__module__.partition(".")[0] not in ("numpy", "torch"):
        return pictures
    import numpy

    values = numpy.asarray(pictures)
    if values.dtype.kind == "f":
        values = numpy.rint(numpy.clip(values.astype(numpy.float32), 0, 1) * 255).astype(numpy.uint8)
    if values.ndim == grey_rank:
        values = values[..., None].repeat(3, -1)
    return numpy.ascontiguousarray(values)


def _bytes_of(where: str, picture: Any) -> tuple[int, int, bytes]:
    """Height, width and 8-bit RGB of a PIL image, or of an array [height, width, 3] or [height, width] (uint8, or floats of 0 to 1)."""
    if hasattr(picture, "convert") and hasattr(picture, "tobytes"):  # PIL
        rgb = picture.convert("RGB")
        return rgb.height, rgb.width, rgb.tobytes()
    tensor = as_tensor(_as_bytes(picture, 2))
    if len(tensor.shape) != 3 or tensor.shape[2] != 3 or tensor.dtype != "u8":
        raise InvalidArgument(f"[{where}] got {tensor.dtype}{list(tensor.shape)}, expected a picture of [height, width, 3].")
    return tensor.shape[0], tensor.shape[1], bytes(tensor.bytes())


def _frames_of(where: str, frames: Any) -> tuple[tuple[int, int, int], bytes | memoryview, object]:
    """(frames, height, width), their bytes, and what keeps these."""
    if isinstance(frames, Tensor) or hasattr(frames, "shape"):
        tensor = as_tensor(_as_bytes(frames, 3))
        if len(tensor.shape) != 4 or tensor.shape[3] != 3 or tensor.dtype != "u8":
            raise InvalidArgument(f"[{where}] got {tensor.dtype}{list(tensor.shape)}, expected frames of [frames, height, width, 3].")
        return (tensor.shape[0], tensor.shape[1], tensor.shape[2]), tensor.bytes(), tensor
    pictures = [_bytes_of(where, each) for each in frames]
    if not pictures:
        raise InvalidArgument(f"[{where}] got no frame, expected one or more.")
    height, width, _ = pictures[0]
    for i, each in enumerate(pictures):
        if each[:2] != (height, width):
            raise InvalidArgument(f"[{where}] frame {i} has {each[1]}x{each[0]}, expected {width}x{height} as the first.")
    return (len(pictures), height, width), b"".join(each[2] for each in pictures), None


def _write(path: str, where: str, frames: Any, fps: float, crf: int) -> None:
    (count, height, width), data, keep = _frames_of(where, frames)
    address = keep.address if isinstance(keep, Tensor) else ctypes.cast(ctypes.c_char_p(bytes(data)), ctypes.c_void_p)
    _library.check(_library.library.zoe_write_video(os.fsencode(path), address, count, height, width, fps, crf))


def as_files(name: str, value: Any, place: Callable[[], str]) -> str | list[str]:
    """What a field of files means, as paths: pictures are written into the folder `place` names, as PNG, which loses nothing."""
    folder = pathlib.Path(place())
    number = len(list(folder.iterdir()))
    if name in ("video", "mask") and _is_video(name, value):
        path = str(folder / f"{name}-{number}") + os.sep
        pathlib.Path(path).mkdir()
        _write(path, name, value, 16.0, -1)
        return path
    if isinstance(value, (list, tuple)):
        return [each if isinstance(each, str) else os.fspath(each) if isinstance(each, os.PathLike) else _picture(name, each, folder, number + i)
                for i, each in enumerate(value)]
    return _picture(name, value, folder, number)


def _is_video(name: str, value: Any) -> bool:
    """Of frames; those of a mask may be grey."""
    rank = len(getattr(value, "shape", ()))
    return isinstance(value, (list, tuple)) or rank == 4 or (rank == 3 and value.shape[2] != 3 and name.startswith("mask"))


def _picture(name: str, value: Any, folder: pathlib.Path, number: int) -> str:
    height, width, data = _bytes_of(name, value)
    path = str(folder / f"{name}-{number}.png")
    _library.check(_library.library.zoe_write_video(os.fsencode(path), data, 1, height, width, 16.0, -1))
    return path


def export_to_video(video_frames: Any, output_video_path: str | os.PathLike[str], fps: float = 16, *, crf: int | None = None) -> str:
    """Writes the frames of one video as the file that the suffix names (.mp4 .mov .mkv .webm .gif .png, or a folder of pictures).

    Args:
        video_frames: [frames, height, width, 3] as 8 bits or as floats of 0 to 1, or a list of PIL images.
        fps: frames a second.
        crf: quality of .mp4, .mov, .mkv (0 to 51) and .webm (0 to 63), 0 best; not said: the format's.

    Returns:
        The path. It appears complete, or not at all.
    """
    path = os.fspath(output_video_path)
    _write(path, "video_frames", video_frames, float(fps), -1 if crf is None else int(crf))
    return path
