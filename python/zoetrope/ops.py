"""The compiler, for experiments: write an op as plain maths, see the kernels it becomes, check it, time it (docs/python-ops.md).

    from zoetrope import ops

    @ops.op
    def gated_rms(x, gate, weight, eps):
        wide = x.cast("f32")
        normed = wide * ops.rsqrt(ops.mean(wide * wide) + eps) * weight
        return (normed * ops.silu(gate.cast("f32"))).cast(x.dtype)

    graph = ops.trace(gated_rms, ops.Spec("f32", (2, 6, 40)), ops.Spec("f32", (2, 6, 40)), ops.Spec("f32", (40,)), eps=1e-5)
    print(graph.source("cuda"))
    plan = ops.compile(graph, "cpu")
    y, = plan(x, gate, weight)
"""

from __future__ import annotations

import builtins
import ctypes
import dataclasses
import functools
import inspect
import math
import statistics
from typing import Any, Callable, Mapping, Sequence

from . import _library, elementwise
from .elementwise import *  # noqa: F403
from .errors import InvalidArgument
from .tensors import CPU, CUDA, Tensor, as_tensor, elements
from .values import Value, constant, make_value

__all__ = [
    "Check", "Graph", "Plan", "Platform", "Spec", "Times", "Value", "attention", "compile", "concat", "constant", "conv", "gather",
    "linear", "mean", "op", "sum", "trace", *elementwise.__all__,
]


@dataclasses.dataclass(frozen=True)
class Spec:
    """The type of an argument: "f32", "bf16", "i32" or "u8", and extents, outermost first."""

    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, array: Any) -> Spec:
        """Of an array of numpy, torch, or anything with DLPack."""
        tensor = as_tensor(array)
        return cls(tensor.dtype, tensor.shape)


def sum(x: Value) -> Value:
    """Over the last axis, which stays with extent 1; f32."""
    return make_value("sum", [x])


def mean(x: Value) -> Value:
    """sum(x) / C over the last axis, which stays with extent 1; f32."""
    return make_value("mean", [x])


def concat(parts: Sequence[Value], axis: int) -> Value:
    return make_value("concat", list(parts), axis=axis)


def gather(table: Value, indices: Value) -> Value:
    """Rows of a table: [V,C], i32 [L] -> [L,C]."""
    return make_value("gather", [table, indices])


def linear(x: Value, weight: Value, bias: Value | None = None, residual: Value | None = None, *, activation: str = "none") -> Value:
    """activation(x @ weight^T + bias) + residual, f32 accumulators, one rounding: [..,K], [N,K] -> [..,N].

    activation: "none", "gelu_tanh" or "silu".
    """
    return make_value("linear", [x, weight, bias, residual], activation=activation)


def conv(x: Value, weight: Value, bias: Value | None = None, residual: Value | None = None, *, stride: Sequence[int] = (1, 1, 1),
         pad_begin: Sequence[int] = (0, 0, 0), pad_end: Sequence[int] = (0, 0, 0), upsample: int = 1, activation: str = "none") -> Value:
    """Cross-correlation over channels-last frames: [T,H,W,I], [O,I,kt,kh,kw] -> [T',H',W',O]. Axes of stride and padding: T, H, W."""
    return make_value("conv", [x, weight, bias, residual], stride=list(stride), pad_begin=list(pad_begin), pad_end=list(pad_end),
                 upsample=upsample, activation=activation)


def attention(q: Value, k: Value, v: Value, scale: float, bias: Value | None = None) -> Value:
    """softmax(scale * q k^T + bias) v for each of N heads: q [B,Lq,N,D], k, v [B,Lk,N,D] -> [B,Lq,N,D]."""
    return make_value("attention", [q, k, v, bias], scale=scale)


# --- Graphs


@dataclasses.dataclass(frozen=True)
class Check:
    """How far a platform's results lie from the reference run.

    Attributes:
        max_abs: the largest difference of an element.
        relative_rms: root mean square of the differences, in units of that of the reference.
        same_bits: whether the compiled plan gives the bits of the uncompiled one.
        platform: where it ran.
    """

    max_abs: float
    relative_rms: float
    same_bits: bool
    platform: str


