"""Pipelines over the toy models at tiny sizes: the bits of the command, callbacks, interrupts, errors, memory, threads."""

import ctypes
import gc
import logging
import os
import signal
import threading
import time
import unittest

import zoetrope
from common import COMMAND, PROMPT, TINY, InFolder, numpy_or_skip, resident_bytes, run_command
from zoetrope import fields

logging.getLogger("zoetrope").setLevel(logging.ERROR)
PIPE = None


def pipe():
    """One for all tests, which leave it as it was."""
    global PIPE
    if PIPE is None:
        PIPE = zoetrope.WanPipeline.from_pretrained(dtype="f32", device="cpu")
    return PIPE


def tiny(**more):
    return pipe()(PROMPT, **{**TINY, **more}, output_type="tensor").frames


class TheSameVideo(InFolder):
    def test_has_the_bits_of_the_commands(self):
        theirs = self.path("command")
        made = run_command("generate", "--prompt", PROMPT, "--dtype", "f32", "--platform", "cpu", "-q", "-o", theirs,
                           *[f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()])
        self.assertEqual(made.returncode, 0, made.stderr)
        ours = self.path("package") + os.sep
        pipe()(PROMPT, **TINY, output=ours)
        names = sorted(os.listdir(theirs))
        self.assertEqual(len(names), TINY["num_frames"])
        self.assertEqual(names, sorted(os.listdir(ours)))
        for name in names:
            with open(os.path.join(theirs, name), "rb") as a, open(os.path.join(ours, name), "rb") as b:
                self.assertEqual(a.read(), b.read(), name)

    def test_is_the_same_in_memory_and_as_a_file(self):
        frames = tiny()
        self.assertEqual(frames.shape, (1, 5, 32, 32, 3))
        self.assertGreater(len(set(bytes(frames.bytes()))), 16)
        zoetrope.export_to_video(frames_of(frames, 0), self.path("a.png"), fps=8)
        pipe()(PROMPT, **TINY, output=self.path("b.png"))
        self.assertEqual(pixels(self.path("a.png")), pixels(self.path("b.png")))

    def test_comes_again(self):
        self.assertEqual(bytes(tiny().bytes()), bytes(tiny().bytes()))
        self.assertNotEqual(bytes(tiny().bytes()), bytes(tiny(seed=4).bytes()))

    def test_of_several_prompts_and_seeds_one_each(self):
        both = pipe()([PROMPT, "a blue circle"], **{**TINY, "seed": [3, 4]}, output_type="tensor")
        self.assertEqual(both.frames.shape, (4, 5, 32, 32, 3))
        self.assertEqual(both.settled["seeds"], [3, 4, 3, 4])
        size = both.frames.size_bytes // 4
        self.assertEqual(bytes(both.frames.bytes())[:size], bytes(tiny().bytes()))

    def test_takes_other_programs_names(self):
        few = {name: TINY[name] for name in ("height", "width", "seed")}
        self.assertEqual(bytes(pipe()(PROMPT, **few, frames=5, steps=2, output_type="tensor").frames.bytes()), bytes(tiny().bytes()))


class Frames(InFolder):
    def test_as_numpy_are_float_as_those_of_diffusers(self):
        numpy = numpy_or_skip()
        floats = pipe()(PROMPT, **TINY).frames
        self.assertEqual((floats.dtype, floats.shape), (numpy.float32, (1, 5, 32, 32, 3)))
        bytes_ = pipe()(PROMPT, **TINY, output_type="uint8").frames
        self.assertEqual(bytes_.dtype, numpy.uint8)
        self.assertTrue((numpy.rint(floats * 255) == bytes_).all())
        zoetrope.export_to_video(floats[0], self.path("a.png"))
        zoetrope.export_to_video(bytes_[0], self.path("b.png"))
        self.assertEqual(pixels(self.path("a.png")), pixels(self.path("b.png")))

    def test_latents_are_what_a_callback_saw_last(self):
        seen = []
        latents = pipe()(PROMPT, **TINY, output_type="latent", callback_on_step_end=lambda *a: seen.append(a[3]["latents"]) or a[3]).frames
        self.assertEqual(tuple(latents.shape)[0], 1)
        self.assertEqual(bytes_of(latents), bytes_of(seen[-1]))

    def test_without_a_copy(self):
        frames = tiny()
        capsule = frames.__dlpack__()
        again = zoetrope.as_tensor(Producer(capsule, frames.__dlpack_device__()))
        self.assertEqual((again.address, again.shape, again.dtype), (frames.address, frames.shape, "u8"))
        try:
            import numpy
        except ImportError:
            return
        self.assertEqual(numpy.asarray(frames).ctypes.data, frames.address)
        self.assertEqual(zoetrope.as_tensor(numpy.asarray(frames)).address, frames.address)
        if hasattr(numpy, "from_dlpack"):
            self.assertEqual(numpy.from_dlpack(frames).ctypes.data, frames.address)


