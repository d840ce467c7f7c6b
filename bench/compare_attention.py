#!/usr/bin/env python3
"""Time attention in bf16 on a GPU beside PyTorch's scaled_dot_product_attention with cuDNN, in one run, in turns.

    python bench/compare_attention.py [--seconds 1.5] [--rounds 3] [--only TEXT] [--bench PROGRAM]

Needs a Python with torch for CUDA. build/bench_nodes times our side; each side works for `seconds` before the other's turn, so
both run at the clock that the device keeps up under such work. q, k and v lie as the transformer's products write them,
[1, tokens, heads, 128]. A bias, one for each key, is ours alone: PyTorch's would be a mask with every query's row. Prints a
Markdown table of medians.
"""
import functools

from compare_products import compare, usual_cells

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


def cases(torch):
    for queries, keys, heads, bias, what in SHAPES:
        def cells(theirs, mine, clock, queries=queries, keys=keys, heads=heads):
            return [f"{queries} / {keys} x {heads}", *usual_cells(theirs, mine, clock, 4.0 * queries * keys * heads * 128)]
        yield (f"{what}{', a bias a key' if bias else ''}", f"attention {queries} {keys} {heads} 128 bf16 {bias}".strip(),
               functools.partial(torch_attention, torch, queries, keys, heads), cells)


if __name__ == "__main__":
    compare(__doc__, 1.5, 3, ["attention", "queries / keys x heads", "cuDNN, ms", "Zoetrope, ms", "times faster", "TFLOP/s",
                              "clock, MHz"], cases)
