#!/usr/bin/env python3
"""Time the same parts with --compile on and off, alternating in one run: the table of the README.

    python bench/compare_compile.py [PART...] [--platform cpu] [--dtype f32|bf16] [--rounds 3] [--zoe build/zoe]

PART: toy-forward toy-vae 1.3b-512 1.3b-2550 vae-full (default: the first three). Both runs of a part give the same numbers on
`cpu`, bit for bit; `zoe verify` shows that.
"""
import argparse
import json
import statistics
import subprocess
import sys

from compare_speed import OURS, ROOT

NAMES = {
    "toy-forward": "toy forward, 128x128x33",
    "toy-vae": "toy VAE decode, 128x128x33",
    "1.3b-512": "1.3B-size forward, 512 tokens",
    "1.3b-2550": "1.3B-size forward, 2,550 tokens",
    "vae-full": "full-size VAE decode, 256x256x17",
}


def run_part(zoe, part, platform, dtype, *more):
    command = [zoe, "bench", *part, "--platform", platform, "--dtype", dtype, *more]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["toy-forward", "toy-vae", "1.3b-512"], metavar="PART", help=", ".join(OURS))
    parser.add_argument("--platform", default="cpu")
    parser.add_argument("--dtype", default="f32", choices=["f32", "bf16"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--zoe", default=str(ROOT / "build/zoe"))
    args = parser.parse_args()
    for part in args.parts:
        if part not in OURS:
            parser.error(f"unknown part {part}: expected {', '.join(OURS)}")
    print(f"| {args.platform}, {args.dtype} | --compile off, ms (min to max) | on, ms (min to max) | times faster |\n|---|---|---|---|")
    for part in args.parts:
        runs = {"off": [], "on": []}
        for _ in range(args.rounds):
            for compile_ in runs:
                runs[compile_].append(run_part(args.zoe, OURS[part], args.platform, args.dtype, "--compile", compile_))
        median = {c: statistics.median(run["median_s"] for run in runs[c]) * 1e3 for c in runs}
        spread = {c: f"{min(r['min_s'] for r in runs[c]) * 1e3:.1f} to {max(r['max_s'] for r in runs[c]) * 1e3:.1f}" for c in runs}
        print(f"| {NAMES[part]} | {median['off']:.1f} ({spread['off']}) | {median['on']:.1f} ({spread['on']}) | "
              f"**{median['off'] / median['on']:.2f}** |", flush=True)


if __name__ == "__main__":
    main()
