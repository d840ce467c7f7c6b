"""Say what structure the model's attention has, per block, head and noise level, beside made-up queries and keys.

    python attention_stats.py [--size 256] [--videos 2] [--keep DIR]
    python attention_stats.py --size 256 --made-up                    of no model: seconds

For each head and level, of the exact softmax over all keys: the entropy as a share of that of uniform attention; how much of
a row's mass the best 15% of 64-key blocks hold (the keys in raster order, rows averaged over blocks of 64 queries, as
block-sparse attention chooses); the mass on the first latent frame, which here holds the picture; the mass on the query's
own frame; the mass on the 32 keys that get most; the share of weights above 1/N and below 1/(100 N); and the largest mean of a
channel of the keys, in deviations of that channel (what subtracting the keys' mean takes away).

The made-up ones are normal noise, and heads as large video models are described to have them: spatial (a centroid a frame, shared
with the frames beside it), temporal (a centroid a place, shared by all frames), semantic (one of 16 centroids a cell of 4x8x8
tokens), each q = k = 0.9 (0.6 noise + centroid) with six biased channels of the keys before the rotary embedding, and a sink: 12
nats more on the first 32 keys.
"""
import argparse
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F

import scenes
import wan
import train_i2v
from train_i2v import Parts, conditions, guided, load_model


def statistics(q, k, frames, block=64, sink=0.0):
    """q and k [B, heads, L, d] -> per head the figures above; `sink` is added to the logits of the first 32 keys."""
    length = q.shape[2]
    logits = q.float() @ k.float().transpose(-1, -2) / math.sqrt(q.shape[-1])
    logits[..., :32] += sink
    p = logits.softmax(-1)
    entropy = -(p * p.clamp_min(1e-20).log()).sum(-1).mean((0, 2)) / math.log(length)
    blocks = p.unflatten(3, (-1, block)).sum(-1).unflatten(2, (-1, block)).mean(3)
    kept = max(1, round(0.15 * blocks.shape[-1]))
    frame = p.unflatten(3, (frames, -1)).sum(-1).unflatten(2, (frames, -1))
    own = torch.diagonal(frame.mean(3), dim1=2, dim2=3).mean(-1).mean(0)
    return {"entropy": entropy, "best 15% of blocks": blocks.topk(kept, -1).values.sum(-1).mean((0, 2)),
            "first frame": frame[..., 0].mean((0, 2, 3)), "own frame": own, "top 32 keys": p.mean(2).topk(32).values.sum(-1).mean(0),
            "key bias": (k.float().mean(2).abs() / k.float().std(2)).amax(-1).mean(0),
            "above 1/N": (p > 1 / length).float().mean((0, 2, 3)), "below 1/100N": (p < 0.01 / length).float().mean((0, 2, 3))}


def made_up(frames, side, dim=128, seed=0):
    """Name -> (queries, keys, sink) on a grid of frames x side x side tokens, [1, 1, L, dim]."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    f, y, x = (v.flatten() for v in torch.meshgrid(*(torch.arange(n) for n in (frames, side, side)), indexing="ij"))
    length = len(f)
    alone = normal(frames + 2, dim)
    band = (alone[:-2] + alone[1:-1] + alone[2:]) / math.sqrt(3)
    cells = torch.randint(16, (frames // 4 + 1, side // 8 + 1, side // 8 + 1), generator=generator)[f // 4, y // 8, x // 8]
    centroids = {"spatial": band[f], "temporal": normal(side, side, dim)[y, x], "semantic": normal(16, dim)[cells]}
    bias = torch.zeros(dim)
    bias[dim - 6:] = 10 * torch.tensor([1, -1, 1, -1, 1, -1])  # of the slowest pairs, which turn least
    rope = wan.Wan(**wan.CONFIG | {"num_layers": 0}).rope((frames, side, side), torch.device("cpu"))
    heads = {"noise": (normal(1, 1, length, dim), normal(1, 1, length, dim), 0.0)}
    for name, z in centroids.items():
        z = z * math.sqrt(dim) / z.norm(dim=-1, keepdim=True)
        q, k = (0.9 * (0.6 * normal(length, dim) + z) for _ in range(2))
        q, k = (wan.rotate(v.view(1, length, 1, dim), *rope).transpose(1, 2) for v in (q, k + bias))
        heads[name], heads[f"{name}, sink"] = (q, k, 0.0), (q, k, 12.0)
    return heads


class Watch:
    """Collect the queries and keys of every self-attention of one call of the model."""

    def __enter__(self):
        self.seen, self.plain = [], F.scaled_dot_product_attention

        def watched(q, k, v):
            self.seen.append((q, k))
            return self.plain(q, k, v)

        F.scaled_dot_product_attention = watched
        return self.seen

    def __exit__(self, *_):
        F.scaled_dot_product_attention = self.plain


@torch.no_grad()
def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--size", type=int, default=256)
    p.add_argument("--videos", type=int, default=2)
    p.add_argument("--steps", type=int, default=30)
    p.add_argument("--state", default="work/state")
    p.add_argument("--keep", default="work/keep")
    p.add_argument("--out", default=str(train_i2v.FOLDER))
    p.add_argument("--eight-bit", action="store_true")
    p.add_argument("--made-up", action="store_true", help="the made-up queries and keys alone")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = p.parse_args()
    side, frames = args.size // 16, 9
    others = {name: {key: round(float(v), 4) for key, v in statistics(q, k, frames, sink=sink).items()}
              for name, (q, k, sink) in made_up(frames, side).items()}
    print("made up | " + " | ".join(others["noise"]))
    for name, figures in others.items():
        print(f"{name} | " + " | ".join(f"{v:.2f}" for v in figures.values()), flush=True)
    if args.made_up:
        return
    parts, model = Parts(args.device), load_model(args)
    drawn, texts = scenes.judged_scenes(args.videos)
    first = scenes.draw(scenes.describe(drawn, 1), args.size, args.size, args.device)
    condition, text = conditions(parts, first), parts.embed(parts.tokens(texts))
    empty = parts.embed(parts.tokens([""]))
    scheduler = parts.scheduler()
    scheduler.set_timesteps(args.steps, device=args.device)
    x = torch.randn(len(drawn), 16, *condition.shape[2:], generator=torch.Generator().manual_seed(0)).to(args.device)
    rows = []
    asked = [round(i * (args.steps - 1) / 4) for i in range(5)]
    for i, t in enumerate(scheduler.timesteps):
        level = t.expand(len(x)) / 1000
        if i in asked:
            with Watch() as seen:
                guided(model, x, condition, level, text, empty, 1)
            for block, (q, k) in enumerate(seen):
                figures = statistics(q, k, frames)
                rows += [{"step": i, "block": block, "head": head} | {key: round(float(v[head]), 4) for key, v in figures.items()}
                         for head in range(q.shape[1])]
        x = scheduler.step(guided(model, x, condition, level, text, empty, 3), t, x, return_dict=False)[0]
    Path(args.keep).mkdir(parents=True, exist_ok=True)
    result = {"size": args.size, "tokens": frames * side**2, "made up": others, "rows": rows}
    Path(f"{args.keep}/attention_{args.size}.json").write_text(json.dumps(result))
    keys = list(others["noise"])
    print("step block head " + " | ".join(keys))
    for row in rows:
        print(f"{row['step']:4} {row['block']:5} {row['head']:4}  " + " | ".join(f"{row[k]:.3f}" for k in keys))


if __name__ == "__main__":
    main()
