#!/usr/bin/env python3
"""Time blocks that come and go beside Diffusers' offload modes, in one run: one forward of a transformer, random or toy weights.

    python bench/compare_offload.py toy [--zoe build/zoe]    on the CPU: Diffusers' groups come from a file (safetensors on the disk)
    python bench/compare_offload.py 14b [--zoe build/zoe] [--size 832x480] [--num-frames 81]    on the GPU, bf16, one text
    python bench/compare_offload.py switch [--steps 4] [--folder /dev/shm]    on the GPU: from one expert to the other of A14B, from files

14b: Diffusers' group offload, a block a group, with a stream of its own for copies and page-locked weights, which is its fastest mode,
and ours, `zoe bench transformer --streamed`, which also times all weights on the device; peaks are those of the device's allocations.
Ours runs before and after the peer. switch: of a whole `zoe generate` from files in --folder, the time that the second expert's
steps wait for its weights: with one expert at a time on the device, and as `auto` chooses. One JSON line a measurement; milliseconds are medians, with the least and the most.
"""
import argparse
import gc
import importlib.metadata
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def say(**line):
    print(json.dumps(line), flush=True)


def ours(options, size, video, pieces_of=(1,)):
    platform = "cpu" if size == "toy" else "cuda"
    arguments = [options.zoe, "bench", "transformer", "--size", size, "--streamed", "--platform", platform, "--dtype",
                 "f32" if size == "toy" else "bf16", "--repeat", str(options.runs), *video]
    for pieces in pieces_of:
        done = subprocess.run([*arguments, "--token-pieces", str(pieces)], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        told = json.loads(done.stdout.strip().splitlines()[-1])
        say(who="zoetrope", pieces=pieces, resident_ms=1e3 * told["resident_s"], streamed_ms=1e3 * told["streamed_s"],
            peak_streamed_mib=told["streamed_weights_mib"] + told["workspace_mib"],
            peak_resident_mib=told["resident_weights_mib"] + told["workspace_mib"])


def timed(call, runs, synchronize):
    call(), synchronize()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call(), synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return {"ms": statistics.median(times), "min_ms": min(times), "max_ms": max(times)}


def resident_mib():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon:")) / 1024


class Watch:
    """The most anonymous memory of this process while it is open."""

    def __enter__(self):
        self.peak, self.ends = resident_mib(), threading.Event()
        self.thread = threading.Thread(target=self.look)
        self.thread.start()
        return self

    def look(self):
        while not self.ends.wait(0.01):
            self.peak = max(self.peak, resident_mib())

    def __exit__(self, *_):
        self.ends.set()
        self.thread.join()


def toy(options):
    import torch
    from diffusers import WanTransformer3DModel
    from diffusers.hooks import apply_group_offloading

    torch.set_num_threads(options.threads)
    video = ["--height", "128", "--width", "128", "--num-frames", "33", "--text-tokens", "512", "--threads", str(options.threads)]
    ours(options, "toy", video)
    folder = ROOT / "models" / "toy-wan" / "transformer"
    for mode in ("resident", "groups from the disk"):
        before = resident_mib()
        with tempfile.TemporaryDirectory() as disk, torch.no_grad(), Watch() as watch:
            model = WanTransformer3DModel.from_pretrained(folder, torch_dtype=torch.float32).eval()
            if mode != "resident":
                apply_group_offloading(model, torch.device("cpu"), torch.device("cpu"), offload_type="block_level",
                                       num_blocks_per_group=1, offload_to_disk_path=disk)
            latents = torch.randn(1, model.config.in_channels, 9, 16, 16)
            text, timestep = torch.randn(1, 512, model.config.text_dim), torch.tensor([500])
            times = timed(lambda: model(latents, timestep, text, return_dict=False), options.runs, lambda: None)
            say(who="diffusers", mode=mode, **times, process_beyond_start_mib=watch.peak - before)
            del model
            gc.collect()
    ours(options, "toy", video)


def large(options):
    sys.modules.setdefault("importlib_metadata", importlib.metadata)
    import torch
    from diffusers import WanTransformer3DModel
    from diffusers.hooks import apply_group_offloading
    from torch.nn.attention import SDPBackend, sdpa_kernel

    width, height = options.size.split("x")
    video = ["--height", height, "--width", width, "--num-frames", str(options.num_frames)]
    ours(options, "14b", video, (1, 8))
    device = torch.device("cuda")
    frames = (options.num_frames - 1) // 4 + 1
    with torch.device("meta"):
        model = WanTransformer3DModel(num_attention_heads=40, attention_head_dim=128, ffn_dim=13824, num_layers=40, text_dim=4096,
                                      freq_dim=256, cross_attn_norm=True, qk_norm="rms_norm_across_heads", patch_size=(1, 2, 2),
                                      rope_max_seq_len=1024, in_channels=16, out_channels=16)
    model = model.to(torch.bfloat16).to_empty(device="cpu").eval().requires_grad_(False)
    noise = torch.randn(1 << 24).to(torch.bfloat16) * 0.02
    for parameter in model.parameters():
        flat = parameter.data.view(-1)
        for begin in range(0, flat.numel(), noise.numel()):
            part = flat[begin:begin + noise.numel()]
            part.copy_(noise[:part.numel()])
    fresh = WanTransformer3DModel(num_attention_heads=40, attention_head_dim=128, ffn_dim=128, num_layers=1, text_dim=4096)
    model.rope.load_state_dict(fresh.rope.state_dict())  # tables that are no parameters
    for name, buffer in fresh.rope.named_buffers():
        setattr(model.rope, name, buffer)
    model.rope.to(device)
    latents = torch.randn(1, 16, frames, int(height) // 8, int(width) // 8, device=device, dtype=torch.bfloat16)
    text = torch.randn(1, 512, 4096, device=device, dtype=torch.bfloat16)
    timestep = torch.tensor([500], device=device)
    apply_group_offloading(model, device, torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1, use_stream=True,
                           non_blocking=True)
    torch.cuda.reset_peak_memory_stats()

    def forward():
        with torch.no_grad(), sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION], set_priority=True):
            model(latents, timestep, text, return_dict=False)

    times = timed(forward, options.runs, torch.cuda.synchronize)
    say(who="diffusers", mode="block groups, with a stream", **times, peak_mib=torch.cuda.max_memory_allocated() / 2**20,
        diffusers=importlib.metadata.version("diffusers"), torch=torch.__version__)
    del model
    gc.collect()
    torch.cuda.empty_cache()
    ours(options, "14b", video)


