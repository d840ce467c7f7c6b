"""Say what structure the model's attention has, per block, head and noise level, beside random queries, keys and values.

    python attention_stats.py [--size 256] [--videos 2] [--keep DIR]

For each head and level, of the exact softmax over all keys: the entropy as a share of that of uniform attention; how much of
a row's mass the best 15% of 64-key blocks hold (the keys in raster order, rows averaged over blocks of 64 queries, as
block-sparse attention chooses); the mass on the first latent frame, which here holds the picture; the mass on the query's
own frame; and the share of weights above 1/N and below 1/(100 N).
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


def statistics(q, k, frames, block=64):
    """q and k [B, heads, L, d] -> per head the figures above."""
    length = q.shape[2]
    p = (q.float() @ k.float().transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
    entropy = -(p * p.clamp_min(1e-20).log()).sum(-1).mean((0, 2)) / math.log(length)
    blocks = p.unflatten(3, (-1, block)).sum(-1).unflatten(2, (-1, block)).mean(3)
    kept = max(1, round(0.15 * blocks.shape[-1]))
    frame = p.unflatten(3, (frames, -1)).sum(-1).unflatten(2, (frames, -1))
    own = torch.diagonal(frame.mean(3), dim1=2, dim2=3).mean(-1).mean(0)
    return {"entropy": entropy, "best 15% of blocks": blocks.topk(kept, -1).values.sum(-1).mean((0, 2)),
            "first frame": frame[..., 0].mean((0, 2, 3)), "own frame": own,
            "above 1/N": (p > 1 / length).float().mean((0, 2, 3)), "below 1/100N": (p < 0.01 / length).float().mean((0, 2, 3))}


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
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = p.parse_args()
    parts, model = Parts(args.device), load_model(args)
    drawn, texts = scenes.judged_scenes(args.videos)
    first = scenes.draw(scenes.describe(drawn, 1), args.size, args.size, args.device)
    condition, text = conditions(parts, first), parts.embed(parts.tokens(texts))
    empty = parts.embed(parts.tokens([""]))
    scheduler = parts.scheduler()
    scheduler.set_timesteps(args.steps, device=args.device)
    x = torch.randn(len(drawn), 16, *condition.shape[2:], generator=torch.Generator().manual_seed(0)).to(args.device)
    frames, rows = condition.shape[2], []
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
    length = frames * (args.size // 16) ** 2
    noise = statistics(*(torch.randn(1, 1, length, 128, generator=torch.Generator().manual_seed(s)) for s in (1, 2)), frames)
    Path(args.keep).mkdir(parents=True, exist_ok=True)
    result = {"size": args.size, "tokens": length, "random": {k: round(float(v), 4) for k, v in noise.items()}, "rows": rows}
    Path(f"{args.keep}/attention_{args.size}.json").write_text(json.dumps(result))
    keys = list(noise)
    print("step block head " + " | ".join(keys))
    for row in rows:
        print(f"{row['step']:4} {row['block']:5} {row['head']:4}  " + " | ".join(f"{row[k]:.3f}" for k in keys))
    print("random q and k:  " + " | ".join(f"{float(noise[k]):.3f}" for k in keys))


if __name__ == "__main__":
    main()
