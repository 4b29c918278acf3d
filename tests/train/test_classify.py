"""Tests of fine-tuning and linear probe: learn, stop, resume, count every test image once, refuse."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastmim.bittrace import diff
from fastmim.data import availability
from fastmim.data.manifest import Manifest
from fastmim.data.quarantine import BadFilesError, Quarantine
from fastmim.run import checkpoint
from fastmim.tasks.classify import FineTuning
from tests.methods.tiny import ROOT
from tests.train import launched
from tests.train.launched import refusal, result, rows

CONFIGS = ROOT / "configs/debug"
SMALL = "--encoder.depth 2 --encoder.embed-dim 32 --encoder.num-heads 2 --data.size 32 32 --encoder.patch-size 8 "
SMALL += "--optim.blr 1e-3 --train.global_batch 16 --train.epochs 4 --run.init None --run.log_every 4 --run.trace True"
EVERYTHING = "--augment.rand_augment rand-m9-mstd0.5-inc1 --augment.erase 0.5 --augment.mixup 0.8 --augment.cutmix 1.0 "
EVERYTHING += "--ema.decay 0.9 --ema.warmup_epochs 2 --data.repeats 2 --data.repeats_together True"
CLASSES = {"bright": 200, "dark": 60, "middle": 130}
PER_CLASS = 24


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Makes images of noise. Each class has another brightness."""
    folder, generator = tmp_path_factory.mktemp("labelled"), np.random.default_rng(0)
    for part, count in (("train", PER_CLASS), ("test", 50)):
        for name, level in CLASSES.items():
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(generator.normal(level, 40, (40, 40, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{i}.png")
    return folder


def words(images: Path, run: Path, *args: str, config="cifar10_finetune_vit", model=SMALL) -> list[str]:
    parts = ["--data.root", str(images / "train"), "--data.test", str(images / "test"), "--run.dir", str(run)]
    return [str(CONFIGS / f"{config}.py"), *model.split(), *parts, *args]


def train(images: Path, run: Path, *args: str, **parts):
    launched.train(words(images, run, *args, **parts))


def train_on_two(images: Path, run: Path, *args: str, **parts):
    launched.train_on_two(words(images, run, *args, **parts), run.with_name(f"{run.name}-output"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, images):
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    train(images, run, *EVERYTHING.split())
    return run


def test_a_run_leaves_what_it_promises(undisturbed):
    found = result(undisturbed)
    assert found["images"] == 150 and 0 <= found["top1"] <= found["top5"] == 1.0
    assert found["hours"] > 0 and found["peak_bytes"] > 2**20 and found["updates"] == 4 * 72 // 16
    tested = [row for row in rows(undisturbed) if "test_top1" in row]
    assert [row["step"] for row in tested] == [18] and tested[0]["test_top1"] == found["top1"]


def test_a_run_that_was_stopped_goes_on_bit_for_bit(undisturbed, images, tmp_path):
    run = tmp_path / "run"
    train(images, run, *EVERYTHING.split(), "--run.stop_after", "7")
    assert not (run / "result.json").exists()
    train(images, run, *EVERYTHING.split())
    assert diff(undisturbed / "trace.jsonl", run / "trace.jsonl") is None
    once, again = (checkpoint.load(folder / "checkpoints").state for folder in (undisturbed, run))
    assert once["ema"] and all(torch.equal(once[kind][n], again[kind][n]) for kind in once for n in once[kind])
    assert {n: v for n, v in result(run).items() if n in ("top1", "top5", "loss")} == {
        n: v for n, v in result(undisturbed).items() if n in ("top1", "top5", "loss")
    }


@pytest.mark.costly("processes", "one process, then two ranks")
def test_it_learns_and_processes_do_not_count(images, tmp_path):
    """Two processes get uneven shares of 150 test images, in pieces of 128. Each image counts once."""
    fast = ["--head.init_std", "0.01", "--optim.blr", "0.05", "--optim.layer_decay", "1", "--train.epochs", "12"]
    train(images, tmp_path / "one", *fast)
    assert result(tmp_path / "one")["top1"] > 0.9
    # Training is finished, so the same weights are tested again.
    shutil.copytree(tmp_path / "one/checkpoints", tmp_path / "two/checkpoints")
    train_on_two(images, tmp_path / "two", *fast)
    one, two = result(tmp_path / "one"), result(tmp_path / "two")
    assert (one["processes"], two["processes"]) == (1, 2)
    assert (one["top1"], one["top5"]) == (two["top1"], two["top5"])
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-12)


@pytest.mark.costly("processes", "two ranks")
def test_two_processes_train_on_the_same_samples(undisturbed, images, tmp_path):
    train_on_two(images, tmp_path / "two", *EVERYTHING.split())
    assert diff(undisturbed / "trace.jsonl", tmp_path / "two/trace.jsonl", ("samples",)) is None


RESNET = (
    "--encoder.depths 1 1 1 1 --encoder.dims 8 8 16 16 --data.size 32 32 --train.global_batch 16 --train.epochs 12 "
)
RESNET += "--train.epochs 12 --train.micro_batch 16 --run.init None --run.log_every 4 --run.trace True"


@pytest.mark.costly("model", "a linear layer must learn, twice")
def test_a_probe_of_a_resnet(images, tmp_path):
    """Random features are enough for a linear layer. Frozen parts keep their calibration. The probe resumes."""
    learn = ["--optim.blr", "100", "--train.epochs", "40"]
    for name, stops in (("whole", [[]]), ("parts", [["--run.stop_after", "70"], []])):
        for stop in stops:
            train(images, tmp_path / name, *learn, *stop, config="cifar10_probe_resnet", model=RESNET)
    assert result(tmp_path / "whole")["top1"] > 0.6
    assert diff(tmp_path / "whole/trace.jsonl", tmp_path / "parts/trace.jsonl") is None
    whole, parts = (checkpoint.load(tmp_path / name / "checkpoints").state for name in ("whole", "parts"))
    assert set(whole["momentum_buffer"]) == {"fc.weight", "fc.bias"}
    assert all(torch.equal(whole[kind][n], parts[kind][n]) for kind in whole for n in whole[kind])
    assert result(tmp_path / "whole")["top1"] == result(tmp_path / "parts")["top1"]


def test_lamb_and_binary_cross_entropies_resume(images, tmp_path):
    model = RESNET.replace("epochs 12", "epochs 4") + " --optim.algorithm lamb --augment.loss bce --augment.cutmix 1"
    train(images, tmp_path / "whole", config="cifar10_finetune_resnet", model=model)
    train(images, tmp_path / "parts", "--run.stop_after", "7", config="cifar10_finetune_resnet", model=model)
    train(images, tmp_path / "parts", config="cifar10_finetune_resnet", model=model)
    assert diff(tmp_path / "whole/trace.jsonl", tmp_path / "parts/trace.jsonl") is None


@pytest.mark.costly("processes", "two ranks train a ResNet")
def test_batch_norms_of_two_processes_are_the_first_s(images, tmp_path):
    """Each process saw other images. Without the copy, each would test with its own statistics."""
    small = [*RESNET.replace("micro_batch 16", "micro_batch 8").split(), "--ema.decay", "0.5"]
    train_on_two(images, tmp_path / "two", config="cifar10_finetune_resnet", model=" ".join(small))
    shutil.copytree(tmp_path / "two/checkpoints", tmp_path / "one/checkpoints")
    train(images, tmp_path / "one", config="cifar10_finetune_resnet", model=" ".join(small))
    two, one = result(tmp_path / "two"), result(tmp_path / "one")
    assert one["top1"] == two["top1"] and one["loss"] == pytest.approx(two["loss"], rel=1e-12)


EXACT = ["--train.epochs", "2", "--encoder.drop_path", "0"]  # drop path depends on the process


@pytest.mark.costly("processes", "two ranks at each stage of ZeRO")
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_stages_agree(stage, images, tmp_path, plain):
    """Two processes with uneven test pieces give the result of one process, at every ZeRO stage."""
    train_on_two(images, tmp_path / "run", "--train.zero_stage", str(stage), *EXACT)
    assert result(tmp_path / "run")["loss"] == pytest.approx(result(plain)["loss"], rel=1e-4)


@pytest.fixture(scope="module")
def plain(tmp_path_factory, images):
    run = tmp_path_factory.mktemp("runs") / "plain"
    train(images, run, *EXACT)
    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--optim.algorithm lamb --train.zero_stage 2", "algorithm=lamb needs train.zero_stage=0, got 2: ZeRO"),
        ("--optim.algoritm lamb", "--optim.algoritm: no such setting; nearest: --optim.algorithm"),
        ("--optim.algorithm lamp", "nearest: lamb"),
        ("--train.global_batch 15 --augment.mixup 0.8", "must be even, got 15"),
        ("--augment.rand_augment m9", "timm's form, such as rand-m9-mstd0.5-inc1, got 'm9'"),
        ("--augment.rand_augment rand-m9 --augment.color_jitter 0.4", "augment.color_jitter"),
        ("--data.test_size 64 64", "needs a convolutional network"),
        ("--data.held_out 3", "--data.held_out: no such setting; here: --data.test"),
        ("--ema.decay 0.9 --train.zero_stage 3", "ema.decay needs train.zero_stage below 3"),
        ("--data.test {root}", "expected one folder for each class"),
        ("--data.test {root}/other", "class 0 is 'blue' there and 'bright' in"),
        ("--data.test {root}/other/list.txt", "has images of class 7, of which"),
        ("--run.init {root}", "expected a run folder with checkpoints"),
        ("--head.pool max", "expected one of mean, cls"),
    ],
)
def test_refusals(arguments, message, images, tmp_path):
    """A refusal is one line, before training begins."""
    for name in ("blue", "red"):
        (images / "other" / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40)).save(images / f"other/{name}/0.png")
    (images / "other/list.txt").write_text("blue/0.png 7\nred/0.png 7\n")
    assert message in refusal(words(images, tmp_path / "run", *arguments.format(root=images).split()))


