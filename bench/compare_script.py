#!/usr/bin/env python3
"""One script, its import changed: text to video with a LoRA and a callback through Diffusers and through the package, in f32.

    PYTHONPATH=python ZOETROPE_LIBRARY=build/libzoetrope.so python bench/compare_script.py [--min-psnr 60]

Needs torch, diffusers, transformers and peft. The LoRA is made up: rank 8, on all projections of the toy's blocks. Prints the PSNR
of the 8-bit frames, and what the LoRA changed, so that its absence would be seen; exit code 1 below the bar.
"""
import argparse
import math
import sys
import tempfile
from pathlib import Path

import numpy as np
import reference
import torch
from safetensors.torch import load_file, save_file

SCRIPT = '''
import torch
from {package} import WanPipeline

pipe = WanPipeline.from_pretrained(model, torch_dtype=torch.float32).to("cpu")
if lora:
    pipe.load_lora_weights(lora, weight_name="style.safetensors", adapter_name="style")
    pipe.set_adapters(["style"], adapter_weights=[0.8])

def on_step(pipe, step, timestep, tensors):
    steps.append((step, float(tensors["latents"].std())))
    return tensors

frames = pipe(
    prompt="a yellow star bouncing on a navy background", negative_prompt="a red circle", height=96, width=96, num_frames=17,
    num_inference_steps=6, guidance_scale=4.0, generator=torch.Generator("cpu").manual_seed(7), callback_on_step_end=on_step,
    callback_on_step_end_tensor_inputs=["latents"],
).frames[0]
'''


def made_by(package, lora):
    scope = {"model": str(reference.TOY), "lora": lora, "steps": []}
    exec(SCRIPT.format(package=package), scope)
    return np.rint(np.asarray(scope["frames"]) * 255), scope["steps"]


def write_lora(folder):
    generator = torch.Generator().manual_seed(1)
    lora = {}
    for shard in sorted((reference.TOY / "transformer").glob("*.safetensors")):
        for name, weight in load_file(shard).items():
            if name.startswith("blocks.") and name.endswith(".weight") and weight.ndim == 2 and "norm" not in name:
                rows, columns = weight.shape
                layer = f"transformer.{name.removesuffix('.weight')}"
                lora[f"{layer}.lora_A.weight"] = torch.randn(8, columns, generator=generator) * 0.02
                lora[f"{layer}.lora_B.weight"] = torch.randn(rows, 8, generator=generator) * 0.05
    save_file(lora, folder / "style.safetensors")


def psnr(a, b):
    error = np.mean((a - b) ** 2)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--min-psnr", type=float, default=60.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_lora(Path(folder))
        theirs, their_steps = made_by("diffusers", folder)
        ours, our_steps = made_by("zoetrope", folder)
        without, _ = made_by("zoetrope", None)
    apart = psnr(ours, theirs)
    print(f"{apart:.1f} dB between the two; {psnr(ours, without):.1f} dB from the video without the LoRA; steps {their_steps} and {our_steps}")
    same_steps = len(our_steps) == len(their_steps) and all(abs(a[1] - b[1]) < 1e-2 for a, b in zip(our_steps, their_steps))
    return 0 if apart >= arguments.min_psnr and psnr(ours, without) < 40 and same_steps else 1


if __name__ == "__main__":
    sys.exit(main())
