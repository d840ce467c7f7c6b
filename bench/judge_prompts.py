#!/usr/bin/env python3
"""Judge the embedded model as Zoetrope runs it: 64 prompts, each video's colour, motion and background read off its pixels.

    python bench/judge_prompts.py [--zoe build/zoe] [--count 64] [--guidance-scale 3] [--keep DIR] [-- MORE FLAGS OF ZOE]

The prompts and the measuring are those of the model's training (models/toy-wan/training): scenes of one body, drawn from
the same seed. Prints each miss and the three accuracies as one JSON line.
"""
import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "models/toy-wan/training"))
import judge
import toyworld


def draw(count):
    """Scenes first, then their captions, from one generator: the order in which the training code draws them."""
    rng = random.Random(99)
    scenes = [toyworld.draw_scene(rng, two_bodies=0) for _ in range(count)]
    return scenes, [toyworld.caption(scene, rng) for scene in scenes]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoe", type=Path, default=ROOT / "build/zoe")
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--guidance-scale", type=float, default=3.0)
    parser.add_argument("--keep", type=Path, help="keep the frames here")
    parser.add_argument("more", nargs="*", help="further flags of `zoe generate`, after --")
    args = parser.parse_args()
    scenes, prompts = draw(args.count)
    right, misses = {"color": 0, "motion": 0, "background": 0}, []
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "prompts.txt").write_text("\n".join(prompts) + "\n")
        subprocess.run([str(args.zoe.resolve()), "generate", "--model-path", str(ROOT / "models/toy-wan"),
                        "--prompt-file", str(folder / "prompts.txt"), f"--guidance-scale={args.guidance_scale}",
                        "-o", str(folder / "video"), *args.more], check=True, stdout=sys.stderr)
        for i, (scene, prompt) in enumerate(zip(scenes, prompts), start=1):
            frames = sorted((folder / f"video-{i:04}").glob("*.png"))
            video = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in frames]) / 255.0
            seen, body = judge.measure(video), scene.bodies[0]
            for key, want in (("color", body.color), ("motion", body.motion), ("background", scene.background)):
                right[key] += seen[key] == want
                if seen[key] != want:
                    misses.append((prompt, key, want, seen[key]))
    for prompt, key, want, got in misses:
        print(f"miss: {prompt!r}: {key} is {got}, expected {want}")
    print(json.dumps({"videos": len(prompts), "guidance_scale": args.guidance_scale}
                     | {key: round(count / len(prompts), 3) for key, count in right.items()}))


if __name__ == "__main__":
    main()
