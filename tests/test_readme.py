"""Every command and every piece of Python in README.md runs, in a form small enough for a test."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from fastmim.config import load
from tests.shapes import write_shapes

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
COMMANDS = [
    line.split("#")[0].strip()
    for language, block in BLOCKS
    if not language
    for line in block.splitlines()
    if line.startswith(("make ", "deepspeed ", "python ", "fastmim ", "mkdir "))
]
PYTHON = [block for language, block in BLOCKS if language == "python"]
SMALL = (
    "--encoder.depth 1 --encoder.embed_dim 12 --encoder.num_heads 2 --decoder.dim 8 --decoder.depth 1 "
    "--decoder.num_heads 2 --data.size 32 32 --data.held_out 4 --train.global_batch 8 --train.epochs 0.3 "
    "--run.log_every 1 --run.trace True --train.micro_batch 8"
)
CLASSIFIER = re.sub(r"--decoder\.\w+ \d+ |--data.held_out \d+ ", "", SMALL)
# The ResNet is small as it is; of one class of its few images there are 10.
RESNET = re.sub(r"--(en|de)coder\.\w+ \d+ |--data.held_out \d+ ", "", SMALL).replace("epochs 0.3", "epochs 1")

# The small model as a configuration: its heads are not those of published models of its width.
OFFICIAL = """
from dataclasses import replace
from pathlib import Path
from fastmim.config import load
base = load(Path({configs!r}) / "mae/pretrain/vit_base_patch16_224_800ep.py")
config = replace(
    base,
    encoder=replace(base.encoder, depth=1, embed_dim=12, num_heads=2),
    decoder=replace(base.decoder, dim=8, depth=1, num_heads=2),
    data=replace(base.data, size=(32, 32)),
)
"""


def fastmim() -> list[str]:
    return [sys.executable, "-m", "fastmim.cli"]


def small(command: str) -> list[str]:
    """The command with a small model and the paths of this test."""
    words = command.replace("fastmim/train.py", str(ROOT / "fastmim/train.py")).replace(
        " configs/", f" {ROOT}/configs/"
    )
    words = re.sub(r"\bRUN\b", "runs/mine", words).split()
    if words[0] == "deepspeed":
        words = ["official.py" if word == "CONFIG" else word for word in words]
        sizes = CLASSIFIER if "--data.test" in words else SMALL
        if "--data.masks" in words:
            sizes += " --decoder.channels 8 --decoder.aux_channels 8 --decoder.blocks"  # none: it has one only
        return [
            sys.executable,
            "-m",
            "deepspeed.launcher.runner",
            "--num_accelerators",
            "1",
            *words[1:],
            *sizes.split(),
        ]
    if words[0] == "mkdir":
        return ["bash", "-ec", command]
    if command.startswith("python fastmim/train.py"):
        sizes = RESNET if "resnet" in command else CLASSIFIER if "--data.test" in words else SMALL
        return [sys.executable, *words[1:], *sizes.split()]
    if words[0] == "python":
        words = [w if w not in ("A", "B") else "runs/mine/trace.jsonl" for w in words]
        if "bench.loader" in words:
            words += ["--batch", "8", "--batches", "4", "--rounds", "1", "--threads", "1"]
        return [sys.executable, *words[1:]]
    if "OFFICIAL.pth" in words:
        words = [word.replace("OFFICIAL", "mine") for word in words] + ["--config", "official.py"]
    return [*fastmim(), *words[1:]]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """Where the page's commands ran, in its order, as each needs what the one before it left."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "official.py").write_text(OFFICIAL.format(configs=str(ROOT / "configs")))
    images = [[*fastmim(), "demo-data", "FOLDER", "--count", "100", "--size", "48"]]
    for name in ("train/a", "train/b", "test/a", "test/b"):
        images.append([*fastmim(), "demo-data", f"CLASSES/{name}", "--count", "20", "--size", "48"])
        images.append([*fastmim(), "demo-data", f"data/cifar10/{name}", "--count", "110", "--size", "32"])
    # As CIFAR-10's images are named.
    images.append(["bash", "-ec", "for i in data/cifar10/*/*/demo_0*; do mv $i ${i/demo_0/}; done"])
    for part in ("train", "test"):
        for name in ("OBJECTS", "SCENES"):
            write_shapes(folder / name, part, 30, seed=1, side=48)
    commands = [small(command) for command in COMMANDS if not command.startswith("make")]
    assert len(commands) >= 5
    for command in (*images, *commands):
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return folder


def test_commands_run(workplace):
    assert (workplace / "runs/mine/loss.png").stat().st_size > 1000


def test_python_runs(workplace):
    configs = [code for code in PYTHON if "config = " in code]
    programs = [code.replace("runs/demo", "runs/mine") for code in PYTHON if code not in configs]
    assert (len(configs), len(programs)) == (1, 2)
    Image.new("RGB", (60, 40)).save(workplace / "photograph.jpg")
    for program in programs:
        result = subprocess.run([sys.executable, "-c", program], cwd=workplace, capture_output=True, text=True)
        assert result.returncode == 0, f"{program}\n{result.stderr}"
    shutil.copytree(ROOT / "configs/mae/pretrain", workplace / "configs")
    for number, config in enumerate(configs):
        path = workplace / f"configs/readme_{number}.py"
        path.write_text(config)
        assert load(path) != load(path.with_name("vit_base_patch16_224_800ep.py"))


def test_make_targets_exist():
    targets = {command.split()[1] for command in COMMANDS if command.startswith("make")}
    assert targets == {"demo", "test", "lint", "bench", "readme", "campaign"}
    for target in targets:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)
