"""Several replicas of a pipeline behind one address and one queue, with Ray Serve: placement, retries, scaling and the queue are Ray's.

    pip install 'ray[serve]' zoetrope-*.whl
    python examples/ray_serve.py --replicas 2                       # serves until Ctrl-C
    curl 'http://127.0.0.1:8000/' -d '{"prompt": "a fox in the snow", "seed": 7}' -o fox.mp4
    python examples/ray_serve.py --replicas 2 --try                 # asks for videos while a replica is killed, and ends

A replica is a process with a pipeline of its own: on machines with GPUs say --gpus 1, and each has one. A request is one video; a
replica that dies takes its request with it, and Ray starts another, while callers ask again (`ask`): the same request makes the same
video, so asking twice does no harm.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import signal
import tempfile
import time
import urllib.error
import urllib.request

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response


@serve.deployment(max_ongoing_requests=1)  # the device is one: what waits, waits in Ray's queue
class Videos:
    def __init__(self, model, options):
        import zoetrope

        self.zoetrope = zoetrope
        self.pipe = zoetrope.WanPipeline.from_pretrained(model, **options)

    def check_health(self):
        self.pipe.info  # raises where the session is gone

    def make(self, fields):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "video.png" if fields.pop("as_picture", False) else "video.mp4")
            self.pipe(**fields, output=path)
            return pathlib.Path(path).read_bytes()

    async def __call__(self, request: Request):
        fields = await request.json()
        try:
            return Response(await _in_thread(self.make, fields), media_type="application/octet-stream", headers={"X-Replica": str(os.getpid())})
        except self.zoetrope.ZoetropeError as error:
            status = 400 if isinstance(error, ValueError) else 500
            return JSONResponse({"error": {"code": error.kind, "message": str(error)}}, status_code=status)


async def _in_thread(function, *arguments):
    import asyncio

    return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)


def ask(url, fields, tries=30):
    """The video's bytes and which replica made it; asks again where one died or none is free."""
    for left in reversed(range(tries)):
        try:
            with urllib.request.urlopen(urllib.request.Request(url, json.dumps(fields).encode()), timeout=300) as answer:
                return answer.read(), answer.headers["X-Replica"]
        except urllib.error.HTTPError as error:
            if error.code < 500 or not left:
                raise
        except (OSError, urllib.error.URLError):
            if not left:
                raise
        time.sleep(1)
    raise AssertionError("unreachable")


def try_it(url):
    """Twelve videos from six callers, while a replica is killed: all come, and equal requests have equal bytes."""
    tiny = {"prompt": "a red square", "height": 32, "width": 32, "num_frames": 5, "num_inference_steps": 2, "as_picture": True}
    with concurrent.futures.ThreadPoolExecutor(6) as callers:
        first, victim = ask(url, {**tiny, "seed": 0})
        videos = [callers.submit(ask, url, {**tiny, "seed": i % 4}) for i in range(6)]
        os.kill(int(victim), signal.SIGKILL)
        videos += [callers.submit(ask, url, {**tiny, "seed": i % 4}) for i in range(6, 12)]
        made = [video.result() for video in videos]
    by_seed = [{data for i, (data, _) in enumerate(made) if i % 4 == seed} for seed in range(4)]
    assert all(len(each) == 1 for each in by_seed) and first in by_seed[0] and len(set.union(*by_seed)) == 4
    print(f"{len(made)} videos by {len({replica for _, replica in made})} replicas: {victim} was killed, none is missing, equal requests have equal bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=None, help="a folder or a file; the model that comes with the package")
    parser.add_argument("--replicas", type=int, default=1, help="at least")
    parser.add_argument("--most", type=int, default=0, help="replicas where many wait (default: --replicas)")
    parser.add_argument("--gpus", type=float, default=0, help="of each replica")
    parser.add_argument("--threads", type=int, default=1, help="of each replica, on the cpu")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--try", dest="tries", action="store_true", help="ask for videos while a replica is killed, and end")
    arguments = parser.parse_args()

    ray.init(include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": arguments.port})
    options = {} if arguments.gpus else {"device": "cpu", "threads": arguments.threads}
    deployment = Videos.options(
        ray_actor_options={"num_gpus": arguments.gpus, "num_cpus": 0 if arguments.gpus else arguments.threads},
        autoscaling_config={"min_replicas": arguments.replicas, "max_replicas": max(arguments.most, arguments.replicas),
                            "target_ongoing_requests": 1})
    serve.run(deployment.bind(arguments.model, options))
    url = f"http://127.0.0.1:{arguments.port}/"
    try:
        if arguments.tries:
            try_it(url)
        else:
            print(f"serving at {url}")
            signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
