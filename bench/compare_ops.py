#!/usr/bin/env python3
"""Time the fused ops beside PyTorch (eager and torch.compile) and beside the machine's copies, in one run, alternating.

    python bench/compare_ops.py [OP...] [--width N ...] [--rows N ...] [--dtype f32|bf16] [--quick] [--json FILE]

Needs a Python with torch (bench/README.md). build/bench_ops answers one case at a time: it checks the case, times the copies
and our three ways of running it; then PyTorch runs the same formula, written as Diffusers writes it, on as many threads; then
both once more. PyTorch gets its best case: its allocator keeps memory instead of returning it, in huge pages, and its compiled
functions have their width baked in and only the number of rows open. The bar of ops with a tanh for every element is the same op as a
loop in C with the C library's vectorised tanhf, built here by the system compiler.

Prints a Markdown table and writes the figures as JSON lines. Exit code 1 if a target is missed:
  - working sets of 64 MB and more, f32: 80% of the better copy's GB/s, 70% for ops with a norm; ops with a tanh for every
    element instead: no slower than that loop;
  - never slower than torch.compile (a tenth for noise);
  - the row-blocked interpreter (no compiler on the machine) at most twice the compiled kernel's time.

`--without-torch` needs no PyTorch: ours beside the copies, and the targets that are about those.
"""
import argparse
import collections
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LARGE_BYTES = 64e6
NOISE = 1.1
HEAD = 128


def restart_with_the_allocator_tuned():
    """glibc reads these when a process starts."""
    wanted = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(64 << 20), "THP_MEM_ALLOC_ENABLE": "1"}
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})


# ---- PyTorch's side: formulas, and the kinds of their operands ------------------------------------------------------------------


def layer(x):
    import torch.nn.functional as F
    return F.layer_norm(x.float(), (x.shape[-1],), None, None, 1e-6)


def rms(x, weight=None):
    import torch.nn.functional as F
    return F.rms_norm(x.float(), (x.shape[-1],), weight, 1e-6)


def mul_add(a, gate, c):
    return (c.float() + a.float() * gate).type_as(c)


def scale_shift(x, scale, shift):
    return (x.float() * (1 + scale) + shift).type_as(x)


def norm_scale_shift(norm):
    return lambda x, scale, shift: (norm(x) * (1 + scale) + shift).type_as(x)


def scale_residual_norm_scale_shift(norm):
    def op(residual, x, gate, scale, shift):
        residual = (residual.float() + x.float() * gate).type_as(residual)
        return (norm(residual) * (1 + scale) + shift).type_as(x), residual
    return op


def norm_tanh_mul_add(x, scale, residual):
    return (residual.float() + scale.float().tanh() * rms(x)).type_as(x)


def norm_tanh_mul_add_norm_scale(x, scale, residual, scale2):
    y = (residual.float() + scale.tanh() * rms(x)).type_as(x)
    return y, (rms(y) * (1 + scale2)).type_as(x)


def rms_norm(x, weight):
    import torch.nn.functional as F
    return F.rms_norm(x, (x.shape[-1],), weight, 1e-6)


def rms_norm_rotary_interleaved(x, weight, cos, sin):
    import torch
    x = rms_norm(x, weight).unflatten(2, (-1, HEAD))
    x1, x2 = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    out = torch.empty_like(x)
    out[..., 0::2] = x1 * cos - x2 * sin
    out[..., 1::2] = x1 * sin + x2 * cos
    return out.type_as(x)


def rotary_split(x, cos, sin):
    import torch
    x = x.unflatten(2, (-1, HEAD))
    x1, x2 = x.float().chunk(2, -1)
    cos, sin = cos[..., : HEAD // 2], sin[..., HEAD // 2 :]
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1).type_as(x)


def block_boundary(a, gate, c, scale, shift):
    stream = mul_add(a, gate, c)
    return norm_scale_shift(layer)(stream, scale, shift), stream


def gelu_tanh_product(a, b):
    import torch.nn.functional as F
    return F.gelu(a, approximate="tanh") * b


def channel_norm_silu(x, gamma):
    import torch.nn.functional as F
    return F.silu(F.normalize(x, dim=-1) * (x.shape[-1] ** 0.5) * gamma)  # channels last, as our frames are