def test_a_bad_image_gives_way_to_one_of_its_class(images):
    manifest = Manifest.scan(str(images / "train"))
    labels = torch.tensor(manifest.labels)
    quarantine = Quarantine(manifest, 0, labels=labels)
    for bad in (0, 30, 60):
        quarantine.add(bad, "broken")
        good = quarantine.resolve(bad, torch.arange(len(manifest)))
        assert good != bad and labels[good] == labels[bad]
    with pytest.raises(BadFilesError, match=r"cannot be used \(broken\); run `fastmim doctor`"):
        quarantine.resolve(0, torch.empty(0, dtype=torch.int64))


def test_other_labels_end_a_resumed_run(undisturbed, images, tmp_path):
    """The images are the same, but a list file has another label for one image."""
    shutil.copytree(undisturbed, tmp_path / "run")
    folder, manifest = images / "train", Manifest.scan(str(images / "train"))
    labels = [1 - manifest.labels[0], *manifest.labels[1:]]
    lines = [f"{path} {label}\n" for path, label in zip(manifest.paths, labels, strict=True)]
    (folder / "list.txt").write_text("".join(lines))
    line = refusal(words(images, tmp_path / "run", "--data.root", str(folder / "list.txt")))
    assert "list.txt has changed since" in line and "(labels: now" in line, line


