#!/usr/bin/env python3
"""`zoe serve` under load on loopback: many connections, cancelled jobs, kills, slow clients; nothing may be lost or made twice.

    python3 bench/serve_load.py --zoe build/zoe [--requests 1000 --connections 200 --kills 5 --slow 500 --seconds 600]

Each client posts with an idempotency key and, when the server is gone, posts again with the same one. A line of JSON at the end: what
became of every job, percentiles of GET while devices compute, resident memory over time. Exit code 1 if a job was lost, doubled or
left without a whole file. Python's standard library only.
"""
import argparse
import http.client
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "serve"))
from client import is_whole_mp4  # noqa: E402

FIELDS = {"size": "32x32", "num_frames": 5, "num_inference_steps": 2}


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Load:
    def __init__(self, options):
        self.options, self.port = options, free_port()
        self.folder = tempfile.mkdtemp(prefix="zoe-load-")
        self.lock, self.next = threading.Lock(), 0
        self.jobs, self.cancelled, self.gets, self.memory, self.retried = {}, set(), [], [], 0
        self.finished = 0
        self.over = False
        self.random = random.Random(options.seed)

    def start(self):
        self.process = subprocess.Popen(
            [self.options.zoe, "serve", "--port", str(self.port), "--data-dir", self.folder, "--max-queue", "100000", "--compile", "off",
             "--max-connections", "2000", *self.options.server],
            stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if "http://" in line:
                break
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def call(self, connection, method, path, body=None, headers=None):
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read()

    def persistent(self, method, path, body=None, headers=None):
        """The answer, however often the server has to come back for it."""
        local = self.local
        while not self.over:
            try:
                if not hasattr(local, "connection"):
                    local.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
                start = time.monotonic()
                status, text = self.call(local.connection, method, path, body, headers)
                if method == "GET" and status == 200:
                    self.gets.append(time.monotonic() - start)
                if status not in (429, 503):
                    return status, text
            except (OSError, http.client.HTTPException):
                if hasattr(local, "connection"):
                    local.connection.close()
                    del local.connection
                with self.lock:
                    self.retried += 1
            time.sleep(0.2)
        raise RuntimeError("no time left")

    def client(self):
        while not self.over:
            with self.lock:
                number, self.next = self.next, self.next + 1
            if number >= self.options.requests:
                return
            body = json.dumps({**FIELDS, "prompt": f"job {number}", "seed": number})
            status, text = self.persistent("POST", "/v1/videos", body,
                                           {"Content-Type": "application/json", "Idempotency-Key": f"job-{number}"})
            assert status == 200, text
            video = json.loads(text)["id"]
            with self.lock:
                self.jobs[number] = video
                cancels = self.random.random() < self.options.cancel
            self.persistent("GET", f"/v1/videos/{video}")
            if cancels:
                time.sleep(self.random.random())
                self.persistent("POST", f"/v1/videos/{video}/cancel")
                with self.lock:
                    self.cancelled.add(video)
            for _ in range(5):
                time.sleep(0.5)
                self.persistent("GET", f"/v1/videos/{video}")

    def slow(self):
        clients = []
        while not self.over:
            while len(clients) < self.options.slow:
                try:
                    one = socket.create_connection(("127.0.0.1", self.port), timeout=5)
                    one.sendall(b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
                    clients.append(one)
                except OSError:
                    time.sleep(0.2)
                    break
            for one in list(clients):
                try:
                    one.send(b"a")
                except OSError:
                    clients.remove(one)
            time.sleep(1)

    def watch(self):
        while not self.over:
            try:
                status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
                rss = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) // 1024
                self.memory.append({"finished": self.finished, "mib": rss})
            except (OSError, StopIteration):
                pass
            time.sleep(1)

    def run(self):
        self.local, self.began = threading.local(), time.monotonic()
        self.start()
        end = self.began + self.options.seconds
        clients = [threading.Thread(target=self.client, daemon=True) for _ in range(self.options.connections)]
        helpers = [threading.Thread(target=each, daemon=True) for each in (self.watch, self.slow)]
        for each in clients + helpers:
            each.start()
        kills = 0
        while time.monotonic() < end:
            done = self.states()
            left = [each for each in done.values() if each["status"] in ("queued", "in_progress")]
            if not any(each.is_alive() for each in clients) and not left and len(done) >= self.options.requests:
                break
            finished = sum(each["status"] == "completed" for each in done.values())
            self.finished = len(done) - len(left)
            if kills < self.options.kills and finished >= (kills + 1) * self.options.requests * 0.7 / (self.options.kills + 1):
                self.process.send_signal(signal.SIGKILL)
                self.process.wait()
                kills += 1
                self.start()
            time.sleep(1)
        return self.report(kills)

    def states(self):
        states, after = {}, ""
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            while True:
                page = json.loads(self.call(connection, "GET", f"/v1/videos?limit=100&order=asc&after={after}")[1])
                states.update({each["id"]: each for each in page["data"]})
                after = page["last_id"]
                if not page["has_more"]:
                    break
            connection.close()
        except (OSError, http.client.HTTPException, ValueError):
            return {}
        return states

    def report(self, kills):
        states = self.states()
        prompts = [each["prompt"] for each in states.values()]
        lost = [number for number, video in self.jobs.items() if video not in states]
        completed = [each["id"] for each in states.values() if each["status"] == "completed"]
        broken = [each for each in completed
                  if not is_whole_mp4(pathlib.Path(self.folder, "videos", each + ".mp4").read_bytes())
                  or not pathlib.Path(self.folder, "videos", each + ".png").exists()]
        wrong = [each["id"] for each in states.values() if each["status"] == "failed" and each["id"] not in self.cancelled]
        self.over = True
        gets = sorted(self.gets)
        at = lambda share: round(1000 * gets[min(len(gets) - 1, int(share * len(gets)))], 2) if gets else None
        at_jobs = lambda least: next((each["mib"] for each in self.memory if each["finished"] >= least), None)
        result = {"requests": self.next if self.next < self.options.requests else self.options.requests, "accepted": len(self.jobs),
                  "jobs": len(states), "completed": len(completed),
                  "cancelled": sum(each["cancelled"] for each in states.values()), "unfinished":
                  sum(each["status"] in ("queued", "in_progress") for each in states.values()), "kills": kills, "posts_again": self.retried,
                  "lost": len(lost), "doubled": len(prompts) - len(set(prompts)), "broken_files": len(broken), "failed": len(wrong),
                  "get_ms": {"count": len(gets), "p50": at(0.5), "p99": at(0.99), "most": at(1)},
                  "rss_mib": {**{f"behind_{jobs}_jobs": at_jobs(jobs) for jobs in (100, 250, 500, 750)},
                              "last": self.memory[-1]["mib"] if self.memory else None,
                              "most": max((each["mib"] for each in self.memory), default=None)},
                  "seconds": round(time.monotonic() - self.began, 1)}
        print(json.dumps(result))
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)
        shutil.rmtree(self.folder, ignore_errors=True)
        return 0 if not (lost or broken or wrong or result["doubled"]) and len(self.jobs) == self.options.requests else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoe", default="build/zoe")
    for name, value in (("requests", 1000), ("connections", 200), ("kills", 5), ("slow", 500), ("seconds", 600), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--cancel", type=float, default=0.2)
    parser.add_argument("server", nargs="*", help="more options of zoe serve, behind --")
    options = parser.parse_args()
    os.chdir(pathlib.Path(__file__).resolve().parent.parent)
    sys.exit(Load(options).run())


if __name__ == "__main__":
    main()
