"""Compare the plain transformer with Diffusers', and whole-clip encoding with the pipeline's, on the CPU in f32.

    python check.py
"""
import random

import torch
from diffusers import WanTransformer3DModel
from torch.nn import functional as F

import scenes
import wan
from train_i2v import Parts, conditions


def close(what, a, b, limit):
    error = ((a - b).norm() / b.norm()).item()
    print(f"{what}: relative error {error:.2e}")
    assert error < limit, what


@torch.no_grad()
def main():
    torch.manual_seed(0)
    ours = wan.Wan(**wan.CONFIG)
    for p in ours.parameters():
        p.add_(0.05 * torch.randn_like(p))
    theirs = WanTransformer3DModel(**wan.CONFIG)
    theirs.load_state_dict(ours.state_dict())
    parts = Parts("cpu")
    text = parts.embed(parts.tokens(["a red circle growing on a white background", ""]))
    x, t = torch.randn(2, 36, 3, 8, 12), torch.tensor([17.0, 903.0])
    padded = F.pad(text, (0, 0, 0, wan.TEXT_ROWS - text.shape[1]))
    close("transformer", ours(x, t, text), theirs(x, t, padded, return_dict=False)[0], 1e-5)

    params = wan.add_lora(ours, 4)
    for p in params:
        p.copy_(0.1 * torch.randn_like(p))
    expected = ours(x, t, text)
    try:
        theirs.load_lora_adapter(wan.lora_state(ours), prefix="transformer")
    except (ImportError, ValueError) as missing:
        print("LoRA not compared:", missing)
    else:
        close("transformer with a LoRA", expected, theirs(x, t, padded, return_dict=False)[0], 1e-5)

    drawn, _ = scenes.draw_scenes(random.Random(0), 1)
    clip = scenes.draw(scenes.describe(drawn), 64, 64)
    from diffusers import WanImageToVideoPipeline
    from transformers import T5TokenizerFast
    pipe = WanImageToVideoPipeline(tokenizer=None, text_encoder=None, vae=parts.plain_vae(), scheduler=None)
    _, expected = pipe.prepare_latents(clip[:, :, 0], 1, height=64, width=64, num_frames=33, dtype=torch.float32, device="cpu")
    close("condition", conditions(parts, clip[:, :, :1], 33), expected, 1e-5)
    expected = pipe.vae.encode(clip).latent_dist.mode()
    close("latents", parts.encode(clip), (expected - parts.mean) / parts.std, 1e-5)


if __name__ == "__main__":
    main()
