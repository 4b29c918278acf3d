"""Checks that run folders and exports of an older commit load: `python -m tests.campaign.older COMMIT`.

The older commit is checked out in `runs/older/tree`. It trains each kind of run twice, once to the end and once to its
second update, and exports the first. This tree then resumes the second run, which must repeat the bit trace of the
first, and reads the finished runs and their exports.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.campaign.ledger import ROOT

FOLDER = ROOT / "runs/older"
TREE = FOLDER / "tree"
COMMON = (
    "--run.trace True --run.log_every 1 --train.device cpu --train.precision fp32 "
    "--data.loader pillow --train.global_batch 8 --train.epochs 0.5"
)
MAE = "configs/mae/pretrain/vit_base_patch16_224_800ep.py"
VIT = "--encoder.depth 2 --encoder.embed_dim 32 --encoder.num_heads 2"
VIT_32 = f"{VIT} --encoder.patch_size 8 --data.size 32 32"
CLASSES = f"--data.root classes/train --data.test classes/test {VIT_32} --run.init runs/mae"
SHAPES = f"{VIT} --data.size 64 64 --train.epochs 1 --optim.warmup_epochs 0"
KINDS = {
    "mae": f"{MAE} --data.root images {VIT_32} --decoder.dim 16 --decoder.depth 1 --decoder.num_heads 2",
    "simmim": "configs/debug/cifar10_simmim.py --data.root images --data.held_out 8",
    "um_mae": "configs/debug/cifar10_um_mae.py --data.root images --data.held_out 8",
    "a2mim": "configs/debug/cifar10_a2mim_resnet.py --data.root images --data.held_out 8",
    "finetune": f"configs/debug/cifar10_finetune_vit.py {CLASSES}",
    "probe": f"configs/debug/cifar10_probe_vit.py {CLASSES}",
    "detect": "configs/debug/shapes_detect_vit.py --data.root shapes/few --data.annotations shapes/few.json "
    f"--data.test shapes/test --data.test_annotations shapes/test.json {SHAPES} --rcnn.channels 16 --run.init None",
    "segment": "configs/debug/shapes_segment_vit.py --data.root shapes/few --data.masks shapes/few_figures "
    f"--data.test shapes/test --data.test_masks shapes/test_figures {SHAPES} --decoder.channels 16 --run.init None",
}
COMPARE = """
import sys, fastmim, torch
from PIL import Image
(run, transform), (export, _) = (fastmim.load(folder) for folder in sys.argv[1:])
images = transform(Image.effect_mandelbrot((64, 64), (-2, -1, 1, 1), 9).convert("RGB"))[None]
assert torch.allclose(run(images), export(images), atol=1e-4)
"""
EXPORTED = ("mae", "simmim", "um_mae", "a2mim", "finetune", "probe")
"""Kinds whose encoder can be exported."""


def run(tree: Path, *words: str) -> str:
    """Runs Python with the packages of a tree; returns its standard output.

    Raises:
        SystemExit: the program failed.
    """
    environment = os.environ | {"PYTHONPATH": f"{tree}{os.pathsep}{tree / 'kernels'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], cwd=FOLDER, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout


def train(tree: Path, kind: str, folder: str, *words: str) -> None:
    """Trains a kind of run with the code of a tree."""
    config, *rest = (*KINDS[kind].split(), *COMMON.split())
    # Shapes are few, so an epoch is one or two updates of eight.
    run(tree, str(tree / "fastmim/train.py"), str(tree / config), *rest, "--run.dir", folder, *words)


def prepare(commit: str) -> None:
    """Checks out the commit and writes the images that both trees read."""
    subprocess.run(["git", "worktree", "prune"], cwd=ROOT, check=True)
    shutil.rmtree(FOLDER, ignore_errors=True)
    subprocess.run(["git", "worktree", "prune"], cwd=ROOT, check=True)
    subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(TREE), commit], cwd=ROOT, check=True)
    subprocess.run([sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"], cwd=TREE, check=True)
    for folder in ("images", *(f"classes/{part}/{name}" for part in ("train", "test") for name in "ab")):
        run(ROOT, "-m", "fastmim.cli", "demo-data", folder, "--count", "64", "--size", "48")
    run(ROOT, "-m", "tests.shapes", "shapes")


def main(argv: list[str]) -> None:
    """Runs the check; each line that is printed has passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.older", description=__doc__)
    parser.add_argument("commit", help="the older commit")
    prepare(parser.parse_args(argv).commit)
    for kind in KINDS:
        train(TREE, kind, f"runs/{kind}")
        train(TREE, kind, f"runs/{kind}_stopped", "--run.stop_after", "2")
        train(ROOT, kind, f"runs/{kind}_stopped")
        said = run(ROOT, "-m", "fastmim.bittrace", f"runs/{kind}", f"runs/{kind}_stopped")
        assert said == "no difference\n", f"{kind}: {said}"
        train(ROOT, kind, f"runs/{kind}")  # a finished run: nothing is left to do
        print(f"{kind}: resumed bit for bit", flush=True)
    for kind in EXPORTED:
        run(TREE, "-m", "fastmim.cli", "export", f"runs/{kind}", "--out", f"exports/{kind}")
        run(ROOT, "-c", COMPARE, f"runs/{kind}", f"exports/{kind}")
        run(ROOT, "-m", "fastmim.cli", "export", f"runs/{kind}")
        print(f"{kind}: the older export is read, the run is exported again", flush=True)
    run(ROOT, "-m", "fastmim.cli", "visualize", "runs/mae", "--images", "images")
    run(ROOT, "-m", "fastmim.cli", "knn", "runs/mae", "--data", "classes")
    run(ROOT, "-m", "fastmim.cli", "convert", "runs/mae", "mae.pth")
    print("mae: pictures, nearest neighbours, official checkpoint")
    subprocess.run(["git", "worktree", "remove", "--force", str(TREE)], cwd=ROOT, check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
