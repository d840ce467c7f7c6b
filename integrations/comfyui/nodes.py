"""Load, LoRA, Video: a model, what changes it, and the frames of a request, with previews and ComfyUI's own cancel.

A model here is a pipeline of the package, kept as long as ComfyUI keeps the loader's result. Denoising and decoding are one node: a
pipeline plans the memory of both together. Inputs are fields of the request table, with its ranges and help.
"""

import comfy.model_management
import comfy.utils
import folder_paths
import zoetrope
from zoetrope import fields

_FOLDERS = ("diffusion_models", "checkpoints")
_EMBEDDED = "the model that comes with Zoetrope"
_PIPELINES = {
    "text to video": zoetrope.WanPipeline,
    "image to video": zoetrope.WanImageToVideoPipeline,
    "VACE": zoetrope.WanVACEPipeline,
}


def _files(*folders):
    return [name for folder in folders for name in folder_paths.get_filename_list(folder)]


def _path(name, *folders):
    return next(path for folder in folders if (path := folder_paths.get_full_path(folder, name)))


def _widget(name, **more):
    """A field of the table as an input."""
    field = fields.FIELDS[name]
    if field.choices:
        return (["the model's", *field.choices], {"tooltip": field.help})
    kinds = {"whole number": "INT", "number": "FLOAT", "whole numbers": "INT", "true or false": "BOOLEAN"}
    return (kinds.get(field.type, "STRING"), {"tooltip": field.help, **more})


class Load:
    """A model: its weights stay where the platform has them."""

    CATEGORY, FUNCTION, RETURN_TYPES = "Zoetrope", "load", ("ZOETROPE_MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        parts = {name: (["found beside the model", *_files(folder)],) for name, folder in (("vae", "vae"), ("text_encoder", "text_encoders"))}
        return {
            "required": {
                "kind": (list(_PIPELINES),),
                "model": ([_EMBEDDED, *_files(*_FOLDERS)],),
                "dtype": (["auto", "bf16", "f32"],),
                "device": ("STRING", {"default": "auto", "tooltip": "auto, cuda, cuda:1, cpu, opencl, ..."}),
            },
            "optional": parts,
        }

    def load(self, kind, model, dtype, device, vae="found beside the model", text_encoder="found beside the model"):
        parts = {name: _path(file, folder) for name, file, folder in (("vae", vae, "vae"), ("text_encoder", text_encoder, "text_encoders"))
                 if file != "found beside the model"}
        if model == _EMBEDDED:
            return ((_PIPELINES[kind].from_pretrained(dtype=dtype, device=device), ()),)
        # What a file lacks is looked for where ComfyUI has it.
        return ((_PIPELINES[kind].from_single_file(_path(model, *_FOLDERS), dtype=dtype, device=device,
                                                   models_dir=folder_paths.models_dir, **parts), ()),)


class Lora:
    """One more LoRA for what comes behind; several nodes add up."""

    CATEGORY, FUNCTION, RETURN_TYPES = "Zoetrope", "add", ("ZOETROPE_MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": ("ZOETROPE_MODEL",),
                "lora": (_files("loras"),),
                "strength": ("FLOAT", {"default": 1.0, "min": -100.0, "max": 100.0, "step": 0.01}),
                "for_transformer": (["every one", "high noise", "low noise"],),
            }
        }

    def add(self, model, lora, strength, for_transformer):
        pipe, loras = model
        field = {"every one": "lora", "high noise": "lora_high", "low noise": "lora_low"}[for_transformer]
        return ((pipe, (*loras, (field, f"{_path(lora, 'loras')}={strength!r}"))),)


class Video:
    """The frames of a request."""

    CATEGORY, FUNCTION, RETURN_TYPES, RETURN_NAMES = "Zoetrope", "make", ("IMAGE",), ("frames",)

    @classmethod
    def INPUT_TYPES(cls):
        text = {"multiline": True, "default": ""}
        return {
            "required": {
                "model": ("ZOETROPE_MODEL",),
                "prompt": _widget("prompt", **text),
                "negative_prompt": _widget("negative_prompt", **text),
                "width": _widget("width", default=0, min=0, max=8192, step=16),
                "height": _widget("height", default=0, min=0, max=8192, step=16),
                "num_frames": _widget("num_frames", default=0, min=0, max=1025, step=4),
                "num_inference_steps": _widget("num_inference_steps", default=0, min=0, max=1000),
                "guidance_scale": _widget("guidance_scale", default=-1.0, min=-1.0, max=100.0, step=0.1),
                "flow_shift": _widget("flow_shift", default=0.0, min=0.0, max=100.0, step=0.1),
                "scheduler": _widget("scheduler"),
                "preset": _widget("preset"),
                "seed": _widget("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF),
                "preview_every": ("INT", {"default": 1, "min": 0, "max": 100, "tooltip": "Steps from one preview to the next; 0: none"}),
            },
            "optional": {"image": ("IMAGE",), "last_image": ("IMAGE",), "video": ("IMAGE",), "mask": ("MASK",), "reference_image": ("IMAGE",)},
        }

    def make(self, model, seed, preview_every, image=None, last_image=None, video=None, mask=None, reference_image=None, **said):
        pipe, loras = model
        # 0, -1 and "the model's" leave a field to the model.
        request = {name: value for name, value in said.items() if value not in (0, -1.0, "the model's", "")}
        for name, value in (("image", image), ("last_image", last_image)):
            if value is not None:
                request[name] = value[0]
        if video is not None:
            request["video"] = video
        if mask is not None:
            request["mask"] = mask[0] if len(mask) == 1 else mask
        if reference_image is not None:
            request["reference_image"] = list(reference_image)
        for field, lora in loras:
            request.setdefault(field, []).append(lora)
        request.setdefault("prompt", "")
        steps = pipe.plan(**request, seed=seed).settled["num_inference_steps"]
        bar = comfy.utils.ProgressBar(steps)
        draws = preview_every > 0 and bool(pipe.info["latent_rgb"])

        def on_step(pipe, step, timestep, tensors):
            comfy.model_management.throw_exception_if_processing_interrupted()
            preview = None
            if draws and step % preview_every == 0:
                from PIL import Image

                preview = ("JPEG", Image.fromarray(pipe.preview(tensors["clean"])), 512)
            bar.update_absolute(step + 1, steps, preview)
            return tensors

        frames = pipe(**request, seed=seed, output_type="pt", callback_on_step_end=on_step,
                      callback_on_step_end_tensor_inputs=["clean"] if draws else []).frames
        return (frames[0].permute(0, 2, 3, 1).contiguous(),)  # [frames, height, width, 3], 0 to 1


NODE_CLASS_MAPPINGS = {"ZoetropeLoad": Load, "ZoetropeLora": Lora, "ZoetropeVideo": Video}
NODE_DISPLAY_NAME_MAPPINGS = {"ZoetropeLoad": "Zoetrope: Load", "ZoetropeLora": "Zoetrope: LoRA", "ZoetropeVideo": "Zoetrope: Video"}
