"""Every command in README.md runs, in a form small enough for a test."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"^```\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
    if line.startswith(("make", "deepspeed", "python", "fastmim"))
]
SMALL = (
    "--encoder.depth 1 --encoder.embed_dim 12 --encoder.num_heads 2 --decoder.dim 8 --decoder.depth 1 "
    "--decoder.num_heads 2 --data.size 32 32 --data.held_out 4 --train.global_batch 8 --train.epochs 0.3 "
    "--run.log_every 1 --run.trace True"
)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with images in FOLDER, where commands may write."""
    folder = tmp_path_factory.mktemp("readme")
    subprocess.run([*fastmim(), "demo-data", "FOLDER", "--count", "100", "--size", "48"], cwd=folder, check=True)
    return folder


def fastmim() -> list[str]:
    return [sys.executable, "-m", "fastmim.cli"]


def small(command: str) -> list[str]:
    """The command with a small model and the paths of this test."""
    words = command.replace("fastmim/train.py", str(ROOT / "fastmim/train.py")).replace(
        " configs/", f" {ROOT}/configs/"
    )
    words = re.sub(r"\bRUN\b", "runs/mine", words).split()
    if words[0] == "deepspeed":
        return [
            sys.executable,
            "-m",
            "deepspeed.launcher.runner",
            "--num_accelerators",
            "1",
            *words[1:],
            *SMALL.split(),
        ]
    if words[0] == "python":
        words = [w if w not in ("A", "B") else "runs/mine/trace.jsonl" for w in words]
        return [sys.executable, *words[1:]]
    return [*fastmim(), *words[1:]]


def test_commands_run(workplace):
    """In the order of the page, as each needs what the one before it left."""
    ran = 0
    for command in COMMANDS:
        if command.startswith("make"):
            continue
        result = subprocess.run(small(command), cwd=workplace, capture_output=True, text=True)
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        ran += 1
    assert ran >= 5
    assert (workplace / "runs/mine/loss.png").stat().st_size > 1000


def test_make_targets_exist():
    targets = {command.split()[1] for command in COMMANDS if command.startswith("make")}
    assert targets == {"demo", "test", "lint", "bench", "campaign"}
    for target in targets:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)