TOKENS, MODULATION, WEIGHT, TABLE = "tokens", "modulation", "weight", "table"
OPS = {
    "mul_add": (mul_add, [TOKENS, MODULATION, TOKENS]),
    "scale_shift": (scale_shift, [TOKENS, MODULATION, MODULATION]),
    "norm_scale_shift_layer": (norm_scale_shift(layer), [TOKENS, MODULATION, MODULATION]),
    "norm_scale_shift_rms": (norm_scale_shift(rms), [TOKENS, MODULATION, MODULATION]),
    "scale_residual_norm_scale_shift_layer": (scale_residual_norm_scale_shift(layer), [TOKENS, TOKENS] + [MODULATION] * 3),
    "scale_residual_norm_scale_shift_rms": (scale_residual_norm_scale_shift(rms), [TOKENS, TOKENS] + [MODULATION] * 3),
    "norm_tanh_mul_add": (norm_tanh_mul_add, [TOKENS, MODULATION, TOKENS]),
    "norm_tanh_mul_add_tokens": (norm_tanh_mul_add, [TOKENS, TOKENS, TOKENS]),
    "norm_tanh_mul_add_norm_scale": (norm_tanh_mul_add_norm_scale, [TOKENS, MODULATION, TOKENS, MODULATION]),
    "rms_norm": (rms_norm, [TOKENS, WEIGHT]),
    "rms_norm_rotary_interleaved": (rms_norm_rotary_interleaved, [TOKENS, WEIGHT, TABLE, TABLE]),
    "rotary_split": (rotary_split, [TOKENS, TABLE, TABLE]),
    "block_boundary": (block_boundary, [TOKENS, MODULATION, TOKENS, MODULATION, MODULATION]),
    "gelu_tanh_product": (gelu_tanh_product, [TOKENS, TOKENS]),
    "channel_norm_silu": (channel_norm_silu, [TOKENS, WEIGHT]),
}
# A tanh for every element: computing is the bound, not memory.
TANH = {"norm_tanh_mul_add_tokens", "gelu_tanh_product"}


class Peer:
    def __init__(self, threads, seconds):
        import torch
        self.torch, self.seconds = torch, seconds
        torch.set_num_threads(threads)
        self.compiled, self.case = {}, None
        self.pool = torch.randn(1000003)

    def make_operands(self, kinds, width, rows, dtype):
        torch = self.torch
        shapes = {TOKENS: (1, rows, width), MODULATION: (1, 1, width), WEIGHT: (width,), TABLE: (1, rows, 1, HEAD)}
        operands = []
        for n, kind in enumerate(kinds):
            count = 1
            for extent in shapes[kind]:
                count *= extent
            x = torch.empty(count, dtype=dtype if kind in (TOKENS, WEIGHT) else torch.float32)
            part = self.pool.roll(7919 * n).to(x.dtype)
            for begin in range(0, count, len(part)):
                x[begin : begin + len(part)] = part[: count - begin]
            operands.append(x.view(shapes[kind]))
        return operands

    def times(self, op, width, rows, dtype, sets):
        """Seconds of eager and of compiled runs."""
        torch = self.torch
        formula, kinds = OPS[op]
        real = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
        key = (op, width, rows, dtype)
        if self.case != key:
            self.operands = None
            self.operands = [self.make_operands(kinds, width, rows, real) for _ in range(sets)]
            self.case = key
        if (op, width, dtype) not in self.compiled:
            if not any(known[0] == op for known in self.compiled):
                torch._dynamo.reset()
            self.compiled[op, width, dtype] = torch.compile(formula)
        compiled = self.compiled[op, width, dtype]
        for operands in self.operands:
            for kind, x in zip(kinds, operands):
                if kind in (TOKENS, TABLE):
                    torch._dynamo.mark_dynamic(x, 1)
        results = {}
        with torch.no_grad():
            a, b = formula(*self.operands[0]), compiled(*self.operands[0])
            for x, y in zip(a if isinstance(a, tuple) else (a,), b if isinstance(b, tuple) else (b,)):
                if not torch.allclose(x[:, -8:].float(), y[:, -8:].float(), rtol=2e-2, atol=2e-2):
                    sys.exit(f"{op}: torch.compile and eager disagree")
            del a, b, x, y
            for name, function, share in (("eager", formula, 0.4), ("compiled", compiled, 0.6)):
                # Results wait for as many runs as there are sets, as ours are written to one set after the other: else the allocator
                # would hand back the memory that has just been written, and only this side would find it in the cache.
                waiting = collections.deque(maxlen=sets - 1)
                function(*self.operands[-1])
                times, begin = [], time.perf_counter()
                while len(times) < 2 or (len(times) < 15 and time.perf_counter() - begin < self.seconds * share):
                    operands = self.operands[len(times) % len(self.operands)]
                    start = time.perf_counter()
                    result = function(*operands)
                    times.append(time.perf_counter() - start)
                    waiting.append(result)
                    del result
                    if times[-1] > self.seconds:
                        break
                results[name] = times
        return results


