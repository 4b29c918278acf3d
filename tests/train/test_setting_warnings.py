"""Tests that valid but meaningless settings are warned about before the first update, and that sound ones are not."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from fastmim.config.config_file import load
from fastmim.tasks import banner
from fastmim.tasks.setting_warnings import disk_warnings, setting_warnings
from tests.methods.tiny import ROOT
from tests.train import launched

TINY = load(ROOT / "configs/debug/tiny_cpu.py")  # 4 epochs, one of warm-up, 32 images an update
FINETUNE = load(ROOT / "configs/debug/cifar10_finetune_vit.py")


def found(config, images=1000):
    total = int(config.train.epochs * images // config.train.global_batch)
    return setting_warnings(config, images, total)


def changed(config=TINY, **sections):
    return replace(config, **{name: replace(getattr(config, name), **values) for name, values in sections.items()})


@pytest.mark.parametrize(
    ("sections", "images", "message"),
    [
        ({"optim": {"warmup_epochs": 40}}, 1000, "optim.warmup_epochs=40 is not shorter than train.epochs=4: the"),
        ({"optim": {"warmup_epochs": 4}}, 1000, "and never reaches its peak of 0.000125"),
        ({"optim": {"blr": 0.0}}, 1000, "the learning rate is 0 in the whole run, which learns nothing: optim.blr=0"),
        ({"train": {"epochs": 0.04}}, 1000, "none of the 1 updates is past the start of optim.warmup_epochs=1"),
        ({"train": {"global_batch": 4096, "epochs": 80}}, 1000, "is 4.1 times the 1000 training images, so"),
        ({"train": {"global_batch": 512}}, 1000, "the run has 7 updates (train.epochs=4 over 1000 images with"),
        ({"run": {"evaluate_every": 500}}, 1000, "run.evaluate_every=500 is more than the 125 updates of the run"),
        ({"run": {"stop_after": 500}}, 1000, "run.stop_after=500 has no effect: the run ends after 125 updates"),
        ({"data": {"held_out": 500}}, 400, "data.held_out=500 leaves 400 images to train on, fewer than are held out"),
        ({"optim": {"schedule": "multistep", "decay_epochs": (5.0,)}}, 1000, "start after train.epochs=4: the"),
    ],
)  # fmt: skip
def test_each_meaningless_setting_is_warned_about(sections, images, message):
    (line,) = [line for line in found(changed(**sections), images) if message in line]
    assert not found(TINY)
    assert line


def test_an_average_that_stays_at_the_start():
    (line,) = found(changed(FINETUNE, ema={"decay": 0.9999}))
    assert (
        "ema.decay=0.9999: after 375 updates the averaged weights, which are tested, are still 96% the initial" in line
    )
    assert not found(changed(FINETUNE, ema={"decay": 0.99}))


def test_a_disk_without_room_for_checkpoints(tmp_path, monkeypatch):
    assert not disk_warnings(tmp_path, 1000, 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**10, 10**10, 2**30))
    (line,) = disk_warnings(tmp_path, 86_000_000, 2)
    assert line.startswith("run.dir has 1.0 GiB free, and run.keep=2 needs 2.9 GiB for checkpoints")


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/*/*/*.py")), ids=lambda path: path.stem)
def test_published_recipes_get_no_warning(path):
    config = load(path)
    images = {"finetune": 1_281_167, "probe": 1_281_167, "pretrain": 1_281_167, "detect": 117_266, "segment": 20_210}
    assert not found(config, images[path.parent.name])


@pytest.mark.costly("model", "a run; the first one in a process imports all that training needs")
def test_warnings_and_the_highest_rate_are_printed_before_the_first_update(tmp_path):
    from fastmim.data.demo import write_demo_images

    write_demo_images(str(tmp_path / "images"), 24, (32, 32))
    words = [str(ROOT / "configs/debug/tiny_cpu.py"), "--data.root", str(tmp_path / "images"), "--run.dir"]
    words += [str(tmp_path / "run"), "--optim.warmup-epochs", "40", "--run.stop-after", "1", "--train.epochs", "20"]
    lines = launched.train([*words, "--encoder.depth", "1"]).stdout.splitlines()
    (rate,) = [line for line in lines if line.startswith("learning rate")]
    assert "5.63e-05 at most, never its peak of 0.000125 (blr 0.001 x 32 / 256), 40 of 20 epochs of warm-up" in rate
    (warning,) = [i for i, line in enumerate(lines) if line.startswith("warning: optim.warmup_epochs=40")]
    assert warning < next(i for i, line in enumerate(lines) if line.startswith("1/"))


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ({"min_lr": 1.0}, "; below optim.min_lr, which does not follow the batch size: lower it"),
        (
            {"min_lr": 1.0, "warmup_lr": 1.0},
            "; below optim.warmup_lr and optim.min_lr, which do not follow the batch size: lower them",
        ),
    ],
)
def test_absolute_rates_above_the_peak_are_named(rates, expected):
    assert banner.learning_rate(SimpleNamespace(config=changed(optim=rates), total=100)).endswith(expected)