class Callbacks(unittest.TestCase):
    def test_see_every_step_in_the_callers_thread(self):
        steps, threads = [], set()

        def step(pipeline, number, timestep, tensors):
            steps.append((number, timestep))
            threads.add(threading.get_ident())
            self.assertIs(pipeline, pipe())
            self.assertEqual(sorted(tensors), ["clean", "latents"])
            return tensors

        frames = pipe()(PROMPT, **TINY, output_type="tensor", callback_on_step_end=step,
                        callback_on_step_end_tensor_inputs=["latents", "clean"]).frames
        self.assertEqual([number for number, _ in steps], [0, 1])
        self.assertGreater(steps[0][1], steps[1][1])
        self.assertLessEqual(steps[0][1], 1000)
        self.assertEqual(threads, {threading.get_ident()})
        self.assertEqual(bytes(frames.bytes()), bytes(tiny().bytes()))

    def test_stop_a_call_by_what_they_raise(self):
        class Enough(Exception):
            pass

        calls = []

        def step(*_):
            calls.append(1)
            raise Enough

        with self.assertRaises(Enough):
            pipe()(PROMPT, **{**TINY, "num_inference_steps": 20}, output_type="tensor", callback_on_step_end=step)
        self.assertEqual(len(calls), 1)
        self.assertEqual(bytes(tiny().bytes()), bytes(tiny().bytes()))

    def test_may_not_change_latents(self):
        with self.assertRaisesRegex(zoetrope.Unsupported, "can be looked at, not changed"):
            pipe()(PROMPT, **TINY, output_type="tensor", callback_on_step_end=lambda *a: {"latents": 1})

    def test_may_be_interrupted(self):
        began = time.monotonic()

        def interrupt():
            os.kill(os.getpid(), signal.SIGINT)

        timer = threading.Timer(0.3, interrupt)
        timer.start()
        with self.assertRaises(KeyboardInterrupt):
            pipe()(PROMPT, height=128, width=128, num_frames=33, num_inference_steps=1000, output_type="tensor")
        timer.join()
        self.assertLess(time.monotonic() - began, 60)
        self.assertEqual(bytes(tiny().bytes()), bytes(tiny().bytes()))


class Errors(InFolder):
    def test_of_each_kind_are_exceptions_of_their_own(self):
        cases = [
            (zoetrope.InvalidArgument, r"\[num_inference_steps\] got \"0\", expected a whole number", {"num_inference_steps": 0}),
            (zoetrope.InvalidArgument, r"unknown field: got \"widht\".*Did you mean width", {"widht": 32}),
            (zoetrope.InvalidArgument, r"See seed", {"num_videos_per_prompt": 2}),
            (zoetrope.InvalidArgument, r"\[output_type\]", {"output_type": "mp4"}),
            (zoetrope.InvalidArgument, r"\[image\].*not taken", {"image": "cat.png"}),
            (zoetrope.InvalidArgument, r"generator and a seed", {"generator": 3}),
            (zoetrope.InvalidArgument, r"\[scheduler\]", {"scheduler": "eulr"}),
            (zoetrope.OutOfMemory, r"does not fit", {"height": 16384, "width": 16384, "num_frames": 1025}),
        ]
        for kind, text, more in cases:
            with self.subTest(text), self.assertRaisesRegex(kind, text):
                pipe()(PROMPT, **{**TINY, **more})
        with self.assertRaisesRegex(zoetrope.InvalidArgument, "no folder nobody/nothing here"):
            zoetrope.WanPipeline.from_pretrained("nobody/nothing")
        with self.assertRaisesRegex(zoetrope.InvalidArgument, "unknown option"):
            zoetrope.WanPipeline.from_pretrained(ofload="none")
        with self.assertRaises(zoetrope.ZoetropeError):
            zoetrope.WanPipeline.from_pretrained(device="cuba")
        with self.assertRaisesRegex(zoetrope.InvalidArgument, "expected WanPipeline"):
            zoetrope.WanImageToVideoPipeline.from_pretrained(zoetrope_model("text_to_video"))
        with self.assertRaises(zoetrope.FileFailure):
            zoetrope.export_to_video(zoetrope.Tensor.zeros("u8", (1, 16, 16, 3)), "/proc/here.png")

    def test_are_errors_of_python_too(self):
        self.assertTrue(issubclass(zoetrope.InvalidArgument, ValueError))
        self.assertTrue(issubclass(zoetrope.OutOfMemory, MemoryError))
        self.assertTrue(issubclass(zoetrope.FileFailure, OSError))

    def test_leave_the_pipeline_as_it_was(self):
        before = bytes(tiny().bytes())
        with self.assertRaises(zoetrope.InvalidArgument):
            pipe()(PROMPT, **{**TINY, "num_inference_steps": -1})
        self.assertEqual(bytes(tiny().bytes()), before)


