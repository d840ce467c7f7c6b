#!/usr/bin/env python3
"""Time single products on a GPU beside PyTorch's F.linear, in one run, in turns.

    python bench/compare_products.py [--seconds 0.1] [--rounds 5] [--only TEXT] [--bench PROGRAM]

Needs a Python with torch for CUDA. build/bench_nodes times our side; both sides hold their operands, and each works for
`seconds` before the other's turn, so both run at the clock that the device keeps up under such work. GELU and residual are calls
of their own with PyTorch, as in Diffusers. Prints a Markdown table of medians; floor: all multiprocessors busy at the clock that
was seen while our side worked (4096 operations a cycle each in bf16 on compute capability 9.0).
"""
import argparse
import functools
import json
import statistics
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOKENS = 32760  # 832x480, 81 frames
SHAPES = [  # rows, columns, inner, epilogue, what
    (TOKENS, 1536, 1536, "bias", "1.3B q, k, v, out"),
    (TOKENS, 1536, 1536, "bias residual", "1.3B cross out"),
    (TOKENS, 8960, 1536, "bias gelu", "1.3B ffn in"),
    (TOKENS, 1536, 8960, "bias", "1.3B ffn out"),
    (TOKENS, 5120, 5120, "bias", "14B q, k, v, out"),
    (TOKENS, 5120, 5120, "bias residual", "14B cross out"),
    (TOKENS, 13824, 5120, "bias gelu", "14B ffn in"),
    (TOKENS, 5120, 13824, "bias", "14B ffn out"),
    (512, 10240, 4096, "gelu", "umT5 ffn gate"),
    (512, 10240, 4096, "", "umT5 ffn in"),
    (512, 4096, 10240, "residual", "umT5 ffn out"),
    (512, 4096, 4096, "", "umT5 q, k, v"),
    (1, 30720, 5120, "bias", "14B time"),
]


class Ours:
    def __init__(self, program, seconds):
        self.process = subprocess.Popen([program, "--seconds", str(seconds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)

    def time(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit("bench_nodes ended")
        return json.loads(answer)


def torch_product(torch, rows, columns, inner, epilogue):
    """PyTorch's side, to be called again and again."""
    def normal(*shape, scale=0.25):
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * scale
    F = torch.nn.functional
    x, weight = normal(rows, inner), normal(columns, inner)
    bias = normal(columns) if "bias" in epilogue else None
    residual = normal(rows, columns) if "residual" in epilogue else None

    def run():
        y = F.linear(x, weight, bias)
        if "gelu" in epilogue:
            y = F.gelu(y, approximate="tanh")
        return y + residual if residual is not None else y
    return run


def torch_milliseconds(torch, run, seconds):
    def spent(times):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(times):
            run()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / times
    return spent(max(1, int(seconds / spent(3)))) * 1e3


class Clock:
    """The clock of the multiprocessors while something else runs: nvidia-smi looks some 50 ms after it was started."""

    def __init__(self):
        self.asked = subprocess.Popen(["nvidia-smi", "--query-gpu=clocks.sm", "--format=csv,noheader,nounits"],
                                      stdout=subprocess.PIPE, text=True)

    def mhz(self):
        return float(self.asked.communicate()[0].split()[0])


def in_turns(torch, run, ours, line, options):
    """Medians of milliseconds, theirs and ours, and of the clock while ours ran; and our implementation."""
    run()
    ours.time(line)  # makes it ready
    torch_ms, our_ms, clocks = [], [], []
    for _ in range(options.rounds):
        torch_ms.append(torch_milliseconds(torch, run, options.seconds))
        clock = Clock()
        answer = ours.time(line)
        our_ms.append(answer["ms"])
        clocks.append(clock.mhz())
    return *(statistics.median(values) for values in (torch_ms, our_ms, clocks)), answer["implementation"]


def compare(description, seconds, rounds, columns, cases):
    """The command line of a bench, and its table. `cases(torch)` yields name, line for bench_nodes, what makes PyTorch's side, and
    what makes the cells of `columns` behind the name of both medians and the clock."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=seconds)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--only", default="", help="of those whose name has this text")
    parser.add_argument("--bench", default=str(ROOT / "build" / "bench_nodes"))
    options = parser.parse_args()
    import torch
    ours = Ours(options.bench, options.seconds)
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}, "
          f"cuDNN {torch.backends.cudnn.version()}\n")
    print(f"| {' | '.join(columns)} | implementation |\n{'|---' * (len(columns) + 1)}|", flush=True)
    for name, line, make_run, cells in cases(torch):
        if options.only not in name:
            continue
        run = make_run()
        theirs, mine, clock, implementation = in_turns(torch, run, ours, line, options)
        print(f"| {name} | {' | '.join(cells(theirs, mine, clock))} | {implementation} |", flush=True)
        del run
        torch.cuda.empty_cache()
    ours.process.stdin.close()
    ours.process.wait()


def usual_cells(theirs, mine, clock, operations):
    """Milliseconds of both, times faster, TFLOP/s, MHz."""
    return [f"{theirs:.4f}", f"{mine:.4f}", f"{theirs / mine:.2f}", f"{operations / mine * 1e-9:.0f}", f"{clock:.0f}"]


def cases(torch):
    multiprocessors = torch.cuda.get_device_properties(0).multi_processor_count
    for rows, columns, inner, epilogue, what in SHAPES:
        operations = 2.0 * rows * columns * inner

        def cells(theirs, mine, clock, shape=(rows, columns, inner), operations=operations):
            floor = multiprocessors * 4096 * clock * 1e-6
            return [" x ".join(map(str, shape)), *usual_cells(theirs, mine, clock, operations),
                    f"{operations / mine * 1e-9 / floor:.0%}"]
        yield (f"{what} {epilogue}".strip(), f"{rows} {columns} {inner} bf16 {epilogue}".strip(),
               functools.partial(torch_product, torch, rows, columns, inner, epilogue), cells)


if __name__ == "__main__":
    compare(__doc__, 0.1, 5, ["product", "rows x columns x inner", "PyTorch, ms", "Zoetrope, ms", "times faster", "TFLOP/s",
                              "clock, MHz", "of the floor"], cases)