@pytest.fixture
def own(images, tmp_path):
    """Copies the images, so that a test can spoil them."""
    shutil.copytree(images, tmp_path / "images")
    return tmp_path / "images"


BRIEF = ("--train.epochs", "2", "--data.loader", "pillow")  # nine updates


def test_broken_test_images_are_left_out_and_named(own, tmp_path):
    """One file is bad by its header, before training. Only decoding finds the damage of the other."""
    (own / "test/bright/3.png").write_bytes(b"no picture")
    whole = (own / "test/dark/5.png").read_bytes()
    middle = len(whole) // 2
    (own / "test/dark/5.png").write_bytes(whole[:middle] + bytes(64) + whole[middle + 64 :])
    done = launched.train(words(own, tmp_path / "run", *BRIEF))
    lines = done.stdout.splitlines()
    first = next(i for i, line in enumerate(lines) if "1 of 150 test images are left out" in line)
    logged = next(i for i, line in enumerate(lines) if line.startswith("4/9"))
    assert "bright/3.png: " in lines[first] and first < logged
    assert any("2 of 150 test images are left out" in line and "dark/5.png: " in line for line in lines[first + 1 :])
    found = result(tmp_path / "run")
    assert (found["images"], found["bad_images"]) == (148, 2)
    named = (tmp_path / "run/bad_test_files.jsonl").read_text().splitlines()
    assert [json.loads(line)["path"] for line in named] == ["bright/3.png", "dark/5.png"]


def test_too_many_broken_test_images_are_refused_before_training(own, tmp_path):
    for i in range(20):
        (own / f"test/bright/{i}.png").write_bytes(b"no picture")
    line = refusal(words(own, tmp_path / "run", *BRIEF))
    assert "data.test: 20 of 150 images in" in line and "more than data.bad_budget=0.1" in line
    assert not (tmp_path / "run/checkpoints").exists()