class Memory(unittest.TestCase):
    def test_is_flat_over_many_calls(self):
        for _ in range(10):
            tiny()
        gc.collect()
        before = resident_bytes()
        for _ in range(40):
            tiny()
        gc.collect()
        self.assertLess(resident_bytes() - before, 4 << 20)

    def test_is_flat_over_a_thousand_requests_that_are_planned(self):
        for _ in range(100):
            pipe().plan(PROMPT, **TINY)
        gc.collect()
        before = resident_bytes()
        for _ in range(1000):
            pipe().plan(PROMPT, **TINY)
        gc.collect()
        self.assertLess(resident_bytes() - before, 4 << 20)

    def test_a_plan_says_what_fits(self):
        plan = pipe().plan(PROMPT, **TINY)
        self.assertTrue(plan.fits)
        self.assertEqual(plan.settled["num_frames"], 5)
        self.assertGreater(plan.peak_bytes, 10 << 20)
        with zoetrope.WanPipeline.from_pretrained(dtype="f32", device="cpu", memory_limit_bytes=16 << 20) as small:
            refused = small.plan(PROMPT, height=128, width=128, num_frames=33)
            self.assertFalse(refused.fits)
            self.assertIn("does not fit", refused.refusal)
            with self.assertRaisesRegex(zoetrope.OutOfMemory, "does not fit"):
                small(PROMPT, height=128, width=128, num_frames=33)


class Overhead(unittest.TestCase):
    def test_of_a_call_is_small(self):
        tiny()
        # Time on a processor, so that other programs do not count: all that comes before the run, and the caller's part of a call.
        before, callers = [], []
        for _ in range(15):
            began = time.process_time()
            pipe().plan(PROMPT, **TINY)
            before.append(time.process_time() - began)
            began = time.thread_time()
            tiny()
            callers.append(time.thread_time() - began)
        # The least of each: what other programs take of caches and cores only adds (docs/python.md has the figures).
        self.assertLess(min(before) + min(callers), 0.005)


