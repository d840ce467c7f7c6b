#!/usr/bin/env python3
"""The installed package on a machine with a GPU: the embedded model's video beside the CPU's, and torch's tensors in and out of a plan.

    python3 -m pip install --no-index --no-deps --target /tmp/site dist/zoetrope-*.whl && PYTHONPATH=/tmp/site python3 tests/python/on_cuda.py

Needs torch with CUDA; not part of the tests, which need no GPU.
"""
import os
import sys
import tempfile
import time

import numpy as np
import torch
import zoetrope
from zoetrope import ops


def video():
    request = {"prompt": "a red circle", "height": 128, "width": 128, "num_frames": 33, "num_inference_steps": 10, "seed": 3}
    frames = {}
    for device in ("cpu", "cuda"):
        with zoetrope.WanPipeline.from_pretrained(device=device, dtype="f32") as pipe:
            frames[device] = pipe(**request, output_type="np").frames
            start = time.perf_counter()
            pipe(**request, output_type="np")
            print(f"{device}: a second video in {time.perf_counter() - start:.3f} s")
            if device == "cuda":
                with tempfile.TemporaryDirectory() as folder:
                    path = os.path.join(folder, "video.png")
                    pipe(**request, output=path)
                    with open(path, "rb") as file:
                        assert file.read(4) == b"\x89PNG"
    error = np.mean((frames["cpu"] - frames["cuda"]) ** 2)
    psnr = 10 * np.log10(1 / error) if error > 0 else float("inf")
    print(f"cuda against cpu in f32: {psnr:.1f} dB")
    assert psnr > 60


def tensors():
    platform = ops.Platform("cuda")
    shape = (64, 1024, 1024)  # 256 MiB
    plan = ops.compile(ops.trace(lambda x: ops.silu(x) * 2.0, ops.Spec("f32", shape)), platform)
    x = torch.randn(shape, device="cuda")
    torch.cuda.synchronize()
    assert zoetrope.as_tensor(x).address == x.data_ptr()
    free = torch.cuda.mem_get_info()[0]
    y, = plan(x)
    out = torch.from_dlpack(y)
    torch.cuda.synchronize()
    taken = free - torch.cuda.mem_get_info()[0]
    assert out.is_cuda and out.shape == shape and out.data_ptr() == y.address, (out.device, out.shape)
    assert torch.allclose(out, torch.nn.functional.silu(x) * 2, atol=1e-5)
    # The result's bytes, and nothing of the argument's size beside.
    print(f"a plan on a tensor of {x.nbytes >> 20} MiB took {taken >> 20} MiB, of the device's memory")
    assert taken < 1.5 * x.nbytes
    out.fill_(1.0)  # torch writes to what the engine made
    torch.cuda.synchronize()
    again = torch.from_dlpack(y)
    assert again.data_ptr() == out.data_ptr() and bool((again == 1).all())
    del y  # the memory lives as long as either holds it
    assert bool((out == 1).all())


def main():
    print(f"Python {sys.version.split()[0]}, torch {torch.__version__}, {torch.cuda.get_device_name()}, {zoetrope.__file__}")
    video()
    tensors()
    print("the package runs on cuda; tensors of torch go in and out without a copy")


if __name__ == "__main__":
    main()
