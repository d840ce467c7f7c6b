"""The client against a small server that answers as docs/serve.md says."""

import asyncio
import contextlib
import http.server
import json
import pathlib
import subprocess
import sys
import threading
import unittest

from common import InFolder
from zoetrope import errors
from zoetrope.client import AsyncClient, Client, ServerFailure


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, value, headers=(), media_type="application/json"):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        for name, text in headers:
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status, code, message, headers=()):
        self.answer(status, {"error": {"message": message, "type": "invalid_request_error", "code": code, "param": None}}, headers)

    def video(self, name, status="queued", **more):
        return {"id": name, "object": "video", "status": status, "progress": 100 if status == "completed" else 0, "error": None, **more}

    def handle_one(self):
        server = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server.seen.append((self.command, self.path, dict(self.headers), body))
        if server.key and self.headers.get("Authorization") != f"Bearer {server.key}":
            return self.refuse(401, "invalid_api_key", "[key] is unknown.")
        if server.busy > 0:
            server.busy -= 1
            return self.refuse(429, "queue_full", "[queue] is full.", [("Retry-After", "0")])
        path = self.path.partition("?")[0]
        if (self.command, path) == ("POST", "/v1/videos"):
            if b"refuse this" in body:  # no boundary of a body in parts, which are hexadecimal, holds it
                return self.refuse(400, "invalid_argument", "[num_frames] got x.")
            return self.answer(200, self.video("video_1"))
        if path == "/v1/videos":
            after = "after=video_2" in self.path
            ids = ["video_3"] if after else ["video_1", "video_2"]
            return self.answer(200, {"object": "list", "data": [self.video(each) for each in ids], "last_id": ids[-1], "has_more": not after})
        if path == "/v1/videos/video_1/events":
            return self.stream(server.streams.pop(0) if server.streams else [("video", self.video("video_1", "completed"))])
        if path == "/v1/videos/video_1/content":
            return self.answer(200, b"a video", media_type="video/mp4")
        if path == "/v1/videos/video_1/cancel":
            return self.answer(200, self.video("video_1", "failed", cancelled=True))
        return self.refuse(404, "not_found", "[video] no such job.")

    do_GET = do_POST = do_DELETE = handle_one

    def stream(self, events):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"retry: 2000\n\n: a comment\n\n")
        for name, data in events:
            if name == "cut":  # the connection ends in the middle of an event
                self.wfile.write(b"event: progress\ndata: {\"progr")
                return
            self.wfile.write(f"event: {name}\ndata: {json.dumps(data)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")


class WithServer(InFolder):
    def setUp(self):
        super().setUp()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.seen, self.server.streams, self.server.busy, self.server.key = [], [], 0, ""
        self.server.daemon_threads = True
        thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        self.addCleanup(lambda: (self.server.shutdown(), thread.join(), self.server.server_close()))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.client = Client(self.url, timeout=10)


class Calls(WithServer):
    def test_make_a_video(self):
        progress = []
        video = self.video_of_three_events()
        made = self.client.generate("a fox", self.path("fox.mp4"), num_frames=33, on_progress=progress.append)
        self.assertEqual((made.id, made.status, made.is_done), ("video_1", "completed", True))
        self.assertEqual([event["progress"] for event in progress], [41])
        self.assertEqual(pathlib.Path(self.path("fox.mp4")).read_bytes(), b"a video")
        method, path, headers, body = self.server.seen[0]
        self.assertEqual((method, path, json.loads(body)), ("POST", "/v1/videos", {"prompt": "a fox", "num_frames": 33}))
        self.assertTrue(headers["Idempotency-Key"])
        self.assertEqual(video, 1)

    def video_of_three_events(self):
        self.server.streams.append([("video", {"id": "video_1", "status": "in_progress"}), ("progress", {"progress": 41}),
                                    ("video", {"id": "video_1", "status": "completed", "progress": 100})])
        return len(self.server.streams)

    def test_go_on_where_a_stream_is_cut(self):
        self.server.streams += [[("progress", {"progress": 7}), ("cut", {})], [("video", {"id": "video_1", "status": "completed"})]]
        progress = []
        self.assertEqual(self.client.wait("video_1", on_progress=progress.append).status, "completed")
        self.assertEqual([event["progress"] for event in progress], [7])

    def test_try_again_where_the_server_is_busy_with_the_same_key(self):
        self.server.busy = 2
        self.client.create("a fox")
        keys = {headers["Idempotency-Key"] for _, _, headers, _ in self.server.seen}
        self.assertEqual((len(self.server.seen), len(keys)), (3, 1))
        self.server.busy = 1
        with self.assertRaises(ServerFailure) as caught:
            Client(self.url, retries=0).create("a fox")
        self.assertEqual((caught.exception.status, caught.exception.code), (429, "queue_full"))

    def test_list_page_by_page(self):
        self.assertEqual([video.id for video in self.client.list(limit=2)], ["video_1", "video_2", "video_3"])

    def test_send_pictures(self):
        path = pathlib.Path(self.path("cat.png"))
        path.write_bytes(b"\x89PNG cat")
        self.client.create("a cat", image=path, seed=4)
        _, _, headers, body = self.server.seen[0]
        self.assertTrue(headers["Content-Type"].startswith("multipart/form-data; boundary="))
        self.assertIn(b'name="image"; filename="cat.png"', body)
        self.assertIn(b"\x89PNG cat", body)
        self.assertIn(b'{"prompt": "a cat", "seed": 4}', body)
        self.client.create("a cat", image=str(path))
        self.assertIn(b"\x89PNG cat", self.server.seen[1][3])
        self.client.create("a cat", image="data:image/png;base64,AAAA")
        self.assertEqual(json.loads(self.server.seen[2][3])["image"], "data:image/png;base64,AAAA")
        with self.assertRaises(errors.FileFailure):
            self.client.create("a cat", image=pathlib.Path(self.path("gone.png")))


