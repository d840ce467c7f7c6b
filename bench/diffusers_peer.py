#!/usr/bin/env python3
"""Time Diffusers on this CPU: the other side of `zoe bench`. One JSON line a measurement, seconds.

    python bench/diffusers_peer.py --what toy | toy-i2v | toy-forward | toy-vae | 1.3b-forward | vae-full | vae22-full [--tokens 512|2550]
                                   [--dtype f32|bf16] [--threads 2] [--runs N]

toy           the embedded model's whole pipeline, 128x128x33, 30 steps, guidance 4, loaded before
toy-i2v       the same of the embedded model of image to video, its weights widened to f32; needs gguf
toy-forward   one call of its transformer for that video, one prompt
toy-vae       decoding that video
1.3b-forward  one call of a transformer of the size of Wan2.1-T2V-1.3B, random weights; 512 tokens are 256x256x5,
              2550 are 480x272x17
vae-full      decoding 256x256x17 with a full-size Wan 2.1 VAE, random weights, latent frame by latent frame as pipelines do
vae22-full    the same of the VAE of Wan2.2-TI2V-5B
"""
import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from diffusers import (AutoencoderKLWan, UniPCMultistepScheduler, WanImageToVideoPipeline, WanPipeline,
                       WanTransformer3DModel)
from gguf_transformer import read_gguf_transformer
from PIL import Image
from transformers import AutoTokenizer, UMT5EncoderModel

MODELS = Path(__file__).resolve().parents[1] / "models"
TOY, TOY_I2V = MODELS / "toy-wan", MODELS / "toy-wan-i2v"
# vae/config.json of Wan2.2-TI2V-5B; the latents' mean and deviation are no part of decoding.
VAE_22 = {"base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "latents_mean": [0.0] * 48, "latents_std": [1.0] * 48,
          "is_residual": True, "in_channels": 12, "out_channels": 12, "patch_size": 2, "scale_factor_spatial": 16}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
LATENTS = {512: (2, 32, 32), 2550: (5, 34, 60)}  # frames, height, width; four latent pixels a token
RUNS = {"toy": 3, "toy-i2v": 3, "toy-forward": 20, "toy-vae": 5, "1.3b-forward": 3, "vae-full": 2, "vae22-full": 1}


def forward_of(model, frames, height, width, dtype):
    latents = torch.randn(1, model.config.in_channels, frames, height, width, dtype=dtype)
    text = torch.randn(1, 512, model.config.text_dim, dtype=dtype)
    timestep = torch.tensor([500])
    return lambda: model(latents, timestep, text, return_dict=False)


def work_of(what, tokens, dtype):
    """The thing to time, ready to be called."""
    torch.manual_seed(0)
    if what == "1.3b-forward":
        model = WanTransformer3DModel(num_attention_heads=12, ffn_dim=8960, num_layers=30)
        return forward_of(model.to(dtype).eval(), *LATENTS[tokens], dtype)
    if what == "vae-full":
        vae, latents = AutoencoderKLWan().to(dtype).eval(), torch.randn(1, 16, 5, 32, 32, dtype=dtype)
        return lambda: vae.decode(latents)
    if what == "vae22-full":
        vae, latents = AutoencoderKLWan(**VAE_22).to(dtype).eval(), torch.randn(1, 48, 5, 16, 16, dtype=dtype)
        return lambda: vae.decode(latents)
    request = {"prompt": "a red circle moving right on a white background", "height": 128, "width": 128, "num_frames": 33,
               "output_type": "np", "num_inference_steps": 30}
    if what == "toy-i2v":
        pipe = WanImageToVideoPipeline(
            tokenizer=AutoTokenizer.from_pretrained(TOY / "tokenizer"),
            text_encoder=UMT5EncoderModel.from_pretrained(TOY / "text_encoder", dtype=dtype).eval(),
            vae=AutoencoderKLWan.from_pretrained(TOY / "vae", torch_dtype=dtype).eval(),
            scheduler=UniPCMultistepScheduler.from_pretrained(TOY / "scheduler"),
            transformer=read_gguf_transformer(TOY_I2V / "transformer").to(dtype))
        request |= {"image": Image.open(TOY_I2V / "circle.png").convert("RGB"), "guidance_scale": 3.0}
    else:
        pipe = WanPipeline.from_pretrained(TOY, torch_dtype=dtype)
        request |= {"guidance_scale": 4.0}
    pipe.set_progress_bar_config(disable=True)
    if what == "toy-forward":
        return forward_of(pipe.transformer, 9, 16, 16, dtype)
    if what == "toy-vae":
        latents = torch.randn(1, 16, 9, 16, 16, dtype=dtype)
        return lambda: pipe.vae.decode(latents)
    return lambda: pipe(**request, generator=torch.Generator("cpu").manual_seed(0))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=RUNS, nargs="+", required=True)
    parser.add_argument("--tokens", type=int, choices=LATENTS, default=512, help="of 1.3b-forward")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, help="timed runs after one to warm up; default: by the work's size")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    for what in args.what:
        work, seconds = work_of(what, args.tokens, DTYPES[args.dtype]), []
        work()
        for _ in range(args.runs or RUNS[what]):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        line = {"side": "diffusers", "what": what, "dtype": args.dtype, "threads": args.threads, "runs": len(seconds),
                "median": round(statistics.median(seconds), 4), "min": round(min(seconds), 4), "max": round(max(seconds), 4)}
        if what == "1.3b-forward":
            line["tokens"] = args.tokens
        print(json.dumps(line), flush=True)
        del work


if __name__ == "__main__":
    main()
