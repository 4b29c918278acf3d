"""Tests of log lines: speed without pauses, whole files, no crash on a full disk."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fastmim.config.config_file import load
from fastmim.run import console
from fastmim.run import meter as metering
from fastmim.run.console import duration
from fastmim.run.meter import Meter
from fastmim.run.metrics import read_metrics

CONFIG = load(Path(__file__).parents[2] / "configs/debug/tiny_cpu.py")  # 32 images an update


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets by its field `now`."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(metering, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


@pytest.fixture
def meter(tmp_path, clock):
    with Meter(tmp_path, 0, 100, CONFIG, torch.device("cpu"), True) as meter:
        yield meter


def update(meter, loss=1.0, skipped=False):
    meter.update(torch.tensor(loss), torch.tensor(1.0), torch.tensor(skipped))


def rows(meter):
    return read_metrics(meter.folder)


def test_speed_counts_waiting_for_the_device_and_leaves_out_saving(meter, clock):
    for _ in range(3):
        clock.now += 0.1  # training
        update(meter)
        with meter.paused():
            clock.now += 0.1  # reading waits for the device, so this time counts as training
            meter.read()
            meter.log(loss=1.0, grad_norm=1.0, lr=0.1, epoch=0.0, updates=1, bad_files=0)
            clock.now += 0.3  # a checkpoint
    for row in rows(meter):
        assert row["images_per_s"] == pytest.approx(32 / 0.2, rel=0.01)


def test_share_of_time_waiting_for_data(meter, clock):
    def slow():
        for _ in range(2):
            clock.now += 0.1
            yield 0

    for _ in meter.waiting(slow()):
        clock.now += 0.3
    meter.log(loss=1.0, grad_norm=1.0, lr=0.1, epoch=0.0, updates=2, bad_files=0)
    assert rows(meter)[0]["data_wait"] == pytest.approx(0.25, abs=0.01)


def test_skips_are_counted_in_a_row_and_named(meter, capsys):
    names = lambda step: [f"{step}-{i}.jpg" for i in range(5)]  # noqa: E731
    assert meter.log_skips(10, [True, False, True, True], names) == 2
    assert meter.log_skips(14, [True], names) == 3
    assert meter.log_skips(15, [False], names) == 0
    stored = [json.loads(line) for line in (meter.folder / "skipped.jsonl").read_text().splitlines()]
    assert [row["step"] for row in stored] == [10, 12, 13, 14] and stored[0]["images"] == names(10)
    assert "update 12 skipped: non-finite loss or gradient on 12-0.jpg" in capsys.readouterr().out


def test_non_finite_numbers_are_valid_json(meter):
    meter.write({"step": 1, "loss": float("nan"), "grad_norm": float("inf"), "lr": 0.1})
    assert rows(meter) == [{"step": 1, "loss": None, "grad_norm": None, "lr": 0.1}]


def test_a_failing_picture_costs_a_warning_until_it_can_be_written(meter, capsys):
    for fails in (True, True, False, True):
        with meter.attempt("the picture"):
            if fails:
                raise OSError(28, "No space left on device", "grids/1.png")
    warning = "warning: the picture could not be written (No space left on device); training goes on\n"
    assert capsys.readouterr().out == 2 * warning


def test_a_continued_run_drops_what_it_repeats(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    with Meter(tmp_path, 2, 100, CONFIG, torch.device("cpu"), True) as meter:
        assert [row["step"] for row in rows(meter)] == [1, 2]


def test_what_a_run_says_reaches_the_terminal_as_plain_characters(meter, tmp_path, capsys):
    meter.say("bad: a\x1b[31m\udcff.jpg\nsecond line")
    console.announce(tmp_path, {"images": "in new\nline\x07"}, {})
    first, second, third = capsys.readouterr().out.splitlines()
    assert (first, second) == ("bad: a\\x1b[31m\\xff.jpg", "second line")
    assert third == "images  in new\\nline\\x07"


def test_durations():
    assert [duration(s) for s in (5, 65, 3725)] == ["0m05s", "1m05s", "1h02m"]


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (0.4, "20% below interpolation, the best of them"),
        (0.7, "below mean patch and zero, not yet below interpolation"),
        (1.5, "below none of them; 50.0 % above zero"),
        (float("nan"), "the loss is not finite"),
    ],
)
def test_a_verdict_names_the_predictors_that_are_beaten(meter, capsys, loss, said):
    meter.log_held_out(loss, {"zero": 1.0, "mean_patch": 0.9, "interpolation": 0.5})
    assert capsys.readouterr().out.endswith(f"; {said}\n")


def test_what_goes_on_between_lines_is_said(meter, clock, capsys):
    meter.accumulation = 64

    def slow():
        meter.print_state(31.0)
        yield from range(3)

    batches = meter.waiting(slow())
    next(batches)
    assert "update 1 of 100: waiting for images; the last line was 0m31s ago" in capsys.readouterr().out
    meter.print_state(31.0)
    assert "update 1 of 100: its first micro-batch is under way" in capsys.readouterr().out
    clock.now += 31
    next(batches)
    meter.print_state(31.0)
    assert "update 1 of 100: 1 of 64 micro-batches in 0m31s; an update takes 33m04s" in capsys.readouterr().out
    update(meter)
    meter.print_state(31.0)
    assert "update 1 of 100 is done: evaluating or saving; the last line was 0m31s ago" in capsys.readouterr().out


def test_a_loss_that_rises_is_said_with_what_to_change(meter, clock, capsys):
    for loss in (1.08, 56.0, 8.3):
        clock.now += 1
        meter.log(loss=loss, averaged=1, grad_norm=1.0, lr=0.1, epoch=0.0, updates=1, bad_files=0)
    said = capsys.readouterr().out
    assert said.count("warning: the loss has risen to 56 from 1.08 at the start: training diverges.") == 1
    assert "Lower optim.blr (now 0.001)" in said and "optim.clip (now None)" in said


def curve_of(run, rows, part, monkeypatch):
    """Returns title, axes, legend and points of a drawn curve."""
    from fastmim.analysis.loss_curve import plot_curve

    found = []
    run.mkdir(exist_ok=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "config.json").write_text(json.dumps({"part": part}))
    monkeypatch.setattr("matplotlib.pyplot.close", found.append)
    plot_curve(run)
    (figure,) = found
    axes = figure.axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    return axes.get_title(), [each.get_ylabel() for each in figure.axes], labels, axes.lines[0].get_xydata().tolist()


def test_a_curve_is_of_its_task(tmp_path, monkeypatch):
    losses = [{"step": step, "loss": 1 / step, "updates": 2, "averaged": 2} for step in (2, 4)]
    probe = [*losses, {"step": 4, "test_top1": 0.5, "test_loss": 1.0}]
    title, axes, labels, _ = curve_of(tmp_path / "a", probe, "Probe", monkeypatch)
    assert title == "a: linear probe" and axes == ["classification loss", "test score, %"]
    assert labels == ["training images", "top-1 accuracy, test images"]
    boxes = [*losses, {"step": 4, "test_bbox_AP": 0.5, "test_segm_AP": None}]
    title, axes, labels, _ = curve_of(tmp_path / "b", boxes, "Detect", monkeypatch)
    assert title == "b: detection" and labels == ["training images", "box AP, test images"]
    pretraining = [*losses, {"step": 4, "held_out": 0.5, "trivial": {"zero": 1.0}}]
    title, axes, labels, _ = curve_of(tmp_path / "c", pretraining, "Config", monkeypatch)
    assert title == "c: pre-training" and axes == ["loss on hidden patches"]


def test_a_curve_has_no_kink_where_a_run_stopped(tmp_path, monkeypatch):
    rows = [
        {"step": 4, "loss": 2.5, "updates": 4, "averaged": 4},
        {"step": 5, "loss": 9.0, "updates": 1, "averaged": 1},
        {"step": 8, "loss": 2.0, "updates": 3, "averaged": 4},
        {"step": 9, "loss": 1.0, "updates": 1, "averaged": 1},
    ]
    assert curve_of(tmp_path / "run", rows, "Config", monkeypatch)[3] == [[4, 2.5], [8, 2.0], [9, 1.0]]
