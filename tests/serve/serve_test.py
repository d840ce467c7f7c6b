#!/usr/bin/env python3
"""`zoe serve` over loopback: every route of docs/serve.md, jobs that survive, clients that mean ill.

    ZOE_COMMAND=build/zoe python3 tests/serve/serve_test.py Routes.test_list
"""
import base64
import json
import os
import pathlib
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request
import zlib

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from client import COMMAND, MODELS, TINY, Server, is_whole_mp4  # noqa: E402

PICTURE = pathlib.Path(MODELS, "toy-wan-i2v", "circle.png").read_bytes()
SLOW = {"num_inference_steps": 1000, "size": "64x64", "num_frames": 9}  # long, if nobody stops it


class Routes(unittest.TestCase):
    """What each route answers; all cases share a server."""

    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.done = cls.server.wait(cls.server.create()["id"])

    @classmethod
    def tearDownClass(cls):
        with cls.server:
            code, errors = cls.server.stop()
            assert code == 0 and errors == "", (code, errors)

    def refused(self, expected_status, code, answer, param=None):
        status, body = answer
        self.assertEqual((status, body["error"]["code"], body["error"]["param"]), (expected_status, code, param), body)
        self.assertTrue(body["error"]["message"].startswith("["))
        return body["error"]["message"]

    def test_create_and_get(self):
        status, headers, text = self.server.raw("POST", "/v1/videos", json.dumps({**TINY, "seed": 5, "fps": 10}),
                                                {"Content-Type": "application/json"})
        video = json.loads(text)
        self.assertEqual(status, 200)
        self.assertEqual(headers["location"], "/v1/videos/" + video["id"])
        self.assertIn(video["status"], ("queued", "in_progress"))
        self.assertEqual([video[key] for key in ("object", "model", "prompt", "size", "num_frames", "fps", "seed", "steps", "seconds")],
                         ["video", "toy-wan", "a red circle", "32x32", 5, 10, 5, 2, "0.4"])
        self.assertLess(video["progress"], 100)
        done = self.server.wait(video["id"])
        self.assertEqual((done["status"], done["progress"], done["step"], done["error"], done["cancelled"]),
                         ("completed", 100, 2, None, False))
        self.assertGreaterEqual(done["completed_at"], done["created_at"])
        self.assertEqual(done["expires_at"], done["completed_at"] + 720 * 3600)
        self.assertGreater(done["timings"]["denoise"], 0)
        self.assertEqual(done["device"], "cpu")

    def test_the_same_request_makes_the_same_video(self):
        first, second = (self.server.wait(self.server.create(seed=9)["id"])["id"] for _ in range(2))
        content = [self.server.raw("GET", f"/v1/videos/{each}/content")[2] for each in (first, second)]
        self.assertEqual(content[0], content[1])
        other = self.server.wait(self.server.create(seed=10)["id"])["id"]
        self.assertNotEqual(content[0], self.server.raw("GET", f"/v1/videos/{other}/content")[2])

    def test_fields_of_requests(self):
        video = self.server.create(prompt=["one"], seed=[3], steps=3, cfg_scale="2.5", extra_body={"scheduler": "euler", "steps": 4})
        self.assertEqual(video["request"]["num_inference_steps"], 4)
        self.assertEqual(video["request"]["guidance_scale"], 2.5)
        self.assertEqual(video["request"]["scheduler"], "euler")
        self.assertEqual(self.server.wait(video["id"])["status"], "completed")
        # As the model makes them: sizes down, frames one more than a multiple of four.
        video = self.server.create(size="39x39", num_frames=7)
        self.assertEqual((video["size"], video["num_frames"]), ("32x32", 5))
        self.assertTrue(any("32" in note for note in video["notes"]), video["notes"])
        random = self.server.create(seed=-1)
        self.assertGreaterEqual(random["seed"], 0)

    def test_seconds(self):
        fields = dict(TINY)
        del fields["num_frames"]
        for seconds in ("0.25", 0.25):
            status, video = self.server.call("POST", "/v1/videos", {**fields, "seconds": seconds})
            self.assertEqual((status, video["num_frames"], video["seconds"]), (200, 5, "0.25"))
        self.refused(400, "invalid_argument", self.server.call("POST", "/v1/videos", {**TINY, "seconds": 1}), "seconds")
        self.refused(400, "invalid_argument", self.server.call("POST", "/v1/videos", {**fields, "seconds": "long"}), "seconds")

    def test_refusals_have_the_commands_line(self):
        post = lambda **fields: self.server.call("POST", "/v1/videos", {**TINY, **fields})
        self.assertEqual(self.refused(400, "invalid_argument", post(num_frames="x"), "num_frames"),
                         '[num_frames] got "x", expected a whole number from 1 to 65536.')
        self.assertIn("Did you mean guidance_scale?", self.refused(400, "invalid_argument", post(guidance_skale=1)))
        self.assertIn("See guidance_scale", self.refused(400, "invalid_argument", post(true_cfg_scale=1)))
        self.refused(400, "invalid_argument", post(prompt=["a", "b"]), "prompt")
        self.refused(400, "invalid_argument", post(seed=[1, 2]), "seed")
        self.refused(400, "invalid_argument", self.server.call("POST", "/v1/videos", {"size": "32x32"}), "prompt")
        self.refused(400, "invalid_argument", post(size="4096x4096"), "size")
        self.refused(400, "invalid_argument", post(num_frames=513), "num_frames")
        self.refused(400, "invalid_argument", post(guidance_scale_2=3), "guidance_scale_2")
        self.refused(404, "model_not_found", post(model="sora-2"), "model")
        self.refused(400, "invalid_argument", post(lora="nothing"), "lora")
        self.refused(400, "invalid_argument", post(extra_body="x"), "extra_body")

    def test_no_address_and_no_path_is_opened(self):
        post = lambda **fields: self.server.call("POST", "/v1/videos", {**TINY, "model": "toy-wan-i2v", **fields})
        for said in ("http://127.0.0.1:1/a.png", "/etc/passwd", "../circle.png", {"file_id": "file-1"},
                     {"image_url": "https://example.com/a.png"}, "data:image/png;base64,####"):
            self.refused(400, "invalid_argument", post(input_reference=said), "image")
        self.refused(400, "invalid_argument", post(lora="../../etc/passwd"), "lora")
        self.refused(400, "invalid_argument", self.server.call("POST", "/v1/videos", {**TINY, "output": "/tmp/x.mp4"}))

    def test_bodies_that_are_none(self):
        for body, kind, status, code in ((b"", "application/json", 400, "invalid_argument"),
                                         (b"{", "application/json", 400, "invalid_argument"),
                                         (b"[]", "application/json", 400, "invalid_argument"),
                                         (b'{"prompt": "a", "prompt": "b"}', "application/json", 400, "invalid_argument"),
                                         (b"[" * 100000, "application/json", 400, "invalid_argument"),
                                         (b"\xff\xfe", "application/json", 400, "invalid_argument"),
                                         (b"prompt", "text/plain", 415, "unsupported_media_type"),
                                         (b"prompt", "multipart/form-data", 400, "invalid_argument"),
                                         (b"--x\r\nnothing", "multipart/form-data; boundary=x", 400, "invalid_argument")):
            answer = self.server.raw("POST", "/v1/videos", body, {"Content-Type": kind})
            self.assertEqual((answer[0], json.loads(answer[2])["error"]["code"]), (status, code), (body[:40], answer[2]))
        self.assertEqual(self.server.raw("POST", "/v1/videos", b"x", {"Content-Encoding": "gzip"})[0], 415)

    def test_form(self):
        status, video = self.server.form("/v1/videos", [*TINY.items(), ("seed", 4), ("extra_body", '{"num_inference_steps": 3}')])
        self.assertEqual((status, video["seed"], video["steps"]), (200, 4, 3), video)
        status, video = self.server.call("POST", "/v1/videos", "prompt=a+b%26c&size=32x32&num_frames=1&steps=1",
                                         {"Content-Type": "application/x-www-form-urlencoded"})
        self.assertEqual((status, video["prompt"]), (200, "a b&c"))

    def test_pictures(self):
        fields = [*TINY.items(), ("model", "toy-wan-i2v")]
        status, video = self.server.form("/v1/videos", fields, [("input_reference", "../../x.png", PICTURE)])
        self.assertEqual((status, video["request"]["image"]), (200, "(upload)"), video)
        data = "data:image/png;base64," + base64.b64encode(PICTURE).decode()
        status, same = self.server.call("POST", "/v1/videos", {**TINY, "model": "toy-wan-i2v", "input_reference": {"image_url": data}})
        self.assertEqual(status, 200, same)
        contents = []
        for each in (video, same):
            self.assertEqual(self.server.wait(each["id"])["status"], "completed")
            contents.append(self.server.raw("GET", f"/v1/videos/{each['id']}/content")[2])
        self.assertEqual(contents[0], contents[1])
        self.refused(400, "invalid_argument", self.server.form("/v1/videos", fields, [("input_reference", "x.png", b"no picture")]), "image")
        status, error = self.server.form("/v1/videos", fields, [("input_reference", "x.png", b"no picture")])
        self.assertNotIn(self.server.folder, error["error"]["message"])
        self.refused(400, "invalid_argument", self.server.form("/v1/videos", fields, [("image", "a", PICTURE), ("image", "b", PICTURE)]),
                     "image")
        self.refused(400, "invalid_argument", self.server.form("/v1/videos", fields), "image")

    def test_list(self):
        for _ in range(3):
            self.server.create(num_frames=1, num_inference_steps=1)
        status, first = self.server.call("GET", "/v1/videos?limit=2")
        self.assertEqual((status, first["object"], len(first["data"]), first["has_more"]), (200, "list", 2, True))
        self.assertEqual((first["first_id"], first["last_id"]), (first["data"][0]["id"], first["data"][1]["id"]))
        second = self.server.call("GET", f"/v1/videos?limit=2&after={first['last_id']}")[1]
        self.assertFalse({each["id"] for each in first["data"]} & {each["id"] for each in second["data"]})
        all_ids, after = [], ""
        while True:
            page = self.server.call("GET", f"/v1/videos?limit=3&order=asc&after={after}")[1]
            all_ids += [each["id"] for each in page["data"]]
            after = page["last_id"]
            if not page["has_more"]:
                break
        self.assertEqual(len(all_ids), len(set(all_ids)))
        self.assertEqual(all_ids[0], self.done["id"])
        completed = self.server.call("GET", "/v1/videos?status=completed&limit=100")[1]["data"]
        self.assertEqual({each["status"] for each in completed}, {"completed"})
        for query, param in (("limit=0", "limit"), ("limit=101", "limit"), ("limit=x", "limit"), ("order=up", "order"),
                             ("after=nothing", "after"), ("status=done", "status")):
            self.refused(400, "invalid_argument", self.server.call("GET", "/v1/videos?" + query), param)

    def test_content(self):
        path = f"/v1/videos/{self.done['id']}/content"
        status, headers, whole = self.server.raw("GET", path)
        self.assertEqual((status, headers["content-type"], headers["accept-ranges"]), (200, "video/mp4", "bytes"))
        self.assertTrue(is_whole_mp4(whole))
        self.assertEqual(self.server.raw("HEAD", path)[1]["content-length"], str(len(whole)))
        for said, expected in (("bytes=0-9", whole[:10]), ("bytes=10-", whole[10:]), ("bytes=-7", whole[-7:]),
                               ("bytes=5-999999999", whole[5:])):
            status, headers, part = self.server.raw("GET", path, headers={"Range": said})
            self.assertEqual((status, part), (206, expected), said)
            begin = len(whole) - len(expected) if not said.startswith("bytes=0") else 0
            self.assertEqual(headers["content-range"], f"bytes {begin}-{begin + len(expected) - 1}/{len(whole)}")
        status, headers, _ = self.server.raw("GET", path, headers={"Range": f"bytes={len(whole)}-"})
        self.assertEqual((status, headers["content-range"]), (416, f"bytes */{len(whole)}"))
        for said in ("bytes=0-1,5-6", "bytes=9-2", "lines=1-2", "bytes=x"):
            self.assertEqual(self.server.raw("GET", path, headers={"Range": said})[::2], (200, whole), said)
        tag = headers_of(self.server, path)["etag"]
        self.assertEqual(self.server.raw("GET", path, headers={"If-None-Match": tag})[::2], (304, b""))
        self.assertEqual(self.server.raw("GET", path, headers={"Range": "bytes=0-0", "If-Range": '"other"'})[0], 200)
        self.assertEqual(self.server.raw("GET", path, headers={"Range": "bytes=0-0", "If-Range": tag})[0], 206)
        for variant in ("thumbnail", "spritesheet"):
            status, headers, content = self.server.raw("GET", f"{path}?variant={variant}")
            self.assertEqual((status, headers["content-type"], content[:4]), (200, "image/png", b"\x89PNG"))
        self.refused(400, "invalid_argument", self.server.call("GET", path + "?variant=sound"), "variant")
        self.refused(404, "not_found", self.server.call("GET", path + "?variant=preview"), "variant")
        self.refused(404, "not_found", self.server.call("GET", "/v1/videos/video_0000/content"))

    def test_remix(self):
        status, remix = self.server.call("POST", f"/v1/videos/{self.done['id']}/remix", {"prompt": "a blue square"})
        self.assertEqual((status, remix["remixed_from_video_id"], remix["prompt"], remix["size"], remix["steps"]),
                         (200, self.done["id"], "a blue square", "32x32", 2))
        self.assertEqual(self.server.wait(remix["id"])["status"], "completed")
        with_picture = self.server.form("/v1/videos", [*TINY.items(), ("model", "toy-wan-i2v")], [("image", "x", PICTURE)])[1]
        self.server.wait(with_picture["id"])
        status, remix = self.server.call("POST", f"/v1/videos/{with_picture['id']}/remix", {"prompt": "another", "seed": 3})
        self.assertEqual((status, remix["model"], remix["seed"]), (200, "toy-wan-i2v", 3))
        self.assertEqual(self.server.wait(remix["id"])["status"], "completed")

    def test_sync(self):
        status, headers, content = self.server.raw("POST", "/v1/videos/sync", json.dumps(TINY))
        self.assertEqual((status, headers["content-type"]), (200, "video/mp4"))
        self.assertTrue(is_whole_mp4(content))
        self.assertEqual(self.server.get(headers["x-video-id"])["status"], "completed")
        self.refused(400, "invalid_argument", self.server.call("POST", "/v1/videos/sync", {**TINY, "steps": 0}), "num_inference_steps")

    def test_a_sync_client_that_leaves_cancels(self):
        body = json.dumps({**TINY, **SLOW, "prompt": "left alone"}).encode()
        with self.server.socket() as client:
            client.sendall(b"POST /v1/videos/sync HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            find = lambda: [each for each in self.server.call("GET", "/v1/videos?limit=100")[1]["data"] if each["prompt"] == "left alone"]
            until(find)
        until(lambda: find()[0]["status"] == "failed")
        self.assertTrue(find()[0]["cancelled"])

    def test_plan(self):
        status, plan = self.server.call("POST", "/v1/videos/plan", TINY)
        self.assertEqual((status, plan["object"], plan["size"], plan["num_frames"], plan["steps"], plan["fits"], plan["refusal"]),
                         (200, "video.plan", "32x32", 5, 2, True, None))
        self.assertGreater(plan["memory_bytes"]["planned"], 1 << 20)
        self.assertGreater(plan["memory_bytes"]["free"], plan["memory_bytes"]["planned"])
        self.assertEqual(plan["estimate"]["of"], "runs of this size")
        self.assertGreater(plan["estimate"]["seconds"], 0)
        self.refused(400, "invalid_argument", self.server.call("POST", "/v1/videos/plan", {**TINY, "steps": "x"}), "num_inference_steps")

    def test_cancel_and_delete(self):
        running = self.server.create(**SLOW)
        waiting = self.server.create(**SLOW)
        self.server.wait(running["id"], ("in_progress",))
        self.assertEqual(self.server.get(waiting["id"])["queue_position"], 0)
        self.refused(409, "not_ready", self.server.call("GET", f"/v1/videos/{running['id']}/content"))
        start = time.monotonic()
        status, cancelled = self.server.call("POST", f"/v1/videos/{waiting['id']}/cancel")
        self.assertEqual((status, cancelled["status"], cancelled["cancelled"], cancelled["error"]["code"]),
                         (200, "failed", True, "cancelled"))
        status, deleted = self.server.call("DELETE", f"/v1/videos/{running['id']}")
        self.assertEqual((status, deleted), (200, {"id": running["id"], "object": "video.deleted", "deleted": True}))
        self.refused(404, "not_found", self.server.call("GET", f"/v1/videos/{running['id']}"))
        # The device is free for the next one.
        self.assertEqual(self.server.wait(self.server.create()["id"])["status"], "completed")
        self.assertLess(time.monotonic() - start, 30)
        self.assertEqual(list(pathlib.Path(self.server.folder, "videos").glob(running["id"] + "*")), [])
        self.refused(404, "not_found", self.server.call("DELETE", f"/v1/videos/{running['id']}"))
        done = self.server.create()
        self.server.wait(done["id"])
        self.assertFalse(self.server.call("POST", f"/v1/videos/{done['id']}/cancel")[1]["cancelled"])
        self.server.call("DELETE", f"/v1/videos/{done['id']}")
        for _ in range(50):  # its files go behind the answer
            left = list(pathlib.Path(self.server.folder, "videos").glob(done["id"] + "*"))
            if not left:
                break
            time.sleep(0.1)
        self.assertEqual(left, [])

    def test_events(self):
        blocker = self.server.create(**SLOW)
        video = self.server.create(num_inference_steps=8)
        seen = []

        def listen():
            for each in self.server.events(video["id"]):
                seen.append(each)
        thread = threading.Thread(target=listen)
        thread.start()
        until(lambda: seen)
        self.server.call("DELETE", f"/v1/videos/{blocker['id']}")
        thread.join(60)
        names = [name for name, _ in seen]
        self.assertEqual((names[0], seen[0][1]["id"]), ("video", video["id"]))
        self.assertEqual([data["status"] for name, data in seen if name == "video"], ["queued", "in_progress", "completed"])
        self.assertEqual(seen[-1], ("message", "[DONE]"))
        percents = [data["progress"] for name, data in seen if name == "progress"]
        self.assertEqual(percents, sorted(percents))
        self.assertTrue(percents)
        again = list(self.server.events(video["id"]))  # of one that is done
        self.assertEqual([name for name, _ in again], ["video", "message"])

    def test_previews(self):
        video = self.server.create(**SLOW)
        for name, data in self.server.events(video["id"]):
            if name == "preview":
                break
        status, headers, picture = self.server.raw("GET", data["path"])
        self.assertEqual((status, headers["content-type"], picture[:3]), (200, "image/gif", b"GIF"))
        self.assertTrue(self.server.get(video["id"])["has_preview"])
        self.assertEqual(self.server.call("DELETE", f"/v1/videos/{video['id']}")[0], 200)

    def test_deleted_ends_the_stream(self):
        video = self.server.create(**SLOW)
        names = []
        for name, data in self.server.events(video["id"]):
            names.append(name)
            if len(names) == 1:
                self.server.call("DELETE", f"/v1/videos/{video['id']}")
        self.assertIn("deleted", names)

    def test_idempotency(self):
        key = {"Idempotency-Key": "once", "Content-Type": "application/json"}
        first = self.server.raw("POST", "/v1/videos", json.dumps(TINY), key)
        second = self.server.raw("POST", "/v1/videos", json.dumps(TINY), key)
        self.assertEqual((first[0], second[0], second[1]["idempotent-replayed"]), (200, 200, "true"))
        self.assertEqual(json.loads(first[2])["id"], json.loads(second[2])["id"])
        status, _, text = self.server.raw("POST", "/v1/videos", json.dumps({**TINY, "seed": 8}), key)
        self.assertEqual((status, json.loads(text)["error"]["code"]), (422, "idempotency_mismatch"))

    def test_models_and_loras(self):
        status, models = self.server.call("GET", "/v1/models")
        self.assertEqual((status, [each["id"] for each in models["data"]]), (200, ["toy-wan", "toy-wan-i2v"]))
        text, picture = models["data"]
        self.assertEqual((text["member"], text["input_reference"], picture["input_reference"]), ("t2v", "video", "image"))
        self.assertIn("prompt", text["fields"])
        self.assertNotIn("image", text["fields"])
        self.assertEqual({each["name"] for each in models["request_fields"]} & {"prompt", "seed", "size"}, {"prompt", "seed", "size"})
        self.assertEqual(self.server.call("GET", "/v1/models/toy-wan")[1]["id"], "toy-wan")
        self.refused(404, "model_not_found", self.server.call("GET", "/v1/models/nothing"), "model")
        self.assertEqual(self.server.call("GET", "/v1/loras")[1], {"object": "list", "data": []})

    def test_health_and_metrics(self):
        self.assertEqual(self.server.call("GET", "/health")[1]["status"], "ok")
        self.assertEqual(self.server.call("GET", "/ready")[1]["status"], "ready")
        status, headers, text = self.server.raw("GET", "/metrics")
        lines = text.decode().splitlines()
        self.assertEqual((status, headers["content-type"].split(";")[0]), (200, "text/plain"))
        values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        self.assertGreaterEqual(float(values['zoe_jobs_total{result="completed"}']), 1)
        self.assertGreaterEqual(float(values["zoe_steps_total"]), 2)
        self.assertGreaterEqual(float(values["zoe_frames_total"]), 5)
        self.assertGreaterEqual(float(values['zoe_stage_seconds_bucket{stage="denoise",le="+Inf"}']), 1)
        self.assertIn('zoe_device_memory_bytes{device="cpu",kind="free"}', values)
        for line in lines:
            self.assertRegex(line, r"^(# (HELP|TYPE) \w+ .+|[a-z_]+(\{.*\})? [-+.e0-9inf]+)$")

    def test_unknown_routes(self):
        self.assertIn("no text", self.refused(404, "unknown_url", self.server.call("POST", "/v1/chat/completions", {})))
        self.assertIn("picture", self.refused(404, "unknown_url", self.server.call("POST", "/v1/images/generations", {})))
        self.refused(404, "unknown_url", self.server.call("POST", "/v1/videos/edits", {}))
        self.refused(404, "unknown_url", self.server.call("GET", "/nothing"))
        self.refused(404, "unknown_url", self.server.call("GET", "/../../etc/passwd"))
        status, headers, _ = self.server.raw("PUT", "/v1/videos")
        self.assertEqual((status, headers["allow"]), (405, "POST, GET, HEAD"))

    def test_pages_of_others(self):
        self.assertEqual(self.server.call("GET", "/v1/videos", headers={"Host": "evil.example"})[1]["error"]["code"], "forbidden_origin")
        self.assertEqual(self.server.call("POST", "/v1/videos", TINY, {"Origin": "http://evil.example"})[0], 403)
        self.assertEqual(self.server.call("GET", "/v1/models", headers={"Origin": f"http://{self.server.host}:{self.server.port}"})[0], 200)


def until(holds, seconds=30):
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise RuntimeError("it did not come to pass")
        time.sleep(0.05)


def pixels_of(png):
    """Size and bytes of its rows, whatever text is beside them."""
    at, header, rows = 8, b"", b""
    while at < len(png):
        size, kind = int.from_bytes(png[at:at + 4], "big"), png[at + 4:at + 8]
        if kind == b"IHDR":
            header = png[at + 8:at + 8 + size]
        if kind == b"IDAT":
            rows += png[at + 8:at + 8 + size]
        at += 12 + size
    return header, zlib.decompress(rows)


def headers_of(server, path):
    return server.raw("GET", path)[1]


class Survival(unittest.TestCase):
    """Jobs outlive their process."""

    def test_killed(self):
        with Server("--save-seconds", "0") as server:
            want = server.wait(server.create(num_inference_steps=12, seed=3)["id"])
            expected = server.raw("GET", f"/v1/videos/{want['id']}/content")[2]
            running = server.create(num_inference_steps=12, seed=3, size="32x32")
            slow = server.create(**{**SLOW, "num_inference_steps": 1000})
            last = server.create(seed=4)
            for name, data in server.events(slow["id"]):
                if name == "progress" and data["step"] >= 4:
                    break
            server.kill()
            stray = pathlib.Path(server.folder, "videos", "video_feed.mp4")
            stray.write_bytes(b"half")
            server.start()
            self.assertIn("goes on with 2 jobs", " ".join(server.lines))
            self.assertFalse(stray.exists())
            # It goes on behind the steps it had saved.
            again = server.wait(slow["id"], ("in_progress",))
            for name, data in server.events(slow["id"]):
                if name == "progress" and data["phase"] == "denoise":
                    break
            self.assertGreaterEqual(data["step"], 2)
            self.assertEqual(server.get(last["id"])["queue_position"], 0)
            self.assertIn("zoe_jobs_resumed_total 1", server.raw("GET", "/metrics")[2].decode())
            server.call("DELETE", f"/v1/videos/{slow['id']}")
            self.assertEqual(server.wait(last["id"])["status"], "completed")
            self.assertEqual(server.wait(running["id"])["status"], "completed")
            self.assertEqual(server.raw("GET", f"/v1/videos/{running['id']}/content")[2], expected)
            self.assertEqual(again["created_at"], slow["created_at"])
            ids = [each["id"] for each in server.call("GET", "/v1/videos?limit=100")[1]["data"]]
            self.assertEqual(sorted(ids), sorted([want["id"], running["id"], last["id"]]))

    def test_resumed_frames_are_the_same(self):
        fields = {"num_inference_steps": 60, "size": "64x64", "num_frames": 9, "seed": 11}
        with Server("--save-seconds", "0") as server:
            undisturbed = server.wait(server.create(**fields)["id"])["id"]
            expected = server.raw("GET", f"/v1/videos/{undisturbed}/content")[2]
            video = server.create(**fields)["id"]
            for name, data in server.events(video):
                if name == "progress" and data["step"] >= 5:
                    break
            server.kill()
            server.start()
            done = server.wait(video)
            self.assertEqual(done["status"], "completed")
            self.assertTrue(any("goes on behind step" in note for note in done["notes"]), done["notes"])
            self.assertEqual(server.raw("GET", f"/v1/videos/{video}/content")[2], expected)

    def test_stopped(self):
        with Server("--stop-seconds", "0") as server:
            video = server.create(**SLOW)["id"]
            for name, data in server.events(video):
                if name == "progress" and data["step"] >= 1:
                    break
            names = []
            thread = threading.Thread(target=lambda: [names.append(name) for name, _ in server.events(video)])
            thread.start()
            until(lambda: names)
            self.assertEqual(server.stop(), (0, ""))
            thread.join(10)
            self.assertIn("stopping", names)
            self.assertTrue(pathlib.Path(server.folder, "work", video, "state").exists())
            server.start()
            self.assertEqual(server.wait(video, ("in_progress",))["id"], video)
            self.assertEqual(server.call("DELETE", f"/v1/videos/{video}")[0], 200)
            self.assertEqual(server.stop(), (0, ""))

    def test_one_server_a_folder(self):
        with Server() as server:
            with self.assertRaisesRegex(RuntimeError, "another running server"):
                Server(folder=server.folder)

    def test_videos_that_are_too_old_go(self):
        with Server("--keep-hours", "1") as server:
            old, new = (server.wait(server.create(num_frames=1, num_inference_steps=1)["id"])["id"] for _ in range(2))
            self.assertEqual(server.stop(), (0, ""))
            jobs = sqlite3.connect(os.path.join(server.folder, "jobs.sqlite"))
            with jobs:  # as if an hour had gone
                jobs.execute("UPDATE jobs SET completed_at = completed_at - 3601 WHERE id = ?", (old,))
            jobs.close()
            server.start()
            until(lambda: server.raw("GET", f"/v1/videos/{old}")[0] == 404)
            self.assertEqual([each["id"] for each in server.call("GET", "/v1/videos")[1]["data"]], [new])
            self.assertEqual(server.raw("GET", f"/v1/videos/{new}/content")[0], 200)
            until(lambda: not list(pathlib.Path(server.folder, "videos").glob(old + "*")))

    def test_the_oldest_of_too_many_bytes_go(self):
        with Server() as server:
            ids = [server.wait(server.create(seed=seed)["id"])["id"] for seed in range(3)]
            bytes_of = lambda each: sum(path.stat().st_size for path in pathlib.Path(server.folder, "videos").glob(each + "*"))
            keep = bytes_of(ids[1]) + bytes_of(ids[2]) + bytes_of(ids[0]) // 2
            self.assertEqual(server.stop(), (0, ""))
            server.options += ["--keep-size", str(keep)]
            server.start()
            until(lambda: server.raw("GET", f"/v1/videos/{ids[0]}")[0] == 404)
            self.assertEqual([each["id"] for each in server.call("GET", "/v1/videos?order=asc")[1]["data"]], ids[1:])

    def test_nothing_is_kept_where_there_is_room_for_nothing(self):
        with Server("--keep-size", "1") as server:
            video = server.create(num_frames=1)["id"]
            until(lambda: server.raw("GET", f"/v1/videos/{video}")[0] == 404, seconds=200)
            until(lambda: not os.listdir(os.path.join(server.folder, "videos")))  # its row goes first


class Docs(unittest.TestCase):
    """docs/serve.md does what it says."""

    @unittest.skipUnless(shutil.which("curl"), "there is no curl")
    def test_curl(self):
        text = pathlib.Path(MODELS).parent.joinpath("docs", "serve.md").read_text()
        script = re.search(r"## With curl\n.*?```sh\n(.*?)```", text, re.S)[1]
        with Server() as server, tempfile.TemporaryDirectory() as folder:
            pathlib.Path(folder, "circle.png").write_bytes(PICTURE)
            run = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=folder, capture_output=True, text=True, timeout=120,
                                 env={**os.environ, "URL": f"http://{server.host}:{server.port}"})
            self.assertEqual(run.returncode, 0, run.stderr + run.stdout[-2000:])
            self.assertIn("data: [DONE]", run.stdout)
            for name in ("sync.mp4", "one.mp4"):
                self.assertTrue(is_whole_mp4(pathlib.Path(folder, name).read_bytes()))
            self.assertEqual(pathlib.Path(folder, "begin.bin").read_bytes(), pathlib.Path(folder, "one.mp4").read_bytes()[:100])

    def test_every_route_is_there(self):
        text = pathlib.Path(MODELS).parent.joinpath("docs", "serve.md").read_text()
        table = re.search(r"## Routes\n(.*?)\nEvery answer", text, re.S)[1]
        said = re.findall(r"(GET|POST|DELETE) (/[\w/{}]*)", table)
        self.assertGreater(len(said), 15)
        with Server() as server:
            for method, path in said:
                status, answer = server.raw(method, path.replace("{id}", "video_00"))[::2]
                if path != "/":  # the page, which a build may be without
                    self.assertNotIn(b"unknown_url", answer, (method, path))
                    self.assertNotEqual(status, 405, (method, path))


