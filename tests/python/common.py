"""What the tests of the Python package share."""

import os
import subprocess
import tempfile
import unittest

TINY = {"height": 32, "width": 32, "num_frames": 5, "num_inference_steps": 2, "seed": 3}
PROMPT = "a red square"
COMMAND = os.environ.get("ZOETROPE_COMMAND", "")


def numpy_or_skip():
    try:
        import numpy
    except ImportError:
        raise unittest.SkipTest("numpy is not installed")
    return numpy


def resident_bytes():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run_command(*arguments):
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False)


class InFolder(unittest.TestCase):
    """With a folder of its own."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="zoetrope-test-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def path(self, name):
        return os.path.join(self.folder, name)
