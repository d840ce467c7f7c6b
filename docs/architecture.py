#!/usr/bin/env python3
"""Draws docs/images/architecture.svg from the CMake targets of src/: a box a folder, an arrow a link.

    python3 docs/architecture.py

Layers follow from the links: a folder stands above all that it is built on. LANES says which columns a folder takes, so that every
arrow is a straight line down that no box is in the way of; where that cannot be, the script says so.
tests/unit/architecture_test.cpp holds the picture to the targets, and the includes of src/ to the picture.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs/images/architecture.svg"

# Folder: first lane, last lane, what it is (a line of text each).
LANES = {
    "server": (0, 10, "requests over HTTP: jobs on disk, a queue, devices that take from it"),
    "pipeline": (0, 9, "a request to its frames: session, recipes, programs, execution; zoetrope.h is its face"),
    "compiler": (1, 4, "passes, memory plan, packed weights, running a plan"),
    "platform": (3, 4, "cpu, cuda, opencl, null:", "memory, streams, kernels"),
    "codegen": (2, 3, "chains of nodes", "as source text"),
    "models": (5, 6, "umT5, Wan DiT, Wan VAE", "as traced functions"),
    "ops": (5, 5, "named chains", "of small ops"),
    "checkpoint": (6, 7, "files of weights,", "mapped and checked"),
    "schedulers": (0, 0, "noise, UniPC,", "Euler"),
    "ir": (0, 6, "values, graphs, tracing, verifier, interpreter"),
    "text": (8, 8, "prompts", "to tokens"),
    "media": (9, 10, "frames to files,", "pictures to pixels"),
    "base": (0, 9, "errors, element types, shapes, log, files"),
}
LANE, GAP, BOX, LAYER, MARGIN = 116, 12, 62, 106, 16


def links(folder):
    """[(folder it links, whether for all that link it)], from the words of its CMakeLists.txt."""
    found, keyword = [], ""
    for word in re.findall(r"[\w:]+", (ROOT / "src" / folder / "CMakeLists.txt").read_text()):
        if word in ("PUBLIC", "PRIVATE", "SOURCES"):
            keyword = word
        name = word.removeprefix("zoe_")
        if word.startswith("zoe_") and name in LANES and name != folder:
            found.append((name, keyword == "PUBLIC"))
    return found


def layer(folder, graph):
    return 1 + max((layer(below, graph) for below, _ in graph[folder]), default=-1)


def lanes(folder):
    return set(range(LANES[folder][0], LANES[folder][1] + 1))


def main():
    folders = sorted(path.parent.name for path in (ROOT / "src").glob("*/CMakeLists.txt"))
    if folders != sorted(LANES):
        sys.exit(f"architecture.py: LANES has {sorted(LANES)}, src/ has {folders}. Give every folder its lanes.")
    graph = {folder: links(folder) for folder in folders}
    layers = {folder: layer(folder, graph) for folder in folders}
    top = max(layers.values())
    width = 2 * MARGIN + (1 + max(last for _, last, *_ in LANES.values())) * LANE
    height = 2 * MARGIN + top * LAYER + BOX

    def y(folder):  # of the upper edge
        return MARGIN + (top - layers[folder]) * LAYER

    arrows, boxes = [], []
    for folder in folders:
        for below, public in graph[folder]:
            between = [other for other in folders if layers[below] < layers[other] < layers[folder]]
            free = sorted((lanes(folder) & lanes(below)).difference(*(lanes(other) for other in between)))
            if not free:
                sys.exit(f"architecture.py: no free lane from {folder} to {below}. Change LANES.")
            x = MARGIN + (free[0] + free[-1] + 1) * LANE / 2
            kind = "public" if public else "private"
            arrows.append(f'  <line id="{folder}-{below}" class="{kind}" x1="{x:g}" y1="{y(folder) + BOX}" x2="{x:g}" '
                          f'y2="{y(below) - 3}" marker-end="url(#head)"/>')
        first, last, *words = LANES[folder]
        left, wide = MARGIN + first * LANE + GAP / 2, (last - first + 1) * LANE - GAP
        middle = left + wide / 2
        boxes.append(f'  <rect id="{folder}" x="{left:g}" y="{y(folder)}" width="{wide:g}" height="{BOX}" rx="6"/>')
        boxes.append(f'  <text class="name" x="{middle:g}" y="{y(folder) + 20}">{folder}</text>')
        for i, line in enumerate(words):
            boxes.append(f'  <text x="{middle:g}" y="{y(folder) + 37 + 14 * i + (5 if len(words) == 1 else 0)}">{line}</text>')

    PICTURE.write_text("\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        "  <!-- Made by docs/architecture.py from src/*/CMakeLists.txt. -->",
        "  <style>",
        "    svg { background: #ffffff }",
        "    rect { fill: #eef3fa; stroke: #34527a; stroke-width: 1.5 }",
        "    text { font: 11.5px 'DejaVu Sans', Verdana, sans-serif; fill: #333333; text-anchor: middle }",
        "    .name { font-weight: bold; font-size: 15px; fill: #14263d }",
        "    line { stroke: #34527a; stroke-width: 1.5 }",
        "    .private { stroke-dasharray: 5 4 }",
        "  </style>",
        '  <defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#34527a"/></marker></defs>',
        f'  <rect x="0" y="0" width="{width}" height="{height}" style="fill: #ffffff; stroke: none"/>',
        *arrows, *boxes, "</svg>", ""]))


if __name__ == "__main__":
    main()
