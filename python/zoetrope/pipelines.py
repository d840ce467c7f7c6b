"""Pipelines with the names of Diffusers': a script changes one import.

    from zoetrope import WanPipeline, export_to_video

    pipe = WanPipeline.from_pretrained("Wan2.1-T2V-1.3B-Diffusers")
    frames = pipe("a fox in the snow", num_frames=33, seed=7).frames[0]
    export_to_video(frames, "fox.mp4", fps=16)
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import inspect
import logging
import os
import pathlib
import sys
import tempfile
from typing import TYPE_CHECKING, Any, Callable, ClassVar, Iterator, Mapping, Sequence, TypeVar

from . import _library, fields, pictures
from ._worker import Call, Stopped, Worker
from .errors import Cancelled, InvalidArgument, Unsupported
from .tensors import Tensor

if TYPE_CHECKING:
    from typing import Unpack

    from .request_types import RequestFields, SessionOptions

__all__ = ["MemoryPlan", "WanImageToVideoPipeline", "WanPipeline", "WanPipelineOutput", "WanVACEPipeline", "WanVideoToVideoPipeline"]

logger = logging.getLogger("zoetrope")
P = TypeVar("P", bound="WanPipeline")

StepEnd = Callable[["WanPipeline", int, float, "dict[str, Any]"], "Mapping[str, Any] | None"]


@dataclasses.dataclass
class WanPipelineOutput:
    """What a call made.

    Attributes:
        frames: as ``output_type`` says, of each video (prompts x seeds): frames[0] is the first.
        timings: seconds of "load", "encode", "denoise", "decode", and "first_step".
        settled: the request after defaults and rounding: height, width, num_frames, fps, seeds, ...
    """

    frames: Any
    timings: dict[str, float]
    settled: dict[str, Any]


@dataclasses.dataclass
class MemoryPlan:
    """What a request takes, before anything is loaded; bytes.

    Attributes:
        fits: whether it can run.
        refusal: why not, and what would; empty where it fits.
        peak_bytes, free_bytes: of the device: the most that is held at a time, and what there is.
        stages: of each stage its name, component, weights, tensors, workspace and total.
        settled: the request after defaults and rounding.
    """

    fits: bool
    refusal: str
    peak_bytes: int
    free_bytes: int
    stages: list[dict[str, Any]]
    settled: dict[str, Any]


@dataclasses.dataclass
class _Adapter:
    path: str
    field: str  # lora, lora_high or lora_low
    weight: float
    is_on: bool = True


def _dtype_text(dtype: object) -> str | None:
    """ "f32", "bf16", torch.float32, torch.bfloat16, ..."""
    if dtype is None:
        return None
    text = str(dtype).rpartition(".")[2]
    return {"float32": "f32", "bfloat16": "bf16", "float": "f32"}.get(text, text)


def _device_text(device: object) -> str:
    """ "cuda:1" of a torch.device, too."""
    return str(device)


def _cached_folder(name: str) -> str:
    """Where a published model lies that Diffusers has already downloaded; the name itself where there is none."""
    parts = name.split("/")
    if os.path.exists(name) or len(parts) != 2 or not all(parts) or name.startswith("."):
        return name
    advice = f"[model] no folder {name} here. If it is a published model, download it: hf download {name} --local-dir {parts[1]} (then give that folder)."
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise InvalidArgument(advice) from None
    try:
        folder: str = snapshot_download(name, local_files_only=True)
    except Exception:
        raise InvalidArgument(advice) from None
    return folder


class WanPipeline:
    """Text to video, and all that members of the family have in common.

    A pipeline keeps its model on its device from call to call: a second call of the same size reads no weight and compiles nothing.
    Calls may come from several threads and take turns; pipelines run beside one another.
    """

    _recipes: ClassVar[tuple[str, ...]] = ("text to video", "text or image to video")
    _positional: ClassVar[tuple[str, ...]] = ("prompt", "negative_prompt", "height", "width", "num_frames", "num_inference_steps",
                                              "guidance_scale", "guidance_scale_2")
    _embedded: ClassVar[str] = "text_to_video"

    def __init__(self, **options: Any) -> None:
        """Opens a model: from_pretrained and from_single_file say which."""
        self._adapters: dict[str, _Adapter] = {}
        self._worker = Worker("zoetrope")
        self._options: dict[str, Any] = dict(options)
        self._open()

    @classmethod
    def from_pretrained(cls: type[P], path: str | os.PathLike[str] | None = None, *, dtype: object = None, torch_dtype: object = None,
                        device: object = None, **options: Unpack[SessionOptions]) -> P:
        """A folder or a file of any layout (docs/files.md), or a published name that huggingface_hub has in its cache.

        Args:
            path: none takes the model that comes with the package.
            dtype: "f32" or "bf16", or torch's; of weights and activations. Not said: bf16 where the device is faster in it.
            device: "cuda", "cuda:1", "cpu", "opencl", ...; not said: the best that opens.
            options: of a session:
        """
        said: dict[str, Any] = dict(options)
        name = os.fspath(path) if path is not None else ""
        said["model"] = _cached_folder(name) if name else _library.text("zoe_embedded_model", cls._embedded.encode())
        if dtype is not None or torch_dtype is not None:
            said["dtype"] = _dtype_text(dtype if dtype is not None else torch_dtype)
        if device is not None:
            said["platform"] = _device_text(device)
        return cls(**said)

    @classmethod
    def from_single_file(cls: type[P], path: str | os.PathLike[str], *, dtype: object = None, torch_dtype: object = None,
                         device: object = None, **options: Unpack[SessionOptions]) -> P:
        """A single file (safetensors, GGUF, .pth); parts that it lacks by name: vae=, text_encoder=, tokenizer=, models_dir=."""
        return cls.from_pretrained(path, dtype=dtype, torch_dtype=torch_dtype, device=device, **options)

    def to(self: P, device: object = None, dtype: object = None) -> P:
        """Moves to another device or dtype, by opening the model there; a torch.dtype alone is one, too."""
        if str(device).startswith("torch.") and dtype is None:
            device, dtype = None, device
        wanted = dict(self._options)
        if device is not None:
            wanted["platform"] = _device_text(device)
        if dtype is not None:
            wanted["dtype"] = _dtype_text(dtype)
        now = self.info
        same_device = wanted.get("platform") in (None, "auto", now["platform"], now["platform"] + ":0")
        if not same_device or wanted.get("dtype") not in (None, "auto", now["dtype"]):
            before, self._options = self._options, wanted
            try:
                self._open()
            except BaseException:
                self._options = before
                raise
        return self

    @property
    def info(self) -> dict[str, Any]:
        """The model's name, recipe and defaults, dtype, platform and device."""
        info: dict[str, Any] = _library.parsed("zoe_session_info", self._session)
        return info

    @property
    def counts(self) -> dict[str, int]:
        """Since it was opened: plans compiled and kept, tensors made, bytes of weights loaded. Waits for a run to end."""
        counts: dict[str, int] = self._worker_run(lambda call: _library.parsed("zoe_session_counts", self._session))
        return counts

    # --- LoRAs

    def load_lora_weights(self, path: str | os.PathLike[str], weight_name: str | None = None, adapter_name: str | None = None, *,
                          load_into_transformer_2: bool = False) -> None:
        """A LoRA for later calls (docs/loras.md). Of a model with two experts it is for the one for high noise, as in Diffusers, or
        with `load_into_transformer_2` for that for low noise; ``pipe(..., lora=path)`` is for both.

        Args:
            path: a file, or a folder with ``weight_name`` or pytorch_lora_weights.safetensors in it.
            adapter_name: for set_adapters; not said: default_0, default_1, ...
        """
        file = pathlib.Path(path) / weight_name if weight_name else pathlib.Path(path)
        if not file.exists():
            raise InvalidArgument(f"[lora] no file {file}.")
        two = self.info["experts"] == 2
        if load_into_transformer_2 and not two:
            raise InvalidArgument("[load_into_transformer_2] this model has one transformer. Leave it out.")
        name = adapter_name or f"default_{len(self._adapters)}"
        if name in self._adapters:
            raise InvalidArgument(f'[adapter_name] "{name}" is loaded already. Take another name, or delete_adapters first.')
        self._adapters[name] = _Adapter(str(file), ("lora_low" if load_into_transformer_2 else "lora_high") if two else "lora", 1.0)

    def set_adapters(self, adapter_names: str | Sequence[str], adapter_weights: float | Sequence[float] | None = None) -> None:
        """Takes these LoRAs, at these strengths (1 where none is said), and no others."""
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        weights = [1.0 if adapter_weights is None else float(adapter_weights)] * len(names) if not isinstance(
            adapter_weights, Sequence) else [float(each) for each in adapter_weights]
        if len(weights) != len(names):
            raise InvalidArgument(f"[adapter_weights] got {len(weights)}, expected {len(names)}, one for each adapter.")
        for name in names:
            self._adapter(name)
        for name, adapter in self._adapters.items():
            adapter.is_on = name in names
            if adapter.is_on:
                adapter.weight = weights[names.index(name)]

    def get_active_adapters(self) -> list[str]:
        """Names of the LoRAs that calls take."""
        return [name for name, adapter in self._adapters.items() if adapter.is_on]

    def delete_adapters(self, adapter_names: str | Sequence[str]) -> None:
        for name in [adapter_names] if isinstance(adapter_names, str) else list(adapter_names):
            self._adapter(name)
            del self._adapters[name]

    def unload_lora_weights(self) -> None:
        """Forgets all LoRAs: the next call has the bits of before."""
        self._adapters.clear()

    def _adapter(self, name: str) -> _Adapter:
        if name not in self._adapters:
            raise InvalidArgument(f'[adapter_names] no adapter "{name}": got it, expected one of {", ".join(self._adapters) or "none"}.')
        return self._adapters[name]

    # --- Requests

    def __call__(self, *positional: Any, output_type: str = "np", callback_on_step_end: StepEnd | None = None,
                 callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",), generator: object = None, return_dict: bool = True,
                 output: str | os.PathLike[str] | None = None, **request: Unpack[RequestFields]) -> Any:
        """Makes the videos of a request: one of each prompt with each seed."""
        said = self._said(positional, request, generator)
        runs_step = callback_on_step_end is not None
        wanted = [name for name in callback_on_step_end_tensor_inputs] if runs_step else []
        for name in wanted:
            if name not in ("latents", "clean"):
                raise InvalidArgument(f'[callback_on_step_end_tensor_inputs] got "{name}", expected latents or clean.')
        if output_type not in _OUTPUTS:
            raise InvalidArgument(f'[output_type] got "{output_type}", expected {", ".join(_OUTPUTS)}.')
        with self._request_json(said) as text:
            job = self._worker_run(lambda call: self._prepare(text, output, False))
            info = _library.parsed("zoe_job_info", job)
            settled: dict[str, Any] = info["settled"]
            videos = len(settled["prompts"])
            shape = (videos, settled["num_frames"], settled["height"], settled["width"], 3)
            frames = Tensor.zeros("u8", shape) if output is None and output_type != "latent" else None
            latents = Tensor.zeros("f32", (videos, *info["latents"])) if output_type == "latent" else None
            raised: list[BaseException] = []
            timings = self._worker_run(
                lambda call: self._run(call, job, frames, latents, callback_on_step_end, wanted, info, raised),
                lambda: _library.library.zoe_job_cancel(job))
            if raised:
                raise raised[0]
        made = latents if latents is not None else frames
        result = _OUTPUTS[output_type](made) if made is not None else os.fspath(output or "")
        return WanPipelineOutput(result, timings, settled) if return_dict else (result,)

    def plan(self, *positional: Any, **request: Unpack[RequestFields]) -> MemoryPlan:
        """What a call with these arguments takes of memory, and whether it fits; nothing is loaded."""
        said = self._said(positional, request, None)
        said.setdefault("prompt", "a prompt of a few words")
        with self._request_json(said) as text:
            job = self._worker_run(lambda call: self._prepare(text, None, True))
        info = _library.parsed("zoe_job_info", job)
        memory = info["memory"]
        return MemoryPlan(not info["refusal"], info["refusal"], memory["peak_bytes"], memory["free_bytes"], memory["stages"], info["settled"])

    def explain(self, part: str = "transformer", *, source: bool = False, **sizes: int) -> str:
        """What a part's plan runs, and why: every step with its implementation, and with `source` the generated kernels.

        Args:
            part: transformer, text-keys, text-encoder, vae-decode, vae-encode or image-encoder.
            sizes: height, width (pixels), num_frames, text_tokens, batch; not said: the model's.
        """
        options = _library.dumped({"part": part, "source": source, **sizes})
        text: str = self._worker_run(lambda call: _library.text("zoe_session_explain", self._session, options))
        return text

    def preview(self, clean: Any, frame: int = 0) -> Any:
        """A small picture of what is being made, without the VAE: uint8 [latent height, latent width, 3], of what a callback is given
        as "clean" and one of its latent frames. Unsupported where nobody knows the model's map from latents to colours."""
        import numpy

        rows = numpy.asarray(self.info["latent_rgb"], dtype=numpy.float32)
        if rows.size == 0:
            raise Unsupported("[preview] nobody knows this model's map from latents to colours.")
        colours = numpy.tensordot(numpy.asarray(clean)[:, frame], rows[:-1], axes=(0, 0)) + rows[-1]
        return numpy.clip(127.5 * colours + 128, 0, 255).astype(numpy.uint8)

    def close(self) -> None:
        """Lets go of model and device now; also the end of a ``with`` block."""
        self._session.close()

    def __enter__(self: P) -> P:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- Inside

    def _open(self) -> None:
        # Not a method: what the library calls may not keep the pipeline alive.
        def on_log(_: Any, is_notice: int, text: bytes) -> None:
            logger.log(logging.WARNING if is_notice else logging.DEBUG, "%s", text.decode("utf-8", "replace"))

        log = _library.OnLog(on_log)
        options = _library.dumped(self._options)
        session = self._worker_run(lambda call: _library.Handle.made("zoe_session_close", "zoe_session_open", options, log, None))
        info = _library.parsed("zoe_session_info", session)
        if info["recipe"] not in self._recipes:
            right = [each.__name__ for each in (WanPipeline, WanImageToVideoPipeline, WanVACEPipeline) if info["recipe"] in each._recipes]
            raise InvalidArgument(
                f"[model] {info['model']} makes {info['recipe']}: got it for {type(self).__name__}, expected {' or '.join(right) or 'another pipeline'}.")
        self._session, self._log = session, log

    def _worker_run(self, body: Callable[[Call], Any], cancel: Callable[[], None] = lambda: None) -> Any:
        return self._worker.run(body, cancel)

    def _said(self, positional: tuple[Any, ...], request: Mapping[str, Any], generator: object) -> dict[str, Any]:
        if len(positional) > len(self._positional):
            raise TypeError(f"{type(self).__name__} takes {len(self._positional)} positional arguments at most, got {len(positional)}")
        said = {name: value for name, value in zip(self._positional, positional) if value is not None}
        for name, value in request.items():
            if value is None:
                continue
            field = fields.find(name)
            name = field.name if field is not None else name
            if name in said:
                raise TypeError(f"{type(self).__name__} got several values for {name}")
            said[name] = value
        if generator is not None:
            if "seed" in said:
                raise InvalidArgument("[seed] got a generator and a seed, expected one of them.")
            said["seed"] = [_seed_of(each) for each in (generator if isinstance(generator, (list, tuple)) else [generator])]
        for adapter in self._adapters.values():
            if adapter.is_on:
                before = said.get(adapter.field, [])
                said[adapter.field] = [*([before] if isinstance(before, str) else before), f"{adapter.path}={adapter.weight!r}"]
        return said

    @contextlib.contextmanager
    def _request_json(self, said: Mapping[str, Any]) -> Iterator[bytes]:
        """The request's text. Pictures that are no files become some as long as it is at work."""
        with contextlib.ExitStack() as files:
            folder: list[str] = []

            def place() -> str:
                if not folder:
                    folder.append(files.enter_context(tempfile.TemporaryDirectory(prefix="zoetrope-")))
                return folder[0]

            plain = {}
            for name, value in said.items():
                field = fields.find(name)
                if field is not None and field.is_file and not isinstance(value, (str, os.PathLike)):
                    value = pictures.as_files(name, value, place)
                plain[name] = fields.plain(name, value)
            yield _library.dumped(plain)

    def _prepare(self, request: bytes, output: str | os.PathLike[str] | None, plan_only: bool) -> _library.Handle:
        path = os.fsencode(output) if output is not None else None
        return _library.Handle.made("zoe_job_close", "zoe_job_prepare", self._session, request, path, int(plan_only))

    def _run(self, call: Call, job: _library.Handle, frames: Tensor | None, latents: Tensor | None, on_step: StepEnd | None,
             wanted: list[str], info: dict[str, Any], raised: list[BaseException]) -> dict[str, float]:
        levels = info["settled"]["noise_levels"]

        def step(_: Any, pointer: Any) -> int:
            try:
                done = pointer.contents
                given = {}
                for name in wanted:  # in this thread, which the device belongs to
                    tensor = Tensor.zeros("f32", info["latents"])
                    _library.check(_library.library.zoe_step_latents(pointer, int(name == "clean"), tensor.address, tensor.count))
                    given[name] = _readonly(tensor)
                call.ask(lambda: self._ask(on_step, done.step, 1000.0 * levels[done.step], given))
                return 0
            except BaseException as error:
                if not isinstance(error, Stopped):
                    raised.append(error)
                return 1

        callbacks = None
        if on_step is not None:
            callbacks = ctypes.byref(_library.Callbacks(None, _library.OnProgress(), _library.OnStep(step)))
        results = _library.Results(frames.address if frames else None, frames.size_bytes if frames else 0,
                                   latents.address if latents else None, latents.size_bytes if latents else 0)
        try:
            timings: dict[str, float] = _library.parsed("zoe_job_run", job, callbacks, ctypes.byref(results))
        except Cancelled:
            if not raised:
                raise
            return {}
        return timings

    def _ask(self, on_step: StepEnd | None, step: int, timestep: float, given: dict[str, Any]) -> None:
        assert on_step is not None
        answer = on_step(self, step, timestep, dict(given))
        for name, value in (answer or {}).items():
            if name in given and value is not given[name]:
                raise Unsupported(f"[callback_on_step_end] changed {name}: they can be looked at, not changed. Return what was given.")


