"""Whole runs of train.py as a person starts them: stop, go on, refuse, survive."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch

from fastmim import checkpoint
from fastmim.bittrace import diff
from fastmim.data.demo import write_demo_images
from tests.methods.tiny import ROOT
from tests.train.launched import ENVIRONMENT, start

CONFIG = ROOT / "configs/debug/tiny_cpu.py"
# "auto" may be bf16, where another split of the batch or other kernels round otherwise: 1e-5 is of fp32.
SMALL = "--train.precision fp32 --encoder.depth 2 --train.global_batch 16 --train.epochs 3 "
SMALL += "--run.save_every 4 --run.log_every 2"
STEPS = 3 * 56 // 16


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    write_demo_images(str(folder), 64, (48, 48))
    return folder


def words(run: Path, images: Path, *args: str) -> list[str]:
    small = [*SMALL.split(), "--data.root", str(images), "--data.size", "32", "32"]
    return [str(CONFIG), *small, "--run.dir", str(run), "--run.trace", "True", "--run.evaluate_every", "5", *args]


def command(run: Path, images: Path, *args: str) -> list[str]:
    return [str(ROOT / "fastmim/train.py"), *words(run, images, *args)]


def train(run: Path, images: Path, *args: str, ranks: int = 0, check: bool = True) -> subprocess.CompletedProcess:
    return start(words(run, images, *args), ranks, check)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, images):
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    result = train(run, images)
    assert f"updates        {STEPS}" in result.stdout
    return run


def test_a_run_leaves_what_it_promises(undisturbed):
    facts = json.loads((undisturbed / "facts.json").read_text())
    assert facts["loss"].endswith("fused patch_loss (cpp)") and facts["devices"].startswith("1 x CPU")
    rows = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if "loss" in r] == [2, 4, 6, 8, STEPS]
    assert {"loss", "lr", "grad_norm", "images_per_s", "seconds_left", "peak_bytes", "data_wait"} <= rows[0].keys()
    held_out = [r for r in rows if "held_out" in r]
    assert [r["step"] for r in held_out] == [5, STEPS]
    assert held_out[0]["trivial"].keys() == {"zero", "mean_patch", "interpolation"}
    assert sorted(p.name for p in (undisturbed / "grids").iterdir()) == ["00000005.png", f"{STEPS:08d}.png"]
    assert sorted(p.name for p in (undisturbed / "checkpoints").iterdir()) == [
        "latest",
        "step-00000008",
        f"step-{STEPS:08d}",
    ]
    encoder = timm.create_model(f"local-dir:{undisturbed / 'encoder'}", pretrained=True)
    assert encoder(torch.zeros(1, 3, 32, 32)).shape == (1, 64)


def test_stopped_and_continued_is_bit_identical(undisturbed, images, tmp_path):
    result = train(tmp_path / "run", images, "--run.stop_after", "5")
    assert f"stopped at update 5 of {STEPS}" in result.stdout
    train(tmp_path / "run", images)
    assert diff(undisturbed / "trace.jsonl", tmp_path / "run/trace.jsonl") is None


def test_two_processes_see_the_same_samples_and_masks(undisturbed, images, tmp_path):
    """One process up to update 4; then two, accumulating, at ZeRO stage 2."""
    train(tmp_path / "run", images, "--run.stop_after", "4")
    train(tmp_path / "run", images, "--train.micro_batch", "4", "--train.zero_stage", "2", ranks=2)
    ours, theirs = tmp_path / "run/trace.jsonl", undisturbed / "trace.jsonl"
    assert diff(theirs, ours, ("samples", "masks")) is None
    losses = [
        [float.fromhex(json.loads(line)["loss"]) for line in path.read_text().splitlines()] for path in (ours, theirs)
    ]
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=1e-5, atol=0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_ends_well(undisturbed, images, tmp_path, number):
    run = tmp_path / "run"
    started = [sys.executable, *command(run, images, "--run.save_every", "1000")]
    process = subprocess.Popen(started, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
    wait_for(lambda: lines(run / "trace.jsonl") >= 2)
    process.send_signal(number)
    assert process.wait(timeout=60) == 0
    assert (run / "checkpoints/latest").is_file()
    train(run, images)
    assert diff(undisturbed / "trace.jsonl", run / "trace.jsonl") is None


def test_nothing_outlives_the_launcher(images, tmp_path):
    """SIGKILL to `deepspeed`: the ranks notice, save and stop."""
    run = tmp_path / "run"
    arguments = command(run, images, "--train.epochs", "3000", "--run.save_every", "1000000")
    launcher = subprocess.Popen(
        [sys.executable, "-m", "deepspeed.launcher.runner", "--num_accelerators", "2", *arguments],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT,
    )  # fmt: skip
    wait_for(lambda: lines(run / "trace.jsonl") >= 2)
    launcher.kill()
    launcher.wait()
    wait_for(lambda: not processes(str(run)))
    assert (run / "checkpoints/latest").is_file()


def test_reference_kernels_give_the_same_losses(undisturbed, images, tmp_path):
    train(tmp_path / "run", images, "--train.kernels", "reference")
    losses = []
    for run in (undisturbed, tmp_path / "run"):
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses.append(torch.tensor([row["loss"] for row in rows if "loss" in row]))
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)


def test_non_finite_losses_are_skipped_named_and_stop_the_run(images, tmp_path):
    run = tmp_path / "run"
    result = train(run, images, "--optim.blr", "1e30", "--train.max_skipped", "3", check=False)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "updates in a row skipped" in result.stdout and "Last good checkpoint: update" in result.stdout
    first = json.loads((run / "skipped.jsonl").read_text().splitlines()[0])
    assert len(first["images"]) == 16 and all(Path(name).is_file() for name in first["images"])


def test_what_cannot_be_done_is_refused_in_one_line(undisturbed, images, tmp_path):
    def refusal(result):
        assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
        last = result.stderr.strip().splitlines()[-1]
        assert last.startswith("train.py: ")
        return last

    assert "no folder" in refusal(train(tmp_path / "a", tmp_path / "nowhere", check=False))
    line = refusal(train(tmp_path / "b", images, "--train.micro_batch", "5", check=False))
    assert "train.micro_batch=5" in line and "use" in line
    changed = tmp_path / "changed"
    shutil.copytree(images, changed)
    next(changed.glob("*.jpg")).unlink()
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    assert "has changed since" in refusal(train(run, changed, "--train.epochs", "6", check=False))
    line = refusal(train(run, images, "--masking.ratio", "0.5", "--train.epochs", "6", check=False))
    assert "masking.ratio was 0.75, is now 0.5" in line
    line = refusal(train(run, images, "--run.resume", "False", check=False))
    assert "run.resume is False, but" in line


def test_a_run_starts_from_given_weights(undisturbed, images, tmp_path):
    """At a learning rate of 0 they stay; and a run that has started is no longer its `run.init`'s."""
    run, weights = tmp_path / "run", ["--run.init", str(undisturbed)]
    result = train(run, images, *weights, "--optim.blr", "0", "--run.stop_after", "1")
    assert f"at first those of {undisturbed}" in result.stdout
    given, kept = (checkpoint.load(folder / "checkpoints") for folder in (undisturbed, run))
    assert kept.step == 1 and kept.state["scalars"]["optimizer_step"] == 1
    assert all(torch.equal(kept.state["model"][name], tensor) for name, tensor in given.state["model"].items())
    train(run, images, "--run.init", str(tmp_path / "gone"), "--run.stop_after", "2")

    converted = tmp_path / "converted"
    checkpoint.save(converted / "checkpoints", 0, {"model": given.state["model"]}, given.meta, keep=1)
    for words, message in [
        ((tmp_path / "a", "--run.init", tmp_path / "gone"), "run.init: expected a run folder with checkpoints"),
        ((tmp_path / "b", *weights, "--encoder.depth", "1"), "here missing"),
        ((converted,), "give its run folder as run.init"),
    ]:
        result = train(words[0], images, *map(str, words[1:]), check=False)
        assert result.returncode == 2 and message in result.stderr.splitlines()[-1], result.stderr


def test_one_folder_one_run(images, tmp_path):
    run = tmp_path / "run"
    first = subprocess.Popen(
        [sys.executable, *command(run, images, "--train.epochs", "3000")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
    )
    wait_for(lambda: (run / "trace.jsonl").exists())
    second = train(run, images, check=False)
    first.kill()
    first.wait()
    assert second.returncode == 2 and "is in use by process" in second.stderr.splitlines()[-1]


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def processes(word: str) -> list[int]:
    """Live processes with a word in their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (
                word in (folder / "cmdline").read_text()
                and (folder / "stat").read_text().split(")")[1].split()[0] != "Z"
            ):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def wait_for(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
