#!/usr/bin/env python3
"""Time Zoetrope beside Diffusers on this GPU, in one run: whole models of the published sizes, random weights, bf16.

    python bench/compare_gpu.py [WHAT...] [--zoe build/zoe] [--runs 5] [--height 480 --width 832 --num-frames 81] [--json FILE]

WHAT: 1.3b 14b i2v-14b 5b (one transformer forward), vae-decode, vae-encode, vae22-decode, vae22-encode, umt5 (512 tokens); default: all
but those of TI2V-5B, which has its own size: give --height 704 --width 1280 --num-frames 121. Needs torch and diffusers (umt5:
transformers). Diffusers' transformer runs with torch.compile per block and cuDNN's attention, its VAE and the text encoder as they
come.
Each side is timed by events on the device after it has warmed up. Ours runs twice, before and after the peer: with an empty cache
of kernels, then with the one it filled; the ratio is the peer's median over the slower of our two. Both sides load the cuDNN that
torch brings. Ends with a Markdown table; exit code 1 if a target is missed.
"""
import argparse
import gc
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

INDUCTOR = tempfile.TemporaryDirectory()
os.environ["TORCHINDUCTOR_CACHE_DIR"] = INDUCTOR.name  # a first call of torch.compile is one with nothing cached

import torch  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
DEVICE, DTYPE = "cuda", torch.bfloat16
SIZES = {"1.3b": dict(num_attention_heads=12, ffn_dim=8960, num_layers=30, in_channels=16, out_channels=16),
         "14b": dict(num_attention_heads=40, ffn_dim=13824, num_layers=40, in_channels=16, out_channels=16),
         "i2v-14b": dict(num_attention_heads=40, ffn_dim=13824, num_layers=40, in_channels=36, out_channels=16),  # as Wan 2.2
         "5b": dict(num_attention_heads=24, ffn_dim=14336, num_layers=30, in_channels=48, out_channels=48)}
VAE_22 = dict(base_dim=160, decoder_base_dim=256, z_dim=48, is_residual=True, in_channels=12, out_channels=12, patch_size=2,
              scale_factor_spatial=16, latents_mean=[0.0] * 48, latents_std=[1.0] * 48)
# zoe's part, and its size where that is not said by the name.
PARTS = {**{size: ("transformer", size) for size in SIZES}, "vae-decode": ("vae-decode", None), "vae-encode": ("vae-encode", None),
         "vae22-decode": ("vae-decode", "5b"), "vae22-encode": ("vae-encode", "5b"), "umt5": ("text-encoder", None)}
# What a row must reach: times faster than the peer, or milliseconds of our own.
RATIOS = {"1.3b": 1.08, "14b": 1.05, "i2v-14b": 1.19, "5b": 1.2, "vae-encode": 1.5, "vae22-decode": 1.9, "vae22-encode": 2.6}
MOST_MS = {"vae-decode": 1000.0, "umt5": 25.0}
MOST_BEYOND_WEIGHTS_MIB = {"vae-decode": 4096.0, "vae22-decode": 8192.0, "vae22-encode": 8192.0}
MOST_FIRST_CALL_S = (5.0, 1.0)  # beyond a steady call, with an empty and with a full cache; of the transformers


def random_model(make):
    """A module with its weights drawn on the device."""
    torch.manual_seed(0)
    torch.set_default_dtype(DTYPE)
    with torch.device(DEVICE):
        model = make()
    torch.set_default_dtype(torch.float32)
    return model.eval().requires_grad_(False)