def _seed_of(generator: Any) -> int:
    """Of a torch.Generator that nobody has drawn from, or of a number. It counts as drawn from behind that, as in Diffusers."""
    if isinstance(generator, int):
        return generator
    if not hasattr(generator, "initial_seed"):
        raise InvalidArgument(f"[generator] got a {type(generator).__name__}, expected a torch.Generator or a seed.")
    seed = int(generator.initial_seed())
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(generator, torch.Generator):
        fresh = torch.Generator(generator.device).manual_seed(seed)
        if not torch.equal(fresh.get_state(), generator.get_state()):
            raise InvalidArgument("[generator] was drawn from: its next numbers are not those of its seed. Make a new one, or give seed=.")
        torch.empty(1, device=generator.device).normal_(generator=generator)
    return seed


def _readonly(tensor: Tensor) -> Any:
    try:
        array = tensor.numpy()
    except ImportError:
        return tensor
    array.flags.writeable = False
    return array


def _as_numpy(tensor: Tensor) -> Any:
    """float32 of 0 to 1, [videos, frames, height, width, 3]."""
    import numpy

    return numpy.divide(tensor.numpy(), numpy.float32(255), dtype=numpy.float32)


def _as_pil(tensor: Tensor) -> Any:
    from PIL import Image

    return [[Image.fromarray(frame) for frame in video] for video in tensor.numpy()]