class Threads(unittest.TestCase):
    def test_two_with_two_pipelines(self):
        expected = bytes(tiny().bytes())
        other = zoetrope.WanPipeline.from_pretrained(dtype="f32", device="cpu")
        results, failures = [], []

        def work(which):
            try:
                for _ in range(3):
                    results.append(bytes(which(PROMPT, **TINY, output_type="tensor").frames.bytes()))
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(each,)) for each in (pipe(), other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        self.assertEqual(results, [expected] * 6)

    def test_two_with_one_pipeline_take_turns(self):
        expected = bytes(tiny().bytes())
        results = []
        threads = [threading.Thread(target=lambda: results.append(bytes(tiny().bytes()))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(results, [expected] * 3)

    def test_the_lock_is_free_meanwhile(self):
        counted = []
        stop = threading.Event()

        def count():
            while not stop.is_set():
                counted.append(time.monotonic())
                time.sleep(0.001)

        thread = threading.Thread(target=count)
        thread.start()
        began = time.monotonic()
        tiny(num_inference_steps=20)
        ended = time.monotonic()
        stop.set()
        thread.join()
        self.assertGreater(sum(began < each < ended for each in counted), 3)


class Loras(unittest.TestCase):
    def setUp(self):
        self.pipe = zoetrope.WanImageToVideoPipeline.from_pretrained(dtype="f32", device="cpu")
        self.model = zoetrope_model("image_to_video")

    def frames(self, **more):
        return bytes(self.pipe(os.path.join(self.model, "circle.png"), "a red circle", **{**TINY, **more}, output_type="tensor").frames.bytes())

    def test_come_and_go(self):
        before = self.frames()
        lora = os.path.join(self.model, "loras", "four_steps.safetensors")
        self.pipe.load_lora_weights(os.path.dirname(lora), weight_name="four_steps.safetensors", adapter_name="few")
        with_it = self.frames()
        self.assertNotEqual(with_it, before)
        self.pipe.set_adapters("few", 0.5)
        half = self.frames()
        self.assertNotIn(half, (before, with_it))
        self.assertEqual(half, self.said_half(lora))
        self.pipe.set_adapters([])
        self.assertEqual(self.pipe.get_active_adapters(), [])
        self.assertEqual(self.frames(), before)
        self.pipe.set_adapters(["few"], [1.0])
        self.assertEqual(self.frames(), with_it)
        self.pipe.unload_lora_weights()
        self.assertEqual(self.frames(), before)
        with self.assertRaisesRegex(zoetrope.InvalidArgument, "no adapter"):
            self.pipe.set_adapters("few")

    def said_half(self, lora):
        weights = dict(self.pipe._adapters)
        self.pipe.unload_lora_weights()
        try:
            return self.frames(lora=f"{lora}=0.5")
        finally:
            self.pipe._adapters.update(weights)

    def test_pictures_are_taken_as_arrays(self):
        tensor = zoetrope.Tensor.zeros("u8", (32, 32, 3))
        tensor.bytes()[:] = bytes(i % 251 for i in range(tensor.size_bytes))
        made = self.pipe(tensor, "a red circle", **TINY, output_type="tensor").frames
        self.assertEqual(made.shape, (1, 5, 32, 32, 3))
        self.assertNotEqual(bytes(made.bytes()), self.frames())


class Table(unittest.TestCase):
    def test_keyword_arguments_are_its_fields(self):
        import inspect

        parameters = inspect.signature(zoetrope.WanPipeline.__call__).parameters
        for name, field in fields.FIELDS.items():
            self.assertIn(name, parameters)
            self.assertIn(field.help[:40], zoetrope.WanPipeline.__call__.__doc__)
        self.assertEqual(list(inspect.signature(zoetrope.WanImageToVideoPipeline.__call__).parameters)[1:3], ["image", "prompt"])

    def test_generated_files_are_those_of_the_library(self):
        from zoetrope import _generate, _library

        for name, make in _generate.FILES.items():
            with open(_library.FOLDER / name, encoding="utf-8") as file:
                self.assertEqual(file.read(), make(), f"run: python3 -m zoetrope._generate python/zoetrope ({name})")

    def test_explain_shows_plan_and_sources(self):
        text = pipe().explain("transformer", height=32, width=32, num_frames=5, text_tokens=32)
        self.assertIn("steps", text)
        self.assertIn("norm_scale_shift", text)


class Producer:
    def __init__(self, capsule, device):
        self.capsule, self.device = capsule, device

    def __dlpack__(self, **_):
        return self.capsule

    def __dlpack_device__(self):
        return self.device


def bytes_of(array):
    return bytes(array.bytes()) if isinstance(array, zoetrope.Tensor) else array.tobytes()


def frames_of(tensor, video):
    size = tensor.size_bytes // tensor.shape[0]
    return zoetrope.Tensor(tensor.dtype, tensor.shape[1:], tensor.address + video * size, tensor.device, tensor)


def pixels(path):
    """The picture's own chunks of a PNG, without its texts."""
    with open(path, "rb") as file:
        data = file.read()
    chunks, at = [], 8
    while at < len(data):
        size = int.from_bytes(data[at:at + 4], "big")
        if data[at + 4:at + 8] in (b"IHDR", b"IDAT"):
            chunks.append(data[at + 8:at + 8 + size])
        at += size + 12
    return b"".join(chunks)


def zoetrope_model(which):
    from zoetrope import _library

    return _library.text("zoe_embedded_model", which.encode())


if __name__ == "__main__":
    unittest.main()
