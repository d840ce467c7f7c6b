"""Zoetrope: text and pictures to video with the Wan diffusion models.

    from zoetrope import WanPipeline, export_to_video

    pipe = WanPipeline.from_pretrained()                      # the model that comes with the package
    frames = pipe("a yellow star spinning on a navy background", seed=2).frames[0]
    export_to_video(frames, "star.mp4", fps=8)

Names are those of Diffusers, so that a script changes one import. `zoetrope.ops` is the compiler, `zoetrope.client` asks a server.
"""

from __future__ import annotations

from typing import Any

from . import _library
from .errors import (Cancelled, CompileFailure, DeviceFailure, FileFailure, InternalError, InvalidArgument, OutOfMemory, Unsupported,
                     ZoetropeError)
from .pictures import export_to_video
from .pipelines import (MemoryPlan, WanImageToVideoPipeline, WanPipeline, WanPipelineOutput, WanVACEPipeline, WanVideoToVideoPipeline)
from .tensors import Tensor, as_tensor

__version__: str = _library.version

__all__ = [
    "Cancelled", "CompileFailure", "DeviceFailure", "FileFailure", "InternalError", "InvalidArgument", "MemoryPlan", "OutOfMemory",
    "Tensor", "Unsupported", "WanImageToVideoPipeline", "WanPipeline", "WanPipelineOutput", "WanVACEPipeline",
    "WanVideoToVideoPipeline", "ZoetropeError", "as_tensor", "export_to_video", "platforms",
]


def platforms() -> list[dict[str, Any]]:
    """Devices of this machine: of each its name, whether it opens, and the device or why not."""
    all_of_them: list[dict[str, Any]] = _library.parsed("zoe_platforms")
    return all_of_them