def _as_torch(tensor: Tensor) -> Any:
    """float32 of 0 to 1, [videos, frames, 3, height, width]."""
    import torch

    return torch.from_dlpack(tensor).permute(0, 1, 4, 2, 3).float() / 255


def _latent(tensor: Tensor) -> Any:
    try:
        return tensor.numpy()
    except ImportError:
        return tensor


_OUTPUTS: dict[str, Callable[[Tensor], Any]] = {
    "np": _as_numpy,
    "uint8": lambda tensor: tensor.numpy(),
    "pil": _as_pil,
    "pt": _as_torch,
    "tensor": lambda tensor: tensor,
    "latent": _latent,
}


class WanImageToVideoPipeline(WanPipeline):
    """Image to video, from a first and a last picture where the model takes one (``last_image``)."""

    _recipes = ("image to video", "first and last frame to video", "text or image to video")
    _positional = ("image", "prompt", "negative_prompt", "height", "width", "num_frames", "num_inference_steps", "guidance_scale",
                   "guidance_scale_2")
    _embedded = "image_to_video"


class WanVideoToVideoPipeline(WanPipeline):
    """Video to video: ``video`` (frames, or a file) and ``strength``, with a model of text to video."""

    _positional = ("video", "prompt", "negative_prompt", "height", "width", "num_inference_steps")


