"""Every command and every piece of Python in README.md runs, in a form small enough for a test."""

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from fastmim.config.base import load
from fastmim.data.demo import write_demo_images
from tests.shapes import write_shapes
from tests.train.launched import free_port

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
RUN = [
    "fastmim demo-data FOLDER --count 100 --size 48",  # the page's FOLDER
    *(command for command in COMMANDS if not command.startswith("make")),
]
PYTHON = [block for language, block in BLOCKS if language == "python"]
CONFIGS = [code for code in PYTHON if "config = " in code]
PROGRAMS = [code.replace("runs/demo", "runs/mine") for code in PYTHON if code not in CONFIGS]
SMALL = (
    "--encoder.depth 1 --encoder.embed_dim 12 --encoder.num_heads 2 --decoder.dim 8 --decoder.depth 1 "
    "--decoder.num_heads 2 --data.size 32 32 --data.held_out 4 --train.global_batch 8 --train.epochs 0.3 "
    "--run.log_every 1 --run.trace True --train.micro_batch 8"
)
CLASSIFIER = re.sub(r"--decoder\.\w+ \d+ |--data.held_out \d+ ", "", SMALL)
# The ResNet and the demo's network are small as they are; of one class of its few images there are 10.
RESNET = re.sub(r"--(en|de)coder\.\w+ \d+ |--data.held_out \d+ ", "", SMALL).replace("epochs 0.3", "epochs 1")

# The small model as a configuration: its heads are not those of published models of its width.
OFFICIAL = """
from dataclasses import replace
from pathlib import Path
from fastmim.config.base import load
base = load(Path({configs!r}) / "mae/pretrain/vit_base_patch16_224_800ep.py")
config = replace(
    base,
    encoder=replace(base.encoder, depth=1, embed_dim=12, num_heads=2),
    decoder=replace(base.decoder, dim=8, depth=1, num_heads=2),
    data=replace(base.data, size=(32, 32)),
)
"""


def small(command: str) -> list[str]:
    """The command with a small model and the paths of this test."""
    words = command.replace("fastmim/train.py", str(ROOT / "fastmim/train.py")).replace(
        " configs/", f" {ROOT}/configs/"
    )
    words = re.sub(r"\bRUN\b", "runs/mine", words).split()
    if words[0] == "deepspeed":
        words = ["official.py" if word == "CONFIG" else word for word in words]
        sizes = CLASSIFIER if "--data.test" in words else RESNET if "demo.py" in command else SMALL
        if "--data.masks" in words:
            sizes += " --decoder.channels 8 --decoder.aux_channels 8 --decoder.blocks"  # none: it has one only
        return [
            sys.executable,
            "-m",
            "deepspeed.launcher.runner",
            "--num_accelerators",
            "1",
            "--master_port",
            free_port(),
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
    return [sys.executable, "-m", "fastmim.cli", *words[1:]]


def write_inputs(folder: Path) -> None:
    """Writes the images that the page's commands read, and the configuration of the small model."""
    (folder / "official.py").write_text(OFFICIAL.format(configs=str(ROOT / "configs")))
    for name in ("train/a", "train/b", "test/a", "test/b"):
        write_demo_images(str(folder / "CLASSES" / name), 20, (48, 48))
        write_demo_images(str(folder / "data/cifar10" / name), 110, (32, 32))
    for path in folder.glob("data/cifar10/*/*/demo_0*"):  # as CIFAR-10's images are named
        path.rename(path.with_name(path.name.removeprefix("demo_0")))
    for part in ("train", "test"):
        for name in ("OBJECTS", "SCENES"):
            write_shapes(folder / name, part, 30, seed=1, side=48)
    Image.new("RGB", (60, 40)).save(folder / "photograph.jpg")


def run_inside(words: list[str], monkeypatch) -> None:
    """Runs a command of `small` in this process, without the launcher; only shell commands get a process."""
    if words[0] == "bash":
        subprocess.run(words, check=True)
        return
    script = [number for number, word in enumerate(words) if word.endswith("fastmim/train.py")]
    argv = words[script[0] :] if script else words[2:]
    monkeypatch.setattr(sys, "argv", argv)
    try:
        (runpy.run_path if script else runpy.run_module)(argv[0], run_name="__main__")
    except SystemExit as end:
        assert not end.code, f"{words}: {end.code}"


HEAVY = ("--to onnx", "detect/", "segment/", "bench.loader")
"""Commands that only the campaign runs: each takes seconds for what it imports or starts."""
LIGHT = [command for command in RUN if not any(words in command for words in HEAVY)]


def test_heavy_commands_are_on_the_page():
    assert all(any(words in command for command in RUN) for words in HEAVY) and len(LIGHT) > len(RUN) / 2


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.costly("model", "some twenty commands of the page on small models, in this process")
def test_commands_and_python_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_inputs(tmp_path)
    for command in LIGHT:
        run_inside(small(command), monkeypatch)
    assert Path("runs/mine/loss.png").stat().st_size > 1000
    for program in PROGRAMS:
        exec(program, {})


@pytest.mark.slow
def test_commands_and_python_run_as_typed(tmp_path):
    """Each in a process of its own, in the page's order, as each needs what the one before it left."""
    write_inputs(tmp_path)
    for command in (*map(small, RUN), *([sys.executable, "-c", program] for program in PROGRAMS)):
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    assert (tmp_path / "runs/mine/loss.png").stat().st_size > 1000


def test_configs_of_the_page_load(tmp_path):
    shutil.copytree(ROOT / "configs/mae/pretrain", tmp_path / "configs")
    for number, config in enumerate(CONFIGS):
        path = tmp_path / f"configs/readme_{number}.py"
        path.write_text(config)
        assert load(path) != load(path.with_name("vit_base_patch16_224_800ep.py"))


def test_the_page_has_what_these_tests_run():
    assert (len(CONFIGS), len(PROGRAMS)) == (1, 2) and len(RUN) >= 5


def test_make_targets_exist():
    targets = {command.split()[1] for command in COMMANDS if command.startswith("make")}
    assert targets == {"demo", "test", "lint", "bench", "readme", "campaign"}
    for target in targets:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)