class LibmLoop:
    """The ops with a tanh for every element as a C programmer writes them: a loop that the system compiler makes vectors of, with
    fast arithmetic and the C library's vector tanhf."""

    SOURCE = """
#include <math.h>
#include <string.h>
typedef unsigned short bf16;
static inline float from_f32(float x) { return x; }
static inline float to_f32(float x) { return x; }
static inline float from_bf16(bf16 h) { unsigned bits = (unsigned)h << 16; float x; memcpy(&x, &bits, 4); return x; }
static inline bf16 to_bf16(float x) { unsigned bits; memcpy(&bits, &x, 4); return (bits + 0x7fff + (bits >> 16 & 1)) >> 16; }
#define OPS(type, dtype)                                                                                                     \\
  void gelu_tanh_product_##dtype(const type* restrict a, const type* restrict b, const type* unused, type* restrict y,       \\
                                 long rows, long width) {                                                                    \\
    _Pragma("omp parallel for simd schedule(static)") for (long i = 0; i < rows * width; ++i) {                              \\
      const float x = from_##dtype(a[i]);                                                                                    \\
      y[i] = to_##dtype(0.5f * x * (1 + tanhf(0.7978845608f * (x + 0.044715f * x * x * x))) * from_##dtype(b[i]));           \\
    }                                                                                                                        \\
  }                                                                                                                          \\
  void norm_tanh_mul_add_tokens_##dtype(const type* restrict x, const type* restrict scale, const type* restrict residual,   \\
                                        type* restrict y, long rows, long width) {                                           \\
    _Pragma("omp parallel for schedule(static)") for (long r = 0; r < rows; ++r) {                                           \\
      const type *restrict xr = x + r * width, *restrict sr = scale + r * width, *restrict cr = residual + r * width;        \\
      type* restrict yr = y + r * width;                                                                                     \\
      float sum = 0;                                                                                                         \\
      _Pragma("omp simd reduction(+ : sum)") for (long i = 0; i < width; ++i) sum += from_##dtype(xr[i]) * from_##dtype(xr[i]); \\
      const float factor = 1 / sqrtf(sum / width + 1e-6f);                                                                   \\
      _Pragma("omp simd") for (long i = 0; i < width; ++i)                                                                   \\
        yr[i] = to_##dtype(from_##dtype(cr[i]) + from_##dtype(xr[i]) * factor * tanhf(from_##dtype(sr[i])));                 \\
    }                                                                                                                        \\
  }
OPS(float, f32)
OPS(bf16, bf16)
"""

    def __init__(self):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "loops.c")
            source.write_text(self.SOURCE)
            built = subprocess.run(["cc", "-O3", "-march=native", "-ffast-math", "-fopenmp", "-shared", "-fPIC", str(source), "-o",
                                    f"{folder}/loops.so", "-lmvec", "-lm"], capture_output=True, text=True)
            if built.returncode:
                sys.exit(f"the libm loops do not build: {built.stderr}")
            names = subprocess.run(["nm", "-D", f"{folder}/loops.so"], capture_output=True, text=True, check=True).stdout
            if "tanhf" not in names or "_ZGV" not in names:
                sys.exit("the libm loops are not vectorised: this C library has no vector tanhf")
            self.library = ctypes.CDLL(f"{folder}/loops.so")

    def times(self, op, dtype, peer, runs=5):
        function = getattr(self.library, f"{op}_{dtype}")
        function.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_long] * 2
        result = peer.torch.zeros_like(peer.operands[0][0])
        rows, width = result.shape[1:]
        times = []
        for run in range(runs + 1):
            operands = [x.data_ptr() for x in peer.operands[run % len(peer.operands)]]
            start = time.perf_counter()
            function(*(operands + [None])[:3], result.data_ptr(), rows, width)
            times.append(time.perf_counter() - start)
        expected = OPS[op][0](*(x[:, -2:] for x in peer.operands[runs % len(peer.operands)]))
        if not peer.torch.allclose(result[:, -2:].float(), expected.float(), rtol=2e-2, atol=2e-2):
            sys.exit(f"{op}: the libm loop and PyTorch disagree")
        return times[1:]