class WanVACEPipeline(WanPipeline):
    """VACE: led by ``video``, ``mask`` and ``reference_images``, with a ``conditioning_scale``."""

    _recipes = ("text, video or reference images to video",)
    _positional = ("prompt", "negative_prompt", "video", "mask", "reference_images", "conditioning_scale", "height", "width", "num_frames",
                   "num_inference_steps", "guidance_scale", "guidance_scale_2")


_OWN_ARGUMENTS = """
            output_type: "np" (float32 of 0 to 1, [videos, frames, height, width, 3]), "uint8" (the same memory as 8 bits, no copy),
                "pil" (lists of pictures), "pt" (torch, [videos, frames, 3, height, width]), "tensor" (a Tensor: DLPack without a
                copy, needs no numpy) or "latent" (float32 [videos, channels, latent frames, height / 8, width / 8]).
            callback_on_step_end: called behind each step as (pipe, step, timestep, tensors) in the calling thread; what it raises
                ends the call. Latents can be looked at, not changed.
            callback_on_step_end_tensor_inputs: "latents" and "clean": what the step took the video for, without noise.
            generator: a torch.Generator on the CPU, or a list of them: its seed is taken.
            output: a path: the video goes to a file, with its settings, as the command writes it; .frames is then the path.

        Returns:
            WanPipelineOutput; with return_dict=False its frames in a tuple.

        Raises:
            InvalidArgument, OutOfMemory, Unsupported, ...: docs/python.md says which is which.
        """


