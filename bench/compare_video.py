#!/usr/bin/env python3
"""The same seed must give the same video: compare the frames of `zoe generate` with those of Diffusers' WanPipeline.

    python bench/compare_video.py [NAME...] [--zoe build/zoe] [--min-psnr 60] [--threads N] [--keep DIR]

Both sides run in f32 on the CPU and are compared as 8-bit frames, by PSNR over all frames of a video. Prints one line a
case and the worst; exit code 1 when one is below the bar. With --keep both sides' frames stay in DIR to be looked at.
"""
import argparse
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import reference
import numpy as np
import torch
from PIL import Image


def case(name, prompt, size, num_frames, num_inference_steps, guidance_scale, seed, **more):
    height, width = size
    return {"name": name, "prompt": prompt, "height": height, "width": width, "num_frames": num_frames,
            "num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale, "seed": seed} | more


CASES = [
    case("default", "a red circle moving right on a white background", (128, 128), 33, 30, 4.0, 0),
    case("other-seed", "a red circle moving right on a white background", (128, 128), 33, 10, 4.0, 31337),
    case("two-bodies", "a yellow star bouncing and a green triangle moving up on a navy background", (128, 128), 33, 12,
         5.0, 7),
    case("negative", "a big blue square growing, beige background", (128, 128), 21, 10, 4.0, 3,
         negative_prompt="a red circle on a black background"),
    case("no-guidance", "A small orange cross shrinking on a black background.", (128, 128), 17, 12, 1.0, 4),
    case("one-frame", "a pink ring standing still on a dark green background", (128, 128), 1, 20, 4.0, 5),
    case("wide", "a cyan triangle moving to the left on a gray background", (96, 176), 21, 8, 3.0, 6),
    case("tall", "on a white background, a purple star spinning", (160, 80), 17, 8, 6.0, 8),
    case("small", "a black square rotating, white background", (64, 48), 17, 6, 4.0, 9),
    case("shift-1", "a white circle orbiting on a navy background", (128, 128), 17, 10, 4.0, 10, flow_shift=1.0),
    case("shift-8", "a green ring going up on a black background", (112, 112), 21, 9, 4.0, 11, flow_shift=8.0),
    case("euler", "a red star bouncing up and down on a beige background", (128, 128), 33, 12, 4.0, 12, scheduler="euler"),
    case("euler-shift-5", "a little yellow ring moving in a circle on a gray background", (96, 96), 21, 8, 2.5, 13,
         scheduler="euler", flow_shift=5.0, negative_prompt="blue, &lt;square&gt;"),
    case("one-step", "a large blue cross falling on a white background", (80, 96), 5, 1, 4.0, 14),
    case("two-steps", "a purple square getting smaller, dark green background", (96, 96), 17, 2, 7.5, 15),
    case("empty-prompt", "", (96, 96), 17, 6, 4.0, 2**32 + 16),
    case("long-prompt", "a cyan circle going right and an orange triangle that does not move on a black background, " * 40,
         (96, 128), 17, 6, 4.0, 17),
    case("unknown-words", "Ein  rötliches Quadrat &amp; a 圆 – “moving right”", (128, 96), 17, 8, 4.0, 18),
]


def zoe_frames(zoe, spec, folder, threads):
    names = ("prompt", "negative_prompt", "height", "width", "num_frames", "num_inference_steps", "guidance_scale",
             "flow_shift", "seed", "scheduler")
    command = [str(zoe), "generate", "--model-path", str(reference.TOY), "--dtype", "f32", "--platform", "cpu", "--quiet"]
    for name in names:
        if name in spec:
            command.append(f"--{name.replace('_', '-')}={spec[name]}")
    if threads:
        command.append(f"--threads={threads}")
    done = subprocess.run(command + ["-o", str(folder)], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{spec['name']}: zoe ended with {done.returncode}: {done.stderr.strip()}\n{' '.join(command)}")
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.glob("*.png"))])


def psnr(a, b):
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ", ".join(c["name"] for c in CASES)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {names}; default: all")
    parser.add_argument("--zoe", type=Path, default=reference.ROOT / "build/zoe")
    parser.add_argument("--min-psnr", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=0, help="of both sides; default: each side's own")
    parser.add_argument("--keep", type=Path)
    args = parser.parse_args()
    unknown = set(args.names) - {c["name"] for c in CASES}
    if unknown:
        parser.error(f"unknown case {', '.join(sorted(unknown))}")
    if args.threads:
        torch.set_num_threads(args.threads)
    pipe, results = reference.load_pipeline(), {}
    with tempfile.TemporaryDirectory() as scratch:
        for spec in (c for c in CASES if not args.names or c["name"] in args.names):
            folder = (args.keep or Path(scratch)) / spec["name"]
            folder.parent.mkdir(parents=True, exist_ok=True)
            start = time.perf_counter()
            ours = zoe_frames(args.zoe.resolve(), spec, folder, args.threads)
            middle = time.perf_counter()
            theirs = reference.frames(pipe, spec)
            end = time.perf_counter()
            if args.keep:
                Image.fromarray(theirs.reshape(-1, spec["width"], 3)).save(args.keep / f"{spec['name']}-diffusers.png")
            if ours.shape != theirs.shape:
                raise SystemExit(f"{spec['name']}: zoe made frames of {ours.shape}, Diffusers of {theirs.shape}")
            if theirs.std() < 1:
                raise SystemExit(f"{spec['name']}: the reference video is flat and proves nothing")
            results[spec["name"]] = psnr(ours, theirs)
            differing = np.mean(ours != theirs)
            largest = np.abs(ours.astype(int) - theirs).max()
            print(f"{spec['name']:14} {results[spec['name']]:7.2f} dB   values that differ {differing:8.4%}, by at most {largest}"
                  f"   zoe {middle - start:5.1f} s (with loading), diffusers {end - middle:5.1f} s", flush=True)
    worst = min(results, key=results.get)
    print(f"worst: {worst}, {results[worst]:.2f} dB over {len(results)} cases; the bar is {args.min_psnr} dB")
    sys.exit(results[worst] < args.min_psnr)


if __name__ == "__main__":
    main()
