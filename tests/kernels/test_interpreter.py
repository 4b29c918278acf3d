"""Runs the tests marked `triton` in Triton's interpreter, in a process where it is on from the start."""

import os
import re
import subprocess
import sys
from pathlib import Path


def test_triton_kernels_in_the_interpreter():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", Path(__file__).parent, "-q", "-m", "triton", "-p", "no:cacheprovider"],
        env=os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 300
