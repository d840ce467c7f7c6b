#!/usr/bin/env python3
"""The nodes of integrations/comfyui in ComfyUI itself: it loads them, runs a workflow with previews, and stops one at its Cancel.

    PYTHONPATH=python ZOETROPE_LIBRARY=build/libzoetrope.so python3 tests/python/comfyui_itself.py FOLDER_OF_COMFYUI

Needs a Python that has what ComfyUI needs (its requirements.txt, but for the page and its templates). Not part of the tests: ComfyUI is no
part of this project. Nothing is written to its folder.
"""
import argparse
import asyncio
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import aiohttp

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def workflow(steps, size=32, frames=5):
    video = {"model": ["2", 0], "prompt": "a red circle", "negative_prompt": "", "width": size, "height": size, "num_frames": frames,
             "num_inference_steps": steps, "guidance_scale": -1.0, "flow_shift": 0.0, "scheduler": "the model's", "preset": "the model's",
             "seed": 3, "preview_every": 1, "image": ["3", 0]}
    return {"1": {"class_type": "ZoetropeLoad", "inputs": {"kind": "image to video", "model": "the model that comes with Zoetrope",
                                                           "dtype": "f32", "device": "cpu"}},
            "2": {"class_type": "ZoetropeLora", "inputs": {"model": ["1", 0], "lora": "gathering_speed.safetensors", "strength": 0.8,
                                                           "for_transformer": "every one"}},
            "3": {"class_type": "LoadImage", "inputs": {"image": "circle.png"}},
            "4": {"class_type": "ZoetropeVideo", "inputs": video},
            "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "frame"}}}


async def run(session, url, prompt, stop_after=None):
    """A workflow to its end: its entry in the history, and how many steps and previews were told; Cancel behind some of them."""
    steps, previews = 0, 0
    async with session.ws_connect(f"{url}/ws?clientId=test") as socket_:
        async with session.post(f"{url}/prompt", json={"prompt": prompt, "client_id": "test"}) as answer:
            body = await answer.json()
            assert answer.status == 200, json.dumps(body, indent=1)
        async for message in socket_:
            if message.type == aiohttp.WSMsgType.BINARY:
                previews += 1
                continue
            event = json.loads(message.data)
            if event["type"] == "progress":
                steps = event["data"]["value"]
                if steps == stop_after:
                    await session.post(f"{url}/interrupt")
            if event["type"] in ("execution_success", "execution_error", "execution_interrupted"):
                break
    for _ in range(50):
        async with session.get(f"{url}/history/{body['prompt_id']}") as answer:
            history = await answer.json()
        if history:
            return history[body["prompt_id"]], steps, previews
        await asyncio.sleep(0.1)
    raise AssertionError("no history")


async def use(url, folder):
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{url}/object_info") as answer:
            nodes = await answer.json()
        inputs = nodes["ZoetropeVideo"]["input"]["required"]
        assert {"ZoetropeLoad", "ZoetropeLora", "ZoetropeVideo"} <= set(nodes) and inputs["seed"][0] == "INT"
        done, steps, previews = await run(session, url, workflow(4))
        assert done["status"]["status_str"] == "success", json.dumps(done["status"], indent=1)
        images = done["outputs"]["5"]["images"]
        assert (len(images), steps) == (5, 4) and previews >= 4, (images, steps, previews)
        assert all((folder / "output" / image["filename"]).read_bytes().startswith(b"\x89PNG") for image in images)
        start = time.monotonic()
        stopped, steps, _ = await run(session, url, workflow(1000, 64, 9), stop_after=2)
        assert [name for name, _ in stopped["status"]["messages"]][-1] == "execution_interrupted" and steps < 20, (stopped["status"], steps)
        again, _, _ = await run(session, url, workflow(3))
        assert again["status"]["status_str"] == "success"
        print(f"3 nodes, 5 frames, {previews} previews; Cancel ended a run of 1000 steps at step {steps}, "
              f"{time.monotonic() - start:.1f} s with the run behind it")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("comfyui", type=pathlib.Path, help="a folder of ComfyUI's source")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="zoe-comfyui-") as name, socket.socket() as free:
        folder = pathlib.Path(name)
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        for each in ("custom_nodes", "input", "models/loras", "page"):
            (folder / each).mkdir(parents=True)
        (folder / "page/index.html").write_text("")
        (folder / "custom_nodes/zoetrope").symlink_to(ROOT / "integrations/comfyui")
        shutil.copy(ROOT / "models/toy-wan-i2v/circle.png", folder / "input")
        shutil.copy(ROOT / "models/toy-wan-i2v/loras/gathering_speed.safetensors", folder / "models/loras")
        log = folder / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-B", str(arguments.comfyui / "main.py"), "--cpu", "--listen", "127.0.0.1", "--port", str(port), "--base-directory",
                 str(folder), "--front-end-root", str(folder / "page"), "--disable-api-nodes", "--preview-method", "auto", "--database-url",
                 f"sqlite:///{folder}/database"],
                stdout=out, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
        try:
            end = time.monotonic() + 180
            while b"To see the GUI" not in log.read_bytes():
                if process.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"ComfyUI did not start:\n{log.read_text()[-4000:]}")
                time.sleep(0.2)
            asyncio.run(use(f"http://127.0.0.1:{port}", folder))
        except BaseException:
            print(log.read_text()[-4000:], file=sys.stderr)
            raise
        finally:
            process.terminate()
            process.wait(30)


if __name__ == "__main__":
    main()
