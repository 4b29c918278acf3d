"""Tests of the kill campaign's draws and counts, and of the committed results of all campaigns."""

import argparse
import os
import statistics
import subprocess
import sys
import warnings

import pytest
import torch

from bench import record
from fastmim.model.encoders import ResNet, UMSwin
from tests.campaign import fuzz, kills, ledger, proofs, rows, slow, transfer
from tests.methods.tiny import ROOT, ROWS

COMMAND = "python -m tests.campaign.kills --kills 50"


def test_the_committed_campaign_holds_and_says_when_it_is_stale():
    """The recorded result must be consistent; a missing or stale result is only a warning.

    A campaign takes minutes and belongs to releases: a commit that touches the covered files must not turn `make test`
    red until somebody has run it again. The warning stands in pytest's summary until then.
    """
    rows = record.read("kills")
    assert all(row["not_identical"] == 0 and not row["provenance"]["dirty"] for row in rows)
    rows = [row for row in rows if row["kills"] >= 50 and row["inside_save"] >= 15]  # shorter ones were trials
    if not rows:
        warnings.warn(f"no kill campaign is recorded: run {COMMAND}", stacklevel=1)
    if rows and (changed := kills.stale(rows[-1])):
        warnings.warn(f"the kill campaign is stale, {', '.join(changed)} changed: run {COMMAND}", stacklevel=1)


def test_every_row_was_tried_and_says_when_it_is_stale():
    """Missing or stale results give a warning only, as for the kill campaign."""
    known = rows.newest()
    assert not [case for case, row in known.items() if row["provenance"]["dirty"]]
    missing, changed = [], set()
    for path in ROWS:
        row = known.get(path.relative_to(ROOT).as_posix())
        missing += [path.name] if row is None else []
        changed |= set() if row is None else set(rows.stale(row, path))
    if missing or changed:
        words = f"{len(missing)} of {len(ROWS)} rows were never tried, others before a change of {sorted(changed)}"
        warnings.warn(f"{words}: run python -m tests.campaign.rows", stacklevel=1)


def test_every_op_was_fuzzed_and_says_when_it_is_stale():
    """Missing or stale results give a warning only, as for the kill campaign."""
    known = fuzz.newest()
    for row in known.values():
        wanted = 300 if row["case"].endswith("interpreter") else 10_000
        assert row["examples"] >= wanted and not row["provenance"]["dirty"], row
    cases = [fuzz.case(op, backend) for op in fuzz.FUZZED for backend in fuzz.BACKENDS["cpu"]]
    missing = [case for case in cases if case not in known]
    changed = {name for case in cases if case in known for name in fuzz.stale(known[case])}
    if missing or changed:
        words = f"{len(missing)} of {len(cases)} were never fuzzed, others before a change of {sorted(changed)}"
        warnings.warn(f"{words}: run python -m tests.campaign.fuzz", stacklevel=1)


def test_every_op_has_fuzz_tests():
    for op in fuzz.FUZZED:
        tests = (ROOT / f"tests/kernels/test_{op}.py").read_text()
        assert "def test_fuzz_cpp" in tests and "def test_fuzz_triton" in tests, op