def switch(options):
    """Both files are one, linked twice: reading takes as long, and the folder need not hold two."""
    member = "random:wan2.2-t2v-a14b"
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        high, low = Path(folder, "high.safetensors"), Path(folder, "low.safetensors")
        parts = {"transformer": (high, "bf16"), "vae": (Path(folder, "vae.safetensors"), "bf16"),
                 "text_encoder": (Path(folder, "text.safetensors"), "bf16")}
        for part, (path, kind) in parts.items():
            subprocess.run([options.zoe, "convert", member, "-o", str(path), "--part", part, "--type", kind], check=True,
                           capture_output=True)
        low.hardlink_to(high)
        files = ["--transformer", str(high), "--transformer-2", str(low), "--vae", str(parts["vae"][0]), "--text-encoder",
                 str(parts["text_encoder"][0]), "--tokenizer", str(ROOT / "models" / "toy-wan" / "tokenizer")]
        for offload in ("experts", "auto"):
            done = subprocess.run(
                [options.zoe, "generate", *files, "-p", "a fox", "--platform", "cuda", "--dtype", "bf16", "--size", options.size,
                 "--num-frames", str(options.num_frames), "--num-inference-steps", str(options.steps), "--offload", offload,
                 "--guidance-scale", "1", "--host-memory-limit", "64GiB", "--json", "-o", "out.gif"],
                cwd=folder, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr)
            told = json.loads(done.stdout.strip().splitlines()[-1])
            second = [stage for stage in told["stages"] if "low noise" in stage["stage"]]
            say(what="switch of experts", offload=offload, switch_ms=[1e3 * stage["load"] for stage in second],
                stages=told["stages"], seconds=told["seconds"], memory_bytes=told["memory_bytes"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["toy", "14b", "switch"])
    parser.add_argument("--zoe", default=str(ROOT / "build" / "zoe"))
    parser.add_argument("--size", default="832x480")
    parser.add_argument("--num-frames", type=int, default=81)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--folder", default="/dev/shm")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    {"toy": toy, "14b": large, "switch": switch}[options.what](options)


main()
