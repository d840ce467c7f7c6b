#!/usr/bin/env python3
"""The size of our .mp4 beside that of Diffusers' export_to_video, at the same quality, of the same frames.

Each FOLDER holds the frames of a video (`zoe generate ... -o FOLDER`). They go through what export_to_video does (imageio with
FFmpeg, quality 5), and through our writer (build/bench_encode) at several crfs. Quality is PSNR in RGB against the frames, decoded
with the matrix and the place of chroma that the file was made with: ours BT.709 and left, as H.264 means it where a file says nothing,
the peer's BT.601 and centred, which is what swscale makes unasked and takes a file for that says nothing. Ours at the peer's quality
is interpolated between crfs, in log(size). Needs imageio[ffmpeg], numpy and pillow.

    bench/compare_files.py FOLDER...                 exit code 1 if a file is more than 1.1 times the peer's size
"""
import glob
import os
import subprocess
import sys
import tempfile

import imageio
import imageio_ffmpeg
import numpy as np
from PIL import Image

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
ENCODE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "build", "bench_encode")


def quality(path, frames, matrix, chroma):
    place = f"in_h_chr_pos={0 if chroma == 'left' else 128}:in_v_chr_pos=128"
    command = [FFMPEG, "-v", "error", "-i", path, "-vf", f"scale=in_color_matrix={matrix}:{place}:flags=bicubic+accurate_rnd+full_chroma_int"]
    raw = subprocess.run(command + ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True).stdout
    return 10 * np.log10(255**2 / np.mean((np.frombuffer(raw, np.uint8).reshape(frames.shape).astype(float) - frames) ** 2))


def main():
    worst = 0
    print("| Frames | `export_to_video` | ours | ours at its dB | times its size |\n|---|---|---|---|---|")
    for given in sys.argv[1:]:
        frames = np.stack([np.array(Image.open(path).convert("RGB")) for path in sorted(glob.glob(given + "/*.png"))])
        count, height, width, _ = frames.shape
        with tempfile.TemporaryDirectory() as folder:
            def ours(crf):
                path = f"{folder}/{crf}.mp4"
                subprocess.run([ENCODE, path, str(width), str(height), str(count), str(crf)], input=frames.tobytes(), check=True, capture_output=True)
                return quality(path, frames, "bt709", "left"), os.path.getsize(path)

            peer = f"{folder}/peer.mp4"
            with imageio.get_writer(peer, fps=16, quality=5.0, bitrate=None, macro_block_size=16) as writer:
                for frame in frames:
                    writer.append_data(frame)
            peer_db, peer_size = quality(peer, frames, "bt601", "centre"), os.path.getsize(peer)
            default_db, default_size = ours(-1)
            points = [ours(crf) for crf in (36, 32, 28, 26, 24, 22, 20, 18, 14)]
            same = np.exp(np.interp(peer_db, [p[0] for p in points], [np.log(p[1]) for p in points]))
        worst = max(worst, same / peer_size)
        print(f"| {os.path.basename(given.rstrip('/'))}: {width}x{height}, {count} | {peer_size / 1000:.1f} kB, {peer_db:.1f} dB "
              f"| {default_size / 1000:.1f} kB, {default_db:.1f} dB | {same / 1000:.1f} kB | {same / peer_size:.2f} |", flush=True)
    return 1 if worst > 1.1 else 0


if __name__ == "__main__":
    sys.exit(main())
