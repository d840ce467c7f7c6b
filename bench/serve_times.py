#!/usr/bin/env python3
"""How soon `zoe serve` begins and how soon it stops: from POST to the first step of a warm session, and from DELETE to an idle device.

    python3 bench/serve_times.py --zoe build/zoe [--model random:wan2.1-t2v-14b --size 832x480 --frames 81 --repeat 5 -- --platform cuda]

A job of one step warms the session and is not counted. Then `--repeat` jobs of one step run to their end: `first_step` is what the client
sees (its POST sent, until the event that says that denoising began), `first_step_server` what the job's timings say. Then `--repeat` jobs
of many steps are deleted at random moments of a step: `idle` is from DELETE sent until the server says that nothing runs (its device has
let go of the job, what was queued on it has ended). Both beside a step's seconds and, by the blocks of the model, three blocks'. A line
of JSON at the end. Python's standard library only.
"""
import argparse
import http.client
import json
import random
import statistics
import subprocess
import tempfile
import threading
import time


class Server:
    def __init__(self, options, folder):
        models = [options.model] if options.model else []
        self.process = subprocess.Popen([options.zoe, "serve", *models, "--port", "0", "--data-dir", folder, "--save-seconds", "86400",
                                         *options.server], stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            print(line, end="", flush=True)
            if "http://127.0.0.1:" in line:
                self.port = int(line.rsplit(":", 1)[1])
                break
        else:
            raise SystemExit("the server did not start")
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)

    def call(self, method, path, body=None):
        self.connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"} if body else {})
        answer = self.connection.getresponse()
        value = json.loads(answer.read())
        if answer.status != 200:
            raise SystemExit(f"{method} {path}: {value}")
        return value

    def events(self, video_id):
        """(seconds of this clock, name, data) until the job is done or the stream ends."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.request("GET", f"/v1/videos/{video_id}/events")
        name = ""
        for line in connection.getresponse():
            line = line.decode().rstrip()
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: {"):
                yield time.perf_counter(), name, json.loads(line[6:])
        connection.close()

    def run(self, fields):
        """A job to its end: its object, and seconds from POST to the event of denoising."""
        begin, first = time.perf_counter(), None
        video = self.call("POST", "/v1/videos", fields)
        for at, name, data in self.events(video["id"]):
            if first is None and name == "progress" and data["phase"] == "denoise":
                first = at - begin
        video = self.call("GET", f"/v1/videos/{video['id']}")
        if video["status"] != "completed":
            raise SystemExit(f"failed: {video['error']}")
        return video, first

    def delete_within_a_step(self, fields, after):
        """Seconds from DELETE to its answer, and until nothing runs; `after` seconds behind the first step's end."""
        video = self.call("POST", "/v1/videos", fields)
        for _, name, data in self.events(video["id"]):
            if name == "progress" and data["phase"] == "denoise" and data["step"] >= 1:
                break
        time.sleep(after)
        begin = time.perf_counter()
        self.call("DELETE", f"/v1/videos/{video['id']}")
        answered = time.perf_counter() - begin
        while self.call("GET", "/health")["running"]:
            time.sleep(0.0005)
        return answered, time.perf_counter() - begin


def spread(seconds):
    return {"median_ms": round(1000 * statistics.median(seconds), 1), "most_ms": round(1000 * max(seconds), 1), "of": len(seconds)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--zoe", default="build/zoe")
    parser.add_argument("--model", default="", help="as `zoe serve` takes it; the embedded one")
    parser.add_argument("--size", default="32x32")
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--guidance-scale", type=float, help="1: one text a step; the model's")
    parser.add_argument("--blocks", type=int, default=40, help="of the transformer, for what three of them take")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("server", nargs="*", help="options of `zoe serve`, behind --")
    options = parser.parse_args()
    fields = {"prompt": "a fox in the snow", "size": options.size, "num_frames": options.frames}
    if options.guidance_scale is not None:
        fields["guidance_scale"] = options.guidance_scale
    draw = random.Random(1)
    with tempfile.TemporaryDirectory(prefix="zoe-times-") as folder:
        server = Server(options, folder)
        try:
            begin = time.perf_counter()
            server.run({**fields, "num_inference_steps": 2})
            print(f"warm after {time.perf_counter() - begin:.1f} s", flush=True)
            firsts, firsts_server, steps = [], [], []
            for i in range(options.repeat):
                video, first = server.run({**fields, "num_inference_steps": 1, "prompt": f"a fox in the snow, {i}"})
                firsts.append(first)
                timings = video["timings"]
                firsts_server.append(timings["queue"] + timings["first_step"] - timings["denoise"])  # its first step is its only one
                steps.append(timings["denoise"])
            step = statistics.median(steps)
            # Counted from the second job on: the first has another number of steps than those before.
            server.delete_within_a_step({**fields, "num_inference_steps": 1000}, 0)
            deleted = [server.delete_within_a_step({**fields, "num_inference_steps": 1000}, draw.uniform(0, step))
                       for _ in range(options.repeat)]
            print(json.dumps({"model": options.model or "toy", "size": options.size, "frames": options.frames,
                              "guidance_scale": options.guidance_scale, "step_ms": round(1000 * step, 1),
                              "three_blocks_ms": round(3000 * step / options.blocks, 1),
                              "first_step": spread(firsts), "first_step_server": spread(firsts_server),
                              "delete_answered": spread([answered for answered, _ in deleted]),
                              "idle": spread([idle for _, idle in deleted])}))
        finally:
            server.process.terminate()
            server.process.wait(60)


if __name__ == "__main__":
    main()
