"""Tests of whole runs of train.py: they stop, continue, refuse and survive."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastmim.bittrace import diff
from fastmim.data.demo import write_demo_images
from fastmim.run import checkpoint, trace
from fastmim.run.trace import Trace
from tests.methods.tiny import ROOT
from tests.train import launched
from tests.train.launched import Forks, refusal, rows, start, wait_for
from tests.train.test_records import full_disk

CONFIG = ROOT / "configs/debug/tiny_cpu.py"
# Not "auto", which may mean bf16. Then another split of the batch would round differently. The tolerance is for fp32.
SMALL = "--train.precision fp32 --encoder.depth 2 --encoder.embed_dim 32 --encoder.patch_size 8 --train.epochs 3 "
SMALL += "--train.global_batch 16 --run.save_every 4 --run.log_every 2"
STEPS = 3 * 56 // 16


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    write_demo_images(str(folder), 64, (48, 48))
    return folder


def words(run: Path, images: Path, *args: str) -> list[str]:
    small = [*SMALL.split(), "--data.root", str(images), "--data.size", "32", "32"]
    return [str(CONFIG), *small, "--run.dir", str(run), "--run.trace", "True", "--run.evaluate_every", "5", *args]


def train(run: Path, images: Path, *args: str, check: bool = True) -> subprocess.CompletedProcess:
    return launched.train(words(run, images, *args), check)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, images):
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    result = train(run, images)
    assert f"updates        {STEPS}" in result.stdout
    return run


def test_a_run_leaves_what_it_promises(undisturbed):
    import timm

    facts = json.loads((undisturbed / "facts.json").read_text())
    assert facts["loss"].endswith("fused patch_loss (cpp)") and facts["devices"].startswith("1 x CPU")
    found = rows(undisturbed)
    assert [r["step"] for r in found if "loss" in r] == [2, 4, 6, 8, STEPS]
    assert {"loss", "lr", "grad_norm", "images_per_s", "seconds_left", "peak_bytes", "data_wait"} <= found[0].keys()
    held_out = [r for r in found if "held_out" in r]
    assert [r["step"] for r in held_out] == [5, STEPS]
    assert held_out[0]["trivial"].keys() == {"zero", "mean_patch", "interpolation"}
    assert sorted(p.name for p in (undisturbed / "grids").iterdir()) == ["00000005.png", f"{STEPS:08d}.png"]
    assert sorted(p.name for p in (undisturbed / "checkpoints").iterdir()) == [
        "latest",
        "step-00000008",
        f"step-{STEPS:08d}",
    ]
    encoder = timm.create_model(f"local-dir:{undisturbed / 'encoder'}", pretrained=True)
    assert encoder(torch.zeros(1, 3, 32, 32)).shape == (1, 32)


def test_stopped_and_continued_is_bit_identical(undisturbed, images, tmp_path):
    result = train(tmp_path / "run", images, "--run.stop_after", "5")
    assert f"stopped at update 5 of {STEPS}" in result.stdout
    train(tmp_path / "run", images)
    assert diff(undisturbed / "trace.jsonl", tmp_path / "run/trace.jsonl") is None
    # Lines after the stop average as many updates as without the stop.
    once, again = ({r["step"]: r["loss"] for r in rows(run) if "loss" in r} for run in (undisturbed, tmp_path / "run"))
    assert set(again) - set(once) == {5}
    assert [again[step] for step in once] == pytest.approx(list(once.values()), rel=1e-5)


@pytest.mark.costly("processes", "two ranks; the first test of ranks imports all that they need")
def test_two_processes_see_the_same_samples_and_masks(undisturbed, images, tmp_path):
    """A single process trains up to update 4, then two at ZeRO stage 2 with accumulation."""
    run = tmp_path / "run"
    train(run, images, "--run.stop_after", "4")
    two = words(run, images, "--train.micro_batch", "4", "--train.zero_stage", "2")
    launched.train_on_two(two, tmp_path / "output")
    assert_same_training(undisturbed, run, STEPS)


def assert_same_training(one: Path, other: Path, steps: int) -> None:
    """Checks that samples and masks of the first updates are equal, and losses are close."""
    found = [list(trace.read(run / "trace.jsonl"))[:steps] for run in (one, other)]
    fields = [[(line["step"], line["samples"], line["masks"]) for line in lines] for lines in found]
    assert len(fields[0]) == steps and fields[0] == fields[1]
    losses = [torch.tensor([float.fromhex(line["loss"]) for line in lines]) for lines in found]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)


@pytest.mark.costly("processes", "deepspeed starts two ranks: four processes that import it")
def test_under_the_launcher(images, tmp_path):
    """Two ranks continue the run of one process; after a SIGKILL to `deepspeed` they save and stop."""
    long = ("--train.epochs", "3000", "--run.save_every", "1000000")
    one, two = tmp_path / "one", tmp_path / "two"
    train(one, images, *long, "--run.stop_after", "2")
    shutil.copytree(one, two)
    train(one, images, *long, "--run.stop_after", "5")
    begun = lambda: lines(two / "trace.jsonl") >= 5  # noqa: E731
    with launched.launch(words(two, images, *long), 2, tmp_path / "output", begun) as launcher:
        launcher.kill()
    wait_for(lambda: not processes(str(two)))
    assert checkpoint.load(two / "checkpoints").step == lines(two / "trace.jsonl") >= 5
    assert_same_training(one, two, 5)


def test_damaged_side_files_do_not_keep_a_run_from_going_on(undisturbed, images, tmp_path):
    run = tmp_path / "run"
    train(run, images, "--run.stop_after", "5")
    for name in ("metrics.jsonl", "trace.jsonl"):
        lines = (run / name).read_bytes().splitlines(keepends=True)
        (run / name).write_bytes(b"".join([*lines[:1], b'{"step": "x"}\n\xff\x00\n[1', *lines[1:]]))
    (run / "bad_files.jsonl").mkdir()
    os.mkfifo(run / "skipped.jsonl")
    for name in ("facts.json", "config.json", "manifest.json"):
        (run / name).unlink()
        (run / name).mkdir()
    result = train(run, images)
    for name in ("metrics.jsonl", "trace.jsonl"):
        assert f"warning: {name} is damaged: its " in result.stdout
    for name in ("bad_files.jsonl", "skipped.jsonl", "facts.json", "config.json"):
        assert f"warning: {name}: expected a file" in result.stdout
    assert json.loads((run / "facts.json").read_text())["start"] == "update 5"
    states = [checkpoint.load(folder / "checkpoints").state["model"] for folder in (run, undisturbed)]
    assert all(torch.equal(states[0][name], tensor) for name, tensor in states[1].items())


def test_on_a_full_disk_a_run_trains_and_says_at_the_end_that_nothing_is_saved(images, tmp_path):
    with full_disk(0):
        result = train(tmp_path / "run", images, "--run.stop_after", "4", "--run.log_every", "1", check=False)
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert result.stderr.startswith("train.py: update 4 is not saved")
    for name in ("facts.json", "config.json", "metrics.jsonl", "trace.jsonl"):
        assert result.stdout.count(f"warning: {name} could not be written (File too large)") == 1, name
    assert "4/10  loss" in result.stdout and "Traceback" not in result.stdout


def test_a_run_whose_output_nobody_takes_finishes(images, tmp_path, monkeypatch):
    """Standard output is a closed pipe here."""
    reads, writes = os.pipe()
    os.close(reads)
    from fastmim.train import main

    with launched.restored(), open(writes, "w") as output, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", output)
        with pytest.raises(SystemExit) as ended:
            main([*words(tmp_path / "run", images, "--run.stop_after", "2"), "--train.device", "cpu"])
    assert ended.value.code == 0 and checkpoint.load(tmp_path / "run/checkpoints").step == 2


def train_signalled(number: int, words: list[str]) -> None:
    """Trains, and sends itself a signal after the second update, which stops the run after the third."""
    from fastmim import train
    from fastmim.tasks import trainer

    class Signalled(Trace):
        def record(self, update):
            super().record(update)
            if update.step == 1:
                os.kill(os.getpid(), number)

    trainer.Trace = Signalled
    train.main(words)


@pytest.mark.costly("processes", "a signal is sent to a process that trains")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_ends_well(undisturbed, images, tmp_path, number):
    run = tmp_path / "run"
    stopped = words(run, images, "--run.save_every", "1000", "--train.device", "cpu")
    with Forks(tmp_path / "output", 1, train_signalled, number, stopped) as forks:
        forks.check()
        assert f"stopped at update 3 of {STEPS} ({number.name})" in forks.outputs[0].read_text()
    assert (run / "checkpoints/latest").is_file()
    train(run, images)
    assert diff(undisturbed / "trace.jsonl", run / "trace.jsonl") is None


@pytest.mark.costly("processes", "starts train.py as a person does")
def test_one_folder_one_run_until_a_signal(images, tmp_path):
    run = tmp_path / "run"
    endless = words(run, images, "--train.epochs", "3000", "--run.save_every", "1000000")
    first = start(endless, stdout=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: lines(run / "trace.jsonl") >= 2 or first.poll() is not None)
        assert f"is in use by process {first.pid}" in refusal(words(run, images))
        first.terminate()
        output = first.communicate(timeout=launched.PATIENCE)[0]
    finally:
        first.kill()
    assert first.returncode == 0 and "(SIGTERM)" in output
    assert checkpoint.load(run / "checkpoints").step == lines(run / "trace.jsonl")


def test_reference_kernels_give_the_same_losses(undisturbed, images, tmp_path):
    train(tmp_path / "run", images, "--train.kernels", "reference")
    found = [[row["loss"] for row in rows(run) if "loss" in row] for run in (undisturbed, tmp_path / "run")]
    losses = map(torch.tensor, found)
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)


def test_non_finite_losses_are_skipped_named_and_stop_the_run(images, tmp_path):
    run = tmp_path / "run"
    settings = ["--optim.blr", "1", "--optim.blr=1e30", "--train.max_skipped", "3", "--run.log_every", "100"]
    result = train(run, images, *settings, check=False)
    assert result.returncode == 1
    assert "--optim.blr is given more than once: the last value counts" in result.stdout
    assert len((run / "skipped.jsonl").read_text().splitlines()) == 3
    # The checkpoint of update 4 holds the weights with which all later updates are skipped.
    assert "3 updates in a row skipped" in result.stdout and "There is no earlier checkpoint." in result.stdout
    first = json.loads((run / "skipped.jsonl").read_text().splitlines()[0])
    assert len(first["images"]) == 16 and all(Path(name).is_file() for name in first["images"])


def test_what_cannot_be_done_is_refused_in_one_line(undisturbed, images, tmp_path):
    def refused(*arguments):
        return refusal(words(*arguments))

    assert "no folder" in refused(tmp_path / "a" / "b", tmp_path / "nowhere")
    line = refused(tmp_path / "a" / "b", images, "--train.micro_batch", "5")
    assert "train.micro_batch=5" in line and "use" in line
    assert "needs train.zero_stage" in refused(tmp_path / "a" / "b", tmp_path / "nowhere", "--train.offload", "True")
    assert "outside data.root" in refused(images / "run", images)
    assert not (tmp_path / "a").exists() and not (images / "run").exists()
    (tmp_path / "mine").mkdir()
    assert "optim.no_decay" in refused(tmp_path / "mine", images, "--optim.no_decay", "nothing")
    assert not list((tmp_path / "mine").iterdir())
    (tmp_path / "file").touch()
    assert "run.dir" in (line := refused(tmp_path / "file", images)) and "found a file" in line
    (tmp_path / "loop").symlink_to("loop")
    assert "run.dir" in refused(tmp_path / "loop", images)
    changed = tmp_path / "changed"
    shutil.copytree(images, changed)
    next(changed.glob("*.jpg")).unlink()
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    assert "has changed since" in refused(run, changed, "--train.epochs", "6")
    line = refused(run, images, "--masking.ratio", "0.5", "--train.seed", "9", "--train.epochs", "6")
    assert "masking.ratio was 0.75, is now 0.5, train.seed was 0, is now 9" in line
    assert "run.resume is False, but" in refused(run, images, "--run.resume", "False")


def test_a_run_starts_from_given_weights(undisturbed, images, tmp_path):
    """At a learning rate of 0 the weights stay. A run that has started needs its `run.init` no more."""
    run, weights = tmp_path / "run", ["--run.init", str(undisturbed)]
    result = train(run, images, *weights, "--optim.blr", "0", "--run.stop_after", "1")
    assert f"at first those of {undisturbed}" in result.stdout
    given, kept = (checkpoint.load(folder / "checkpoints") for folder in (undisturbed, run))
    assert kept.step == 1 and kept.state["scalars"]["optimizer_step"] == 1
    assert all(torch.equal(kept.state["model"][name], tensor) for name, tensor in given.state["model"].items())
    train(run, images, "--run.init", str(tmp_path / "gone"), "--run.stop_after", "2")

    converted = tmp_path / "converted"
    checkpoint.save(converted / "checkpoints", 0, {"model": given.state["model"]}, given.meta, keep=1)
    for arguments, message in [
        ((tmp_path / "a", "--run.init", tmp_path / "gone"), "run.init: expected a run folder with checkpoints"),
        ((tmp_path / "b", *weights, "--encoder.depth", "1"), "--encoder.depth 1 (command line), but the weights"),
        ((converted,), "give its run folder as run.init"),
    ]:
        assert message in refusal(words(arguments[0], images, *map(str, arguments[1:])))


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def processes(word: str) -> list[int]:
    """Returns the live processes with a word in their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if word in (folder / "cmdline").read_text() and "Z" not in (folder / "stat").read_text().rpartition(")")[2]:
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def test_the_last_good_checkpoint_is_one_from_before_the_skips(images, tmp_path):
    run = tmp_path / "run"
    train(run, images, "--run.stop_after", "4")
    done = train(run, images, "--optim.blr", "1e30", "--train.max_skipped", "3", "--run.save_every", "6", check=False)
    assert f"Last good checkpoint: update 4 in {run / 'checkpoints'}." in done.stdout
