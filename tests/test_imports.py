"""Tests that heavy libraries are imported late, so that help, refusals and configs come at once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "timm", "torchvision", "deepspeed", "triton", "nvidia.dali", "matplotlib", "pycocotools")
PRINT = f"print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"


def imported(code: str, *args: str) -> list[str]:
    """Returns the heavy libraries in a Python process after `code`; exits of `code` are ignored."""
    whole = f"import contextlib, json, sys\nwith contextlib.suppress(SystemExit):\n    {code}\n{PRINT}"
    done = subprocess.run([sys.executable, "-c", whole, *args], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("args", [["--help"], [], ["configs/missing.py"]], ids=["help", "nothing", "missing"])
def test_train_says_how_it_is_used_without_torch(args):
    assert imported("from fastmim.train import main; main(sys.argv[1:])", *args) == []


def test_the_command_helps_without_torch():
    assert imported("import fastmim; from fastmim.cli import main; main(['--help'])") == []


def test_configs_and_training_modules_are_imported_with_torch_alone():
    """timm, torchvision and DeepSpeed come with the first model. Settings and test collection do not need them."""
    modules = "import fastmim.tasks.trainer, fastmim.model.detector, fastmim.model.segmenter"
    settings = "from fastmim.train import main; main(sys.argv[1:])"
    assert imported(f"{modules}; {settings}", "configs/debug/tiny_cpu.py", "--help") == ["torch"]
