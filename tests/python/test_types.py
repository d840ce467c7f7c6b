"""mypy --strict over the package, and over a script that uses it. Exit code 77: mypy is not installed."""

import importlib.util
import pathlib
import shutil
import subprocess
import sys
import tempfile

PACKAGE = pathlib.Path(__file__).resolve().parent.parent.parent / "python" / "zoetrope"
SCRIPT = """
from zoetrope import WanPipeline, export_to_video, ops
from zoetrope.client import Client

pipe = WanPipeline.from_pretrained("model", dtype="bf16", device="cuda", offload="none")
result = pipe("a fox", num_frames=33, guidance_scale=5.0, seed=[1, 2], callback_on_step_end=lambda pipe, step, t, tensors: tensors)
path: str = export_to_video(result.frames[0], "fox.mp4", fps=16)
graph: ops.Graph = ops.trace(lambda x: ops.silu(x) * 2.0, ops.Spec("f32", (2, 3)))
status: str = Client().create("a fox", num_frames=33).status
fits: bool = pipe.plan("a fox", height=480).fits
"""
WRONG = """
from zoetrope import WanPipeline

WanPipeline.from_pretrained("model")("a fox", num_frams=33)
"""


# That of this Python, or one beside it: the test may run in another Python than the one that a system's mypy belongs to.
MYPY = [sys.executable, "-m", "mypy"] if importlib.util.find_spec("mypy") else [shutil.which("mypy")]


def mypy(*arguments):
    found = subprocess.run([*MYPY, "--strict", "--ignore-missing-imports", "--cache-dir", "/dev/null",
                            "--enable-incomplete-feature=Unpack", *arguments], capture_output=True, text=True, check=False)
    return found.returncode, found.stdout + found.stderr


def main():
    if MYPY == [None]:
        print("mypy is not installed")
        return 77
    code, text = mypy(str(PACKAGE))
    print(text)
    with tempfile.TemporaryDirectory() as folder:
        for name, source, expected in (("right", SCRIPT, 0), ("wrong", WRONG, 1)):
            path = pathlib.Path(folder) / f"{name}.py"
            path.write_text(source, encoding="utf-8")
            got, said = mypy(str(path))
            print(name, said)
            if got != expected:
                code = 1
            if name == "wrong" and "num_frams" not in said:
                code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
