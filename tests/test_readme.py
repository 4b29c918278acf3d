"""Tests that every command and every piece of Python in the READMEs runs, on small models."""

import gc
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from PIL import Image

from fastmim.config.config_file import load
from fastmim.data.demo import write_demo_images
from tests.shapes import write_shapes
from tests.train.launched import free_port

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.relative_to(ROOT).as_posix() for top in ("", "configs", "kernels", "bench", "fastmim", "tests")
               for path in (ROOT / top).glob("**/README.md" if top else "*.md"))  # fmt: skip
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
PROGRAMS_OF = ("make ", "deepspeed ", "python ", "fastmim ", "mkdir ", "TRITON_INTERPRET=1 ")
SMALL = (
    "--encoder.depth 1 --encoder.embed_dim 12 --encoder.num_heads 2 --decoder.dim 8 --decoder.depth 1 "
    "--decoder.num_heads 2 --data.size 32 32 --data.held_out 4 --train.global_batch 8 --train.epochs 0.3 "
    "--run.log_every 1 --run.trace True --train.micro_batch 8"
)
CLASSIFIER = re.sub(r"--decoder\.\w+ \d+ |--data.held_out \d+ ", "", SMALL)
# The ResNet and the demo's network are already small. A class has 10 of the few images.
RESNET = re.sub(r"--(en|de)coder\.\w+ \d+ |--data.held_out \d+ ", "", SMALL).replace("epochs 0.3", "epochs 1")
FIRST = (
    "fastmim demo-data FOLDER --count 100 --size 48",
    "python fastmim/train.py configs/mae/pretrain/vit_base_patch16_224_800ep.py --data.root FOLDER --run.dir runs/mine",
)
"""Commands that make the pages' FOLDER and RUN."""
SMALL_BENCH = {
    "ops": "--samples 2",
    "compare": "--steps 1 --arms ours,eager",
    "step": "--steps 1",
    "hours": "--steps 1 --batch 4 --set data.size=32,32",
    "memory": "--steps 1 --set data.size=32,32",
    "zero": f"--updates 2 --batch 4 --config {ROOT}/configs/debug/tiny_cpu.py",
    "loader": "--batch 8 --batches 4 --rounds 1 --threads 1",
    "sdpa": "--samples 2",
}
"""Options that make a benchmark of a page short."""
HEAVY = ("--to onnx", "detect/", "segment/", "bench", "pytest", "tests.")
"""Parts of commands that only the campaign runs, because their imports or processes take seconds."""

# The small model as a configuration. Published models of its width have another number of heads.
OFFICIAL = """
from dataclasses import replace
from pathlib import Path
from fastmim.config.config_file import load
base = load(Path({configs!r}) / "mae/pretrain/vit_base_patch16_224_800ep.py")
config = replace(
    base,
    encoder=replace(base.encoder, depth=1, embed_dim=12, num_heads=2),
    decoder=replace(base.decoder, dim=8, depth=1, num_heads=2),
    data=replace(base.data, size=(32, 32)),
)
"""


def blocks(page: str) -> list[tuple[str, str]]:
    """Returns (language, text) of each fenced block of a page."""
    return BLOCK.findall((ROOT / page).read_text())


def commands(page: str) -> list[str]:
    """Returns the commands of a page, without comments."""
    lines = [line for language, block in blocks(page) if not language for line in block.splitlines()]
    return [line.split("#")[0].strip() for line in lines if line.startswith(PROGRAMS_OF)]


def programs(page: str) -> list[str]:
    """Returns the pieces of Python of a page, except configs."""
    found = [text for language, text in blocks(page) if language == "python" and "config = " not in text]
    return [text.replace("runs/demo", "runs/mine") for text in found]


