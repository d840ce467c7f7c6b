#!/usr/bin/env python3
"""Time the fused ops on a GPU beside PyTorch (eager and torch.compile) and beside copies, in one run.

    python bench/compare_device_ops.py [OP...] [--width N ...] [--rows N ...] [--dtype bf16|f32] [--no-torch]

Needs a Python with torch for CUDA (bench/README.md). build/bench_device_ops times all cases, its copies included; then PyTorch runs
the same formulas, written as Diffusers writes them, with the shape baked into the compiled function (2 s a case).

Prints a Markdown table. Exit code 1 if a case has other bits than the CPU's, is below 85% of the rate of a copy of 1 GiB (`copy` in
the table is one of as many bytes), or is slower than torch.compile by more than a tenth.
"""
import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OPS = ["norm_scale_shift", "scale_residual_norm_scale_shift", "mul_add", "rms_norm_rotary", "gelu_tanh", "channel_norm_silu"]
LEAST, NOISE, HEAD = 85, 1.1, 128


def formulas(op, rows, width, dtype):
    """The op as PyTorch has it, and its operands."""
    import torch
    import torch.nn.functional as F
    def tokens():
        return torch.randn(1, rows, width, device="cuda", dtype=dtype)
    def modulation():
        return torch.randn(1, 1, width, device="cuda") * 0.1
    def weight(of):
        return torch.ones(width, device="cuda", dtype=of)
    if op == "norm_scale_shift":
        return (lambda x, scale, shift: (F.layer_norm(x.float(), (width,), None, None, 1e-6) * (1 + scale) + shift).to(dtype),
                (tokens(), modulation(), modulation()))
    if op == "scale_residual_norm_scale_shift":
        def both(residual, x, gate, scale, shift, w, b):
            r = (residual.float() + x * gate).to(dtype)
            return (F.layer_norm(r.float(), (width,), w, b, 1e-6) * (1 + scale) + shift).to(dtype), r
        return both, (tokens(), tokens(), modulation(), modulation(), modulation(), weight(torch.float32), weight(torch.float32))
    if op == "mul_add":
        return lambda a, gate, c: (c.float() + a * gate).to(dtype), (tokens(), modulation(), tokens())
    if op == "rms_norm_rotary":
        def rotated(x, w, cos, sin):
            x = F.rms_norm(x.float(), (width,), w.float(), 1e-6).to(dtype).view(1, rows, width // HEAD, HEAD // 2, 2).float()
            a, b = x[..., 0], x[..., 1]
            return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).to(dtype)
        table = [torch.randn(1, rows, 1, HEAD // 2, device="cuda") for _ in range(2)]
        return rotated, (tokens(), weight(dtype), *table)
    if op == "channel_norm_silu":
        return lambda x, gamma: F.silu(F.normalize(x, dim=-1) * width**0.5 * gamma), (tokens(), weight(dtype))
    return lambda x: F.gelu(x, approximate="tanh"), (tokens(),)


def microseconds(run, rounds=7, runs=8):
    import torch
    run(), run()
    times = []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(runs):
            run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / runs)
    return statistics.median(times)


def torch_times(case):
    import torch
    dtype = {"bf16": torch.bfloat16, "f32": torch.float32}[case["dtype"]]
    with torch.no_grad():
        run, operands = formulas(case["op"], case["rows"], case["width"], dtype)
        eager = microseconds(lambda: run(*operands))
        torch._dynamo.reset()
        compiled = torch.compile(run, dynamic=False)
        return eager, microseconds(lambda: compiled(*operands))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("op", nargs="*", default=OPS, metavar="OP", help=", ".join(OPS))
    parser.add_argument("--width", type=int, nargs="+", help="default: those of the models")
    parser.add_argument("--rows", type=int, nargs="+", help="default: those of the models")
    parser.add_argument("--dtype", nargs="+", default=["bf16", "f32"], choices=["bf16", "f32"])
    parser.add_argument("--bench", default=str(ROOT / "build" / "bench_device_ops"))
    parser.add_argument("--no-torch", action="store_true", help="ours beside the copies only")
    options = parser.parse_args()
    command = [options.bench, *options.op, "--exact", "--least", "0"]
    for name, values in (("--dtype", options.dtype), ("--width", options.width), ("--rows", options.rows)):
        command += [name, *map(str, values)] if values else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode not in (0, 1) or not cases:
        sys.exit(f"[compare_device_ops] exit code {done.returncode} after {len(cases)} cases of {' '.join(command)}")
    print("| op | rows x width | dtype | ours, us | copy, us | of 1 GiB's rate | eager, us | torch.compile, us | faster by |")
    print("|---|---|---|---|---|---|---|---|---|")
    missed = []
    for case in cases:
        eager, compiled = (0, 0) if options.no_torch else torch_times(case)
        size = f"{case['rows']}x{case['width']}"
        name = f"{case['op']} {size} {case['dtype']}"
        if not case["exact"]:
            missed.append(f"{name}: other bits than the CPU's")
        if case["percent"] < LEAST:
            missed.append(f"{name}: {case['percent']}% of a copy's rate")
        if compiled and case["us"] > compiled * NOISE:
            missed.append(f"{name}: {case['us']} us, torch.compile {compiled:.1f}")
        ours = f"{case['us']} | {case['copy_us']} | {case['percent']}%"
        beside = "| | |" if options.no_torch else f"{eager:.0f} | {compiled:.0f} | {compiled / case['us']:.2f}x |"
        print(f"| {case['op']} | {size} | {case['dtype']} | {ours} | {beside}", flush=True)
    for what in missed:
        print("missed:", what)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