class Graph:
    """A traced function: printable, and to be compiled for any platform."""

    def __init__(self, handle: _library.Handle) -> None:
        self._handle = handle
        info = _library.parsed("zoe_graph_info", handle)
        self.name: str = info["name"]
        self.text: str = info["text"]
        self.inputs = [Spec(each["dtype"], tuple(each["shape"])) for each in info["inputs"]]
        self.input_names: list[str] = [each["name"] for each in info["inputs"]]
        self.outputs = [Spec(each["dtype"], tuple(each["shape"])) for each in info["outputs"]]

    def __str__(self) -> str:
        return self.text

    def source(self, dialect: str) -> str:
        """What generated kernels look like in "cpp", "cuda" or "opencl"; needs no device."""
        return _library.text("zoe_graph_source", self._handle, dialect.encode())

    def interpret(self, *inputs: Any) -> list[Tensor]:
        """The reference run: every node in f64, rounded only where a value is stored in a narrower dtype. Slow on purpose.

        Returns:
            The results as f32 (those of i32 and u8 as they are).
        """
        tensors = self._arguments(inputs)
        arguments = [(ctypes.c_double * tensor.count)(*tensor.tolist()) for tensor in tensors]
        results = [(ctypes.c_double * math.prod(spec.shape))() for spec in self.outputs]

        def pointers(arrays: Sequence[Any]) -> Any:
            return (ctypes.c_void_p * builtins.max(len(arrays), 1))(*[ctypes.addressof(each) for each in arrays])

        _library.check(_library.library.zoe_graph_interpret(self._handle, pointers(arguments), pointers(results)))
        out = []
        for spec, values in zip(self.outputs, results):
            dtype = spec.dtype if spec.dtype in ("i32", "u8") else "f32"
            tensor = Tensor.zeros(dtype, spec.shape)
            data = elements(tensor)
            for i, value in enumerate(values):
                data[i] = value if dtype == "f32" else int(value)
            out.append(tensor)
        return out

    def check(self, *inputs: Any, platform: str | Platform = "cpu") -> Check:
        """Runs it compiled, uncompiled and by the reference, and compares."""
        on = platform if isinstance(platform, Platform) else Platform(platform)
        expected = [tensor.tolist() for tensor in self.interpret(*inputs)]
        compiled, uncompiled = (
            [on.to_host(tensor) for tensor in compile(self, on, compile=each)(*inputs)] for each in (True, False))
        got = [tensor.tolist() for tensor in compiled]
        differences = [a - b for ours, theirs in zip(got, expected) for a, b in zip(ours, theirs)]
        power = math.fsum(value * value for values in expected for value in values)
        error = math.fsum(value * value for value in differences)
        return Check(
            max_abs=builtins.max((builtins.abs(value) for value in differences), default=0.0),
            relative_rms=math.sqrt(error / power) if power else math.sqrt(error),
            same_bits=all(bytes(a.bytes()) == bytes(b.bytes()) for a, b in zip(compiled, uncompiled)),
            platform=on.name)

    def _arguments(self, inputs: Sequence[Any]) -> list[Tensor]:
        if len(inputs) != len(self.inputs):
            raise InvalidArgument(f"[{self.name}] got {len(inputs)} inputs, expected {len(self.inputs)}: {', '.join(self.input_names)}.")
        tensors = [as_tensor(each) for each in inputs]
        for tensor, spec, name in zip(tensors, self.inputs, self.input_names):
            if (tensor.dtype, tensor.shape) != (spec.dtype, spec.shape):
                raise InvalidArgument(f"[{self.name}] {name}: got {tensor.dtype}{list(tensor.shape)}, expected {spec.dtype}{list(spec.shape)}.")
        return tensors


def _as_list(result: Any) -> list[Value]:
    results = list(result) if isinstance(result, (tuple, list)) else [result]
    for each in results:
        if not isinstance(each, Value):
            raise InvalidArgument(f"[trace] the function gave a {type(each).__name__}, expected a Value or several.")
    return results


