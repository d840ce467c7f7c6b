#!/usr/bin/env python3
"""What goes wrong around a run, on cue: files that cannot be read any more, a cgroup that is too small, kills.

    python3 tests/faults.py build/zoe            all of it that this machine can do (root, /dev/fuse, cgroups of version 1)
    python3 tests/faults.py build/zoe kills      one part: fuse, cgroup or kills

fuse: the toy model's folder behind a file system (fusepy and libfuse 2) on which each component's file in turn fails: from some byte on
reads are errors, the file is shorter than it was when it was opened, or it is gone. cgroup: the limit is lowered under a run until
the kernel kills it. kills: kill -9 at every phase. Every run must end with its exit code (2 or 4; killed: by the signal), say one line,
and leave no half-written output; a kept state goes on to the file of a run that nothing happened to.
"""
import errno
import multiprocessing
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

MODEL = pathlib.Path(__file__).resolve().parent.parent / "models" / "toy-wan"
COMPONENTS = ["text_encoder", "transformer", "vae"]
STEPS = 12
RUN = ["generate", "-p", "a red circle", "--size", "64x64", "--num-frames", "9", "--num-inference-steps", str(STEPS), "--platform", "cpu",
       "--threads", "1", "--offload", "blocks"]
SAVING = [*RUN, "-o", "out.mp4", "--save-state", "run.state", "--save-every", "1"]


def serve(root, mount, fault):
    """The folder `root` at `mount`. fault: shared (kind, file's name, byte), None while nothing is to fail."""
    try:
        import fusepy as fuse  # as Debian's python3-fusepy names it
    except ImportError:
        import fuse

    class Files(fuse.Operations):
        def failing(self, path):
            now = fault[0]
            return now if now and path.endswith(now[1]) else None

        def getattr(self, path, handle=None):
            now = self.failing(path)
            if now and now[0] == "gone":
                raise fuse.FuseOSError(errno.ENOENT)
            try:
                info = os.lstat(root + path)
            except OSError as error:
                raise fuse.FuseOSError(error.errno)
            told = {key: getattr(info, key) for key in ("st_mode", "st_size", "st_nlink", "st_uid", "st_gid", "st_mtime")}
            if now and now[0] == "shorter":
                told["st_size"] = min(told["st_size"], now[2])
            return told

        def readdir(self, path, handle):
            return [".", ".."] + os.listdir(root + path)

        def open(self, path, flags):
            return os.open(root + path, flags)

        def release(self, path, handle):
            os.close(handle)

        def read(self, path, size, offset, handle):
            now = self.failing(path)
            if now and now[0] == "error" and offset + size > now[2]:
                raise fuse.FuseOSError(errno.EIO)
            if now and now[0] == "gone":
                raise fuse.FuseOSError(errno.ESTALE)
            if now and now[0] == "shorter":
                size = max(0, min(size, now[2] - offset))
            return os.pread(handle, size, offset)

    fuse.FUSE(Files(), mount, foreground=True, nothreads=True, ro=True, attr_timeout=0, entry_timeout=0, max_readahead=4096)


def left_over(folder):
    return [name for name in os.listdir(folder) if name not in ("run.state", "whole.mp4")]


def judge(what, done, folder, codes):
    problems = []
    if done.returncode not in codes:
        problems.append(f"exit code {done.returncode}")
    if done.returncode > 0 and done.stderr.count("\n") != 1:
        problems.append("not one line")
    if done.returncode != 0 and left_over(folder):
        problems.append(f"left {left_over(folder)}")
    print(f"{'FAILED' if problems else 'ok':6} {what}: {done.returncode}, {done.stderr.strip()[:150]}", *problems, flush=True)
    return not problems


