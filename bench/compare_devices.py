#!/usr/bin/env python3
"""Time a request on several GPUs of a host beside one of them, and Diffusers' Ulysses on the same, in one run.

    python bench/compare_devices.py [--zoe build/zoe] [--platform cuda:0,1] [--height 480 --width 832 --num-frames 81] [--steps 4]
                                    [--runs 3] [--no-peer]

Ours is `zoe bench devices` of 14B size, random weights, bf16, shared in each way. The peer is one forward of WanTransformer3DModel of
that size with torch.compile per block and cuDNN's attention, on one device and on all of them (ContextParallelConfig, a process a
device, NCCL); needs torch and diffusers. Ends with a Markdown table; exit code 1 if a target is missed.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Times of one device: guidance on two, shared tokens of one text on two at 832x480 and at 1280x720, the decoder's tiles there.
TARGETS = {"guidance": 1.96, "sequence": {480: 1.88, 720: 1.92}, "decode": {720: 1.75}}


def ours(args):
    command = [args.zoe, "bench", "devices", "-m", args.model, "--platform", args.platform, "--height", str(args.height), "--width",
               str(args.width), "--num-frames", str(args.num_frames), "--num-inference-steps", str(args.steps)]
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(json.loads(line))
    if process.returncode != 0:
        sys.exit(process.returncode)
    return lines


def peer_process(rank, count, args, place):
    """One of `count` processes; the first writes milliseconds to `place`."""
    import torch
    from compare_gpu import SIZES, random_model
    from diffusers import ContextParallelConfig, WanTransformer3DModel

    torch.cuda.set_device(rank)
    if count > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29511", NCCL_NVLS_ENABLE="0")  # NVLink multicast is not everywhere
        torch.distributed.init_process_group("nccl", rank=rank, world_size=count)
    with torch.no_grad():
        model = random_model(lambda: WanTransformer3DModel(
            attention_head_dim=128, text_dim=4096, freq_dim=256, cross_attn_norm=True, qk_norm="rms_norm_across_heads",
            patch_size=(1, 2, 2), rope_max_seq_len=1024, **SIZES["14b"]))
        for name, parameter in model.named_parameters():  # as WanPipeline loads them
            if "scale_shift_table" in name or "time_embedder" in name or "norm2" in name:
                parameter.data = parameter.data.float()
        model.set_attention_backend("_native_cudnn")
        if count > 1:
            model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=count))
        model.compile_repeated_blocks(fullgraph=count == 1)
        size = (args.num_frames - 1) // 4 + 1, args.height // 8, args.width // 8
        latents = torch.randn(1, 16, *size, device="cuda", dtype=torch.bfloat16)
        text = torch.randn(1, 512, 4096, device="cuda", dtype=torch.bfloat16)
        timestep = torch.tensor([500], device="cuda")
        milliseconds = []
        for _ in range(args.runs + 2):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            model(latents, timestep, text, return_dict=False)
            end.record()
            end.synchronize()
            milliseconds.append(begin.elapsed_time(end))
    if rank == 0:
        Path(place).write_text(json.dumps(milliseconds[2:]))
    if count > 1:
        torch.distributed.destroy_process_group()


def peer(count, args):
    import torch.multiprocessing

    with tempfile.TemporaryDirectory() as folder:
        place = os.path.join(folder, "milliseconds")
        torch.multiprocessing.spawn(peer_process, (count, args, place), nprocs=count)
        return statistics.median(json.loads(Path(place).read_text())) / 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoe", default=str(ROOT / "build/zoe"))
    parser.add_argument("--model", default="random:wan2.1-t2v-14b")
    parser.add_argument("--platform", default="cuda:0,1")
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=832)
    parser.add_argument("--num-frames", type=int, default=81)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--no-peer", action="store_true")
    args = parser.parse_args()

    lines = ours(args)
    missed = []
    print("\n| | devices | step, s | of one | decode, s | of one | bits of one |\n|---|---|---|---|---|---|---|")
    for line in lines:
        if "step_s" not in line:
            continue
        text = "guided" if line["guided"] else "one text"
        print(f"| {text}, {line['parallel']} | {line['devices']} | {line['step_s']:.3f} | {line['step_of_one']:.3f} "
              f"| {line['decode_s']:.3f} | {line['decode_of_one']:.3f} | {'the same' if line['same_bits'] else line['relative_rms']} |")
        if line["devices"] != 2:
            continue
        asked = {"guidance": TARGETS["guidance"] if line["guided"] else None,
                 "sequence": None if line["guided"] else TARGETS["sequence"].get(args.height)}.get(line["parallel"])
        if asked and line["step_of_one"] < asked:
            missed.append(f"{text} by {line['parallel']}: {line['step_of_one']:.3f} of one, asked {asked}")
        asked = TARGETS["decode"].get(args.height)
        if asked and line["decode_of_one"] < asked:
            missed.append(f"decode: {line['decode_of_one']:.3f} of one, asked {asked}")
    for line in lines:
        if "step_exchanges_s" in line:
            print(f"\nA step of one text: exchanges {line['step_exchanges_s'] * 1e3:.1f} ms, of which {line['step_exposed_s'] * 1e3:.1f} "
                  f"were waited for; attention {line['step_attention_s']:.3f} s, products {line['step_linear_s']:.3f}, chains "
                  f"{line['step_fused_s']:.3f}.")
    if not args.no_peer:
        devices = len(args.platform.split(","))
        alone, together = peer(1, args), peer(devices, args)
        print(f"\nDiffusers, a forward: {alone:.3f} s on one device, {together:.3f} s by Ulysses on {devices}, {alone / together:.3f} of "
              "one.")
        own = min(line["step_s"] for line in lines if line.get("parallel") == "sequence" and line.get("guided") is False)
        print(f"Ours on {devices}: {own:.3f} s, {together / own:.3f} times as fast.")
    for line in missed:
        print("missed:", line)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