class Guard(unittest.TestCase):
    """Who is let in, and what clients that mean ill cost."""

    def test_keys(self):
        with tempfile.TemporaryDirectory() as folder:
            keys = os.path.join(folder, "keys")
            made = [subprocess.run([COMMAND, "serve", "--new-key", name, "--api-key-file", keys], capture_output=True, text=True,
                                   check=True).stdout.strip() for name in ("ann", "bob")]
            self.assertNotIn(made[0], pathlib.Path(keys).read_text())
            with Server("--api-key-file", keys, "--max-queue-per-key", "2") as server:
                self.assertEqual(server.call("GET", "/v1/videos")[0], 401)
                self.assertEqual(server.call("GET", "/v1/videos", headers={"Authorization": "Bearer zoe-0"})[0], 401)
                self.assertEqual(server.call("GET", "/metrics")[1]["error"]["code"], "invalid_api_key")
                self.assertEqual(server.call("GET", "/health")[0], 200)
                server.key = made[0]
                video = server.create(**SLOW)["id"]
                server.create(**SLOW)
                status, error = server.call("POST", "/v1/videos", {**TINY, **SLOW})
                self.assertEqual((status, error["error"]["code"]), (429, "queue_full"))
                server.key = made[1]
                self.assertEqual(server.call("GET", f"/v1/videos/{video}")[0], 404)
                self.assertEqual(server.call("DELETE", f"/v1/videos/{video}")[0], 404)
                self.assertEqual(server.call("GET", "/v1/videos")[1]["data"], [])
                self.assertEqual(server.call("POST", "/v1/videos", {**TINY})[0], 200)

    def test_an_open_address_needs_keys(self):
        with self.assertRaisesRegex(RuntimeError, "--api-key-file"):
            Server("--host", "0.0.0.0")

    def test_queue_is_bounded(self):
        with Server("--max-queue", "2") as server:
            for _ in range(2):
                server.create(**SLOW)
            status, headers, text = server.raw("POST", "/v1/videos", json.dumps(TINY))
            self.assertEqual((status, json.loads(text)["error"]["code"], headers["retry-after"]), (429, "queue_full", "2"))
            self.assertEqual(server.call("GET", "/ready")[0], 503)
            for each in server.call("GET", "/v1/videos")[1]["data"]:
                server.call("DELETE", f"/v1/videos/{each['id']}")
            self.assertEqual(server.call("GET", "/ready")[0], 200)

    def test_giant_bodies(self):
        with Server("--max-body", "64KiB") as server:
            self.assertEqual(server.call("POST", "/v1/videos", {"prompt": "x" * 100_000})[0], 413)
            with server.socket() as client:  # in chunks, without a length, far behind the limit
                client.sendall(b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
                try:
                    for _ in range(100):
                        client.sendall(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
                    answer = client.recv(1000)
                except OSError:
                    answer = b""
                self.assertFalse(answer.startswith(b"HTTP/1.1 200"))
            status, error = server.form("/v1/videos", TINY.items(), [("image", "x", b"y" * 100_000)])
            self.assertEqual((status, error["error"]["code"]), (413, "too_large"))
            status, error = server.form("/v1/videos", [("prompt", "a")] * 65)
            self.assertEqual((status, error["error"]["code"]), (400, "invalid_argument"))
            self.assertEqual(os.listdir(os.path.join(server.folder, "uploads")), [])
            self.assertEqual(server.wait(server.create()["id"])["status"], "completed")

    def test_slow_and_half_open_clients(self):
        with Server("--max-connections", "300") as server:
            slow = [server.socket() for _ in range(200)]
            for client in slow[:100]:
                client.sendall(b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
            for client in slow[100:]:
                client.sendall(b"GET /v1/vid")
            streams = [server.socket() for _ in range(40)]
            video = server.create(**SLOW)["id"]
            for client in streams:  # that read nothing
                client.sendall(f"GET /v1/videos/{video}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            server.call("DELETE", f"/v1/videos/{video}")
            for _ in range(20):  # each within the minute that the client waits
                self.assertEqual(server.wait(server.create(num_frames=1, num_inference_steps=1)["id"])["status"], "completed")
            # More than there is room for: those that say nothing make room.
            more = [server.socket() for _ in range(90)]
            end = time.monotonic() + 10
            while time.monotonic() < end:
                try:
                    self.assertEqual(server.call("GET", "/health")[0], 200)
                    break
                except OSError:
                    time.sleep(0.2)
            else:
                self.fail("no room was made")
            for client in slow + streams + more:
                client.close()

    def test_asked_while_it_starts(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        statuses, ends = [], threading.Event()

        def ask():
            while not ends.is_set():
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
                        statuses.append(answer.status)
                except urllib.error.HTTPError as error:
                    statuses.append(error.code)
                except OSError:
                    pass  # nobody listens yet
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            with Server(port=port) as server:
                until(lambda: len(statuses) > 20)
                ends.set()
                for thread in threads:
                    thread.join()
                self.assertEqual(server.stop(), (0, ""))
        finally:
            ends.set()
        self.assertEqual(set(statuses), {200})

    def test_nonsense(self):
        with Server() as server:
            for text in (b"\x00" * 100, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
                         b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"):
                with server.socket() as client:
                    try:
                        client.sendall(text)
                        client.shutdown(socket.SHUT_WR)
                        while client.recv(4096):
                            pass
                    except OSError:
                        pass  # it was closed at once
            self.assertEqual(server.call("GET", "/health")[0], 200)
            self.assertEqual(server.stop(), (0, ""))


class Devices(unittest.TestCase):
    """Several devices, several models, LoRAs."""

    def test_two_devices_take_from_one_queue(self):
        with Server("--platform", "cpu,null") as server:
            ids = [server.create(num_inference_steps=40)["id"] for _ in range(8)]
            done = [server.wait(each) for each in ids]
            self.assertEqual({each["status"] for each in done}, {"completed"})
            self.assertEqual({each["device"] for each in done}, {"cpu", "null"})

    def test_models_by_name(self):
        folder = os.path.join(MODELS, "toy-wan")
        with Server("--memory-limit", "2GiB", models=(f"first={folder}", f"second={folder}")) as server:
            self.assertEqual([each["id"] for each in server.call("GET", "/v1/models")[1]["data"]], ["first", "second"])
            for model in ("first", "second", "first"):
                self.assertEqual(server.wait(server.create(model=model)["id"])["status"], "completed")
            loaded = {each["id"]: each["loaded"] for each in server.call("GET", "/v1/models")[1]["data"]}
            self.assertEqual(loaded, {"first": ["cpu"], "second": ["cpu"]})

    def models_on_device(self, server):
        return {each["id"] for each in server.call("GET", "/v1/models")[1]["data"] if each["loaded"]}

    def test_models_come_and_go_within_the_limit(self):
        folder = os.path.join(MODELS, "toy-wan")
        names = ("first", "second", "third")
        models = [f"{name}={folder}" for name in names]
        with Server("--memory-limit", "2GiB", models=models[:1]) as server:
            expected = self.frames_of(server, "first")
            planned = server.call("POST", "/v1/videos/plan", TINY)[1]["memory_bytes"]["planned"]
            free = re.search(r'^zoe_device_memory_bytes\{device="cpu",kind="free"\} (\d+)', server.raw("GET", "/metrics")[2].decode(), re.M)
            kept = (2 << 30) - int(free[1])  # by a model that is not at work
            self.assertGreater(kept, planned // 2)
        # Room for one: whoever comes has the device to itself, and makes what it made alone.
        with Server("--memory-limit", str(planned * 11 // 10), models=models[:2]) as server:
            for name in ("first", "second", "second", "first"):
                self.assertEqual(self.frames_of(server, name), expected)
                self.assertEqual(self.models_on_device(server), {name})
            metrics = server.raw("GET", "/metrics")[2].decode()
            self.assertEqual({name: int(re.search(rf"^zoe_model{name}_total (\d+)$", metrics, re.M)[1])
                              for name in ("s_loaded", "s_dropped", "_hits")}, {"s_loaded": 3, "s_dropped": 2, "_hits": 1})
            plan = server.call("POST", "/v1/videos/plan", {**TINY, "model": "second"})[1]
            self.assertTrue(plan["fits"], plan)
        # Room for two of three: the one used longest ago goes.
        with Server("--memory-limit", str(planned + kept * 3 // 2), models=models) as server:
            for name, there in (("first", {"first"}), ("second", {"first", "second"}), ("first", {"first", "second"}),
                                ("third", {"first", "third"}), ("second", {"second", "third"})):
                self.assertEqual(self.frames_of(server, name), expected)
                self.assertEqual(self.models_on_device(server), there)

    def frames_of(self, server, model):
        video = server.wait(server.create(model=model, seed=2)["id"])
        self.assertEqual(video["status"], "completed", video["error"])
        return server.raw("GET", f"/v1/videos/{video['id']}/content?variant=spritesheet")[2]

    def test_what_does_not_fit(self):
        with Server("--memory-limit", "1MiB") as server:
            plan = server.call("POST", "/v1/videos/plan", TINY)
            if plan[0] == 200:
                self.assertFalse(plan[1]["fits"])
                self.assertIn("does not fit", plan[1]["refusal"])
            status, video = server.call("POST", "/v1/videos", TINY)
            if status == 200:
                video = server.wait(video["id"])
                self.assertEqual((video["status"], video["error"]["code"]), ("failed", "out_of_memory"))
            else:
                self.assertEqual((status, video["error"]["code"]), (422, "out_of_memory"))

    def test_loras(self):
        source = pathlib.Path(os.environ.get("ZOE_FIXTURES", "tests/fixtures"), "loras")
        files = sorted(source.rglob("*.safetensors"))
        self.assertTrue(files)
        with Server("--lora-dir", str(source)) as server:
            names = [each["id"] for each in server.call("GET", "/v1/loras")[1]["data"]]
            self.assertEqual(len(names), len(files))
            status, error = server.call("POST", "/v1/videos", {**TINY, "lora": names[0] + "x"})
            self.assertEqual(status, 400)
            self.assertIn("GET /v1/loras", error["error"]["message"])
            status, video = server.call("POST", "/v1/videos",
                                        {**TINY, "lora": {"name": names[0], "strength": 0.5}, "lora_allow_unused": True})
            self.assertEqual((status, video["request"]["lora"]), (200, names[0] + "=0.5"))
            # It is of another model.
            video = server.wait(video["id"])
            self.assertEqual((video["status"], video["error"]["code"]), ("failed", "invalid_argument"), video)

    def test_loras_change_the_video_of_their_request_alone(self):
        with Server("--lora-dir", os.path.join(MODELS, "toy-wan-i2v", "loras")) as server:
            self.assertEqual([each["id"] for each in server.call("GET", "/v1/loras")[1]["data"]], ["four_steps", "gathering_speed"])

            def frames(**fields):
                fields = {**TINY, "model": "toy-wan-i2v", "seed": 3, "num_inference_steps": 4, **fields}
                status, video = server.form("/v1/videos", fields.items(), [("input_reference", "circle.png", PICTURE)])
                self.assertEqual(status, 200, video)
                video = server.wait(video["id"])
                self.assertEqual(video["status"], "completed", video["error"])
                return server.raw("GET", f"/v1/videos/{video['id']}/content?variant=spritesheet")[2]

            plain, speed, half = frames(), frames(lora="gathering_speed"), frames(lora="gathering_speed=0.5")
            self.assertEqual(len({plain, speed, half, frames(lora="four_steps")}), 4)
            self.assertEqual((frames(), frames(lora="gathering_speed")), (plain, speed))
            # As the command makes it.
            with tempfile.TemporaryDirectory() as folder:
                picture = os.path.join(MODELS, "toy-wan-i2v", "circle.png")
                run = subprocess.run([COMMAND, "generate", "--model-path", os.path.join(MODELS, "toy-wan-i2v"), "-p", TINY["prompt"],
                                      "--image", picture, "--size", TINY["size"], "--num-frames", "5", "--steps", "4", "--seed", "3",
                                      "--lora", os.path.join(MODELS, "toy-wan-i2v", "loras", "gathering_speed.safetensors"), "--platform",
                                      "cpu", "--threads", "1", "--compile", "off", "-o", os.path.join(folder, "sheet.png")],
                                     capture_output=True, text=True)
                self.assertEqual(run.returncode, 0, run.stderr)
                self.assertEqual(pixels_of(pathlib.Path(folder, "sheet.png").read_bytes()), pixels_of(speed))


if __name__ == "__main__":
    unittest.main()
