#!/usr/bin/env python3
"""Time attention in bf16 on a GPU beside PyTorch's scaled_dot_product_attention with cuDNN, in one run, in turns.

    python bench/compare_attention.py [--seconds 1.5] [--rounds 3] [--only TEXT] [--bench PROGRAM]

Needs a Python with torch for CUDA. build/bench_linear times our side; each side works for `seconds` before the other's turn, so
both run at the clock that the device keeps up under such work. q, k and v lie as the transformer's products write them,
[1, tokens, heads, 128]. A bias, one for each key, is ours alone: PyTorch's would be a mask with every query's row. Prints a
Markdown table of medians.
"""
import argparse

from compare_products import ROOT, Ours, in_turns

TOKENS, LONG = 32760, 75600  # 81 frames of 832x480 and of 1280x720
SHAPES = [  # queries, keys, heads, bias, what
    (TOKENS, TOKENS, 12, "", "1.3B self"),
    (TOKENS, TOKENS, 40, "", "14B self"),
    (LONG, LONG, 12, "", "1.3B self, 720p"),
    (LONG, LONG, 40, "", "14B self, 720p"),
    (TOKENS, 512, 12, "bias", "1.3B cross"),
    (TOKENS, 512, 40, "bias", "14B cross"),
    (TOKENS, 104, 12, "bias", "1.3B cross, short prompt"),
    (TOKENS, 104, 40, "bias", "14B cross, short prompt"),
]


def torch_attention(torch, queries, keys, heads):
    """PyTorch's side, to be called again and again."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def normal(tokens):
        return torch.randn(1, tokens, heads, 128, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
    q, k, v = normal(queries), normal(keys), normal(keys)

    def run():
        with sdpa_kernel([SDPBackend.CUDNN_ATTENTION]):
            torch.nn.functional.scaled_dot_product_attention(q, k, v)
    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="of those whose name has this text")
    parser.add_argument("--bench", default=str(ROOT / "build" / "bench_linear"))
    options = parser.parse_args()
    import torch
    ours = Ours(options.bench, options.seconds)
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}\n")
    print("| attention | queries / keys x heads | cuDNN, ms | Zoetrope, ms | times faster | TFLOP/s | clock, MHz | implementation |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for queries, keys, heads, bias, what in SHAPES:
        if options.only not in what:
            continue
        run = torch_attention(torch, queries, keys, heads)
        line = f"attention {queries} {keys} {heads} 128 bf16 {bias}".strip()
        theirs, mine, clock, implementation = in_turns(torch, run, ours, line, options)
        rate = 4.0 * queries * keys * heads * 128 / mine * 1e-9
        print(f"| {what}{', a bias a key' if bias else ''} | {queries} / {keys} x {heads} | {theirs:.4f} | {mine:.4f} | "
              f"{theirs / mine:.2f} | {rate:.0f} | {clock:.0f} | {implementation} |", flush=True)
        del run
        torch.cuda.empty_cache()
    ours.process.stdin.close()
    ours.process.wait()


if __name__ == "__main__":
    main()
