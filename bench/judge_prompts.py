#!/usr/bin/env python3
"""Judge an embedded model as Zoetrope runs it: each video's colour, motion and background read off its pixels.

    python bench/judge_prompts.py [--model toy-wan|toy-wan-i2v] [--count 64] [--size 128] [--jobs 1] [--keep DIR] [-- FLAGS OF ZOE]
    python bench/judge_prompts.py --count 1024 --jobs 8 --against "--platform cuda --dtype f32" -- --platform cuda --dtype bf16

Prompts, pictures and measures are those of the models' training (models/*/training). Image to video is judged on pictures that
do not tell the motion, two prompts a picture, and further on whether the body goes on from where the picture has it, and on the
first frame's PSNR: against the picture, and against the picture through the VAE where Diffusers is installed.
With --against the same prompts and seeds run with other flags, too, and the two are compared pair by pair. Shares have 95%
intervals (Wilson's; of a difference, Newcombe's for pairs). Prints each miss and one JSON line a setting. Image to video needs torch.
"""
import argparse
import json
import math
import random
import shlex
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "models/toy-wan/training"))
sys.path.insert(0, str(ROOT / "models/toy-wan-i2v/training"))
import judge
import toyworld

TRAITS = {"color": lambda scene: scene.bodies[0].color, "motion": lambda scene: scene.bodies[0].motion,
          "background": lambda scene: scene.background}


def draw_scenes(count):
    """Scenes first, then their captions, from one generator: the order in which the training code draws them."""
    rng = random.Random(99)
    scenes = [toyworld.draw_scene(rng, two_bodies=0) for _ in range(count)]
    return scenes, [toyworld.caption(scene, rng) for scene in scenes]


def draw_pictures(scenes, size):
    """The first frame of each scene, uint8 [N, size, size, 3]."""
    import scenes as drawing
    frames = drawing.draw(drawing.describe(scenes, 1), size, size)[:, :, 0]
    return frames.add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()


def through_vae(pictures):
    """The pictures through the VAE and back, 0..1; None without Diffusers."""
    try:
        from train_i2v import Parts
        import torch
        parts = Parts("cpu")
    except ImportError:
        return None
    both = [parts.decode(parts.encode(torch.tensor(p).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1)) for p in pictures]
    return [b[0, :, 0].permute(1, 2, 0).numpy() for b in both]


def group_videos(args, prompts, pictures, folder, flags):
    """Runs zoe once for each group of prompts, --jobs at a time; yields [T, H, W, 3] in 0..1, in the order of the prompts."""
    each = 2 if pictures is not None else 16  # seeds go by groups, so figures do not depend on --jobs
    groups = [range(i, min(i + each, len(prompts))) for i in range(0, len(prompts), each)]

    def run(group):
        place = folder / f"{group[0]:04}"
        place.mkdir(parents=True, exist_ok=True)
        (place / "prompts.txt").write_text("\n".join(prompts[i] for i in group) + "\n")
        command = [str(args.zoe.resolve()), "generate", "-q", "--model-path", str(ROOT / "models" / args.model),
                   "--prompt-file", str(place / "prompts.txt"), "--size", f"{args.size}x{args.size}", f"--seed={args.seed + group[0]}",
                   "-o", str(place / "video")]
        if pictures is not None:
            Image.fromarray(pictures[group[0]]).save(place / "picture.png")
            command += ["--image", str(place / "picture.png")]
        subprocess.run(command + flags, check=True, stdout=sys.stderr)
        return [np.stack([np.asarray(Image.open(path).convert("RGB")) for path in sorted((place / f"video-{i:04}").glob("*.png"))])
                / 255.0 for i in range(1, len(group) + 1)]

    with ThreadPoolExecutor(args.jobs) as pool:
        for videos in pool.map(run, groups):
            yield from videos


