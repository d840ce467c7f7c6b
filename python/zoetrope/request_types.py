"""Arguments as types, made from the library's tables by `python -m zoetrope._generate`: not to be changed by hand."""

from __future__ import annotations

import os
from typing import Any, Literal, Sequence, TypedDict, Union

Picture = Union[str, "os.PathLike[str]", Any]
"""A path, a PIL image, or an array [height, width, 3]."""


class RequestFields(TypedDict, total=False):
    """The fields of a request (docs/requests.md), and other programs' names for them."""

    prompt: str | Sequence[str] | None
    "What to show; several make a video each (at most 1048576 bytes of UTF-8; default: must be said)."
    prompts: str | Sequence[str] | None
    positive_prompt: str | Sequence[str] | None
    negative_prompt: str | None
    "What not to show; of no effect without guidance, classifier-free or nag_scale (at most 1048576 bytes of UTF-8; default: none)."
    negative: str | None
    n_prompt: str | None
    neg_prompt: str | None
    emphasis: bool | None
    "Parentheses in prompts are weights, as ComfyUI has them: (word:1.2), (word) is 1.1; \\( and \\) are plain ones (true or false; default: false)."
    prompt_weighting: bool | None
    image: Picture | None
    "The picture that the video begins with: a PNG, JPEG or WebP file; without a size the video has its shape (a path; default: none: must be said, but of ti2v_5b). Taken by i2v, i2v_a14b, ti2v_5b, flf2v."
    image_path: Picture | None
    init_image: Picture | None
    init_img: Picture | None
    first_image: Picture | None
    first_frame: Picture | None
    last_image: Picture | None
    "The picture that the video ends with, as image (a path; default: none). Taken by i2v, i2v_a14b, flf2v."
    last_image_path: Picture | None
    end_image: Picture | None
    end_img: Picture | None
    last_frame: Picture | None
    video: Picture | Sequence[Picture] | None
    "A file or a folder of pictures, frame by frame: text to video starts from it (strength), VACE is led by it (a path; default: none). Taken by t2v, t2v_a14b, ti2v_5b, vace, vace_a14b."
    video_path: Picture | Sequence[Picture] | None
    src_video: Picture | Sequence[Picture] | None
    input_video: Picture | Sequence[Picture] | None
    control_video: Picture | Sequence[Picture] | None
    mask: Picture | Sequence[Picture] | None
    "What of the video is made (white) and what is kept (black): a picture for all frames, or as video, of its size (a path; default: none: all is made). Taken by vace, vace_a14b."
    mask_path: Picture | Sequence[Picture] | None
    src_mask: Picture | Sequence[Picture] | None
    mask_video: Picture | Sequence[Picture] | None
    reference_image: Picture | Sequence[Picture] | None
    "A picture of what is to appear in the video, shown whole on white; several, one each time it is said (a path; default: none). Taken by vace, vace_a14b."
    reference_images: Picture | Sequence[Picture] | None
    src_ref_images: Picture | Sequence[Picture] | None
    ref_images: Picture | Sequence[Picture] | None
    strength: float | None
    "Of the steps, the share that is taken from a video on: 1 keeps little of it, 0.1 nearly all (0 to 1; default: 0.8). Taken by t2v, t2v_a14b, ti2v_5b."
    denoising_strength: float | None
    conditioning_scale: float | None
    "How much video, mask and reference images lead (0 to 1000; default: 1). Taken by vace, vace_a14b."
    vace_strength: float | None
    context_scale: float | None
    fit: Literal["crop", "stretch", "pad"] | None
    "A picture or video of another shape than is made: crop what sticks out, stretch (as Diffusers does), pad with black (crop, stretch or pad; default: crop)."
    size: str | tuple[int, int] | None
    "Width and height at once, as 832x480; with an image or a video its shape at the model's area, if nothing is said (1 to 65536 pixels; default: the model's)."
    resolution: str | tuple[int, int] | None
    height: int | None
    "Rounded down to what the model can make (multiples of 16 or 32), but with exact_size (1 to 65536 pixels; default: the model's)."
    width: int | None
    "As height (1 to 65536 pixels; default: the model's)."
    exact_size: bool | None
    "Make the next larger size that the model can and crop it to width and height (true or false; default: false)."
    num_frames: int | None
    "Made one more than a multiple of 4 (1 to 65536 frames; default: the model's)."
    frames: int | None
    length: int | None
    video_frames: int | None
    frame_num: int | None
    video_length: int | None
    fps: float | None
    "Of the file; the model makes the same frames (0.1 to 240 frames a second; default: the model's)."
    frame_rate: float | None
    crf: int | None
    "Quality of .mp4, .mov, .mkv and .webm: 0 is best and largest, 51 (.webm: 63) worst (0 to 63; default: the format's)."
    num_inference_steps: int | None
    "Denoising steps (1 to 1000 steps; default: the model's)."
    steps: int | None
    sample_steps: int | None
    sampling_steps: int | None
    guidance_scale: float | None
    "Classifier-free guidance; up to 1 switches it off (0 to 1000; default: the model's)."
    cfg_scale: float | None
    cfg: float | None
    guidance: float | None
    sample_guide_scale: float | None
    guidance_scale_2: float | None
    "Guidance of the expert for low noise, below boundary_ratio (0 to 1000; default: guidance_scale's). Taken by t2v_a14b, i2v_a14b, vace_a14b."
    boundary_ratio: float | None
    "The noise level below which the second expert takes over (0 to 1; default: the model's). Taken by t2v_a14b, i2v_a14b, vace_a14b."
    boundary: float | None
    moe_boundary: float | None
    nag_scale: float | None
    "Normalized attention guidance: the negative prompt without classifier-free guidance, for models of few steps; 11 is usual (1 to 100; default: none)."
    nag_tau: float | None
    "How much longer than without it nag_scale may make what a token sees (0 to 100; default: 2.5)."
    nag_alpha: float | None
    "How much of nag_scale's result is taken, the rest being the prompt's alone (0 to 1; default: 0.25)."
    guidance_batch: Literal["auto", "on", "off"] | None
    "Prompt and negative prompt as a batch (on: faster, more memory) or one behind the other (off); auto: on where that fits (auto, on or off; default: auto)."
    token_pieces: int | None
    "In how many pieces the transformer takes a video's tokens: more take less memory and a little more time (1 to 64; default: as few as fit)."
    vae_tiles: int | None
    "In how many tiles the VAE takes a picture: the same frames, in less memory and more time (1 to 64; default: as few as fit)."
    scheduler: Literal["unipc", "euler", "lcm", "dpm++", "rcm"] | None
    "UniPC, Euler along the flow, LCM or rCM (fresh noise at every step, for models distilled so) or DPM-Solver++ 2M (unipc, euler, lcm, dpm++ or rcm; default: the model's)."
    sampler: Literal["unipc", "euler", "lcm", "dpm++", "rcm"] | None
    sampler_name: Literal["unipc", "euler", "lcm", "dpm++", "rcm"] | None
    sampling_method: Literal["unipc", "euler", "lcm", "dpm++", "rcm"] | None
    sample_solver: Literal["unipc", "euler", "lcm", "dpm++", "rcm"] | None
    preset: Literal["none", "lightx2v-4step", "dmd-3step", "rcm-4step", "rcm-4step-i2v"] | None
    "Scheduler, levels, shift and guidance that a distilled model or LoRA was made for; what is said beside it comes on top (none, lightx2v-4step, dmd-3step, rcm-4step or rcm-4step-i2v; default: none)."
    flow_shift: float | None
    "Shift of the noise levels: s l / (1 + (s - 1) l) for a level l (0.001 to 1000; default: the model's)."
    shift: float | None
    sample_shift: float | None
    sigmas: Sequence[float] | None
    "Noise levels before the shift, falling, as 1,0.75,0.5,0.25: a step each, and 0 at the end (1e-06 to 1; default: the scheduler's)."
    lora: str | Sequence[str] | None
    "A LoRA for every transformer, as FILE or FILE=STRENGTH; several add up (-1000 to 1000 strength; default: none)."
    loras: str | Sequence[str] | None
    lora_high: str | Sequence[str] | None
    "A LoRA for the expert for high noise alone (-1000 to 1000 strength; default: none). Taken by t2v_a14b, i2v_a14b, vace_a14b."
    lora_high_noise: str | Sequence[str] | None
    lora_low: str | Sequence[str] | None
    "A LoRA for the expert for low noise alone (-1000 to 1000 strength; default: none). Taken by t2v_a14b, i2v_a14b, vace_a14b."
    lora_low_noise: str | Sequence[str] | None
    lora_mode: Literal["auto", "merge", "beside"] | None
    "LoRAs' pairs: merged into weights as they are read, or kept beside them, which leaves 8-bit and block weights as small as they are; auto: beside those, merged into others (auto, merge or beside; default: auto)."
    lora_apply_mode: Literal["auto", "merge", "beside"] | None
    lora_allow_unused: bool | None
    "List keys of a LoRA that mean nothing in the model, and go on without them (true or false; default: false)."
    quality: Literal["exact", "high", "fast"] | None
    "What precision and attention are where they are not said: high is int8 and exact, fast int8 for both, each where the device has it (docs/quality.md) (exact, high or fast; default: exact)."
    precision: Literal["exact", "int8"] | None
    "The products of the transformer's blocks: exact, or from rotated codes of 8 bits, which is faster and not the same (exact or int8; default: quality's)."
    attention: Literal["exact", "int8"] | None
    "The attention of the video's tokens to one another: exact, or from codes of 8 bits (exact or int8; default: quality's)."
    exact_blocks: str | None
    "Blocks of the transformer that stay exact whatever precision and attention are, as 0,1,38-39; -1 is the last (at most 1048576 bytes of UTF-8; default: none)."
    exact_steps: str | None
    "Steps that stay exact whatever precision and attention are, from 0, as 0-1,-1; -1 is the last. Weights are on the device in both layouts then (at most 1048576 bytes of UTF-8; default: none)."
    seed: int | Sequence[int] | None
    'Of the initial noise, as torch.Generator("cpu").manual_seed; -1 is a random one; several make a video each (0 to 18446744073709551615, or -1; default: 0).'
    seeds: int | Sequence[int] | None
    base_seed: int | Sequence[int] | None


