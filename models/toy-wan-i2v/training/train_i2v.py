"""Train and judge toy-wan-i2v: image to video, with the VAE, tokenizer and text encoder of toy-wan.

    python train_i2v.py base [--resume] --seconds S [--decay]     the transformer
    python train_i2v.py lora --kind expert|style|fewstep          a LoRA on it
    python train_i2v.py judge [--lora FILE] [--eight-bit]         colour, motion, background, first frame
    python train_i2v.py export --out DIR                          the folder that Diffusers and the engine read

A run of `base` ends by itself and leaves in --state all that the next needs (`full.pt`), and in --keep the same in pieces
of less than 16 MiB with the moments in bf16, so that training can go on in pieces on machines that come and go.
"""
import argparse
import json
import math
import multiprocessing
import os
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import scenes
import wan
import judge  # of toy-wan, as the two below: `scenes` has put its folder on the path
import toyworld
import train as toy

FOLDER = Path(__file__).resolve().parents[1]
TOY = FOLDER.parent / "toy-wan"
SHIPPED = "diffusion_pytorch_model-Q8_0.gguf"
CAPTIONS = 4
FRAMES = scenes.FRAMES
TRAVEL = 0.18  # how far the judge wants a moving body to go: one that starts in the middle has this much room


class Parts:
    """What is toy-wan's and stays as it is: VAE, text encoder, tokenizer, scheduler."""

    def __init__(self, device):
        from transformers import UMT5EncoderModel
        self.device = torch.device(device)
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.vae = toy.whole_clip(self.plain_vae()).to(device, self.dtype)
        for module in self.vae.modules():
            if isinstance(module, torch.nn.Conv3d):
                module.to(memory_format=torch.channels_last_3d)
        self.text = UMT5EncoderModel.from_pretrained(TOY / "text_encoder", dtype=torch.float32).to(device).eval()
        self.text.requires_grad_(False)
        self.tokens = toy.Tokens(str(TOY / "tokenizer/spiece.model"))
        self.mean, self.std = (torch.tensor(self.vae.config[k], device=device).view(1, -1, 1, 1, 1)
                               for k in ("latents_mean", "latents_std"))

    @staticmethod
    def plain_vae():
        from diffusers import AutoencoderKLWan
        return AutoencoderKLWan.from_pretrained(TOY / "vae", torch_dtype=torch.float32).eval().requires_grad_(False)

    @torch.no_grad()
    def encode(self, clip):
        """[N, 3, T, H, W] in -1..1 -> normalised latents, f32."""
        clip = clip.to(self.dtype).contiguous(memory_format=torch.channels_last_3d)
        return (toy.encode(self.vae, clip)[0].float() - self.mean) / self.std

    def encode_many(self, clip, encoder, count):
        """`encoder` over any number of clips, `count` at a time: one shape, for which cuDNN chooses its kernels once."""
        short = -len(clip) % count
        clip = torch.cat([clip, clip[:1].expand(short, *clip.shape[1:])]) if short else clip
        return torch.cat([encoder(part) for part in clip.split(count)])[:len(clip) - short]

    @torch.no_grad()
    def decode(self, latents):
        """Normalised latents -> [N, 3, T, H, W] in 0..1."""
        z = (latents * self.std + self.mean).to(self.dtype).contiguous(memory_format=torch.channels_last_3d)
        return toy.decode(self.vae, z).float().clamp(-1, 1) * 0.5 + 0.5

    @torch.no_grad()
    def embed(self, ids):
        """Token ids [N, n] -> [N, n, 128], zero behind each prompt's end."""
        ids = ids.to(self.device)
        mask = (ids != 0).long()
        return self.text(input_ids=ids, attention_mask=mask).last_hidden_state * mask.unsqueeze(-1)

    def scheduler(self):
        from diffusers import UniPCMultistepScheduler
        return UniPCMultistepScheduler.from_pretrained(TOY / "scheduler")


def conditions(parts, first, frames=FRAMES):
    """First frames [N, 3, 1, H, W] -> mask and condition [N, 20, f, h, w], as Wan2.2's image-to-video pipeline makes them."""
    latents = parts.encode(F.pad(first, (0, 0, 0, 0, 0, frames - 1)))
    mask = torch.zeros(len(first), 4, *latents.shape[2:], device=latents.device)
    mask[:, :, 0] = 1
    return torch.cat([mask, latents], 1)