def judge_setting(args, scenes, prompts, pictures, kept, folder, flags):
    """Right or wrong for each trait of each video, and the first frames' PSNR; prints what was missed."""
    right, psnr = {key: [] for key in TRAITS}, {}
    if pictures is not None:
        right["goes on"] = []
    for i, video in enumerate(group_videos(args, prompts, pictures, folder, flags)):
        seen = judge.measure(video, *([0.18] if pictures is not None else []))  # from the middle there is no more room
        for key, of in TRAITS.items():
            right[key].append(seen[key] == of(scenes[i]))
            if not right[key][-1]:
                print(f"miss: {prompts[i]!r}: {key} is {seen[key]}, expected {of(scenes[i])}")
        if pictures is not None:
            picture = pictures[i] / 255.0
            right["goes on"].append(judge.goes_on(video, picture))
            psnr.setdefault("first frame, picture", []).append(judge.psnr(video[0], picture))
            if kept is not None:
                psnr.setdefault("first frame, picture through the VAE", []).append(judge.psnr(video[0], kept[i // 2]))
    figures = {"model": args.model, "size": args.size, "videos": len(prompts), "flags": shlex.join(flags)}
    for key, each in right.items():
        figures[key] = [round(100 * v, 2) for v in (sum(each) / len(each), *judge.interval(sum(each), len(each)))]
    for key, each in psnr.items():
        figures[key] = [round(float(v), 1) for v in np.percentile(each, (50, 5))]
    print(json.dumps(figures), flush=True)
    return right


def difference(first, second):
    """Share of `first` minus that of `second`, right or wrong for the same prompts, with Newcombe's interval for pairs."""
    n = len(first)
    both = sum(a and b for a, b in zip(first, second))
    a, b = sum(first), sum(second)
    (low_a, high_a), (low_b, high_b) = judge.interval(a, n), judge.interval(b, n)
    product = a * (n - a) * b * (n - b)
    phi = (both * (n - a - b + both) - (a - both) * (b - both)) / math.sqrt(product) if product else 0.0
    pa, pb = a / n, b / n

    def width(da, db):
        return math.sqrt(max(0.0, da * da - 2 * phi * da * db + db * db))

    return pa - pb, pa - pb - width(pa - low_a, high_b - pb), pa - pb + width(high_a - pa, pb - low_b)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoe", type=Path, default=ROOT / "build/zoe")
    parser.add_argument("--model", choices=["toy-wan", "toy-wan-i2v"], default="toy-wan")
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0, help="of the first video")
    parser.add_argument("--guidance-scale", type=float, default=3.0)
    parser.add_argument("--jobs", type=int, default=1, help="runs of zoe at once")
    parser.add_argument("--suffix", default="", help="words that follow each prompt, as a LoRA of a style wants")
    parser.add_argument("--against", help="flags of a second setting, compared with the first pair by pair")
    parser.add_argument("--keep", type=Path, help="keep the frames here")
    parser.add_argument("more", nargs="*", help="further flags of `zoe generate`, after --")
    args = parser.parse_args()
    pictures = kept = None
    if args.model == "toy-wan-i2v":
        import scenes as drawing
        scenes, prompts = drawing.judged_scenes(args.count)
        pictures = draw_pictures(scenes, args.size)
        kept = through_vae(pictures[::2])
    else:
        scenes, prompts = draw_scenes(args.count)
    if args.suffix:
        prompts = [prompt.rstrip(".") + " " + args.suffix for prompt in prompts]
    guidance = [f"--guidance-scale={args.guidance_scale}"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or Path(scratch)
        first = judge_setting(args, scenes, prompts, pictures, kept, folder / "first", guidance + args.more)
        if args.against is not None:
            second = judge_setting(args, scenes, prompts, pictures, kept, folder / "second", guidance + shlex.split(args.against))
            print(json.dumps({"first minus second, points": {key: [round(100 * v, 2) for v in difference(first[key], second[key])]
                                                             for key in first}}))


if __name__ == "__main__":
    main()
