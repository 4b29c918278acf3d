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
    for name in fastmim_kernels.OPS:
        assert {f"{name} {arch}" for arch in (80, 90, 100)} <= {
            f"{name} {word}" for line in done.stdout.splitlines() if line.startswith(name) for word in line.split()
        }