def transformer_forward(size, args):
    from diffusers import WanTransformer3DModel

    model = random_model(lambda: WanTransformer3DModel(
        attention_head_dim=128, text_dim=4096, freq_dim=256, cross_attn_norm=True,
        qk_norm="rms_norm_across_heads", patch_size=(1, 2, 2), rope_max_seq_len=1024, **SIZES[size]))
    for name, parameter in model.named_parameters():  # as WanPipeline loads them
        if "scale_shift_table" in name or "time_embedder" in name or "norm2" in name:
            parameter.data = parameter.data.float()
    frames = (args.num_frames - 1) // 4 + 1
    scale, channels = 16 if size == "5b" else 8, SIZES[size]["in_channels"]
    latents = torch.randn(1, channels, frames, args.height // scale, args.width // scale, device=DEVICE, dtype=DTYPE)
    text = torch.randn(1, 512, 4096, device=DEVICE, dtype=DTYPE)
    timestep = torch.tensor([500], device=DEVICE)
    model.compile_repeated_blocks(fullgraph=True)

    def forward():
        with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION], set_priority=True):
            model(latents, timestep, text, return_dict=False)

    return forward


def vae_call(decode, args, is_22):
    from diffusers import AutoencoderKLWan

    vae = random_model(lambda: AutoencoderKLWan(**(VAE_22 if is_22 else {})))
    if decode:
        scale, channels = (16, 48) if is_22 else (8, 16)
        latents = torch.randn(1, channels, (args.num_frames - 1) // 4 + 1, args.height // scale, args.width // scale, device=DEVICE,
                              dtype=DTYPE)
        return lambda: vae.decode(latents, return_dict=False)
    frames = torch.randn(1, 3, args.num_frames, args.height, args.width, device=DEVICE, dtype=DTYPE)
    return lambda: vae.encode(frames, return_dict=False)


def text_encoder_call():
    from transformers import UMT5Config, UMT5EncoderModel

    config = UMT5Config(vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
                        feed_forward_proj="gated-gelu", relative_attention_num_buckets=32, relative_attention_max_distance=128)
    model = random_model(lambda: UMT5EncoderModel(config))
    tokens = torch.randint(1, 256384, (1, 512), device=DEVICE)
    mask = torch.ones_like(tokens)
    return lambda: model(tokens, attention_mask=mask)


def peer_call(what, args):
    if what in SIZES:
        return transformer_forward(what, args)
    return text_encoder_call() if what == "umt5" else vae_call(what.endswith("decode"), args, what.startswith("vae22"))


@torch.no_grad()
def time_peer(what, args):
    """Median and extremes in milliseconds, the first call's seconds beyond it, and the peak memory in GiB."""
    call = peer_call(what, args)
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    first = time.perf_counter() - start
    call()
    torch.cuda.reset_peak_memory_stats()
    milliseconds = []
    for _ in range(args.runs):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        milliseconds.append(begin.elapsed_time(end))
    middle = statistics.median(milliseconds)
    result = {"median": middle, "min": min(milliseconds), "max": max(milliseconds), "first_s": first - middle / 1e3,
              "peak_gib": torch.cuda.max_memory_allocated() / 2**30}
    del call
    torch._dynamo.reset()
    gc.collect()
    torch.cuda.empty_cache()
    return result


def folder_of_library(name):
    """Where this process loaded a library from."""
    for line in open("/proc/self/maps"):
        path = line.split()[-1]
        if os.path.basename(path).startswith(name):
            return os.path.dirname(path)
    return None