@pytest.mark.parametrize("inside", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_fuzz_counts_examples_and_names_what_changed(inside, monkeypatch):
    if inside:
        done = subprocess.CompletedProcess(
            [], 0, "  - during generate phase (1 s):\n    - 100 passing examples, 0 failing", ""
        )
        monkeypatch.setattr(fuzz.subprocess, "run", lambda *_, **__: done)
    row = fuzz.attempt("scale_gradient", "cpp", profile="test")
    assert row["examples"] == 100 and fuzz.stale(row) == []
    assert set(fuzz.covered("mask_token_backward", "cpp")) >= {
        f"{fuzz.PACKAGE}/{op}" for op in ("mask_token", "unshuffle_backward")
    }
    changed = {name: "other" for name in row["covered"] if name.endswith("scale_gradient")}
    assert fuzz.stale(row | {"covered": row["covered"] | changed}) == [f"{fuzz.PACKAGE}/scale_gradient"]


def test_every_slow_test_was_run_and_says_when_it_is_stale():
    """Missing or stale results give a warning only, as for the kill campaign."""
    known = slow.newest()
    assert not [case for case, row in known.items() if row["provenance"]["dirty"]]
    cases = [slow.case(*job) for job in slow.jobs()]
    missing = [case for case in cases if case not in known]
    changed = {name for case in cases if case in known for name in slow.stale(known[case])}
    if missing or changed:
        words = f"{len(missing)} of {len(cases)} runs of slow tests are missing, others are before a change of"
        warnings.warn(f"{words} {sorted(changed)}: run python -m tests.campaign.slow", stacklevel=1)


def test_slow_tests_depend_on_their_file_its_helpers_and_the_sources():
    test = "tests/train/test_rows.py"
    covered = slow.covered(test)
    helpers = {"tests/conftest.py", "tests/campaign/rows.py", "tests/campaign/ledger.py", "tests/methods/tiny.py"}
    helpers.add("tests/train/launched.py")
    assert covered.keys() == {test, *helpers, "kernels", "tests/golden", "fastmim", "bench", "configs", "README.md"}
    assert {test, "tests/kernels/conftest.py"}.isdisjoint(slow.covered("tests/bench/test_flops.py"))
    row = {"file": test, "covered": covered}
    assert slow.stale(row) == []
    assert slow.stale(row | {"covered": covered | {"fastmim": "other"}}) == ["fastmim"]


@pytest.mark.parametrize(
    ("last", "status", "counts"),
    [
        ("2 passed, 1 skipped, 9 deselected in 3.21s", 0, (2, 1)),
        ("9 deselected in 0.10s", slow.NO_TESTS, (0, 0)),
        ("1 failed, 2 passed in 3.21s", 1, None),
    ],
)
def test_slow_tests_are_counted(last, status, counts, tmp_path, monkeypatch):
    pytest_ = tmp_path / "pytest.py"
    pytest_.write_text(f"print('...')\nprint({last!r})\nraise SystemExit({status})")
    monkeypatch.setattr(slow, "ROOT", tmp_path)
    if counts is None:
        with pytest.raises(AssertionError, match=f"a, compiled: (.|\n)*{last}"):
            slow.attempt("a", "compiled")
        return
    row = slow.attempt("a", "compiled")
    assert (row["case"], row["file"], row["passed"], row["skipped"]) == ("a, compiled", "a", *counts)
    assert 0 <= row["CPU seconds"] < 5


@pytest.mark.slow
def test_the_slow_campaign_knows_every_file_with_slow_tests():
    for mode, mark in slow.MODES.items():
        environment = os.environ | {"TRITON_INTERPRET": "1" if mode == "interpreter" else "0"}
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", mark]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        found = {line.split("::")[0] for line in done.stdout.splitlines() if "::" in line}
        assert found and {(test, mode) for test in found} <= set(slow.jobs())


def test_a_change_of_a_covered_file_is_named():
    covered = {name: ledger.digest([name]) for name in kills.COVERED}
    assert kills.stale({"covered": covered}) == []
    assert kills.stale({"covered": covered | {"fastmim/run": "other"}}) == ["fastmim/run"]


def test_kills_are_drawn_uniformly_over_the_training_time():
    timeline = {"lines": [0.0, 1.0, 3.0], "end": 4.0}
    drawn = [kill for run in range(400) for kill in kills.plan(0, run, timeline)]
    moments = [timeline["lines"][kill.step] + kill.after_seconds for kill in drawn]
    assert all(0 <= moment <= 4 for moment in moments)
    quartiles = statistics.quantiles(moments, n=4)
    assert all(abs(found - expected) < 0.15 for found, expected in zip(quartiles, (1, 2, 3), strict=True)), quartiles


def test_a_save_cut_short_is_seen(tmp_path):
    assert not kills.cut_short(tmp_path)
    (tmp_path / "step-00000001").mkdir()
    assert kills.cut_short(tmp_path)
    (tmp_path / "latest").write_text("step-00000001\n")
    assert not kills.cut_short(tmp_path)
    for name in ("tmp-step-00000002", "trash-step-00000000", "step-00000002"):
        (tmp_path / name).mkdir()
        assert kills.cut_short(tmp_path), name
        (tmp_path / name).rmdir()


def transfer_rows(scores: dict[str, list[float]], seconds: dict[str, float]) -> dict[str, dict]:
    return {
        transfer.case("cifar10_vit", arm, seed): {"score": score, "CPU seconds": seconds[arm]}
        for arm, seeds in scores.items()
        for seed, score in enumerate(seeds)
    }


def test_a_comparison_holds_beyond_the_spread_and_the_budget():
    comparison = proofs.Comparison("a", "b", ("pre", "a"))
    none = [0.0, 0.0, 0.0]
    for b, spent, holds in [
        ([0.30, 0.31, 0.32], 30, True),
        ([0.30, 0.31, 0.32], 29, False),  # less time than the two together
        ([0.30, 0.30, 0.42], 30, False),  # a mean of 0.06 less, and a spread of 0.12
    ]:
        found = transfer_rows({"a": [0.39, 0.40, 0.41], "b": b, "pre": none}, {"a": 10, "b": spent, "pre": 20})
        assert transfer.verdict(found, "cifar10_vit", comparison)[0] == holds, b
    worse = transfer_rows({"a": [0.2, 0.2, 0.2], "b": [0.3, 0.3, 0.3], "pre": none}, {"a": 9, "b": 30, "pre": 20})
    assert not transfer.verdict(worse, "cifar10_vit", comparison)[0]


def test_a_campaign_goes_on_past_midnight_but_not_on_another_tree(monkeypatch):
    now, rows = {"date": "2026-01-01", "commit": "a", "dirty": False}, []
    monkeypatch.setattr(sys, "argv", ["campaign"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which a campaign sets: put back behind the test
    monkeypatch.setattr(record, "provenance", lambda device: dict(now))
    monkeypatch.setattr(record, "record", lambda row, bench: rows.append(row))
    threads = torch.get_num_threads()
    try:
        book = ledger.Ledger(argparse.ArgumentParser(), "rows")
    finally:
        torch.set_num_threads(threads)
    now["date"] = "2026-01-02"
    book.record({"case": "kept"})
    for change in ({"commit": "b"}, {"dirty": True}):
        now.update(commit="a", dirty=False)
        now.update(change)
        with pytest.raises(RuntimeError, match="the tree changed"):
            book.record({"case": "refused"})
    assert rows == [{"case": "kept", "device": "cpu"}]


def test_an_arm_depends_on_its_command_and_those_before_it():
    commands = {"pre-training": 1, "detection": 2, "detection, from scratch": 1, "segmentation": 2}
    assert {arm: len(transfer.chain("shapes", arm)) for arm in commands} == commands


def test_an_encoder_is_its_module_and_what_that_is_made_of():
    folder = "fastmim/model/encoders"
    assert set(rows.encoder_files(ResNet())) >= {f"{folder}/{name}.py" for name in ("convnet", "batchnorm", "base")}
    assert set(rows.encoder_files(UMSwin())) >= {f"{folder}/{name}.py" for name in ("um_swin", "um_pyramid", "base")}
    assert f"{folder}/swin.py" not in rows.encoder_files(UMSwin())


def test_the_few_labels_of_cifar(tmp_path):
    for part, label, number in (("train", "cat", 99), ("train", "cat", 100), ("train", "dog", 9), ("test", "dog", 199)):
        (tmp_path / "source" / part / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / part / label / f"{number:04d}.jpg").touch()
    with pytest.raises(ValueError, match=r"--data: expected CIFAR-10 as train/CLASS/0000\.jpg and on"):
        proofs.few_labels(tmp_path / "data", tmp_path / "source")
    for part in ("train", "test"):
        (tmp_path / "source" / part / "dog/0000.jpg").touch()
    proofs.few_labels(tmp_path / "data", tmp_path / "source")
    found = {path.relative_to(tmp_path / "data").as_posix() for path in (tmp_path / "data").glob("few*/*/*/*")}
    few = {"few/train/cat/0099.jpg", *(f"few/{part}" for part in ("train/dog/0009.jpg", "test/dog/0199.jpg"))}
    fewer = {f"fewer/{part}" for part in ("train/dog/0009.jpg", "test/dog/0199.jpg")}
    first = {f"{some}/{part}/dog/0000.jpg" for some in ("few", "fewer") for part in ("train", "test")}
    assert found == few | fewer | first
    assert (tmp_path / "data/all/cat/0100.jpg").is_file()


def test_pre_training_is_worth_something_and_says_when_that_is_stale():
    """Comparisons whose arms are all recorded must hold; missing or stale arms give a warning."""
    known = transfer.newest()
    assert not [case for case, row in known.items() if row["provenance"]["dirty"]]
    for name, proof in proofs.PROOFS.items():
        cases = [transfer.case(name, arm, seed) for arm in proof.arms for seed in transfer.SEEDS]
        missing = [case for case in cases if case not in known]
        changed = {file for case in cases if case in known for file in transfer.stale(known[case])}
        if missing or changed:
            words = f"{name}: {len(missing)} of {len(cases)} arms are not recorded, others before a change of"
            warnings.warn(f"{words} {sorted(changed)}: run python -m tests.campaign.transfer", stacklevel=1)
        for comparison in proof.comparisons:
            arms = (comparison.better, comparison.worse, *comparison.budget)
            if all(transfer.case(name, arm, seed) in known for arm in arms for seed in transfer.SEEDS):
                holds, words = transfer.verdict(known, name, comparison)
                assert holds, words
