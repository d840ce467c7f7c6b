#!/usr/bin/env python3
"""Time a picture and a prompt to a written mp4 in four steps: Wan2.2-I2V-A14B at its published size, random weights, on this GPU.

    python bench/few_steps.py [--zoe build/zoe] [--folder /dev/shm] [--sizes 832x480 1280x720] [--num-frames 81] [--member wan2.2-i2v-a14b]

Makes files with `zoe convert`: an expert in fp8 (linked twice: both are read, the folder need not hold two), the text encoder and the
VAE in bf16. Then, of each size: two new processes one behind the other (the second finds its kernels cached), with what each stage
took; three videos of one process; and requests of one session, `zoe bench session`, for the condition of a first request and of warm
ones. Lines of JSON; the frames are noise, which x264 takes longest for.
"""
import argparse
import json
import struct
import subprocess
import tempfile
import time
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def say(**line):
    print(json.dumps(line), flush=True)


def write_png(path, width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(v for x in range(width) for v in (x * 255 // width, y * 255 // height, (x ^ y) & 255))
                    for y in range(height))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) +
                     chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b""))


def run(arguments, folder):
    start = time.perf_counter()
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: {done.stderr[-2000:]}")
    return done, time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoe", default=str(ROOT / "build" / "zoe"))
    parser.add_argument("--folder", default="/dev/shm")
    parser.add_argument("--member", default="wan2.2-i2v-a14b")
    parser.add_argument("--platform", default="cuda")
    parser.add_argument("--sizes", nargs="+", default=["832x480", "1280x720"])
    parser.add_argument("--num-frames", type=int, default=81)
    parser.add_argument("--session-member", default="wan2.1-i2v-14b-480p", help="of the session's requests: has CLIP, too")
    parser.add_argument("--no-session", action="store_true")
    options = parser.parse_args()
    member = f"random:{options.member}"
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        files = []
        for part, kind in (("transformer", "fp8_scaled"), ("text_encoder", "bf16"), ("vae", "bf16")):
            path = folder / f"{part}.safetensors"
            _, seconds = run([options.zoe, "convert", member, "-o", str(path), "--part", part, "--type", kind], folder)
            say(made=part, type=kind, mib=round(path.stat().st_size / 2**20), seconds=round(seconds, 1))
            files += ["--" + part.replace("_", "-"), str(path)]
        (folder / "low.safetensors").hardlink_to(folder / "transformer.safetensors")
        files += ["--transformer-2", str(folder / "low.safetensors"), "--tokenizer", str(ROOT / "models" / "toy-wan" / "tokenizer")]
        for size in options.sizes:
            width, height = map(int, size.split("x"))
            picture = folder / f"{size}.png"
            write_png(picture, width, height)
            video = ["--platform", options.platform, "--dtype", "bf16", "--image", str(picture), "--size", size, "--num-frames",
                     str(options.num_frames), "--preset", "lightx2v-4step"]
            for process in ("first", "kernels cached"):
                done, seconds = run([options.zoe, "generate", *files, "-p", "a fox", *video, "--verbose", "--json", "-o", "one.mp4"],
                                    folder)
                told = json.loads(done.stdout.strip().splitlines()[-1])
                say(what="new process", process=process, size=size, process_s=seconds, seconds=told["seconds"], stages=told["stages"],
                    memory_bytes=told["memory_bytes"])
            done, seconds = run([options.zoe, "generate", *files, "-p", "a fox", *video, "--verbose", "-o", "one.mp4"], folder)
            print(done.stdout + done.stderr, flush=True)
            done, seconds = run([options.zoe, "generate", *files, "-p", "one", "-p", "two", "-p", "three", *video, "-o", "n.mp4"], folder)
            print(done.stdout + done.stderr, flush=True)
            if options.no_session:
                continue
            done, _ = run([options.zoe, "bench", "session", "-m", f"random:{options.session_member}:0:F8_E4M3", "--platform", options.platform, "--dtype", "bf16",
                           "--image", str(picture), "--height", str(height), "--width", str(width), "--num-frames",
                           str(options.num_frames), "--guidance-scale", "1", "--num-inference-steps", "3", "--repeat", "2"], folder)
            print(done.stdout, flush=True)


main()