def time_ours(what, args, cache, floors):
    part, size = PARTS[what]
    command = [str(args.zoe), "bench", part, "--platform", args.platform, "--dtype", "bf16", "--cache-dir", cache, "--repeat",
               str(args.runs), "--height", str(args.height), "--width", str(args.width), "--num-frames", str(args.num_frames),
               "--text-tokens", "512"]
    command += ["--size", size] if size else []
    command += ["--floors"] if floors else []
    if folder := folder_of_library("libcudnn"):
        command += ["--cuda-path", folder]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    lines = done.stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith('{"what"'))
    return json.loads(lines[at]), lines[at + 1:]


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def compare(what, args):
    """One row of the table and what it misses."""
    with tempfile.TemporaryDirectory() as cache:
        cold, _ = time_ours(what, args, cache, floors=False)
        try:
            peer = time_peer(what, args)
        except ImportError as error:
            print(f"{what}: the peer is not here: {error}", flush=True)
            peer = None
        warm, floors = time_ours(what, args, cache, floors=True)
    ours = max(cold, warm, key=lambda line: line["median_s"])
    mine = ours["median_s"] * 1e3
    row = {"what": what, "ours": warm, "ours_cold": cold, "peer": peer, "ratio": peer and peer["median"] / mine}
    missed = []
    if what in RATIOS and peer and row["ratio"] < RATIOS[what]:
        missed.append(f"{what}: {row['ratio']:.3f} times faster, {RATIOS[what]} asked")
    if what in MOST_MS and mine > MOST_MS[what]:
        missed.append(f"{what}: {mine:.1f} ms, at most {MOST_MS[what]:.0f} asked")
    if what in MOST_BEYOND_WEIGHTS_MIB and ours["beyond_weights_mib"] > MOST_BEYOND_WEIGHTS_MIB[what]:
        missed.append(f"{what}: {ours['beyond_weights_mib']:.0f} MiB beyond the weights, {MOST_BEYOND_WEIGHTS_MIB[what]:.0f} asked")
    if what in SIZES:
        for line, most, cache in zip((cold, warm), MOST_FIRST_CALL_S, ("an empty", "a full")):
            if line["first_less_steady_s"] > most:
                missed.append(f"{what}: first call {line['first_less_steady_s']:.2f} s longer with {cache} cache, {most} asked")
    print(f"\n{what}, ours: {json.dumps(warm.get('libraries', {}))}")
    print("\n".join(floors), flush=True)
    return row, missed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--zoe", type=Path, default=ROOT / "build/zoe")
    parser.add_argument("--platform", default="cuda")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=832)
    parser.add_argument("--num-frames", type=int, default=81)
    parser.add_argument("--json", type=Path, help="all figures")
    args = parser.parse_args()

    torch.backends.cudnn.version()  # loads it
    print(f"{torch.cuda.get_device_name()}; torch {torch.__version__}, CUDA {torch.version.cuda}, "
          f"cuDNN {torch.backends.cudnn.version()}, "
          + ", ".join(f"{package} {version(package)}" for package in ("triton", "diffusers", "transformers")), flush=True)
    rows, missed = [], []
    for what in args.what or [each for each in PARTS if "5b" not in PARTS[each]]:
        try:
            row, misses = compare(what, args)
        except Exception as error:  # one part that fails does not hide the others
            missed.append(f"{what}: {type(error).__name__}: {error}")
            print(missed[-1], flush=True)
            gc.collect()
            torch.cuda.empty_cache()
            continue
        rows.append(row)
        missed += misses

    print(f"\n| {args.width}x{args.height}x{args.num_frames}, bf16 | Diffusers, ms (min to max) | Zoetrope, ms (min to max) | "
          "times faster | first call beyond a steady one, s: Diffusers; ours, cache empty; full | memory beyond weights, MiB |\n"
          "|---|---|---|---|---|---|")
    for row in rows:
        peer, cold, warm = row["peer"], row["ours_cold"], row["ours"]
        theirs = f"{peer['median']:.1f} ({peer['min']:.1f} to {peer['max']:.1f})" if peer else "not here"
        lows, highs = min(cold["min_s"], warm["min_s"]) * 1e3, max(cold["max_s"], warm["max_s"]) * 1e3
        first = f"{peer['first_s']:.1f}; " if peer else ""
        print(f"| {row['what']} | {theirs} | {max(cold['median_s'], warm['median_s']) * 1e3:.1f} ({lows:.1f} to {highs:.1f}) | "
              + (f"**{row['ratio']:.3f}**" if peer else "")
              + f" | {first}{cold['first_less_steady_s']:.2f}; {warm['first_less_steady_s']:.2f} | "
              f"{warm['beyond_weights_mib']:.0f} |")
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "missed": missed}, indent=1))
    print("\n".join(["", "missed:", *missed]) if missed else "\nall targets are met")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
