#!/usr/bin/env python3
"""OpenAI's own client against `zoe serve`, unchanged: creates, polls, lists, downloads, remixes and deletes.

    python3 -m venv /tmp/openai && /tmp/openai/bin/pip install openai==3.57.0
    /tmp/openai/bin/python bench/openai_client.py --zoe build/zoe
"""
import argparse
import os
import pathlib
import sys
import warnings

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "serve"))
ROOT = pathlib.Path(__file__).resolve().parent.parent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoe", default=str(ROOT / "build" / "zoe"))
    options = parser.parse_args()
    os.environ["ZOE_COMMAND"] = options.zoe
    import openai
    from client import Server, is_whole_mp4
    warnings.simplefilter("ignore", DeprecationWarning)
    tiny = {"num_frames": 5, "num_inference_steps": 2}
    with Server() as server:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0)
        video = client.videos.create(prompt="a red circle", model="toy-wan", size="32x32", extra_body=tiny)
        assert video.object == "video" and video.status in ("queued", "in_progress"), video
        video = client.videos.poll(video.id, poll_interval_ms=50)
        assert video.status == "completed" and video.progress == 100 and video.size == "32x32", video
        for variant, begin in (("video", None), ("thumbnail", b"\x89PNG"), ("spritesheet", b"\x89PNG")):
            content = client.videos.download_content(video.id, variant=variant).read()
            assert is_whole_mp4(content) if begin is None else content.startswith(begin), variant
        second = client.videos.create_and_poll(prompt="a blue square", model="toy-wan", size="32x32", seconds="1",
                                               extra_body={"num_inference_steps": 1, "fps": 8}, poll_interval_ms=50)
        assert second.status == "completed" and second.seconds == "1", second
        picture = (ROOT / "models" / "toy-wan-i2v" / "circle.png").read_bytes()
        third = client.videos.create(prompt="it moves", model="toy-wan-i2v", size="32x32", extra_body=tiny,
                                     input_reference=("circle.png", picture, "image/png"))
        assert client.videos.poll(third.id, poll_interval_ms=50).status == "completed"
        remix = client.videos.remix(video.id, prompt="a green one")
        assert remix.remixed_from_video_id == video.id
        assert client.videos.poll(remix.id, poll_interval_ms=50).status == "completed"
        listed = [each.id for each in client.videos.list(limit=2)]  # pages by itself
        assert listed == [remix.id, third.id, second.id, video.id], listed
        assert [each.id for each in client.models.list()] == ["toy-wan", "toy-wan-i2v"]
        try:
            client.videos.create(prompt="x", model="sora-2")
            raise AssertionError("an unknown model was taken")
        except openai.NotFoundError as error:
            assert error.code == "model_not_found" and error.param == "model", error
        try:
            client.videos.create(prompt="x", size="nothing")
            raise AssertionError("a size that is none was taken")
        except openai.BadRequestError as error:
            assert error.param == "size", error
        deleted = client.videos.delete(video.id)
        assert deleted.deleted and deleted.id == video.id and deleted.object == "video.deleted", deleted
        try:
            client.videos.retrieve(video.id)
            raise AssertionError("it is still there")
        except openai.NotFoundError:
            pass
    print(f"openai {openai.__version__}: created, polled, downloaded, remixed, listed and deleted")


if __name__ == "__main__":
    main()