class Described(torch.utils.data.IterableDataset):
    """Rounds of described scenes with their captions' tokens: the part of the data that CPUs make."""

    def __init__(self, tokens_path, seed, count, style=None):
        self.tokens_path, self.seed, self.count, self.style = tokens_path, seed, count, style

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        rng, tokens = random.Random(self.seed * 1000 + (worker.id if worker else 0)), toy.Tokens(self.tokens_path)
        torch.set_num_threads(1)
        while True:
            drawn, images = scenes.draw_scenes(rng, self.count)
            texts = [toyworld.caption(scene, rng) for scene in drawn for _ in range(CAPTIONS)]
            yield scenes.describe(drawn, style=self.style) | {"images": torch.tensor(images), "ids": tokens(texts)}


class Pool:
    """Encoded clips of one size: latents, conditions (one per first frame), which clip has which, and embedded captions."""

    def __init__(self, parts, size, seed, style=None):
        self.parts, self.size = parts, size
        self.latents, self.conditions, self.images, self.texts = [], [], [], []
        self.round = max(4, 128 * 128 * 128 // (size * size)) if parts.device.type == "cuda" else 4
        described = Described(str(TOY / "tokenizer/spiece.model"), seed, self.round, style)
        self.source = iter(torch.utils.data.DataLoader(described, batch_size=None, num_workers=min(4, os.cpu_count() // 4)))

    @torch.no_grad()
    def add_round(self):
        sheet = next(self.source)
        device = self.parts.device
        clip = scenes.draw(sheet, self.size, self.size, device)
        images = sheet["images"]
        firsts = torch.tensor([int((images == i).nonzero()[0, 0]) for i in range(int(images[-1]) + 1)], device=device)
        first = clip[firsts, :, :1]
        together = max(1, self.round // 2)
        self.latents.append(self.parts.encode_many(clip, lambda part: self.parts.encode(part).half(), together))
        self.images.append(images.to(device) + sum(len(c) for c in self.conditions))
        self.conditions.append(self.parts.encode_many(first, lambda part: conditions(self.parts, part)[:, 4:].half(), together))
        self.texts.append(self.parts.embed(sheet["ids"]).to(self.parts.dtype).unflatten(0, (-1, CAPTIONS)))

    TENSORS = ("latents", "conditions", "images", "texts")

    def close(self):
        self.source = None
        for name in self.TENSORS:
            setattr(self, name, torch.cat(getattr(self, name)))

    def save(self, path):
        torch.save({name: getattr(self, name).cpu() for name in self.TENSORS}, path)

    def load(self, path):
        """Start with the clips of an earlier run."""
        for name, tensor in torch.load(path).items():
            getattr(self, name).append(tensor.to(self.parts.device))

    def __len__(self):
        return len(self.latents)

    def batch(self, count, empty, generator=None):
        """Latents, mask and condition, captions' embeddings (one in ten the empty prompt's) of `count` clips."""
        device = self.parts.device
        pick = torch.randint(len(self), (count,), device=device, generator=generator)
        z, condition = self.latents[pick].float(), self.conditions[self.images[pick]].float()
        mask = torch.zeros_like(condition[:, :4])
        mask[:, :, 0] = 1
        text = self.texts[pick, torch.randint(CAPTIONS, (count,), device=device, generator=generator)].float()
        none = torch.rand(count, 1, 1, device=device, generator=generator) < 0.1
        return z, torch.cat([mask, condition], 1), torch.where(none, empty, text)


def fill(pools, seconds, limits):
    """Add rounds to the pools in turn until the time is over or each holds its limit."""
    start, counts = time.time(), [0] * len(pools)
    while time.time() - start < seconds and any(c < l for c, l in zip(counts, limits)):
        for i, pool in enumerate(pools):
            if counts[i] < limits[i]:
                pool.add_round()
                counts[i] += pool.round
        if pools[0].parts.device.type == "cuda":
            torch.cuda.synchronize()
    for pool in pools:
        pool.close()
    print(f"pools: {[(p.size, len(p), len(p.conditions)) for p in pools]} in {time.time() - start:.0f}s", flush=True)


def pick_attention(parts, batches):
    """Choose the faster of cuDNN's and PyTorch's flash attention for training, measured at the two sizes."""
    if parts.device.type != "cuda":
        return
    from torch.nn.attention import SDPBackend, sdpa_kernel
    spent = {}
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        total = 0.0
        try:
            for size, batch in batches.items():
                q = torch.randn(batch, 2, 9 * (size // 16) ** 2, 128, device="cuda", dtype=torch.bfloat16, requires_grad=True)
                with sdpa_kernel(backend):
                    for repeat in range(4):
                        if repeat == 1:
                            torch.cuda.synchronize()
                            start = time.time()
                        F.scaled_dot_product_attention(q, q, q).backward(q)
                torch.cuda.synchronize()
                total += (time.time() - start) / 3
            spent[backend.name] = total
        except RuntimeError as error:
            print(f"{backend.name} does not run: {error}")
    print("attention, forward and backward:", {k: f"{1000 * v:.2f} ms" for k, v in spent.items()}, flush=True)
    best = min(spent, key=spent.get)
    torch.backends.cuda.enable_cudnn_sdp(best == "CUDNN_ATTENTION")
    torch.backends.cuda.enable_flash_sdp(best == "FLASH_ATTENTION")


def draw_sigma(count, size, device, low=0.0, high=1.0):
    """Noise levels: uniform, or as a shift of 3 or 5 crowds them, each a third of the time; a larger clip needs more noise."""
    u = torch.rand(count, device=device)
    sigma = toy.shifted(u, random.choice((1.0, 3.0, 5.0) if size > 128 else (1.0, 1.0, 3.0)))
    return low + (high - low) * sigma


def velocity_loss(model, batch, sigma):
    """The loss of each clip of a batch at its noise level."""
    z, condition, text = batch
    noise = torch.randn_like(z)
    s = sigma.view(-1, 1, 1, 1, 1)
    with torch.autocast(z.device.type, torch.bfloat16, enabled=z.device.type == "cuda"):
        out = model(torch.cat([(1 - s) * z + s * noise, condition], 1), sigma * 1000, text)
    return (out.float() - (noise - z)).pow(2).mean((1, 2, 3, 4))


LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)


@torch.no_grad()
def held_out_losses(model, pool, empty, batch, levels=LEVELS, batches=1):
    """The loss of each of `batches` times `batch` clips at each level [levels, clips]: the same clips and noise each time."""
    with torch.random.fork_rng(devices=[0] if pool.parts.device.type == "cuda" else []):
        torch.manual_seed(5)
        generator = torch.Generator(pool.parts.device).manual_seed(5)
        rows = [torch.cat([velocity_loss(model, pool.batch(batch, empty, generator), torch.full((batch,), sigma, device=empty.device))
                           for _ in range(batches)]) for sigma in levels]
        return torch.stack(rows).cpu()


def held_out_loss(*args):
    return held_out_losses(*args).mean().item()


def save_pieces(folder, model, ema, opt, step):
    """The state in files of less than 16 MiB: averaged weights in f32 (two files), weights and moments in bf16."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [n for n, _ in model.named_parameters()]
    half = sum(e.numel() for e in ema) // 2
    pieces, filled = [{}, {}], 0
    for name, e in zip(names, ema):
        pieces[filled > half][name] = e.contiguous()
        filled += e.numel()
    for i, piece in enumerate(pieces):
        save_file(piece, folder / f"ema_{i}.safetensors", {"step": str(step)})
    for name, tensors in (("raw", [p.detach() for p in model.parameters()]),
                          *((key, [opt.state[p][key] for p in model.parameters()]) for key in ("exp_avg", "exp_avg_sq"))):
        save_file({n: t.bfloat16().contiguous() for n, t in zip(names, tensors)}, folder / f"{name}.safetensors")


def load_pieces(folder, model, opt, ema):
    """What `save_pieces` left, as far as it is there. Returns the step."""
    from safetensors import safe_open
    names = [n for n, _ in model.named_parameters()]
    averaged = load_file(folder / "ema_0.safetensors") | load_file(folder / "ema_1.safetensors")
    with safe_open(folder / "ema_0.safetensors", "pt") as file:
        step = int(file.metadata()["step"])
    raw = load_file(folder / "raw.safetensors") if (folder / "raw.safetensors").exists() else averaged
    moments = {k: load_file(folder / f"{k}.safetensors") for k in ("exp_avg", "exp_avg_sq")
               if (folder / f"{k}.safetensors").exists()}
    for name, p, e in zip(names, model.parameters(), ema):
        e.copy_(averaged[name])
        p.data.copy_(raw[name])
        if len(moments) == 2:
            opt.state[p] = {"step": torch.tensor(float(step), device=p.device)}
            opt.state[p] |= {k: v[name].to(p.device, torch.float32) for k, v in moments.items()}
    return step


def train_base(args):
    device, began = args.device, time.time()
    torch.manual_seed(args.seed)
    random.seed(args.seed)
    parts = Parts(device)
    small, large = args.sizes
    batches = {small: args.batch, large: max(1, args.batch * small**2 // large**2)}
    pick_attention(parts, batches)
    held = [Pool(parts, size, seed=999 - i) for i, size in enumerate(args.sizes)]
    fill(held, 1e9, [min(256, args.clips), min(64, args.clips // 4)])
    pools = [Pool(parts, size, seed=args.seed * 10 + i) for i, size in enumerate(args.sizes)]
    state = Path(args.state)
    state.mkdir(parents=True, exist_ok=True)
    for pool in pools:
        if args.resume and (state / f"pool_{pool.size}.pt").exists():
            pool.load(state / f"pool_{pool.size}.pt")
    fill(pools, args.data_seconds, [args.clips, args.clips // 3])
    if args.keep_pools:
        for pool in pools:
            pool.save(state / f"pool_{pool.size}.pt")
    empty = parts.embed(parts.tokens([""]))

    model = wan.Wan(**wan.CONFIG).to(device)
    params = list(model.parameters())
    print("parameters", sum(p.numel() for p in params), flush=True)
    ema = [p.detach().clone() for p in params]
    opt = torch.optim.AdamW(params, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=device == "cuda")
    step = 0
    if args.resume and (state / "full.pt").exists():
        full = torch.load(state / "full.pt", map_location=device)
        model.load_state_dict(full["model"])
        opt.load_state_dict(full["opt"])
        for e, saved in zip(ema, full["ema"]):
            e.copy_(saved)
        step = full["step"]
    elif args.resume:
        step = load_pieces(Path(args.keep), model, opt, ema)
    first_step = step
    if args.compile:
        torch._dynamo.config.recompile_limit = 64
        for block in model.blocks:
            block.compile(dynamic=False)
    budget = args.seconds - (time.time() - began)
    print(f"training from step {step} for {budget:.0f}s", flush=True)
    start, seen, reported, held_at = time.time(), {}, time.time(), 0.0
    while (spent := time.time() - start) < budget and step - first_step < args.steps:
        warm = min(1, (step - first_step + 1) / 200)
        fall = 1 - spent / budget if args.decay else 1
        for group in opt.param_groups:
            group["lr"] = args.lr * warm * (0.01 + 0.99 * fall)
        which = step % 3 == 2
        pool = pools[which]
        count = batches[pool.size]
        loss = velocity_loss(model, pool.batch(count, empty), draw_sigma(count, pool.size, device)).mean()
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        step += 1
        with torch.no_grad():
            torch._foreach_lerp_(ema, params, 1 - min(args.average, step / (step + 20)))
        seen[pool.size] = torch.lerp(seen[pool.size], loss.detach(), 0.02) if pool.size in seen else loss.detach()
        if step % 16 == 0 and device == "cuda":
            torch.cuda.synchronize()  # keep the clock honest: launches run ahead of the device
        if time.time() - reported > args.report:
            reported = time.time()
            text = ", ".join(f"{k}: {float(v):.4f}" for k, v in sorted(seen.items()))
            print(f"step {step} {spent:.0f}s loss {text}", flush=True)
    raw = [p.detach().clone() for p in params]
    with torch.no_grad():
        for p, e in zip(params, ema):
            p.copy_(e)
        print("held out:", {p.size: round(held_out_loss(model, p, empty, batches[p.size]), 4) for p in held},
              "trained on:", {p.size: round(held_out_loss(model, p, empty, batches[p.size]), 4) for p in pools}, flush=True)
        for p, r in zip(params, raw):
            p.copy_(r)
    torch.save({"model": {k.replace("_orig_mod.", ""): v for k, v in model.state_dict().items()}, "opt": opt.state_dict(),
                "ema": ema, "step": step}, state / "full.pt")
    save_pieces(Path(args.keep), model, ema, opt, step)


def load_model(args):
    """The averaged weights from --state or --keep, or else the stored ones in --out."""
    model = wan.Wan(**wan.CONFIG)
    full, keep = Path(args.state) / "full.pt", Path(args.keep)
    if full.exists():
        weights = dict(zip((n for n, _ in model.named_parameters()), torch.load(full, map_location="cpu")["ema"]))
    elif (keep / "ema_0.safetensors").exists():
        weights = load_file(keep / "ema_0.safetensors") | load_file(keep / "ema_1.safetensors")
    else:
        weights = wan.read_gguf(Path(args.out) / "transformer" / SHIPPED)
    model.load_state_dict({k: v.float() for k, v in weights.items()})
    if args.eight_bit:
        with torch.no_grad():
            for name, p in model.named_parameters():
                if wan.is_stored_in_eight_bit(name, p):
                    p.copy_(wan.eight_bit(p))
    return model.to(args.device).eval()


def guided(model, x, condition, sigma, text, empty, guidance):
    """The velocity at noise levels sigma [N], guided away from the empty prompt unless guidance is 1."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=x.device.type == "cuda"):
        both, time = torch.cat([x, condition], 1), sigma * 1000
        out = model(both, time, text).float()
        if guidance == 1:
            return out
        none = model(both, time, empty.expand(len(x), -1, -1)).float()
    return none + guidance * (out - none)


FEW = (1.0, 15 / 16, 5 / 6, 5 / 8, 0.0)  # four steps: 1, 3/4, 1/2, 1/4 at shift 5


@torch.no_grad()
def generate(model, parts, images, texts, steps=30, guidance=3.0, seed=0, boundary=1.0):
    """Images [N, 3, H, W] in -1..1 and prompts -> videos uint8 [N, T, H, W, 3]. Four steps are those of the few-step LoRA.

    A LoRA in the model takes part at noise levels up to `boundary`: below 1 it is a second expert, for low noise.
    """
    device = parts.device
    images = images.to(device)
    condition = conditions(parts, images.unsqueeze(2))
    text, empty = parts.embed(parts.tokens(texts)), parts.embed(parts.tokens([""]))
    generator = torch.Generator("cpu").manual_seed(seed)
    x = torch.randn(len(images), 16, *condition.shape[2:], generator=generator).to(device)
    if steps == 4:
        for sigma, after in zip(FEW, FEW[1:]):
            level = torch.full((len(x),), sigma, device=device)
            wan.switch_lora(model, boundary == 1 or sigma < boundary)
            x = x + (after - sigma) * guided(model, x, condition, level, text, empty, guidance)
    else:
        scheduler = parts.scheduler()
        scheduler.set_timesteps(steps, device=device)
        for t in scheduler.timesteps:
            wan.switch_lora(model, boundary == 1 or t < boundary * 1000)
            v = guided(model, x, condition, t.expand(len(x)) / 1000, text, empty, guidance)
            x = scheduler.step(v, t, x, return_dict=False)[0]
    return parts.decode(x).mul(255).round().byte().permute(0, 2, 3, 4, 1).cpu().numpy()


def measure(job):
    """One video against its prompt: right or wrong for each trait, and how well first frame and drawn clip are met, in dB."""
    video, image, kept, clips, wanted = job
    video, image, kept, clips = video / 255.0, image / 255.0, kept / 255.0, [clip / 255.0 for clip in clips]
    seen = judge.measure(video, TRAVEL)
    return {"seen": seen, "goes on": judge.goes_on(video, image), "first frame": judge.psnr(video[0], kept),
            "first frame, input": judge.psnr(video[0], image), "drawn clip": judge.psnr(video, clips[-1]),
            "style": judge.towards(*map(judge.track, (video, *clips))) if len(clips) == 2 else None} | {
                k: seen[k] == v for k, v in wanted.items()}


def judge_model(args):
    from PIL import Image
    parts, model = Parts(args.device), None if args.truth else load_model(args)
    if args.lora:
        state = load_file(args.lora)
        wan.add_lora(model, next(v.shape[0] for k, v in state.items() if "lora_A" in k))
        wan.load_lora(model, state)
        model.to(args.device)
    drawn, texts = scenes.judged_scenes(args.count)
    results = {}
    pool = multiprocessing.get_context("spawn").Pool(args.processes) if args.processes > 1 else None
    for size in args.sizes:
        start = time.time()
        batch = max(1, args.batch * 128 * 128 // (size * size))
        sheet = scenes.describe(drawn, 1)
        images = scenes.draw(sheet, size, size, args.device)[:, :, 0]
        jobs, strips = [], []
        for i in range(0, len(drawn), batch):
            part = images[i:i + batch]
            clips = [scenes.draw(scenes.describe(drawn[i:i + batch], style=style), size, size, args.device)
                     .add(1).mul(127.5).round().byte().permute(0, 2, 3, 4, 1).cpu().numpy()
                     for style in (None, *([args.style] if args.style else []))]
            videos = clips[-1] if args.truth else generate(model, parts, part, texts[i:i + batch], args.sample_steps, args.guidance,
                                                       args.seed + i, args.boundary)
            kept = parts.decode(parts.encode(part.unsqueeze(2)))[:, :, 0]
            levels = [v.permute(0, 2, 3, 1).mul(255).round().byte().cpu().numpy() for v in (part * 0.5 + 0.5, kept)]
            for j, video in enumerate(videos):
                scene = drawn[i + j]
                wanted = {"color": scene.bodies[0].color, "motion": scene.bodies[0].motion, "background": scene.background}
                jobs.append((video, levels[0][j], levels[1][j], [clip[j] for clip in clips], wanted))
                if len(strips) < 12:
                    strips.append(np.concatenate([levels[0][j], *video[::4]], 1))
        made = time.time() - start
        rows = pool.map(measure, jobs, chunksize=4) if pool else [measure(job) for job in jobs]
        summary = {"videos": len(rows), "seconds": round(made, 1)}
        for key in ("color", "motion", "background", "goes on"):
            right = sum(bool(row[key]) for row in rows)
            summary[key] = [round(100 * v, 1) for v in (right / len(rows), *judge.interval(right, len(rows)))]
        for key in ("first frame", "first frame, input", "drawn clip", *(["style"] if args.style else [])):
            values = [row[key] for row in rows if row[key] is not None]
            summary[key] = [round(float(v), 2) for v in np.percentile(values, (50, 5))]
        summary["motions"] = {m: f"{sum(r['motion'] for r in part)}/{len(part)}" for m in toyworld.MOTIONS
                              if (part := [r for r, s in zip(rows, drawn) if s.bodies[0].motion == m])}
        for row, scene, text in list(zip(rows, drawn, texts)):
            for key, want in (("color", scene.bodies[0].color), ("motion", scene.bodies[0].motion)):
                if not row[key] and args.misses:
                    print(f"miss at {size}: {text!r}: {key} is {row['seen'][key]}, expected {want}")
        results[size] = summary
        Path(args.keep).mkdir(parents=True, exist_ok=True)
        step = max(1, size // 128)
        Image.fromarray(np.concatenate(strips, 0)[::step, ::step]).save(f"{args.keep}/{args.name}_{size}.png")
        print(size, json.dumps(summary), flush=True)
    if pool:
        pool.close()
    how = {"steps": args.sample_steps, "guidance": args.guidance, "eight_bit": args.eight_bit, "lora": args.lora}
    Path(f"{args.keep}/{args.name}.json").write_text(json.dumps(how | {str(k): v for k, v in results.items()}, indent=1))


def empty_prompt(parts):
    return parts.embed(parts.tokens([""]))


@torch.no_grad()
def teach(model, parts, pool, count, empty, guidance, substeps=8):
    """The teacher's way from noise to video: states [count, 5, 16, f, h, w] at the levels of FEW, with their inputs."""
    z, condition, text = pool.batch(count, empty)
    x = torch.randn_like(z)
    states = [x]
    for sigma, after in zip(FEW, FEW[1:]):
        levels = torch.linspace(sigma, after, substeps + 1).tolist()
        for a, b in zip(levels, levels[1:]):
            level = torch.full((count,), a, device=x.device)
            x = x + (b - a) * guided(model, x, condition, level, text, empty, guidance)
        states.append(x)
    return torch.stack(states, 1).half(), condition.half(), text.to(parts.dtype)


def train_lora(args):
    """expert: noise levels below --boundary. style: clips of another pace. fewstep: the teacher's four legs, guidance folded in."""
    device, began = args.device, time.time()
    torch.manual_seed(args.seed)
    random.seed(args.seed)
    parts, model = Parts(device), load_model(args)
    small, large = args.sizes
    batches = {small: args.batch, large: max(1, args.batch * small**2 // large**2)}
    pick_attention(parts, batches)
    style = args.style if args.kind == "style" else None
    held = [Pool(parts, size, 999 - i, style) for i, size in enumerate(args.sizes)] if args.kind != "fewstep" else []
    if held:
        fill(held, 1e9, [min(512, args.clips), min(128, args.clips // 4)])
    high = args.boundary if args.kind == "expert" else 1.0
    asked = [level for level in (*LEVELS, 0.8, 0.85) if level < high]
    held_batches = 4 if device == "cuda" else 1
    before = [held_out_losses(model, p, empty_prompt(parts), batches[p.size], asked, held_batches) for p in held]
    pools = [Pool(parts, size, args.seed * 10 + i, style) for i, size in enumerate(args.sizes)]
    folder = Path(args.state)
    kept = [folder / f"pool_{args.style or ''}{pool.size}.pt" for pool in pools]
    if args.resume:
        for pool, path in zip(pools, kept):
            pool.load(path)
    fill(pools, 0 if args.resume else args.data_seconds, [args.clips, args.clips // 3])
    if args.keep_pools:
        folder.mkdir(parents=True, exist_ok=True)
        for pool, path in zip(pools, kept):
            pool.save(path)
    empty = empty_prompt(parts)
    taught = []
    if args.kind == "fewstep":
        teaching = time.time()
        while time.time() - teaching < args.teach_seconds or len(taught) < 2:
            pool = pools[len(taught) % 3 == 2]
            taught.append((pool.size, *teach(model, parts, pool, batches[pool.size], empty, args.guidance)))
        print(f"{len(taught)} batches taught in {time.time() - teaching:.0f}s", flush=True)
    params = wan.add_lora(model, args.rank)
    model.to(device)
    print("LoRA parameters", sum(p.numel() for p in params), flush=True)
    if args.compile:
        torch._dynamo.config.recompile_limit = 64
        for block in model.blocks:
            block.compile(dynamic=False)
    opt = torch.optim.AdamW(params, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.0, fused=device == "cuda")
    ema = [p.detach().clone() for p in params]
    budget, start, step, seen = args.seconds - (time.time() - began), time.time(), 0, None
    while (spent := time.time() - start) < budget and step < args.steps:
        for group in opt.param_groups:
            group["lr"] = args.lr * min(1, (step + 1) / 50) * (0.01 + 0.99 * (1 - spent / budget))
        pool = pools[step % 3 == 2]
        count = batches[pool.size]
        if args.kind == "fewstep":
            _, states, condition, text = random.choice([t for t in taught if t[0] == pool.size] or taught)
            leg = torch.randint(4, (len(states),), device=device)
            row, levels = torch.arange(len(states), device=device), torch.tensor(FEW, device=device)
            x, goal, s = states[row, leg].float(), states[row, leg + 1].float(), levels[leg]
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                out = model(torch.cat([x, condition.float()], 1), s * 1000, text.float()).float()
            width = (s - levels[leg + 1]).view(-1, 1, 1, 1, 1)
            loss = (out - (x - goal) / width).pow(2).mean()
        else:
            sigma = draw_sigma(count, pool.size, device, high=high)
            loss = velocity_loss(model, pool.batch(count, empty), sigma).mean()
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        step += 1
        with torch.no_grad():
            torch._foreach_lerp_(ema, params, 1 - min(0.99, step / (step + 20)))
        seen = torch.lerp(seen, loss.detach(), 0.02) if seen is not None else loss.detach()
        if step % 16 == 0 and device == "cuda":
            torch.cuda.synchronize()  # keep the clock honest: launches run ahead of the device
        if step % 200 == 0 or step == args.steps:
            print(f"step {step} {spent:.0f}s loss {float(seen):.4f}", flush=True)
    with torch.no_grad():
        for p, e in zip(params, ema):
            p.copy_(e)
    print(f"{step} steps", flush=True)
    with torch.compiler.set_stance("force_eager"):
        for pool, old in zip(held, before):
            gain = held_out_losses(model, pool, empty, batches[pool.size], asked, held_batches) - old
            rows = {level: f"{o.mean():.5f}{g.mean():+.5f} ({g.std() / len(g) ** 0.5:.5f})" for level, o, g in zip(asked, old, gain)}
            print(f"held out at {pool.size}, by level, before, change (standard error): {rows}; all: "
                  f"{100 * gain.mean() / old.mean():+.2f}%", flush=True)
    Path(args.keep).mkdir(parents=True, exist_ok=True)
    state = {k.replace("_orig_mod.", ""): v.cpu() for k, v in wan.lora_state(model).items()}
    save_file(wan.narrow_lora(state), f"{args.keep}/lora_{args.name}.safetensors")


def export(args):
    """The transformer's folder in Diffusers' layout: its weights in Q8_0 and, on request, in bf16 too."""
    folder = Path(args.out) / "transformer"
    folder.mkdir(parents=True, exist_ok=True)
    weights = load_model(args).state_dict()
    wan.write_gguf(folder / SHIPPED, weights)
    if args.bf16:
        save_file({k: v.to(torch.bfloat16).contiguous() for k, v in weights.items()},
                  folder / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    config = {"_class_name": "WanTransformer3DModel", "_diffusers_version": "0.40.0.dev0", "added_kv_proj_dim": None,
              "image_dim": None, "pos_embed_seq_len": None} | wan.CONFIG
    (folder / "config.json").write_text(json.dumps(dict(sorted(config.items())), indent=2) + "\n")
    print({f.name: f.stat().st_size for f in folder.iterdir()})


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["base", "lora", "judge", "export"])
    p.add_argument("--state", default="work/state", help="full.pt: everything, to go on from")
    p.add_argument("--keep", default="work/keep", help="the state in small pieces, LoRAs, figures and pictures")
    p.add_argument("--out", default=str(FOLDER))
    p.add_argument("--bf16", action="store_true", help="export the weights in bf16 too")
    p.add_argument("--seconds", type=float, default=500, help="of the whole run, data and compiling included")
    p.add_argument("--data-seconds", type=float, default=100)
    p.add_argument("--teach-seconds", type=float, default=60)
    p.add_argument("--clips", type=int, default=40000, help="at 128x128; a third as many at 256x256")
    p.add_argument("--steps", type=int, default=10**9)
    p.add_argument("--batch", type=int, default=128, help="at 128x128; a quarter of it at 256x256")
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--average", type=float, default=0.9995)
    p.add_argument("--decay", action="store_true", help="let the learning rate fall to nothing: the last run")
    p.add_argument("--resume", action="store_true")
    p.add_argument("--keep-pools", action="store_true", help="leave the encoded clips in --state, gigabytes, for the next run")
    p.add_argument("--compile", action="store_true")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--report", type=float, default=20)
    p.add_argument("--kind", choices=["expert", "style", "fewstep"])
    p.add_argument("--rank", type=int, default=8)
    p.add_argument("--boundary", type=float, default=1.0, help="the noise level below which the second expert takes over")
    p.add_argument("--style", choices=list(scenes.STYLES), help="taught to a LoRA of --kind style, and looked for by judge")
    p.add_argument("--lora")
    p.add_argument("--count", type=int, default=256)
    p.add_argument("--sizes", type=int, nargs="+", default=[128, 256])
    p.add_argument("--guidance", type=float, default=3.0)
    p.add_argument("--sample-steps", type=int, default=30)
    p.add_argument("--eight-bit", action="store_true", help="with the matrices rounded as Q8_0 stores them")
    p.add_argument("--truth", action="store_true", help="judge the drawn clips themselves: what a perfect model gets")
    p.add_argument("--misses", action="store_true")
    p.add_argument("--processes", type=int, default=os.cpu_count())
    p.add_argument("--name", default="judged")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = p.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = args.what in ("base", "lora")  # worth its search where shapes come again and again
    start = time.time()
    {"base": train_base, "lora": train_lora, "judge": judge_model, "export": export}[args.what](args)
    print(f"[{args.what}: {time.time() - start:.0f}s]", flush=True)


if __name__ == "__main__":
    main()
