#!/usr/bin/env python3
"""Time Zoetrope beside Diffusers on this machine, in one run, alternating: the figures of docs/performance.md.

    python bench/compare_speed.py [WHAT...] [--rounds 1] [--dtype f32|bf16] [--threads 2] [--zoe build/zoe]

WHAT: toy toy-i2v toy-forward toy-vae 1.3b-512 1.3b-2550 vae-full vae22-full (default: all). In every round each side is a fresh
process that warms up once and takes the median of several runs; with several rounds the sides alternate and the ratio is that of
the medians, with the extremes of the single runs. `toy` and `toy-i2v` (from a picture) give Diffusers its best case (loaded, warm,
no file), and Zoetrope its worst: a whole process from start to the written mp4.
"""
import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOY_SIZE = ["--size", "toy", "--width", "128", "--height", "128", "--num-frames", "33"]
# Arguments of `zoe generate` for the whole videos, of `zoe bench` for the parts. The toy's prompt has 12 tokens: its other 500 rows
# are one key. At full size every row is its own key.
OURS = {
    "toy": [],
    "toy-i2v": ["--model-path", str(ROOT / "models/toy-wan-i2v"), "--image", str(ROOT / "models/toy-wan-i2v/circle.png"), "--width", "128",
                "--height", "128"],
    "toy-forward": ["transformer", *TOY_SIZE, "--text-tokens", "16", "--repeat", "20"],
    "toy-vae": ["vae-decode", *TOY_SIZE, "--repeat", "5"],
    "1.3b-512": ["transformer", "--width", "256", "--height", "256", "--num-frames", "5", "--text-tokens", "512"],
    "1.3b-2550": ["transformer", "--width", "480", "--height", "272", "--num-frames", "17", "--text-tokens", "512", "--repeat", "2"],
    "vae-full": ["vae-decode", "--width", "256", "--height", "256", "--num-frames", "17", "--repeat", "2"],
    "vae22-full": ["vae-decode", "--size", "5b", "--width", "256", "--height", "256", "--num-frames", "17", "--repeat", "1"],
}
THEIRS = {"1.3b-512": ["1.3b-forward", "--tokens", "512"], "1.3b-2550": ["1.3b-forward", "--tokens", "2550", "--runs", "2"]}


def last_json(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def ours(what, args):
    common = ["--platform", "cpu", "--dtype", args.dtype, "--threads", str(args.threads)]
    if what not in ("toy", "toy-i2v"):
        line = last_json([str(args.zoe), "bench", *OURS[what], *common])
        return line["median_s"], line["min_s"], line["max_s"], line["peak_mib"]
    seconds, peak = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(3):
            start = time.perf_counter()
            done = subprocess.run([str(args.zoe), "generate", "--prompt", "a red circle moving right on a white background", *OURS[what],
                                   *common, "-o", f"{folder}/out.mp4"], check=True, capture_output=True, text=True)
            seconds.append(time.perf_counter() - start)
            peak = float(done.stdout.split("peak memory: ")[1].split()[0])
    return statistics.median(seconds), min(seconds), max(seconds), peak


def theirs(what, args):
    line = last_json([sys.executable, str(ROOT / "bench/diffusers_peer.py"), "--what", *THEIRS.get(what, [what]), "--dtype", args.dtype,
                      "--threads", str(args.threads)])
    return line["median"], line["min"], line["max"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=[], choices=[*OURS, []], help="default: all")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--dtype", default="f32", choices=["f32", "bf16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--zoe", type=Path, default=ROOT / "build/zoe")
    args = parser.parse_args()
    model = next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    flags = next(line for line in open("/proc/cpuinfo") if line.startswith("flags"))
    kind = "AVX-512 bf16" if "avx512_bf16" in flags else "AVX-512" if "avx512f" in flags else "AVX2"
    print(f"{model}, {kind}, {args.threads} threads, {args.dtype}, {args.rounds} round(s)")
    print("| what | Diffusers, s (min to max) | Zoetrope, s (min to max) | times faster | Zoetrope's peak, MiB |\n|---|---|---|---|---|")
    for what in args.what or OURS:
        a, b = [], []
        for _ in range(args.rounds):
            b.append(theirs(what, args))
            a.append(ours(what, args))
        mine, peer = statistics.median(x[0] for x in a), statistics.median(x[0] for x in b)
        print(f"| {what} | {peer:.3f} ({min(x[1] for x in b):.3f} to {max(x[2] for x in b):.3f}) | {mine:.3f} ({min(x[1] for x in a):.3f} to "
              f"{max(x[2] for x in a):.3f}) | **{peer / mine:.2f}** | {max(x[3] for x in a):.0f} |", flush=True)


if __name__ == "__main__":
    main()
