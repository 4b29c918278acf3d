"""Runs the tests marked `triton` in Triton's interpreter, in processes where it is on from the start."""

import os
import re
import subprocess
import sys
from pathlib import Path

PROCESSES = 2  # the interpreter uses one core


def test_triton_kernels_in_the_interpreter(tmp_path):
    command = [sys.executable, "-m", "pytest", Path(__file__).parent, "-q", "-m", "triton", "-p", "no:cacheprovider"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    shares = [f"{k + 1}/{PROCESSES}" for k in range(PROCESSES)]
    logs = [tmp_path / f"{k}.log" for k in range(PROCESSES)]
    running = []
    for share, log in zip(shares, logs, strict=True):
        with log.open("w") as file:
            options = {"cwd": Path(__file__).parents[2], "env": environment, "stdout": file, "stderr": file}
            running.append(subprocess.Popen([*command, "--share", share], **options))
    codes = [process.wait() for process in running]
    passed = 0
    for code, log in zip(codes, logs, strict=True):
        text = log.read_text()
        assert code == 0, text[-7000:]
        passed += int(re.search(r"(\d+) passed", text)[1])
    assert passed >= 300