def test_five_answers_of_three_classes_are_no_score(images, tmp_path):
    said = launched.train(words(images, tmp_path / "run", *BRIEF)).stdout
    assert "top-1 " in said and "top-5" not in said


def test_a_test_set_that_tests_little_is_said(own, tmp_path):
    brief = (*BRIEF, "--run.stop_after", "1")
    done = launched.train([*words(own, tmp_path / "a", *brief), "--data.test", str(own / "train")])
    assert "warning: data.test holds the images of data.root" in done.stdout
    assert (
        "top-1 " in (done := launched.train(words(own, tmp_path / "c", *BRIEF))).stdout and "top-5" not in done.stdout
    )
    shutil.rmtree(own / "test/dark")
    (own / "list.txt").write_text("".join(f"test/bright/{i}.png 0\n" for i in range(5)))
    done = launched.train([*words(own, tmp_path / "b", *brief), "--data.test", str(own / "list.txt")])
    assert "warning: data.test has no image of 2 of the 3 classes in data.root (such as class 1)" in done.stdout


def test_a_test_folder_that_goes_away_costs_no_training(own, tmp_path, monkeypatch):
    """No evaluation ends the run before it is saved. The same command tests later."""
    original = FineTuning.train_step

    def train_step(self, step, batches):
        if step == 1:
            (own / "test").rename(own / "away")
        return original(self, step, batches)

    monkeypatch.setattr(FineTuning, "train_step", train_step)
    monkeypatch.setattr(availability, "MAX_WAIT", 0.1)
    arguments = words(own, tmp_path / "run", *BRIEF, "--run.evaluate_every", "4")
    done = launched.train(arguments, check=False)
    assert done.returncode == 1 and "without the test score: the same command tries again" in done.stderr
    assert done.stdout.count("evaluation failed (data folder") == 2
    assert checkpoint.load(tmp_path / "run/checkpoints").step == 9
    monkeypatch.undo()
    (own / "away").rename(own / "test")
    launched.train(arguments)
    assert result(tmp_path / "run")["images"] == 150


@pytest.mark.parametrize(
    ("error", "words_for_it"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "out of memory"),
        (OSError(28, "No space left on device", "x"), "No space left on device: x"),
        (RuntimeError("<object at 0x7f00>\nfailed"), "<object> failed"),
    ],
)
def test_a_failed_evaluation_costs_a_line(error, words_for_it, images, tmp_path, monkeypatch):
    original, calls = FineTuning.score, []

    def score(self):
        calls.append(self)
        if len(calls) == 1:
            raise error
        return original(self)

    monkeypatch.setattr(FineTuning, "score", score)
    done = launched.train(words(images, tmp_path / "run", *BRIEF, "--run.evaluate_every", "4"))
    assert f"warning: the evaluation failed ({words_for_it}); training goes on" in done.stdout
    assert [row["step"] for row in rows(tmp_path / "run") if "test_top1" in row] == [8, 9]


@pytest.mark.costly("processes", "two ranks")
def test_an_evaluation_that_fails_in_one_process_fails_in_all(own, tmp_path):
    """No process waits for another. All leave out a bad image of one process."""
    whole = (own / "test/dark/5.png").read_bytes()
    middle = len(whole) // 2
    (own / "test/dark/5.png").write_bytes(whole[:middle] + bytes(64) + whole[middle + 64 :])
    arguments = words(own, tmp_path / "run", *BRIEF, "--run.evaluate_every", "4", "--train.device", "cpu")
    with launched.Forks(tmp_path / "output", 2, failing_once, arguments) as forks:
        forks.check()
        text = forks.outputs[0].read_text()
    assert "warning: the evaluation failed (process 1: out of memory); training goes on" in text
    assert (result(tmp_path / "run")["images"], result(tmp_path / "run")["processes"]) == (149, 2)


def failing_once(arguments: list[str]) -> None:
    """Trains with a failure in the second process's first evaluation."""
    from fastmim import train

    original = FineTuning.sum_over_test

    def sums(self, module):
        FineTuning.sum_over_test = original
        if self.process.rank == 1:
            raise MemoryError
        return original(self, module)

    FineTuning.sum_over_test = sums
    train.main(arguments)


def test_a_bad_training_image_does_not_stop_a_probe_of_batch_norms(own, tmp_path):
    (own / "train/dark/5.png").write_bytes(b"no picture")
    train(own, tmp_path / "run", "--train.epochs", "1", config="cifar10_probe_resnet", model=RESNET)
    assert result(tmp_path / "run")["images"] == 150
