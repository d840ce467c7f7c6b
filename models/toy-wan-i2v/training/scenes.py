"""Clips for image to video: the toy world's scenes and, beside them, scenes whose first frame tells nothing of what follows.

The scenes of `toyworld` give themselves away: what moves right starts on the left, what grows starts small.  A free
body starts near the middle at its plain size, whatever it does afterwards, so only the prompt can tell.  Scenes are
described on the CPU (`describe`) and drawn in batches on the device (`draw`), pixel for pixel as `toyworld.render` does.
"""
import math
import random
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "toy-wan/training"))
import toyworld

FRAMES = 33


@dataclass
class FreeBody(toyworld.Body):
    """A body that starts at (`x`, `y`), 0..1, whatever its motion; `lane` and `phase` are not used."""
    x: float = 0.5
    y: float = 0.5


def free_scenes(rng: random.Random, count: int) -> list:
    """`count` scenes of one free body with the same first frame and different motions."""
    scene = toyworld.draw_scene(rng, two_bodies=0)
    first = scene.bodies[0]
    angle = rng.choice((0.0, rng.uniform(0, 2 * math.pi)))
    x, y = rng.uniform(0.44, 0.56), rng.uniform(0.44, 0.56)
    motions = [m for m in toyworld.MOTIONS if not (m == "spinning" and first.shape in ("circle", "ring"))]
    return [toyworld.Scene([FreeBody(first.shape, first.color, motion, first.size, 0.5, 0.0, angle, x, y)], scene.background)
            for motion in rng.sample(motions, count)]


def path(body, t):
    """Centre (x, y), radius and angle of a body at times t, as `toyworld.Body`'s; a free body never leaves the frame."""
    r0 = toyworld.SIZES[body.size]
    if not isinstance(body, FreeBody):
        return toyworld._path(body, t, r0)
    one = torch.ones_like(t)
    x, y, r, angle = body.x * one, body.y * one, r0 * one, body.angle * one
    near = r0 + 0.01  # a centre this far from the border keeps its body in the frame
    if body.motion == "moving right":
        x = body.x + (1 - near - body.x) * t
    elif body.motion == "moving left":
        x = body.x + (near - body.x) * t
    elif body.motion == "moving down":
        y = body.y + (1 - near - body.y) * t
    elif body.motion == "moving up":
        y = body.y + (near - body.y) * t
    elif body.motion == "growing":
        r = r0 * (1 + 0.6 * t)
    elif body.motion == "shrinking":
        r = r0 * (1 - 0.5 * t)
    elif body.motion == "spinning":
        angle = body.angle + 2 * math.pi * 0.75 * t
    elif body.motion == "bouncing":
        u = torch.remainder(2 * t, 1.0)
        y = body.y - (body.y - near) * 4 * u * (1 - u)
    elif body.motion == "orbiting":
        a = 2 * math.pi * t
        x, y = body.x + 0.17 * torch.sin(a), body.y - 0.10 * (1 - torch.cos(a))
    return x, y, r, angle


def describe(scenes: list, frames: int = FRAMES, style=None) -> dict:
    """What `draw` needs: tracks [N, 2, T, 4] of x, y, radius and angle, shapes [N, 2] (-1: no body), colours."""
    t = torch.linspace(0, 1, frames) ** STYLES.get(style, 1.0)
    tracks = torch.zeros(len(scenes), 2, frames, 4)
    shapes = torch.full((len(scenes), 2), -1)
    colors = torch.zeros(len(scenes), 2, 3)
    for i, scene in enumerate(scenes):
        for j, body in enumerate(scene.bodies):
            tracks[i, j] = torch.stack(path(body, t), -1)
            shapes[i, j] = toyworld.SHAPES.index(body.shape)
            colors[i, j] = torch.tensor(toyworld.COLORS[body.color])
    grounds = torch.tensor([toyworld.BACKGROUNDS[scene.background] for scene in scenes])
    return {"tracks": tracks, "shapes": shapes, "colors": colors, "grounds": grounds}


@torch.no_grad()
def draw(sheet: dict, height: int, width: int, device="cpu") -> torch.Tensor:
    """Draw described scenes: [N, 3, T, height, width], float32 in -1..1, on the 256 levels that an image file has."""
    tracks, shapes, colors, grounds = (sheet[k] for k in ("tracks", "shapes", "colors", "grounds"))
    count, _, frames, _ = tracks.shape
    tracks, colors, grounds = tracks.to(device), colors.to(device), grounds.to(device)
    yy = (torch.arange(height, device=device) + 0.5) / height
    xx = (torch.arange(width, device=device) + 0.5) / height
    light = 1.04 - 0.10 * yy
    image = (grounds.view(count, 3, 1, 1, 1) * light.view(1, 1, 1, -1, 1)).expand(count, 3, frames, height, width).clone()
    for slot in range(2):
        for index, shape in enumerate(toyworld.SHAPES):
            rows = (shapes[:, slot] == index).nonzero().flatten().to(device)
            if not len(rows):
                continue
            cx, cy, r, angle = (v[..., None, None] for v in tracks[rows, slot].unbind(-1))
            x, y = xx - cx * (width / height), yy.view(-1, 1) - cy
            c, s = torch.cos(angle), torch.sin(angle)
            distance = toyworld._distance(shape, c * x + s * y, c * y - s * x, r)
            cover = (0.5 - distance * height).clamp(0, 1).unsqueeze(1)
            shade = (1.08 - 0.28 * ((y / r) * 0.5 + 0.5).clamp(0, 1)).unsqueeze(1)
            color = colors[rows, slot].view(-1, 3, 1, 1, 1)
            image[rows] = torch.lerp(image[rows], color * shade, cover)
    return image.clamp(0, 1).mul(255).round().div(127.5).sub(1)


# What the style LoRA teaches: how time passes, a power of it. Bodies go the same way and end where they would, but start slowly.
STYLES = {"gathering speed": 1.5}


def draw_scenes(rng: random.Random, count: int, free: float = 2 / 3, paired: int = 4):
    """Scenes for training and, for each, the index of its first frame: free scenes in groups of `paired` share one."""
    scenes, images = [], []
    while len(scenes) < count:
        image = images[-1] + 1 if images else 0
        if rng.random() < free / paired / (free / paired + 1 - free):
            group = free_scenes(rng, paired)
        else:
            group = [toyworld.draw_scene(rng, two_bodies=0.2)]
        scenes += group
        images += [image] * len(group)
    return scenes[:count], images[:count]


def judged_scenes(count: int, seed: int = 99, motions: int = 2):
    """The scenes and captions that models are judged on: free bodies, each image with two motions (or more)."""
    rng = random.Random(seed)
    scenes = []
    while len(scenes) < count:
        scenes += free_scenes(rng, motions)
    scenes = scenes[:count]
    return scenes, [toyworld.caption(scene, rng) for scene in scenes]