class Failures(WithServer):
    def test_are_exceptions_by_kind(self):
        with self.assertRaisesRegex(errors.InvalidArgument, r"\[num_frames\] got x"):
            self.client.create("refuse this")
        with self.assertRaises(ServerFailure) as caught:
            self.client.retrieve("video_9")
        self.assertEqual((caught.exception.status, caught.exception.code), (404, "not_found"))
        for code, kind in (("out_of_memory", errors.OutOfMemory), ("cancelled", errors.Cancelled), ("crashed", ServerFailure)):
            self.server.streams.append([("video", {"id": "video_1", "status": "failed", "error": {"code": code, "message": code}})])
            with self.assertRaises(kind):
                self.client.wait("video_1")
        self.server.streams.append([("deleted", {"id": "video_1", "deleted": True})])
        with self.assertRaises(ServerFailure):
            self.client.wait("video_1")

    def test_keys_are_sent(self):
        self.server.key = "secret"
        with self.assertRaises(ServerFailure):
            self.client.create("a fox")
        self.assertEqual(Client(self.url, api_key="secret").create("a fox").id, "video_1")

    def test_no_server(self):
        with self.assertRaisesRegex(ServerFailure, "cannot reach"):
            Client("http://127.0.0.1:9", retries=0).health()
        with self.assertRaises(errors.InvalidArgument):
            Client("ftp://here")


class Async(WithServer):
    def test_several_at_once(self):
        async def all_of_them():
            client = AsyncClient(self.url)
            return await asyncio.gather(*[client.generate("a fox", self.path(f"{i}.mp4")) for i in range(20)])

        self.assertEqual([video.status for video in asyncio.run(all_of_them())], ["completed"] * 20)
        self.assertEqual(pathlib.Path(self.path("19.mp4")).read_bytes(), b"a video")

    def test_events(self):
        self.server.streams.append([("queue", {"queue_position": 0}), ("video", {"id": "video_1", "status": "completed"})])

        async def names():
            return [event.name async for event in AsyncClient(self.url).events("video_1")]

        self.assertEqual(asyncio.run(names()), ["queue", "video"])

    def test_a_cancelled_task_cancels_its_job(self):
        hold = threading.Event()

        class Slow(list):
            def __iter__(self):
                yield "progress", {"progress": 1}
                hold.wait(10)

        self.server.streams.append(Slow([1]))

        async def begin_and_leave():
            began = asyncio.Event()
            task = asyncio.create_task(AsyncClient(self.url, retries=0).generate("a fox", self.path("a.mp4"), on_progress=lambda _: began.set()))
            await began.wait()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            hold.set()

        asyncio.run(begin_and_leave())
        self.assertIn(("POST", "/v1/videos/video_1/cancel"), [(method, path) for method, path, _, _ in self.server.seen])


class Alone(unittest.TestCase):
    def test_needs_no_library(self):
        code = "import os; os.environ['ZOETROPE_LIBRARY'] = '/nowhere.so'; import zoetrope.client; zoetrope.client.Client()"
        subprocess.run([sys.executable, "-c", code], check=True)


if __name__ == "__main__":
    unittest.main()
