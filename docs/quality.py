#!/usr/bin/env python3
"""Writes the tables of docs/quality.md from what `zoe bench quality` printed, a file a run, and of judged prompts.

    zoe bench quality > cpu.json
    python3 bench/judge_prompts.py --count 1024 --against "" -- --precision int8 > judged.txt
    python3 docs/quality.py cpu.json ... [--judged judged.txt ...]
"""
import argparse
import json
import pathlib
import re

PAGE = pathlib.Path(__file__).parent / "quality.md"


def percent(distance):
    return "-" if distance is None else f"{100 * distance['relative']:.2f}"


def table(head, rows):
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *["| " + " | ".join(row) + " |" for row in rows]])


# Exact against exact: the same operands, their sums the other way round; other operands of the same kind.
def floor(row):
    return [percent(row.get("exact_other_order")), percent(row.get("exact_other_seed"))]


def products(run):
    rows = [[str(row["depth"]), row["data"], percent(row["exact"]), *floor(row), percent(row.get("int8")), percent(row["int8_not_rotated"]), percent(row["e4m3"])]
            for row in run["products"]]
    head = ["K", "rows of x", f"{run['dtype']}", "another order", "another seed", "int8", "int8 without the rotation (simulated)", "e4m3 a row (simulated)"]
    return table(head, rows)


def attention(run):
    rows = [[row["data"], percent(row["exact"]), *floor(row), percent(row.get("int8")), percent(row["int8_as_defined"])] for row in run["attention"]]
    missing = run["attention"][0].get("int8_missing")
    text = table(["q, k and v", run["dtype"], "another order", "another seed", "int8 on this device", "int8 as it is defined"], rows)
    return text + (f"\n\nNo 8-bit attention on this device: {missing}." if missing else "")


def forwards(run):
    model = run["model"]
    other = "f32" if model["dtype"] == "bf16" else "bf16"
    kinds = ((other, f"exact, {other}"), ("other_order", "exact, another order"), ("other_seed", "exact, another seed"), ("int8_products", "int8 products"),
             ("int8_attention", "int8 attention"), ("int8_both", "int8 both"))
    rows = []
    for row in model["forwards"]:
        for kind, name in kinds:
            if kind not in row:
                continue
            one = row[kind]
            rows.append([f"{row['noise_level']:.2f}", name, percent(one["conditional"]), percent(one.get("unconditional")), percent(one.get("guided")),
                         f"{one['conditional']['cosine']:.6f}", f"{one['conditional']['largest']:.3f}"])
    return table(["noise level", "forward", "conditional", "unconditional", f"guided, {model['guidance_scale']:g}", "cosine", "largest"], rows)


def whole(run):
    videos = run["model"].get("whole")
    if not videos:
        return "Not made in this run."
    rows = [[row["way"], f"{100 * row['relative']:.2f}", f"{100 * row['most']:.2f}"] for row in videos["rows"]]
    return table([f"final latents of {videos['videos']} seeds", "from exact", "at most"], rows)


def sensitivity(run, most=12):
    rows = run["model"].get("sensitivity", [])
    own = {row["weight"]: row["int8"] for row in run["model"].get("operands", [])}
    shown = [[row["weight"], f"{100 * row['relative']:.3f}", percent(own.get(row["weight"]))] for row in rows[:most]]
    rest = rows[most:]
    if rest:
        shown.append([f"the other {len(rest)}", f"{100 * rest[0]['relative']:.3f} and less", ""])
    return table(["weights of the one product in 8 bits", "prediction moves by", "its own result by"], shown)


def judged(files):
    shares, differences = [], []
    text = lambda figures: f"{figures[0]:g} ({figures[1]:g} to {figures[2]:g})"
    traits = ("color", "motion", "background", "goes on")
    saved = {}  # flags of a model's first setting: what later files were compared with, if they name a file of --save
    for path in files:
        flags = []
        for line in path.read_text().splitlines():
            if not line.startswith("{"):
                continue
            row = json.loads(line)
            if "flags" in row:
                flags.append(row["flags"] or "exact")
                saved.setdefault(row["model"], flags[-1])
                model = row["model"]
                shares.append([row["model"], f"{row['size']}", str(row["videos"]), flags[-1], *[text(row[t]) if t in row else "-" for t in traits]])
            for name, figures in row.items():
                if name.startswith("first minus second"):
                    pair = flags[-2:] if len(flags) > 1 else [flags[-1], saved[model]]
                    differences.append([f"{model}: " + " against ".join(pair), *[text(figures[t]) if t in figures else "-" for t in traits]])
    if not shares:
        return "Not judged yet."
    return (table(["model", "size", "videos", "options", *[f"{t}, %" for t in traits]], shares) + "\n\nPair by pair, in points:\n\n" +
            table(["options", *traits], differences))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=pathlib.Path)
    parser.add_argument("--judged", nargs="*", type=pathlib.Path, default=[])
    args = parser.parse_args()
    page = PAGE.read_text()
    parts = {}
    if args.runs:
        texts = {"products": [], "attention": [], "forwards": [], "whole": [], "sensitivity": []}
        runs = [json.loads(path.read_text().splitlines()[-1]) for path in args.runs]
        for run in runs:
            same = [other for other in runs if other["platform"] == run["platform"]]
            head = f"{run['platform']} ({run['device']}), {run['dtype']}; {run['model']['model']}, {run['model']['video']}, {run['model']['steps']} steps:"
            # Products and attention alone hardly depend on the dtype: of each platform's first run. One product at a time moves the prediction
            # by less than bf16's own roundings, so f32 where there is such a run.
            shown = {"products": run is same[0], "attention": run is same[0], "forwards": True, "whole": True,
                     "sensitivity": run is next((other for other in same if other["dtype"] == "f32"), same[0])}
            for name, make in (("products", products), ("attention", attention), ("forwards", forwards), ("whole", whole), ("sensitivity", sensitivity)):
                if shown[name]:
                    texts[name].append(f"{head}\n\n{make(run)}")
        parts.update({name: "\n\n".join(each) for name, each in texts.items()})
    if args.judged:
        parts["judged"] = judged(args.judged)
    for name, text in parts.items():
        page, count = re.subn(rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m: f"{m[1]}\n{text}\n\n{m[2]}", page, flags=re.DOTALL)
        assert count == 1, f"docs/quality.md has {count} places for {name}, expected one"
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
