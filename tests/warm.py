"""A pytest that starts at once: imports the large libraries, then forks for each line of tests that it reads.

Reads a JSON list of test names a line from its input. Writes a JSON object a line, see `run`.
"""

import importlib
import json
import os
import signal
import sys
from pathlib import Path

LIBRARIES = (
    "hypothesis matplotlib numpy PIL.Image pytest safetensors.torch scipy skimage timm torch torch._dynamo "
    "torch.utils.checkpoint torchvision.transforms"
)
LOG = Path("pytest.log")
TIMEOUT_SECONDS = 600


def run(tests: list[str]) -> dict:
    """Runs tests in a child process; returns its exit code (negative: its signal), its output and its CPU seconds."""
    if not (child := os.fork()):
        output = os.open(LOG, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(output, 1)
        os.dup2(output, 2)
        signal.alarm(TIMEOUT_SECONDS)
        pytest = importlib.import_module("pytest")
        os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
    _, status, used = os.wait4(child, 0)
    seconds = used.ru_utime + used.ru_stime
    return {"code": os.waitstatus_to_exitcode(status), "output": LOG.read_text(errors="replace"), "seconds": seconds}


if __name__ == "__main__":
    for library in LIBRARIES.split():
        importlib.import_module(library)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
