"""A transformer of Diffusers with the widened weights of a GGUF file that has its names."""
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import WanTransformer3DModel


def read_gguf_transformer(folder: Path):
    """`folder` holds config.json and diffusion_pytorch_model-Q8_0.gguf. In f32."""
    import gguf

    model = WanTransformer3DModel.from_config(json.loads((folder / "config.json").read_text()))
    state = {}
    for tensor in gguf.GGUFReader(folder / "diffusion_pytorch_model-Q8_0.gguf").tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        state[tensor.name] = torch.from_numpy(values.copy()).reshape(model.state_dict()[tensor.name].shape)
    model.load_state_dict(state)
    return model.float().eval()
