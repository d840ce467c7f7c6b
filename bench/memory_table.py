#!/usr/bin/env python3
"""What `--offload auto` chooses for the published members on cards of several sizes: the table of docs/memory.md.

    python3 bench/memory_table.py build/zoe            prints the table
    python3 bench/memory_table.py build/zoe --write    puts it into docs/memory.md, between its two marks

Each cell is a `zoe plan` on the platform `null` with that limit, which compiles all plans and runs nothing. A size is the member's
own (832x480x81 and so on); an image is made up. What libraries want as workspaces and what they keep is not in it. Seconds a step are
those of the plan's model, for a device that does TFLOPS and a bus of GBPS.
"""
import argparse
import concurrent.futures
import json
import pathlib
import struct
import subprocess
import tempfile
import zlib

MEMBERS = ["wan2.1-t2v-1.3b", "wan2.1-t2v-14b", "wan2.1-i2v-14b-480p", "wan2.1-i2v-14b-720p", "wan2.1-flf2v-14b-720p", "wan2.2-t2v-a14b",
           "wan2.2-i2v-a14b", "wan2.2-ti2v-5b"]
KINDS = {"bf16": "", "fp8": ":0:F8_E4M3", "Q4_K": ":0:Q4_K"}
LIMITS = [4, 6, 8, 12, 16, 24]
TFLOPS, GBPS = 100, 25
BEGIN, END = "<!-- table: bench/memory_table.py -->", "<!-- end of the table -->"


def write_png(path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(3 * 832) for _ in range(480))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 832, 480, 8, 2, 0, 0, 0)) +
                     chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def plan(zoe, member, kind, limit, image):
    arguments = [zoe, "plan", f"random:{member}{KINDS[kind]}", "--platform", "null", "--dtype", "bf16", "--memory-limit", f"{limit}GiB",
                 "--host-memory-limit", "64GiB", "--device-tflops", str(TFLOPS), "--bus-gbps", str(GBPS), "--json"]
    if "i2v" in member or "flf2v" in member:
        arguments += ["--image", image]
    if "flf2v" in member:
        arguments += ["--last-image", image]
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode not in (0, 3) or not done.stdout:
        raise SystemExit(f"{' '.join(arguments)}: {done.stderr}")
    return json.loads(done.stdout)


def cell(told):
    gib = told["memory_bytes"]["planned"] / 2**30
    if not told["fits"]:
        return f"no: {gib:.1f}"
    text = told["offload"]
    if text == "blocks":
        stages = [stage for stage in told["stages"] if stage["phase"] == "denoise" and stage["streamed"]]
        text = f"{max(s['coming_blocks'] for s in stages)} of {max(s['blocks'] for s in stages)} blocks"
    if told["guidance_batch_size"] == 1:
        text += ", texts apart"
    if told["token_pieces"] > 1:
        text += f", {told['token_pieces']} pieces"
    if told["vae_tiles"] > 1:
        text += f", {told['vae_tiles']} tiles"
    return f"{text}: {gib:.1f}, {told['step_seconds']:.0f} s"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("zoe")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    lines = ["| member, files | " + " | ".join(f"{limit} GiB" for limit in LIMITS) + " |", "|---" * (len(LIMITS) + 1) + "|"]
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(2) as pool:
        image = pathlib.Path(folder) / "image.png"
        write_png(image)
        for member in MEMBERS:
            for kind in KINDS:
                told = pool.map(lambda limit: plan(options.zoe, member, kind, limit, image), LIMITS)
                lines.append(f"| {member}, {kind} | " + " | ".join(cell(each) for each in told) + " |")
                print(lines[-1], flush=True)
    if not options.write:
        return
    page = pathlib.Path(__file__).resolve().parent.parent / "docs" / "memory.md"
    before, rest = page.read_text().split(BEGIN)
    page.write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n" + END + rest.split(END)[1])


main()
