#!/usr/bin/env python3
"""Time the same parts with two programs, say of two commits, alternating in one run; exit code 1 if the second is slower.

    python bench/compare_programs.py OLD/zoe NEW/zoe [PART...] [--platform cpu] [--dtype f32|bf16] [--cuda-path FOLDER] [--rounds 7] [--most 1.03]

PART: toy-forward toy-vae 1.3b-512 1.3b-2550 vae-full (default: the first three); of a GPU, in the published sizes at 832x480x81:
1.3b 14b vae-decode vae-encode umt5. In every round each program is a fresh process; a round's figure is the process's own median,
the ratio is that of the medians over rounds, and `--most` is the highest allowed.
"""
import argparse
import statistics
import sys

from compare_compile import NAMES, run_part
from compare_speed import OURS

VIDEO = ["--width", "832", "--height", "480", "--num-frames", "81"]
PARTS = {
    **OURS,
    "1.3b": ["transformer", *VIDEO],
    "14b": ["transformer", "--size", "14b", *VIDEO],
    "vae-decode": ["vae-decode", *VIDEO],
    "vae-encode": ["vae-encode", *VIDEO],
    "umt5": ["text-encoder", "--text-tokens", "512"],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", metavar="OLD/zoe")
    parser.add_argument("new", metavar="NEW/zoe")
    parser.add_argument("parts", nargs="*", default=["toy-forward", "toy-vae", "1.3b-512"], metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--platform", default="cpu")
    parser.add_argument("--dtype", default="f32", choices=["f32", "bf16"])
    parser.add_argument("--cuda-path", help="as of zoe bench")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--most", type=float, default=1.03)
    args = parser.parse_args()
    for part in args.parts:
        if part not in PARTS:
            parser.error(f"unknown part {part}: expected {', '.join(PARTS)}")
    print(f"| {args.platform}, {args.dtype} | old, ms (min to max) | new, ms (min to max) | new / old |\n|---|---|---|---|")
    more = ["--cuda-path", args.cuda_path] if args.cuda_path else []
    slower = False
    for part in args.parts:
        runs = {args.old: [], args.new: []}
        for _ in range(args.rounds):
            for program, done in runs.items():
                done.append(run_part(program, PARTS[part], args.platform, args.dtype, *more)["median_s"] * 1e3)
        old, new = (statistics.median(done) for done in runs.values())
        slower |= new / old > args.most
        text = [f"{statistics.median(done):.2f} ({min(done):.2f} to {max(done):.2f})" for done in runs.values()]
        print(f"| {NAMES.get(part, part)} | {text[0]} | {text[1]} | **{new / old:.3f}** |", flush=True)
    return slower


if __name__ == "__main__":
    sys.exit(main())
