"""Every Triton kernel compiles for GPUs that are not here, and keeps its values in registers."""

import os
import subprocess
import sys
from pathlib import Path

import fastmim_kernels

ROOT = Path(__file__).parents[2]


def test_kernels_compile_for_sm_80_90_100_without_spills():
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    done = subprocess.run(
        [sys.executable, "-m", "bench.compile"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    for name in fastmim_kernels.OPS:
        assert {"80", "90", "100"} <= {word for line in lines if line and line[0] == name for word in line}, name