class SessionOptions(TypedDict, total=False):
    """What opens a model, beside dtype and device."""

    offload: str
    "What leaves the device while it is not needed: auto, none, encoder, experts or blocks"
    host_memory_limit_bytes: int
    "The most memory of this process for packed weights beside those on a device"
    compile: bool
    "Chains of small operations become generated kernels"
    keep_stored: bool
    "Weights in 8 bits and blocks stay so in memory"
    single_request: bool
    "What is not needed again is freed as soon as that is so, as the command does"
    threads: int
    "Of the cpu; 0 takes as many as the process may use"
    cache_dir: str
    "Of compiled kernels; the user's cache folder where it is not said"
    cuda_path: str
    "Where the libraries of cuda, musa or rocm are, before the usual places"
    memory_limit_bytes: int
    "The most memory to take of the device; all that is free where it is not said"
    transformer: str
    "Its transformer; of two experts the one for high noise"
    transformer_2: str
    "Of two experts the one for low noise"
    vae: str
    "Its VAE"
    text_encoder: str
    "Its text encoder"
    image_encoder: str
    "Its image encoder"
    tokenizer: str
    "Its tokenizer: spiece.model, tokenizer.json, a folder of one, or a file of weights that holds it"
    models_dir: str
    "A ComfyUI models tree, to look in for what is missing"


FILE_FIELDS = frozenset({
    "input_reference",
    "control_video",
    "end_image",
    "end_img",
    "first_frame",
    "first_image",
    "image",
    "image_path",
    "init_image",
    "init_img",
    "input_video",
    "last_frame",
    "last_image",
    "last_image_path",
    "mask",
    "mask_path",
    "mask_video",
    "ref_images",
    "reference_image",
    "reference_images",
    "src_mask",
    "src_ref_images",
    "src_video",
    "video",
    "video_path",
})
"""Fields whose values are files."""