def _describe(cls: type[WanPipeline]) -> None:
    """Signature and docstring of the call, from the table of fields."""
    own = [each for each in inspect.signature(WanPipeline.__call__).parameters.values() if each.kind is inspect.Parameter.KEYWORD_ONLY]
    names = [name for name in cls._positional] + [name for name in fields.FIELDS if name not in cls._positional]
    parameters = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD if name in cls._positional else inspect.Parameter.KEYWORD_ONLY,
                          default=None, annotation=field.python_type) for name in names if (field := fields.find(name)) is not None
    ]
    original = WanPipeline.__call__

    def call(self: WanPipeline, *positional: Any, **request: Any) -> Any:
        return original(self, *positional, **request)

    call.__doc__ = f"Makes the videos of a request: one of each prompt with each seed.\n\n        Args:\n{fields.docstring()}{_OWN_ARGUMENTS}"
    call.__signature__ = inspect.Signature(parameters + own)  # type: ignore[attr-defined]
    call.__name__ = "__call__"
    cls.__call__ = call  # type: ignore[method-assign]


for _cls in (WanImageToVideoPipeline, WanVideoToVideoPipeline, WanVACEPipeline):
    _describe(_cls)
_describe(WanPipeline)
_options = (row for name, row in fields.SESSION_OPTIONS.items() if name not in ("model", "dtype", "platform"))
WanPipeline.from_pretrained.__func__.__doc__ = (WanPipeline.from_pretrained.__doc__ or "").rstrip() + "".join(  # type: ignore[attr-defined]
    f"\n                {row['name']}: {row['help']} ({row['type']})." for row in _options) + "\n        "


def platforms() -> list[dict[str, Any]]:
    """Devices of this machine: of each its name, whether it opens, and the device or why not."""
    all_of_them: list[dict[str, Any]] = _library.parsed("zoe_platforms")
    return all_of_them
