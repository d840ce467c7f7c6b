"""The nodes of integrations/comfyui, with stand-ins for what they use of ComfyUI; needs torch, which they get from it."""

import importlib.util
import os
import pathlib
import sys
import types
import unittest

try:
    import PIL  # noqa: F401
    import torch
except ImportError:
    torch = None

NODES = pathlib.Path(__file__).resolve().parent.parent.parent / "integrations" / "comfyui" / "nodes.py"


class Interrupted(Exception):
    pass


class Bar:
    seen = []

    def __init__(self, total):
        Bar.seen = []

    def update_absolute(self, value, total=None, preview=None):
        Bar.seen.append((value, total, preview))


def stand_ins(model_folder):
    comfy, management, utils, paths = (types.ModuleType(name) for name in ("comfy", "comfy.model_management", "comfy.utils", "folder_paths"))
    comfy.model_management, comfy.utils = management, utils
    management.throw_exception_if_processing_interrupted = lambda: None
    utils.ProgressBar = Bar
    files = {"loras": {"four_steps.safetensors": os.path.join(model_folder, "loras", "four_steps.safetensors")}}
    paths.models_dir = os.path.dirname(model_folder)
    paths.get_filename_list = lambda folder: list(files.get(folder, {}))
    paths.get_full_path = lambda folder, name: files.get(folder, {}).get(name)
    sys.modules.update({module.__name__: module for module in (comfy, management, utils, paths)})
    return management


@unittest.skipIf(torch is None, "torch is not installed")
class Nodes(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        from zoetrope import _library

        cls.management = stand_ins(_library.text("zoe_embedded_model", b"image_to_video"))
        spec = importlib.util.spec_from_file_location("zoetrope_nodes", NODES)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        cls.nodes = module.NODE_CLASS_MAPPINGS

    def defaults(self, node, **more):
        """What ComfyUI would hand over: each required input at its default."""
        said = {}
        for name, (kind, *options) in node.INPUT_TYPES()["required"].items():
            said[name] = options[0]["default"] if options and "default" in options[0] else kind[0] if isinstance(kind, list) else None
        return {**said, **more}

    def test_make_frames_with_previews_and_stop(self):
        load, lora, video = (self.nodes[f"Zoetrope{name}"] for name in ("Load", "Lora", "Video"))
        model, = load().load(**self.defaults(load, kind="image to video", dtype="f32", device="cpu"))
        picture = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(1))
        said = self.defaults(video, model=model, prompt="a red circle", width=32, height=32, num_frames=5, num_inference_steps=3, seed=3)
        frames, = video().make(**said, image=picture)
        self.assertEqual((tuple(frames.shape), frames.dtype), ((5, 32, 32, 3), torch.float32))
        self.assertEqual([value for value, _, _ in Bar.seen], [1, 2, 3])
        self.assertEqual(Bar.seen[0][2][1].size, (4, 4))
        with_lora, = lora().add(model, "four_steps.safetensors", 1.0, "every one")
        changed, = video().make(**{**said, "model": with_lora}, image=picture)
        self.assertFalse(torch.equal(changed, frames))
        again, = video().make(**said, image=picture)
        self.assertTrue(torch.equal(again, frames))

        def stop():
            raise Interrupted

        self.management.throw_exception_if_processing_interrupted = stop
        with self.assertRaises(Interrupted):
            video().make(**said, image=picture)
        self.management.throw_exception_if_processing_interrupted = lambda: None


if __name__ == "__main__":
    unittest.main()
