"""The client against `zoe serve` itself: what docs/python.md says of it."""

import asyncio
import contextlib
import os
import pathlib
import sys
import threading
import unittest

from common import COMMAND, InFolder
from zoetrope import errors
from zoetrope.client import AsyncClient, Client, ServerFailure

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
os.environ.update(ZOE_COMMAND=COMMAND, ZOE_MODELS=str(ROOT / "models"))
sys.path.append(str(ROOT / "tests" / "serve"))
from client import Server, is_whole_mp4  # noqa: E402

PICTURE = ROOT / "models" / "toy-wan-i2v" / "circle.png"
PROMPT = "a red circle"
TINY = {"size": "32x32", "num_frames": 5, "num_inference_steps": 2}
SLOW = {"size": "64x64", "num_frames": 9, "num_inference_steps": 1000}  # long, if nobody stops it


class WithServer(InFolder):
    options = ()

    def setUp(self):
        super().setUp()
        self.server = self.enterContext(Server(*self.options))
        self.url = f"http://{self.server.host}:{self.server.port}"
        self.client = Client(self.url)


class Calls(WithServer):
    def test_every_method(self):
        client = self.client
        self.assertEqual(client.health()["status"], "ok")
        self.assertEqual([model["id"] for model in client.models()["data"]], ["toy-wan", "toy-wan-i2v"])
        self.assertEqual(client.loras(), [])
        self.assertTrue(client.plan(PROMPT, **TINY)["fits"])

        progress = []
        video = client.generate(PROMPT, self.path("a.mp4"), seed=3, on_progress=progress.append, **TINY)
        self.assertEqual((video.status, video.seed, video.size, video.is_done), ("completed", 3, "32x32", True))
        self.assertTrue(is_whole_mp4(pathlib.Path(self.path("a.mp4")).read_bytes()))
        percents = [event["progress"] for event in progress]
        self.assertEqual(percents, sorted(percents))
        self.assertEqual(client.retrieve(video).data, video.data)
        self.assertEqual(client.content(video), pathlib.Path(self.path("a.mp4")).read_bytes())
        for variant in ("thumbnail", "spritesheet"):
            self.assertEqual(client.content(video, variant)[:4], b"\x89PNG")

        remix = client.wait(client.remix(video, "a blue square", seed=4))
        self.assertEqual((remix.remixed_from_video_id, remix.prompt, remix.seed), (video.id, "a blue square", 4))
        self.assertEqual([event.name for event in client.events(remix)], ["video"])
        others = [client.create(PROMPT, **TINY) for _ in range(3)]
        self.assertEqual([each.id for each in client.list(limit=2, order="asc")], [video.id, remix.id, *[each.id for each in others]])
        for each in others:
            client.wait(each)
        self.assertEqual({each.status for each in client.list(status="completed")}, {"completed"})

        slow = client.create(PROMPT, **SLOW)
        self.assertTrue(client.cancel(slow).cancelled)
        with self.assertRaises(errors.Cancelled):
            client.wait(slow)
        client.delete(slow)
        with self.assertRaises(ServerFailure) as gone:
            client.retrieve(slow)
        self.assertEqual((gone.exception.status, gone.exception.code), (404, "not_found"))

    def test_pictures_are_sent(self):
        for picture in (PICTURE, str(PICTURE), PICTURE.read_bytes()):
            video = self.client.create(PROMPT, model="toy-wan-i2v", image=picture, **TINY)
            self.assertEqual((video.model, video.request["image"]), ("toy-wan-i2v", "(upload)"))
        self.assertEqual(self.client.wait(video).status, "completed")
        with self.assertRaises(errors.InvalidArgument):
            self.client.create(PROMPT, model="toy-wan-i2v", image=b"no picture", **TINY)

    def test_errors_are_those_of_the_request(self):
        with self.assertRaisesRegex(errors.InvalidArgument, r'^\[num_frames\] got "x", expected a whole number'):
            self.client.create(PROMPT, num_frames="x")
        with self.assertRaisesRegex(errors.InvalidArgument, "Did you mean guidance_scale"):
            self.client.create(PROMPT, guidance_skale=3)
        with self.assertRaises(ServerFailure) as unknown:
            self.client.create(PROMPT, model="sora-2")
        self.assertEqual((unknown.exception.status, unknown.exception.code, unknown.exception.param), (404, "model_not_found", "model"))

    def test_a_server_that_is_killed_and_comes_again(self):
        video = self.client.create(PROMPT, seed=5, **{**SLOW, "num_inference_steps": 60})
        steps = []

        def kill(event):
            steps.append(event["step"])
            if event["step"] >= 3 and not killed.is_set():
                killed.set()

        killed = threading.Event()
        done = []
        waits = threading.Thread(target=lambda: done.append(self.client.wait(video, on_progress=kill)))
        waits.start()
        self.assertTrue(killed.wait(60))
        self.server.options[self.server.options.index("--port") + 1] = str(self.server.port)
        self.server.kill()
        self.server.start()
        waits.join(200)
        self.assertEqual([each.status for each in done], ["completed"])


class Full(WithServer):
    options = ("--max-queue", "1")

    def test_a_full_queue_is_asked_again(self):
        slow = self.client.create(PROMPT, **SLOW)
        with self.assertRaises(ServerFailure) as full:
            Client(self.url, retries=0).create(PROMPT, **TINY)
        self.assertEqual((full.exception.status, full.exception.code), (429, "queue_full"))
        timer = threading.Timer(0.5, lambda: Client(self.url).delete(slow))
        timer.start()
        self.addCleanup(timer.join)
        self.assertEqual(self.client.wait(self.client.create(PROMPT, **TINY)).status, "completed")


class Async(WithServer):
    def test_several_at_once(self):
        async def all_of_them():
            client = AsyncClient(self.url)
            videos = await asyncio.gather(*[client.generate(PROMPT, self.path(f"{i}.mp4"), seed=i, **TINY) for i in range(5)])
            names = [event.name async for event in client.events(videos[0])]
            listed = await client.list()
            await client.delete(videos[0])
            return videos, names, listed, await client.health()

        videos, names, listed, health = asyncio.run(all_of_them())
        self.assertEqual({video.status for video in videos}, {"completed"})
        self.assertEqual({each.id for each in listed}, {each.id for each in videos})
        self.assertEqual((names, health["queue_length"]), (["video"], 0))
        for i in range(5):
            self.assertTrue(is_whole_mp4(pathlib.Path(self.path(f"{i}.mp4")).read_bytes()))

    def test_a_cancelled_task_cancels_its_job(self):
        async def begin_and_leave():
            client, began = AsyncClient(self.url), asyncio.Event()
            task = asyncio.create_task(client.generate(PROMPT, self.path("a.mp4"), on_progress=lambda _: began.set(), **SLOW))
            await began.wait()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        asyncio.run(begin_and_leave())
        video, = self.client.list()
        self.assertEqual((video.status, video.cancelled), ("failed", True))
        self.assertFalse(os.path.exists(self.path("a.mp4")))


if __name__ == "__main__":
    unittest.main()
