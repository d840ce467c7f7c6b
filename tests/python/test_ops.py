"""The compiler from Python: docs/python-ops.md's example, values, graphs, plans, tensors of others."""

import pathlib
import re
import unittest

import zoetrope
from common import numpy_or_skip
from zoetrope import ops

PAGE = pathlib.Path(__file__).resolve().parent.parent.parent / "docs" / "python-ops.md"


def filled(dtype, shape, seed=1):
    """Values of both signs in [-2, 2), the same each time."""
    tensor = zoetrope.Tensor.zeros("f32", shape)
    data, state = tensor.bytes().cast("f"), seed
    for i in range(tensor.count):
        state = (1103515245 * state + 12345) % 2**31
        data[i] = state / 2**29 - 2
    if dtype == "f32":
        return tensor
    narrow = zoetrope.Tensor.zeros("bf16", shape)
    raw, bits = narrow.bytes(), bytes(tensor.bytes())
    raw[0::2], raw[1::2] = bits[2::4], bits[3::4]  # the upper half of an f32 is a bf16
    return narrow


@ops.op
def gated_rms(x, gate, weight, eps):
    wide = x.cast("f32")
    normed = wide * ops.rsqrt(ops.mean(wide * wide) + eps) * weight
    return (normed * ops.silu(gate.cast("f32"))).cast(x.dtype)


def gated_graph(dtype="f32"):
    tokens = ops.Spec(dtype, (2, 6, 40))
    return ops.trace(gated_rms, tokens, tokens, ops.Spec("f32", (40,)), eps=1e-5)


def gated_arguments(dtype="f32"):
    return filled(dtype, (2, 6, 40), 1), filled(dtype, (2, 6, 40), 2), filled("f32", (40,), 3)


class ThePage(unittest.TestCase):
    def test_runs_as_it_stands(self):
        numpy_or_skip()
        blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
        self.assertGreater(len(blocks), 3)
        scope = {}
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), scope)


class Fused(unittest.TestCase):
    def test_is_one_kernel_with_the_bits_of_the_parts(self):
        for dtype in ("f32", "bf16"):
            with self.subTest(dtype):
                graph = gated_graph(dtype)
                self.assertIn("gated_rms", str(graph))
                plan = ops.compile(graph, "cpu")
                self.assertEqual(plan.info["kernels"], 1, str(plan))
                self.assertIn("gated_rms", plan.source())
                check = graph.check(*gated_arguments(dtype), platform=plan.platform)
                self.assertTrue(check.same_bits)
                self.assertLess(check.relative_rms, 1e-6 if dtype == "f32" else 4e-3)
                self.assertGreater(ops.compile(graph, plan.platform, compile=False).info["steps"], 5)

    def test_has_source_for_each_platform(self):
        graph = gated_graph()
        for dialect, word in (("cpp", "zoe_silu"), ("cuda", "__global__"), ("opencl", "__kernel")):
            self.assertIn(word, graph.source(dialect))
            self.assertIn("gated_rms", graph.source(dialect))
        with self.assertRaisesRegex(zoetrope.InvalidArgument, "expected cpp, cuda or opencl"):
            graph.source("metal")

    def test_is_timed(self):
        times = ops.compile(gated_graph(), "cpu").time(*gated_arguments(), repeat=5)
        self.assertEqual(len(times.seconds), 5)
        self.assertGreater(times.median, 0)

    def test_takes_the_place_of_a_formula(self):
        arguments = gated_arguments()
        x, gate, weight = [tensor.tolist() for tensor in arguments]
        import math

        got = ops.compile(gated_graph(), "cpu")(*arguments)[0].tolist()
        for row in range(12):
            columns = x[40 * row:40 * row + 40]
            scale = 1 / math.sqrt(sum(value * value for value in columns) / 40 + 1e-5)
            for c, value in enumerate(columns):
                g = gate[40 * row + c]
                self.assertAlmostEqual(got[40 * row + c], value * scale * weight[c] * g / (1 + math.exp(-g)), delta=2e-5)