# ---- Both sides -------------------------------------------------------------------------------------------------------------------


class Ours:
    def __init__(self, arguments):
        self.process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def measure(self, case):
        self.process.stdin.write(" ".join(map(str, case)) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"bench_ops ended at {case}")
        return json.loads(line)


def missed(figures):
    """The targets that a case misses, in words."""
    out = []
    compiled, peer = figures["compiled_ms"], figures.get("torch_compile_ms")
    if figures["op"] in TANH:
        if "libm_loop_ms" in figures and compiled > figures["libm_loop_ms"] * NOISE:
            out.append(f"behind the libm loop ({figures['libm_loop_ms']:.2f} ms)")
    elif figures["dtype"] == "f32" and figures["bytes"] >= LARGE_BYTES:
        target = 0.7 if "norm" in figures["op"] or figures["op"] == "block_boundary" else 0.8
        if figures["of_copy"] < target:
            out.append(f"{figures['of_copy']:.0%} of copy, not {target:.0%}")
    if peer is not None and compiled > peer * NOISE:
        out.append("behind torch.compile")
    if figures["bytes"] >= LARGE_BYTES and figures["row_blocks_ms"] > 2 * NOISE * compiled:
        out.append(f"row blocks {figures['row_blocks_ms'] / compiled:.1f} times slower")
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("op", nargs="*", help=f"default: all of {', '.join(OPS)}")
    parser.add_argument("--width", type=int, nargs="*", default=[])
    parser.add_argument("--rows", type=int, nargs="*", default=[])
    parser.add_argument("--dtype", nargs="*", default=["f32", "bf16"], choices=["f32", "bf16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2, help="times that the sides take turns at a case (default 2)")
    parser.add_argument("--seconds", type=float, default=0.15, help="of each side, case and round (default 0.15)")
    parser.add_argument("--least", action="store_true", help="compare the least times, not the medians: for a machine at work")
    parser.add_argument("--quick", action="store_true", help="one width, two row counts, one round")
    parser.add_argument("--without-torch", action="store_true", help="ours and the copies alone")
    parser.add_argument("--processor-time", action="store_true",
                        help="of one thread, not the time that passes: for a machine at work; with --without-torch")
    parser.add_argument("--json", type=Path, help="where the figures go, a line a case (default build/compare_ops.json)")
    parser.add_argument("--bench-ops", type=Path, default=ROOT / "build/bench_ops")
    args = parser.parse_args()
    if args.processor_time and not args.without_torch:
        parser.error("--processor-time is of our side only: give --without-torch as well")
    if args.processor_time:
        args.threads = 1
    restart_with_the_allocator_tuned()
    begin = time.perf_counter()
    if args.quick:
        args.rounds = 1
        args.width, args.rows = args.width or [1536, 96], args.rows or [2550, 8192, 65536]
    unknown = set(args.op) - set(OPS)
    if unknown:
        parser.error(f"no op {', '.join(unknown)}; there are {', '.join(OPS)}")
    listed = subprocess.run([str(args.bench_ops), "--list"], check=True, capture_output=True, text=True).stdout
    cases = []
    for line in listed.splitlines():
        op, width, rows, dtype = line.split()
        case = (op, int(width), int(rows), dtype)
        if op not in OPS:
            sys.exit(f"bench_ops has an op that the peer lacks: {op}")
        if (not args.op or op in args.op) and dtype in args.dtype and (not args.width or case[1] in args.width) and (not args.rows or case[2] in args.rows):
            cases.append(case)
    common = ["--threads", str(args.threads), "--seconds", str(args.seconds), *(["--processor-time"] if args.processor_time else [])]
    ours = Ours([str(args.bench_ops), "--serve", *common])
    peer, libm = (None, None) if args.without_torch else (Peer(args.threads, args.seconds), LibmLoop())
    pick = min if args.least else statistics.median
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "cpu")
    beside = f"PyTorch {peer.torch.__version__}" if peer else "without PyTorch"
    print(f"{model}, {args.threads} threads, {beside}; {'least' if args.least else 'median'} times in ms\n")
    print("| op | width | rows | dtype | MB | copy, GB/s | compiled (min to max) | GB/s | of copy | torch.compile | eager | row blocks | of compiled | uncompiled | missed |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    misses, skipped = 0, []
    with open(args.json or ROOT / "build/compare_ops.json", "w") as out:
        for case in cases:
            op, width, rows, dtype = case
            lines, theirs, bar = [], {"eager": [], "compiled": []}, []
            for _ in range(args.rounds):
                lines.append(ours.measure(case))
                if "skipped" in lines[0]:
                    break
                if not peer:
                    continue
                for name, times in peer.times(op, width, rows, dtype, lines[0]["sets"]).items():
                    theirs[name] += times
                if op in TANH:
                    bar += libm.times(op, dtype, peer)
            if "skipped" in lines[0]:
                skipped.append(f"{op} {width} {rows} {dtype}: {lines[0]['skipped']}")
                continue
            times = {way: [ms for line in lines for ms in line[way]["ms"]] for way in ("compiled", "row_blocks", "uncompiled")}
            copies = {way: pick([ms for line in lines for ms in line[way]["ms"]]) for way in ("copy_memcpy", "copy_streaming")}
            compiled = pick(times["compiled"])
            gbs = lines[0]["bytes"] / compiled / 1e6
            copy = lines[0]["copy_bytes"] / min(copies.values()) / 1e6
            figures = {"commit": lines[0]["commit"], "cpu": model, "cores": args.threads, "op": op, "width": width, "rows": rows, "dtype": dtype,
                       "bytes": lines[0]["bytes"], "kernels": lines[0]["kernels"], "copy_gbs": copy,
                       **{f"{way}_gbs": lines[0]["copy_bytes"] / ms / 1e6 for way, ms in copies.items()}, "compiled_ms": compiled,
                       "compiled_min_ms": min(times["compiled"]), "compiled_max_ms": max(times["compiled"]), "gbs": gbs, "of_copy": gbs / copy,
                       "row_blocks_ms": pick(times["row_blocks"]), "uncompiled_ms": pick(times["uncompiled"])}
            if peer:
                figures.update({"torch_compile_ms": pick(theirs["compiled"]) * 1e3, "torch_compile_min_ms": min(theirs["compiled"]) * 1e3,
                                "torch_compile_max_ms": max(theirs["compiled"]) * 1e3, "torch_eager_ms": pick(theirs["eager"]) * 1e3})
            if bar:
                figures["libm_loop_ms"] = pick(bar) * 1e3
            figures["missed"] = missed(figures)
            misses += bool(figures["missed"])
            out.write(json.dumps(figures) + "\n")
            out.flush()
            f = figures
            compile_ms, eager_ms = (f"{f[name]:.2f}" if name in f else "" for name in ("torch_compile_ms", "torch_eager_ms"))
            print(f"| {op} | {width} | {rows:,} | {dtype} | {f['bytes'] / 1e6:.0f} | {copy:.1f} | **{compiled:.2f}** ({f['compiled_min_ms']:.2f} to "
                  f"{f['compiled_max_ms']:.2f}) | {gbs:.1f} | {gbs / copy:.0%} | {compile_ms} | {eager_ms} | "
                  f"{f['row_blocks_ms']:.2f} | {f['row_blocks_ms'] / compiled:.2f} | {f['uncompiled_ms']:.2f} | {'; '.join(f['missed'])} |", flush=True)
    for line in skipped:
        print(f"\nSkipped: {line}")
    print(f"\n{len(cases) - len(skipped)} cases, {misses} of them miss a target; {time.perf_counter() - begin:.0f} s")
    sys.exit(1 if misses else 0)


if __name__ == "__main__":
    main()