def fuse_faults(zoe):
    good = True
    with tempfile.TemporaryDirectory() as mount, multiprocessing.Manager() as manager:
        fault = manager.list([None])
        server = multiprocessing.Process(target=serve, args=(str(MODEL), mount, fault), daemon=True)
        server.start()
        while not os.path.exists(f"{mount}/model_index.json"):
            time.sleep(0.05)
        try:
            for component in COMPONENTS:
                file = sorted((MODEL / component).glob("*.safetensors"))[0]
                size = file.stat().st_size
                name = f"{component}/{file.name}"
                for kind, byte in [("error", 0), ("error", size // 2), ("error", size - 1), ("shorter", size // 2), ("gone", 0)]:
                    for late in (False, True):  # from the beginning, or once the model is open and at work
                        with tempfile.TemporaryDirectory() as folder:
                            fault[0] = None if late else (kind, name, byte)
                            with open("/proc/sys/vm/drop_caches", "w") as caches:
                                caches.write("3")
                            run = subprocess.Popen([zoe, *RUN, "-m", mount, "-o", "out.mp4"], cwd=folder, text=True,
                                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                            if late:
                                run.stdout.readline()  # its first line comes when all files are open
                                fault[0] = (kind, name, byte)
                                with open("/proc/sys/vm/drop_caches", "w") as caches:
                                    caches.write("3")
                            out, err = run.communicate(timeout=120)
                            done = subprocess.CompletedProcess(run.args, run.returncode, out, err)
                            # Nothing is wrong where all of a file is read already, nor with rows of the embedding that no token takes,
                            # which are never read: they are the end of the text encoder's file.
                            may_end_well = late or component == "text_encoder" and byte == size - 1
                            good &= judge(f"{name}: {kind} from {byte}{', late' if late else ''}", done, folder,
                                          (0, 2, 4) if may_end_well else (2, 4))
        finally:
            fault[0] = None
            subprocess.run(["fusermount", "-uz", mount], stderr=subprocess.DEVNULL) if shutil.which("fusermount") else subprocess.run(
                ["umount", "-l", mount])
            server.terminate()
            server.join()
    return good


def whole(zoe, folder):
    """The file of a run that nothing happened to, and its seconds."""
    command = [zoe, *RUN, "-o", "whole.mp4"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)  # compiles
    start = time.monotonic()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return pathlib.Path(folder, "whole.mp4").read_bytes(), time.monotonic() - start


def goes_on(zoe, what, folder, expected):
    """What was killed goes on from its state, or begins again where it had saved none: the same file, and nothing else is left."""
    kept = os.path.exists(f"{folder}/run.state")
    done = subprocess.run([zoe, "resume", "run.state"] if kept else [zoe, *SAVING], cwd=folder, capture_output=True, text=True)
    same = done.returncode == 0 and pathlib.Path(folder, "out.mp4").read_bytes() == expected
    for name in ("out.mp4", "run.state"):
        pathlib.Path(folder, name).unlink(missing_ok=True)
    # A killed process leaves a temporary; the next one for the same path takes it away.
    rest = left_over(folder)
    good = same and not rest
    print(f"{'ok' if good else 'FAILED':6} {what}: {'went on' if kept else 'began again'}, {'' if same else 'not '}the same file"
          f"{f', left {rest}' if rest else ''}", done.stderr.strip(), flush=True)
    return good


def save_states(zoe, folder, **more):
    return subprocess.Popen([zoe, *SAVING], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)


def kill_faults(zoe):
    good, killed = True, 0
    cues = ["memory: ", "denoise 1/", "denoise 3/", f"denoise {STEPS}/", "decode 1/", "decode 2/", "decode 3/"]
    with tempfile.TemporaryDirectory() as folder:
        expected, seconds = whole(zoe, folder)
        for cue in cues + [f"after {random.uniform(0, seconds):.2f} s" for _ in range(13)]:
            run = save_states(zoe, folder)
            if cue.startswith("after"):
                time.sleep(float(cue.split()[1]))
            else:
                seen = ""
                while cue not in seen and (byte := run.stdout.read(1)):
                    seen += byte
            run.kill()
            run.communicate()
            if os.path.exists(f"{folder}/out.mp4"):  # it was done: then its file is whole
                same = pathlib.Path(folder, "out.mp4").read_bytes() == expected
                print(f"{'ok' if same else 'FAILED':6} killed at {cue}: it was done", flush=True)
                good &= same
                os.remove(f"{folder}/out.mp4")
                continue
            killed += 1
            good &= goes_on(zoe, f"killed at {cue}", folder, expected)
    return good and killed >= len(cues)


def cgroup_faults(zoe):
    group = pathlib.Path(f"/sys/fs/cgroup/memory/zoetrope-faults-{os.getpid()}")
    group.mkdir()
    try:
        with tempfile.TemporaryDirectory() as folder:
            expected, _ = whole(zoe, folder)

            def enter():
                (group / "cgroup.procs").write_text(str(os.getpid()))

            run = save_states(zoe, folder, preexec_fn=enter)
            while not os.path.exists(f"{folder}/run.state") and run.poll() is None:
                time.sleep(0.001)
            os.kill(run.pid, signal.SIGSTOP)  # a step takes less time than this
            usage = int((group / "memory.usage_in_bytes").read_text())
            limit = usage
            try:
                while limit > 1 << 20:
                    (group / "memory.limit_in_bytes").write_text(str(limit))
                    limit = limit * 99 // 100
            except OSError:
                pass  # what is in use cannot be given back any more: the next pages that are asked for are too many
            os.kill(run.pid, signal.SIGCONT)
            out, err = run.communicate()
            killed = run.returncode == -signal.SIGKILL
            limit = int((group / "memory.limit_in_bytes").read_text())
            hits = (group / "memory.failcnt").read_text().strip()
            print(f"{'ok' if killed else 'FAILED':6} limit lowered to {limit >> 10} KiB of {usage >> 10}: {run.returncode}, hit {hits} times "
                  f"{err.strip()}", flush=True)
            good = killed and goes_on(zoe, "killed by its cgroup", folder, expected)
            small = subprocess.run([zoe, *RUN, "-o", "small.mp4"], cwd=folder, capture_output=True, text=True,
                                   preexec_fn=lambda: ((group / "memory.limit_in_bytes").write_text(str(24 << 20)), enter()))
            refused = small.returncode == 3 and small.stderr.count("\n") == 1 and not left_over(folder)
            print(f"{'ok' if refused else 'FAILED':6} a run that begins in 24 MiB: {small.returncode} {small.stderr.strip()}")
            return good and refused
    finally:
        time.sleep(0.2)
        group.rmdir()


def main():
    zoe = str(pathlib.Path(sys.argv[1]).resolve())
    parts = {"fuse": fuse_faults, "cgroup": cgroup_faults, "kills": kill_faults}
    chosen = sys.argv[2:] or list(parts)
    sys.exit(0 if all([parts[part](zoe) for part in chosen]) else 1)


main()
