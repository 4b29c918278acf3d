"""Fine-tuning and linear probe as a person starts them: learn, stop, go on, count every test image once, refuse."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastmim import checkpoint
from fastmim.bittrace import diff
from fastmim.data.manifest import Manifest
from fastmim.data.quarantine import BadFilesError, Quarantine
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
    """Noise around a brightness that is the class's own."""
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
    """Test images are spread over two processes unevenly: 150 in pieces of 128. Each counts once."""
    fast = ["--head.init_std", "0.01", "--optim.blr", "0.05", "--optim.layer_decay", "1", "--train.epochs", "12"]
    train(images, tmp_path / "one", *fast)
    assert result(tmp_path / "one")["top1"] > 0.9
    # Nothing is left to train: the same weights, tested again.
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
    """Random features of brightness are enough for a linear layer; what is frozen stays as calibrated; it resumes."""
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
    """They saw other images: without that, each would test with its own."""
    small = [*RESNET.replace("micro_batch 16", "micro_batch 8").split(), "--ema.decay", "0.5"]
    train_on_two(images, tmp_path / "two", config="cifar10_finetune_resnet", model=" ".join(small))
    shutil.copytree(tmp_path / "two/checkpoints", tmp_path / "one/checkpoints")
    train(images, tmp_path / "one", config="cifar10_finetune_resnet", model=" ".join(small))
    two, one = result(tmp_path / "two"), result(tmp_path / "one")
    assert one["top1"] == two["top1"] and one["loss"] == pytest.approx(two["loss"], rel=1e-12)


EXACT = ["--train.epochs", "2", "--encoder.drop_path", "0"]  # which paths are dropped depends on the process


@pytest.mark.costly("processes", "two ranks at each stage of ZeRO")
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_stages_agree(stage, images, tmp_path, plain):
    """Two processes at every ZeRO stage, the test pieces divided unevenly, give what one gives."""
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
        ("--data.held_out 3", "data.held_out: expected 0, got 3"),
        ("--ema.decay 0.9 --train.zero_stage 3", "ema.decay needs train.zero_stage below 3"),
        ("--data.test {root}", "expected one folder for each class"),
        ("--data.test {root}/other", "class 0 is 'blue' there and 'bright' in"),
        ("--data.test {root}/other/list.txt", "has images of class 7, of which"),
        ("--run.init {root}", "expected a run folder with checkpoints"),
        ("--head.pool max", "expected one of mean, cls"),
    ],
)
def test_refusals(arguments, message, images, tmp_path):
    """One line, before anything has begun."""
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
    with pytest.raises(BadFilesError, match=r"cannot be used \(broken\); `fastmim doctor`"):
        quarantine.resolve(0, torch.empty(0, dtype=torch.int64))


def test_other_labels_end_a_resumed_run(undisturbed, images, tmp_path):
    """The same images, in a list file with another label for one of them."""
    shutil.copytree(undisturbed, tmp_path / "run")
    folder, manifest = images / "train", Manifest.scan(str(images / "train"))
    labels = [1 - manifest.labels[0], *manifest.labels[1:]]
    lines = [f"{path} {label}\n" for path, label in zip(manifest.paths, labels, strict=True)]
    (folder / "list.txt").write_text("".join(lines))
    line = refusal(words(images, tmp_path / "run", "--data.root", str(folder / "list.txt")))
    assert "list.txt has changed since" in line and "(labels: now" in line, line
