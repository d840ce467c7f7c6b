#!/usr/bin/env python3
"""Time attention in bf16 on a GPU beside PyTorch's scaled_dot_product_attention with cuDNN, in one run, in turns.

    python bench/compare_attention.py [--seconds 1.5] [--rounds 3] [--only TEXT] [--bench PROGRAM]

Needs a Python with torch for CUDA. build/bench_linear times our side; each side works for `seconds` before the other's turn, so
both run at the clock that the device keeps up under such work. q, k and v lie as the transformer's products write them,
[1, tokens, heads, 128]. A bias, one for each key, is ours alone: PyTorch's would be a mask with every query's row. Prints a
Markdown table of medians.
"""
import argparse
import statistics
import time

from compare_products import ROOT, Clock, Ours

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


class Torch:
    def __init__(self, torch, queries, keys, heads):
        from torch.nn.attention import SDPBackend, sdpa_kernel

        def normal(tokens):
            return torch.randn(1, tokens, heads, 128, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
        q, k, v = normal(queries), normal(keys), normal(keys)

        def run():
            with sdpa_kernel([SDPBackend.CUDNN_ATTENTION]):
                torch.nn.functional.scaled_dot_product_attention(q, k, v)
        self.torch, self.run = torch, run
        run()

    def time(self, seconds):
        def spent(times):
            self.torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(times):
                self.run()
            self.torch.cuda.synchronize()
            return (time.perf_counter() - start) / times
        return spent(max(1, int(seconds / spent(3)))) * 1e3


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
        theirs = Torch(torch, queries, keys, heads)
        line = f"attention {queries} {keys} {heads} 128 bf16 {bias}".strip()
        ours.time(line)  # makes it ready
        torch_ms, our_ms, clocks = [], [], []
        for _ in range(options.rounds):
            torch_ms.append(theirs.time(options.seconds))
            clock = Clock()
            answer = ours.time(line)
            our_ms.append(answer["ms"])
            clocks.append(clock.mhz())
        their_median, our_median, clock = (statistics.median(values) for values in (torch_ms, our_ms, clocks))
        rate = 4.0 * queries * keys * heads * 128 / our_median * 1e-9
        print(f"| {what}{', a bias a key' if bias else ''} | {queries} / {keys} x {heads} | {their_median:.4f} | {our_median:.4f} | "
              f"{their_median / our_median:.2f} | {rate:.0f} | {clock:.0f} | {answer['implementation']} |", flush=True)
        del theirs
        torch.cuda.empty_cache()
    ours.process.stdin.close()
    ours.process.wait()


if __name__ == "__main__":
    main()