def small(command: str) -> list[str]:
    """Returns the command with a small model and the paths of this test."""
    words = command.replace("fastmim/train.py", str(ROOT / "fastmim/train.py"))
    words = words.replace(" configs/", f" {ROOT}/configs/").replace(" tests/", f" {ROOT}/tests/")
    words = shlex.split(re.sub(r"\bRUN\b", "runs/mine", words))
    if words[0] == "TRITON_INTERPRET=1":
        words = words[1:]
    if words[0] == "deepspeed":
        words = ["official.py" if word == "CONFIG" else word for word in words]
        sizes = CLASSIFIER if "--data.test" in words else RESNET if "demo.py" in command else SMALL
        if "--data.masks" in words:
            # No numbers after --decoder.blocks, because the encoder has only one block.
            sizes += " --decoder.channels 8 --decoder.aux_channels 8 --decoder.blocks"
        launcher = ["-m", "deepspeed.launcher.runner", "--num_accelerators", "1", "--master_port", free_port()]
        return [sys.executable, *launcher, *words[1:], *sizes.split()]
    if words[0] == "mkdir":
        return ["bash", "-ec", command]
    if command.startswith("python fastmim/train.py"):
        sizes = RESNET if "resnet" in command else CLASSIFIER if "--data.test" in words else SMALL
        return [sys.executable, *words[1:], *sizes.split()]
    if "pytest" in words:
        return [sys.executable, *words[1:], "--collect-only", "-q", "--rootdir", str(ROOT)]
    if words[0] == "python":
        words = [w if w not in ("A", "B") else "runs/mine/trace.jsonl" for w in words]
        if words[1:3] == ["-m", "bench"]:
            words = [str(ROOT / "configs/debug/tiny_cpu.py") if word == "CONFIG" else word for word in words]
            shorter = re.findall(r"--\w+ [^-]+(?= |$)", SMALL_BENCH.get(words[3], ""))
            words += [word for option in shorter if option.split()[0] not in words for word in option.split()]
        return [sys.executable, *words[1:]]
    if "OFFICIAL.pth" in words:
        words = [word.replace("OFFICIAL", "mine") for word in words] + ["--config", "official.py"]
    return [sys.executable, "-m", "fastmim.cli", *words[1:]]


def write_inputs(folder: Path) -> None:
    """Writes the images that the pages' commands read, and the configuration of the small model."""
    (folder / "official.py").write_text(OFFICIAL.format(configs=str(ROOT / "configs")))
    for name in ("train/a", "train/b", "test/a", "test/b"):
        write_demo_images(str(folder / "CLASSES" / name), 20, (48, 48))
        write_demo_images(str(folder / "data/cifar10" / name), 110, (32, 32))
    for path in folder.glob("data/cifar10/*/*/demo_0*"):  # the form of CIFAR-10's names
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
    gc.collect()  # releases the run's lock on its folder, which otherwise ends with the process


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Makes a folder with images, and a small pre-training run in runs/mine."""
    folder = tmp_path_factory.mktemp("pages")
    write_inputs(folder)
    # The run sets RANK and other variables before the fixture that restores the environment of a test.
    with pytest.MonkeyPatch.context() as patch, mock.patch.dict(os.environ):
        patch.chdir(folder)
        for command in FIRST:
            run_inside(small(command), patch)
    return folder


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.costly("model", "the commands of a page on small models, in this process")
@pytest.mark.parametrize("page", PAGES)
def test_commands_and_python_of_a_page_run(page, place, monkeypatch):
    monkeypatch.chdir(place)
    Path("mine.pth").unlink(missing_ok=True)  # of another page; nothing is overwritten
    shutil.rmtree("runs/official", ignore_errors=True)
    for command in commands(page):
        if not command.startswith("make ") and not any(words in command for words in HEAVY):
            run_inside(small(command), monkeypatch)
    for program in programs(page):
        exec(program, {"__name__": "page"})


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_commands_and_python_run_as_typed(page, tmp_path):
    """Each command runs in its own process, in the page's order, because it needs the results of earlier commands."""
    write_inputs(tmp_path)
    typed = [small(command) for command in (*FIRST, *commands(page)) if not command.startswith("make ")]
    for command in (*typed, *([sys.executable, "-c", program] for program in programs(page))):
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"


def test_configs_of_the_pages_load(tmp_path):
    shutil.copytree(ROOT / "configs/mae/pretrain", tmp_path / "configs")
    found = [text for page in PAGES for kind, text in blocks(page) if kind == "python" and "config = " in text]
    assert found
    for number, config in enumerate(found):
        path = tmp_path / f"configs/readme_{number}.py"
        path.write_text(config)
        assert load(path) != load(path.with_name("vit_base_patch16_224_800ep.py"))


def test_make_targets_exist():
    targets = {command.split()[1] for page in PAGES for command in commands(page) if command.startswith("make")}
    assert targets >= {"demo", "test"}
    for target in targets:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)