def _graph(name: str, inputs: Sequence[Value], outputs: Sequence[Value]) -> Graph:
    ins, outs = _library.handles([each._handle for each in inputs]), _library.handles([each._handle for each in outputs])
    return Graph(_library.Handle.made("zoe_graph_close", "zoe_graph_make", name.encode(), ins, len(inputs), outs, len(outputs)))


def _argument_names(function: Callable[..., Any], count: int) -> list[str]:
    """The function's own names for its first arguments."""
    known = [each.name for each in inspect.signature(function).parameters.values()
             if each.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    return [known[i] if i < len(known) else f"x{i}" for i in range(count)]


def trace(function: Callable[..., Any], *arguments: Spec, name: str | None = None, **constants: Any) -> Graph:
    """Calls the function once, with values of these types, and keeps what it did.

    Args:
        arguments: a type for each value that it takes.
        constants: what else it takes; they become numbers in the graph.
    """
    names = _argument_names(function, len(arguments))
    values = [make_value("input", [], name=each, dtype=spec.dtype, shape=list(spec.shape)) for each, spec in zip(names, arguments)]
    return _graph(name or str(getattr(function, "__name__", "graph")), values, _as_list(function(*values, **constants)))


def op(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a function of values a named op: plans, notes and kernels then say its name. It is its own definition on every platform,
    and is fused with its neighbours."""

    @functools.wraps(function)
    def call(*arguments: Any, **constants: Any) -> Any:
        values = [each for each in arguments if isinstance(each, Value)]
        names = _argument_names(function, len(arguments))
        inside = [make_value("input", [], name=name, dtype=each.dtype, shape=list(each.shape)) if isinstance(each, Value) else each
                  for name, each in zip(names, arguments)]
        result = function(*inside, **constants)
        native = _graph(function.__name__, [each for each in inside if isinstance(each, Value)], _as_list(result))
        made = (ctypes.c_void_p * len(native.outputs))()
        _library.check(_library.library.zoe_graph_call(native._handle, function.__name__.encode(),
                                                       _library.handles([each._handle for each in values]), len(values), made))
        results = tuple(Value(_library.Handle("zoe_value_close", each or 0)) for each in made)
        return results if isinstance(result, (tuple, list)) else results[0]

    return call


# --- Platforms and plans


class Platform:
    """An opened device: "cpu", "cuda", "cuda:1", "opencl", "null", or "auto".

    Args:
        options: threads, cache_dir, cuda_path, memory_limit_bytes.
    """

    def __init__(self, platform: str = "auto", **options: Any) -> None:
        self._handle = _library.Handle.made("zoe_platform_close", "zoe_platform_open", _library.dumped({"platform": platform, **options}))
        self.info: dict[str, Any] = _library.parsed("zoe_platform_info", self._handle)
        self.name: str = self.info["platform"]
        number = platform.partition(":")[2]
        self._device = (CPU, 0) if self.info["host_addressable"] else (CUDA, int(number) if number.isdigit() else 0)

    def __repr__(self) -> str:
        return f"Platform({self.name}: {self.info['device']})"

    def _borrow(self, tensor: Tensor) -> _library.Handle:
        """A tensor of the platform: its own memory as it is, else a copy."""
        extents = (ctypes.c_int64 * builtins.max(len(tensor.shape), 1))(*tensor.shape)
        arguments = (tensor.dtype.encode(), extents, len(tensor.shape))
        if tensor.device == self._device and self.info["has_addresses"]:
            handle = _library.Handle.made("zoe_tensor_close", "zoe_tensor_borrow", self._handle, ctypes.c_void_p(tensor.address), *arguments)
            handle.keeps = tensor  # type: ignore[attr-defined]
            return handle
        if not tensor.is_on_host:
            raise InvalidArgument(f"[{self.name}] got a tensor on DLPack's device {tensor.device}, expected {self._device} or this process's memory.")
        handle = _library.Handle.made("zoe_tensor_close", "zoe_tensor_make", self._handle, *arguments)
        _library.check(_library.library.zoe_tensor_upload(handle, ctypes.c_void_p(tensor.address), tensor.size_bytes))
        return handle

    def _make(self, spec: Spec) -> tuple[_library.Handle, Tensor | None]:
        """New memory of the platform, and as a tensor where it has an address."""
        extents = (ctypes.c_int64 * builtins.max(len(spec.shape), 1))(*spec.shape)
        handle = _library.Handle.made("zoe_tensor_close", "zoe_tensor_make", self._handle, spec.dtype.encode(), extents, len(spec.shape))
        if not self.info["has_addresses"]:
            return handle, None
        return handle, Tensor(spec.dtype, spec.shape, _library.library.zoe_tensor_data(handle) or 0, self._device, (handle, self))

    def to_host(self, tensor: Tensor) -> Tensor:
        """A copy in this process's memory of a tensor of a device; one that is there already, itself."""
        if tensor.is_on_host:
            return tensor
        handle, copy = self._borrow(tensor), Tensor.zeros(tensor.dtype, tensor.shape)
        _download(handle, copy)
        return copy


def _download(handle: _library.Handle, to: Tensor) -> None:
    _library.check(_library.library.zoe_tensor_download(handle, ctypes.c_void_p(to.address), to.size_bytes))


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of each run, from when it is queued until the device is done."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        return f"{1e6 * self.median:.1f} us ({1e6 * builtins.min(self.seconds):.1f} to {1e6 * builtins.max(self.seconds):.1f}, {len(self.seconds)} runs)"


class Plan:
    """A compiled graph. Call it with arrays: those that lie where it runs are read without a copy."""

    def __init__(self, handle: _library.Handle, graph: Graph, platform: Platform) -> None:
        self._handle, self.graph, self.platform = handle, graph, platform

    @property
    def info(self) -> dict[str, Any]:
        """steps, kernels, workspace_bytes, notes (why chains end), sources of generated kernels, and passes where they were kept."""
        info: dict[str, Any] = _library.parsed("zoe_plan_info", self._handle)
        return info

    def __str__(self) -> str:
        text: str = self.info["text"]
        return text

    def source(self) -> str:
        """The generated kernels as they were built, each once."""
        return "\n".join(f"// {each['what']}\n{each['source']}" for each in self.info["sources"])

    def __call__(self, *inputs: Any) -> list[Tensor]:
        """Runs it and waits. Results are tensors where the plan runs: numpy.asarray, torch.from_dlpack take them without a copy."""
        results, _ = self._run(inputs, 1)
        return results

    def time(self, *inputs: Any, repeat: int = 20) -> Times:
        """Runs it `repeat` times, behind two runs that do not count."""
        _, seconds = self._run(inputs, repeat + 2)
        return Times(tuple(seconds[2:]))

    def _run(self, inputs: Sequence[Any], repeat: int) -> tuple[list[Tensor], list[float]]:
        arguments = [self.platform._borrow(tensor) for tensor in self.graph._arguments(inputs)]
        made = [self.platform._make(spec) for spec in self.graph.outputs]
        seconds = (ctypes.c_double * repeat)()
        _library.check(_library.library.zoe_plan_run(self._handle, _library.handles(list(arguments)), len(arguments),
                                                     _library.handles([handle for handle, _ in made]), len(made), repeat, seconds))
        results = []
        for (handle, tensor), spec in zip(made, self.graph.outputs):
            if tensor is None:
                tensor = Tensor.zeros(spec.dtype, spec.shape)
                _download(handle, tensor)
            results.append(tensor)
        return results, list(seconds)


def compile(graph: Graph, platform: str | Platform = "auto", *, compile: bool = True, excluded_ops: Sequence[str] = (),
            keep_passes: bool = False) -> Plan:
    """A plan of the graph on a platform.

    Args:
        compile: fuse and generate code; False: every node by itself.
        excluded_ops: ops whose nodes stay out of generated kernels.
        keep_passes: keep the graph's text after every pass, in Plan.info["passes"].
    """
    on = platform if isinstance(platform, Platform) else Platform(platform)
    options: Mapping[str, Any] = {"compile": compile, "excluded_ops": list(excluded_ops), "keep_passes": keep_passes}
    return Plan(_library.Handle.made("zoe_plan_close", "zoe_plan_compile", graph._handle, on._handle, _library.dumped(options)), graph, on)
