"""fastmim/train.py in processes of its own, as a person starts it, on CPUs."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.methods.tiny import ROOT

# One thread: the order of sums, and so the last bit, depends on how many there are.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}


def start(words: list[str], ranks: int = 0, check: bool = True) -> subprocess.CompletedProcess:
    """Trains what `words`, config and settings, say: in one process, or in `ranks` that deepspeed starts."""
    launcher = ["-m", "deepspeed.launcher.runner", "--num_accelerators", str(ranks)] if ranks else []
    command = [sys.executable, *launcher, str(ROOT / "fastmim/train.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def result(run: Path) -> dict:
    """What a finished run leaves."""
    return json.loads((run / "result.json").read_text())
