"""A pytest that starts at once: imports the large libraries, then forks for each line of tests that it reads.

Reads a JSON list of test names a line from its input. Writes a JSON object a line, see `run`.
"""

import importlib
import json
import os
import signal
import sys
import tempfile

LIBRARIES = (
    "hypothesis matplotlib numpy PIL.Image pytest safetensors.torch scipy skimage timm torch torch._dynamo "
    "torch.utils.checkpoint torchvision.transforms"
)
TIMEOUT_SECONDS = 600


def run(tests: list[str]) -> dict:
    """Runs tests in a child process; returns its exit code (negative: its signal), its output and its CPU seconds."""
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        if not (child := os.fork()):
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            signal.alarm(TIMEOUT_SECONDS)
            pytest = importlib.import_module("pytest")
            os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
        _, status, used = os.wait4(child, 0)
        log.seek(0)
        code, seconds = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
        return {"code": code, "output": log.read(), "seconds": seconds}


if __name__ == "__main__":
    for library in LIBRARIES.split():
        importlib.import_module(library)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
