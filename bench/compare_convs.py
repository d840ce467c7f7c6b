#!/usr/bin/env python3
"""Time the VAE's causal convolutions in bf16 on a GPU beside PyTorch's conv3d, in one run, in turns.

    python bench/compare_convs.py [--seconds 0.3] [--rounds 3] [--only TEXT] [--bench PROGRAM]

Needs a Python with torch for CUDA. build/bench_nodes times our side; each side works for `seconds` before the other's turn.
3x3x3 with a bias, frames behind two cached ones, two latent frames of 832x480 a group. PyTorch's side is channels_last_3d with
cudnn.benchmark, on a picture that is padded already where ours pads by itself, and without the residual, which is an addition of
its own in Diffusers. Prints a Markdown table of medians.
"""
import functools

from compare_products import compare, usual_cells

SHAPES = [  # frames, height, width, channels, columns, residual
    (8, 480, 832, 96, 96, ""),
    (8, 480, 832, 96, 96, "residual"),
    (8, 240, 416, 192, 192, ""),
    (8, 240, 416, 192, 192, "residual"),
    (4, 120, 208, 192, 384, ""),
    (4, 120, 208, 384, 384, "residual"),
    (2, 60, 104, 384, 384, "residual"),
    (1, 480, 832, 96, 96, ""),
]


def torch_conv(torch, frames, height, width, channels, columns):
    """PyTorch's side, to be called again and again."""
    def normal(*shape):
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16).mul_(0.25).to(memory_format=torch.channels_last_3d)
    x, weight = normal(1, channels, frames + 2, height + 2, width + 2), normal(columns, channels, 3, 3, 3)
    bias = torch.randn(columns, device="cuda", dtype=torch.bfloat16)
    return lambda: torch.nn.functional.conv3d(x, weight, bias)


def cases(torch):
    torch.backends.cudnn.benchmark = True
    for frames, height, width, channels, columns, residual in SHAPES:
        def cells(theirs, mine, clock, operations=2.0 * frames * height * width * channels * columns * 27):
            return usual_cells(theirs, mine, clock, operations)
        yield (f"{channels} -> {columns}{' + residual' if residual else ''}, {frames}x{height}x{width}",
               f"conv {frames} {height} {width} {channels} {columns} bf16 {residual}".strip(),
               functools.partial(torch_conv, torch, frames, height, width, channels, columns), cells)


if __name__ == "__main__":
    compare(__doc__, 0.3, 3, ["channels, frames x height x width", "PyTorch, ms", "Zoetrope, ms", "times faster", "TFLOP/s",
                              "clock, MHz"], cases)
