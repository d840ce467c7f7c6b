"""Diffusers' WanPipeline as the reference: one case in, its 8-bit frames out.

A case is a dict: prompt, height, width, num_frames, num_inference_steps, guidance_scale, seed, and where they differ from
the model's own: negative_prompt, scheduler ("unipc" or "euler"), flow_shift. Import this before torch.
"""
import os

os.environ["ATEN_CPU_CAPABILITY"] = "avx2"  # torch's random bits depend on the CPU: ours are those of this path

from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, WanPipeline

ROOT = Path(__file__).resolve().parents[1]
TOY = ROOT / "models/toy-wan"


def load_pipeline(model_dir=TOY, dtype=torch.float32):
    pipe = WanPipeline.from_pretrained(model_dir, torch_dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_scheduler(model_dir, case):
    """The model's own scheduler, or the case's kind with the case's shift."""
    own = UniPCMultistepScheduler.from_pretrained(model_dir, subfolder="scheduler")
    shift = case.get("flow_shift", own.config.flow_shift)
    if case.get("scheduler", "unipc") == "euler":
        return FlowMatchEulerDiscreteScheduler(shift=shift)
    return UniPCMultistepScheduler.from_config(own.config, flow_shift=shift)


def frames(pipe, case, model_dir=TOY):
    """Returns uint8 [frames, height, width, 3]: round(255 x) of what the pipeline returns."""
    pipe.scheduler = make_scheduler(model_dir, case)
    names = ("prompt", "negative_prompt", "height", "width", "num_frames", "num_inference_steps", "guidance_scale",
             "guidance_scale_2")
    video = pipe(**{name: case[name] for name in names if name in case}, output_type="np",
                 generator=torch.Generator("cpu").manual_seed(case["seed"])).frames[0]
    return np.rint(255 * video).astype(np.uint8)
