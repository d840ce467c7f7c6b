"""Zoetrope: text and pictures to video with the Wan diffusion models.

    from zoetrope import WanPipeline, export_to_video

    pipe = WanPipeline.from_pretrained()                      # the model that comes with the package
    frames = pipe("a yellow star spinning on a navy background", seed=2).frames[0]
    export_to_video(frames, "star.mp4", fps=8)

Names are those of Diffusers, so that a script changes one import. `zoetrope.ops` is the compiler, `zoetrope.client` asks a server.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import (Cancelled, CompileFailure, DeviceFailure, FileFailure, InternalError, InvalidArgument, OutOfMemory, Unsupported,
                         ZoetropeError)
    from .pictures import export_to_video
    from .pipelines import (MemoryPlan, WanImageToVideoPipeline, WanPipeline, WanPipelineOutput, WanVACEPipeline, WanVideoToVideoPipeline,
                            platforms)
    from .tensors import Tensor, as_tensor

    __version__: str

__all__ = [
    "Cancelled", "CompileFailure", "DeviceFailure", "FileFailure", "InternalError", "InvalidArgument", "MemoryPlan", "OutOfMemory",
    "Tensor", "Unsupported", "WanImageToVideoPipeline", "WanPipeline", "WanPipelineOutput", "WanVACEPipeline",
    "WanVideoToVideoPipeline", "ZoetropeError", "as_tensor", "export_to_video", "platforms",
]

# The library is opened when something needs it: the client does not.
_MODULES = {
    "errors": ("Cancelled", "CompileFailure", "DeviceFailure", "FileFailure", "InternalError", "InvalidArgument", "OutOfMemory",
               "Unsupported", "ZoetropeError"),
    "pictures": ("export_to_video",),
    "pipelines": ("MemoryPlan", "WanImageToVideoPipeline", "WanPipeline", "WanPipelineOutput", "WanVACEPipeline", "WanVideoToVideoPipeline",
                  "platforms"),
    "tensors": ("Tensor", "as_tensor"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("._library", __name__).version
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
