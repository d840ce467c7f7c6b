#!/usr/bin/env python3
"""Judge an embedded model as Zoetrope runs it: each video's colour, motion and background read off its pixels.

    python bench/judge_prompts.py [--model NAME] [--count 64] [--size 128] [--jobs 1] [--keep DIR] [-- FLAGS OF ZOE]
    python bench/judge_prompts.py --count 1024 --jobs 8 --against "--platform cuda --dtype f32" -- --platform cuda --dtype bf16
    python bench/judge_prompts.py --model toy-wan-i2v --style "gathering speed" --against "" -- --lora FILE

Prompts, pictures and measures are those of the models' training (models/*/training). Image to video is judged on pictures that
do not tell the motion, two prompts a picture or --motions, and further on whether the body goes on from where the picture has it,
and on the first frame's PSNR: against the picture, and against the picture through the VAE where Diffusers is installed. With
--style it is measured how far each body's way is from that of the plain drawn clip (0) towards that of the styled one (1).
With --against the same prompts and seeds run with other flags, too (or ran: a file of --save), and the two are compared pair by
pair. Shares have 95% intervals (Wilson's; of a difference, Newcombe's for pairs). Prints each miss and one JSON line a setting.
Needs torch.
"""
import argparse
import json
import math
import multiprocessing
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "models/toy-wan/training"))
sys.path.insert(0, str(ROOT / "models/toy-wan-i2v/training"))
import judge
import scenes as drawing  # of image to video
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
    frames = drawing.draw(drawing.describe(scenes, 1), size, size)[:, :, 0]
    return frames.add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()


def through_vae(pictures):
    """The pictures through the VAE and back, 0..1; None without Diffusers."""
    try:
        from train_i2v import Parts
        parts = Parts("cuda" if torch.cuda.is_available() else "cpu")
    except ImportError:
        return None
    clips = [torch.tensor(p).permute(2, 0, 1)[None, :, None].to(parts.device) / 127.5 - 1 for p in pictures]
    return [parts.decode(parts.encode(clip))[0, :, 0].permute(1, 2, 0).cpu().numpy() for clip in clips]


def tracks(scene, style):
    """The ways of the plain and of the styled clip's body, off small drawings."""
    clips = [drawing.draw(drawing.describe([scene], style=s), 64, 64)[0] for s in (None, style)]
    return [judge.track(clip.permute(1, 2, 3, 0).numpy() * 0.5 + 0.5) for clip in clips]


def judge_group(job):
    """Runs zoe once for the prompts of one group (one picture) and measures its videos: a dict of figures for each."""
    args, first, group, prompts, picture, kept, folder, flags = job
    place = folder / f"{first:04}"
    place.mkdir(parents=True, exist_ok=True)
    (place / "prompts.txt").write_text("\n".join(prompts) + "\n")
    command = [str(args.zoe.resolve()), "generate", "-q", "--model-path", str(ROOT / "models" / args.model),
               "--prompt-file", str(place / "prompts.txt"), "--size", f"{args.size}x{args.size}", f"--seed={args.seed + first}",
               "-o", str(place / "video")]
    if picture is not None:
        Image.fromarray(picture).save(place / "picture.png")
        command += ["--image", str(place / "picture.png")]
        picture = picture / 255.0
    subprocess.run(command + flags, check=True, stdout=sys.stderr)
    rows = []
    for i, scene in enumerate(group, 1):
        paths = sorted((place / f"video-{i:04}").glob("*.png"))
        video = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths]) / np.float32(255)
        seen = judge.measure(video, *([0.18] if picture is not None else []))  # from the middle there is no more room
        row = {"seen": seen} | {key: bool(seen[key] == of(scene)) for key, of in TRAITS.items()}
        if picture is not None:
            row |= {"goes on": judge.goes_on(video, picture), "first frame, picture": judge.psnr(video[0], picture)}
        if kept is not None:
            row["first frame, picture through the VAE"] = judge.psnr(video[0], kept)
        if args.style:
            row["style"] = judge.towards(judge.track(video), *tracks(scene, args.style))
        rows.append(row)
    if not args.keep:
        shutil.rmtree(place)
    return rows


def judge_setting(args, scenes, prompts, pictures, kept, folder, flags):
    """Right or wrong for each trait of each video; prints figures and what was missed. Seeds go by groups, not by --jobs."""
    each = args.motions if pictures is not None else 16
    jobs = [(args, i, scenes[i:i + each], prompts[i:i + each], None if pictures is None else pictures[i],
             None if kept is None else kept[i // each], folder, flags) for i in range(0, len(prompts), each)]
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("fork")) as pool:
        rows = [row for group in pool.map(judge_group, jobs) for row in group]
    for row, scene, prompt in zip(rows, scenes, prompts):
        for key, of in TRAITS.items():
            if not row[key]:
                print(f"miss: {prompt!r}: {key} is {row['seen'][key]}, expected {of(scene)}")
    figures = {"model": args.model, "size": args.size, "videos": len(prompts), "flags": shlex.join(flags)}
    right = {key: [row[key] for row in rows] for key in (*TRAITS, "goes on") if key in rows[0]}
    for key, values in right.items():
        figures[key] = [round(100 * v, 2) for v in (sum(values) / len(values), *judge.interval(sum(values), len(values)))]
    for key in ("first frame, picture", "first frame, picture through the VAE", "style"):
        values = [row[key] for row in rows if row.get(key) is not None]
        if values:  # the median and the 5th percentile
            figures[key] = [round(float(v), 2) for v in np.percentile(values, (50, 5))]
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
    parser.add_argument("--model", choices=["toy-wan", "toy-wan-i2v", "toy-wan-i2v-experts"], default="toy-wan")
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0, help="of the first video")
    parser.add_argument("--guidance-scale", type=float, default=3.0)
    parser.add_argument("--jobs", type=int, default=1, help="runs of zoe at once")
    parser.add_argument("--motions", type=int, default=2, help="prompts a picture, each with another motion, at most 9")
    parser.add_argument("--style", choices=list(drawing.STYLES), help="of the LoRA in the first setting's flags")
    parser.add_argument("--against", help="flags of a second setting, or a file of --save: compared with the first pair by pair")
    parser.add_argument("--save", type=Path, help="write here what was right of the first setting")
    parser.add_argument("--keep", type=Path, help="keep the frames here")
    parser.add_argument("more", nargs="*", help="further flags of `zoe generate`, after --")
    args = parser.parse_args()
    torch.set_num_threads(1)  # so that processes may fork
    pictures = kept = None
    if args.model == "toy-wan":
        scenes, prompts = draw_scenes(args.count)
    else:
        scenes, prompts = drawing.judged_scenes(args.count, motions=args.motions)
        pictures = draw_pictures(scenes, args.size)
        kept = through_vae(pictures[::args.motions])
    guidance = [f"--guidance-scale={args.guidance_scale}"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or Path(scratch)
        first = judge_setting(args, scenes, prompts, pictures, kept, folder / "first", guidance + args.more)
        if args.save:
            args.save.write_text(json.dumps(first))
        if args.against is None:
            return
        if args.against.endswith(".json"):
            second = json.loads(Path(args.against).read_text())
        else:
            args.style = None
            second = judge_setting(args, scenes, prompts, pictures, kept, folder / "second", guidance + shlex.split(args.against))
        print(json.dumps({"first minus second, points": {key: [round(100 * v, 2) for v in difference(first[key], second[key])]
                                                         for key in first}}))


if __name__ == "__main__":
    main()
