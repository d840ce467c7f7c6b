"""A `zoe serve` of the test's own, and requests to it, with nothing but Python's standard library."""
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
import uuid

COMMAND = os.environ.get("ZOE_COMMAND", "build/zoe")
MODELS = os.environ.get("ZOE_MODELS", "models")
# Small enough for a second of two cores; nothing is compiled for it.
TINY = {"prompt": "a red circle", "size": "32x32", "num_frames": 5, "num_inference_steps": 2}


class Server:
    def __init__(self, *options, folder=None, models=(), port=0):
        self.own = None if folder else tempfile.TemporaryDirectory(prefix="zoe-serve-")
        self.folder = folder or self.own.name
        self.options = [COMMAND, "serve", *models, "--port", str(port), "--data-dir", self.folder, "--platform", "cpu",
                        "--threads", "1", "--compile", "off", *options]
        self.key = None
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.options, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines = []
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            found = re.search(r"http://(.*):(\d+)$", line)
            if found:
                self.host, self.port = found[1].strip("[]"), int(found[2])
                return
        raise RuntimeError(f"the server did not start: {self.lines} {self.process.stderr.read()}")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.close_pipes()

    def close_pipes(self):
        self.process.stdout.close()
        self.process.stderr.close()

    def stop(self):
        """Asks it to stop; the exit code and what it wrote to stderr."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.stdout.read()
        errors = self.process.stderr.read()
        code = self.process.wait(timeout=60)
        self.close_pipes()
        return code, errors

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.close_pipes()
        if self.own:
            self.own.cleanup()

    def raw(self, method, path, body=None, headers=None, timeout=60):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        headers = dict(headers or {})
        if self.key:
            headers.setdefault("Authorization", f"Bearer {self.key}")
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        finally:
            connection.close()

    def call(self, method, path, body=None, headers=None):
        """Status and the JSON of the answer."""
        headers = dict(headers or {})
        if isinstance(body, dict):
            body = json.dumps(body)
            headers.setdefault("Content-Type", "application/json")
        status, _, text = self.raw(method, path, body, headers)
        return status, json.loads(text)

    def create(self, **fields):
        status, video = self.call("POST", "/v1/videos", {**TINY, **fields})
        assert status == 200, video
        return video

    def get(self, video_id):
        status, video = self.call("GET", f"/v1/videos/{video_id}")
        assert status == 200, video
        return video

    def wait(self, video_id, until=("completed", "failed"), seconds=200):
        end = time.monotonic() + seconds
        while True:
            video = self.get(video_id)
            if video["status"] in until:
                return video
            if time.monotonic() > end:
                raise RuntimeError(f"still {video}")
            time.sleep(0.02)

    def form(self, path, fields, files=()):
        """A POST of multipart/form-data: fields as pairs, files as (name, file name, bytes)."""
        boundary, parts = uuid.uuid4().hex, []
        for name, value in fields:
            parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode())
        for name, file_name, content in files:
            parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{file_name}"\r\n'
                         f'Content-Type: application/octet-stream\r\n\r\n'.encode() + content + b"\r\n")
        parts.append(f"--{boundary}--\r\n".encode())
        status, _, text = self.raw("POST", path, b"".join(parts), {"Content-Type": f"multipart/form-data; boundary={boundary}"})
        return status, json.loads(text)

    def events(self, video_id, seconds=60):
        """The events of a stream, as (name, data) until it ends."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=seconds)
        connection.request("GET", f"/v1/videos/{video_id}/events", headers={"Authorization": f"Bearer {self.key}"} if self.key else {})
        response = connection.getresponse()
        assert response.status == 200 and response.getheader("content-type") == "text/event-stream"
        name = "message"
        for line in response:
            line = line.decode().rstrip("\n")
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                yield name, line[6:] if line[6:] == "[DONE]" else json.loads(line[6:])
                name = "message"
        connection.close()

    def socket(self):
        return socket.create_connection((self.host, self.port), timeout=20)


def is_whole_mp4(content):
    """An mp4 whose boxes fill the file, with its index and its frames among them."""
    at, boxes = 0, []
    while at + 8 <= len(content):
        size = int.from_bytes(content[at:at + 4], "big")
        if size < 8:
            return False
        boxes.append(content[at + 4:at + 8])
        at += size
    return at == len(content) and b"moov" in boxes and b"mdat" in boxes