class Values(unittest.TestCase):
    def test_of_every_function_agree_with_the_reference(self):
        def all_of_them(x, y):
            positive = x * x + 0.5
            results = [ops.neg(x), ops.sqrt(positive), ops.rsqrt(positive), ops.exp(x), ops.tanh(x), ops.silu(x), ops.gelu_tanh(x),
                       ops.square(x), x + y, x - y, 2 - x, x * 3.0, x / positive, 1 / positive, ops.max(x, y), ops.min(x, y)]
            moved = [x.reshape(2, -1), x.permute(1, 0), x.slice(1, 2, 6), x.flip(0), x.swap_pairs(), ops.concat([x, y], 0),
                     x.cast("bf16").cast("f32"), ops.sum(x), ops.mean(x)]
            return [*results, *moved]

        spec = ops.Spec("f32", (4, 8))
        graph = ops.trace(all_of_them, spec, spec)
        self.assertEqual(graph.input_names, ["x", "y"])
        check = graph.check(filled("f32", (4, 8), 1), filled("f32", (4, 8), 2))
        self.assertLess(check.max_abs, 1e-4)
        self.assertTrue(check.same_bits)

    def test_products_and_attention(self):
        def block(x, w, b, image, kernel, q):
            return [ops.linear(x, w, b, activation="silu"), ops.linear(x, w, None, x),
                    ops.conv(image, kernel, pad_begin=(0, 1, 1), pad_end=(0, 1, 1)), ops.attention(q, q, q, 0.25)]

        specs = [ops.Spec("f32", shape) for shape in ((6, 16), (16, 16), (16,), (1, 4, 4, 8), (8, 8, 1, 3, 3), (1, 5, 2, 16))]
        graph = ops.trace(block, *specs)
        check = graph.check(*[filled("f32", spec.shape, i + 1) for i, spec in enumerate(specs)])
        self.assertLess(check.relative_rms, 1e-5)

    def test_mistakes_name_function_got_and_expected(self):
        x = ops.Spec("f32", (4, 8))
        cases = [
            (r"\[add\].*\[4,8\].*\[4,7\]|\[4,8\].*\[4,7\]", lambda a: a + a.slice(1, 0, 7)),
            ("dtype", lambda a: a + a.cast("bf16")),
            ("unknown dtype", lambda a: a.cast("f64")),
            ("axis", lambda a: a.flip(3)),
            ("expected a Value", lambda a: 3),
            ("activation", lambda a: ops.linear(a, a, activation="relu")),
        ]
        for text, function in cases:
            with self.subTest(text), self.assertRaisesRegex(zoetrope.InvalidArgument, text):
                ops.trace(function, x)
        outside = []
        ops.trace(lambda a: outside.append(a) or a * 2, x)
        with self.assertRaisesRegex(zoetrope.InvalidArgument, "none of the graph's"):
            ops.trace(lambda a: a + outside[0], x)

    def test_arguments_of_another_type_are_refused(self):
        plan = ops.compile(gated_graph(), "cpu")
        x, gate, weight = gated_arguments()
        with self.assertRaisesRegex(zoetrope.InvalidArgument, "got 2 inputs, expected 3"):
            plan(x, gate)
        with self.assertRaisesRegex(zoetrope.InvalidArgument, r"weight: got f32\[2, 6, 40\], expected f32\[40\]"):
            plan(x, gate, x)


class Arrays(unittest.TestCase):
    def test_of_numpy_go_in_and_out_without_a_copy(self):
        numpy = numpy_or_skip()
        plan = ops.compile(ops.trace(lambda x: x * 2.0, ops.Spec("f32", (3, 5))), "cpu")
        x = numpy.arange(15, dtype=numpy.float32).reshape(3, 5)
        y, = plan(x)
        self.assertTrue((numpy.asarray(y) == 2 * x).all())
        self.assertEqual(numpy.asarray(y).ctypes.data, y.address)
        x.flags.writeable = False
        self.assertTrue((numpy.asarray(plan(x)[0]) == 2 * x).all())
        with self.assertRaisesRegex(zoetrope.InvalidArgument, "not dense"):
            plan(numpy.zeros((5, 3), numpy.float32).T)
        with self.assertRaisesRegex(zoetrope.InvalidArgument, "float64"):
            plan(numpy.zeros((3, 5)))

    def test_keep_their_memory(self):
        plan = ops.compile(ops.trace(lambda x: x + 1.0, ops.Spec("f32", (4,))), "cpu")
        results = [plan(filled("f32", (4,), i))[0] for i in range(50)]
        for i, result in enumerate(results):
            self.assertEqual(result.tolist(), plan(filled("f32", (4,), i))[0].tolist())

    def test_through_dlpack_are_freed_once(self):
        from zoetrope import tensors

        before = len(tensors._handed_out)
        for _ in range(10):
            filled("f32", (4,)).__dlpack__()
        self.assertEqual(len(tensors._handed_out), before)
        try:
            import numpy
        except ImportError:
            return
        if hasattr(numpy, "from_dlpack"):
            arrays = [numpy.from_dlpack(filled("f32", (4,), i)) for i in range(10)]
            self.assertEqual(arrays[3].tolist(), filled("f32", (4,), 3).tolist())
            del arrays
            self.assertEqual(len(tensors._handed_out), before)


if __name__ == "__main__":
    unittest.main()
