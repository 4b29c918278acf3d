"""Results carry their provenance, and nothing about the machine they came from beyond its hardware."""

import argparse
import copy
import json
import platform
import sys

import pytest

from bench import record, rows

ROW = {"case": "ViT-B, batch 8, ours", "device": "cpu", "seconds": 3.51234, "unit": "images/s"}


@pytest.fixture
def results(monkeypatch, tmp_path):
    """The provenance of this process; rows go to a temporary folder."""
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(
        sys, "orig_argv", ["/opt/env/bin/python3", "-m", "bench", "compare", "--out=/somewhere/else/x.json"]
    )
    return record.provenance("cpu")


def test_row_is_appended_with_provenance(results):
    path = record.record(ROW, "step")
    assert record.record(ROW | {"seconds": 2.0}, "step") == path
    assert path.name.startswith("step_") and path.suffix == ".jsonl"
    found = record.read("step")
    assert [row["seconds"] for row in found] == [3.51234, 2.0]
    assert found[0]["provenance"]["command"] == "python -m bench compare --out=x.json"
    assert found[0]["provenance"]["device"] == "cpu" and "device" not in found[0]
    assert found[0]["provenance"]["versions"]["python"] == platform.python_version()


def test_rows_of_several_machines_come_by_their_dates(results, monkeypatch):
    for hardware, date in (("B", "2026-01-01"), ("A", "2026-01-31"), ("B", "2026-01-02")):
        now = results | {"hardware": hardware, "date": date}
        monkeypatch.setattr(record, "provenance", lambda device, now=now: now)
        record.record(ROW, "step")
    assert [row["provenance"]["date"][-2:] for row in record.read("step")] == ["01", "02", "31"]


def test_table_shows_the_newest_row_of_each_case(results):
    record.record(ROW, "step")
    record.record(ROW | {"seconds": 2.0}, "step")
    record.record({"case": "other", "device": "cpu", "GB/s": 12.0}, "step")
    lines = rows.table("step").splitlines()
    assert lines[0] == "| case | seconds | unit | GB/s | hardware | date | commit |"
    assert len(lines) == 4 and lines[2].startswith("| ViT-B, batch 8, ours | 2 | images/s |  |")
    with pytest.raises(ValueError, match="no rows of theme 'steps'"):
        rows.table("steps")


def test_what_could_not_be_recorded_is_refused_before_it_is_measured(results, monkeypatch, tmp_path, capsys):
    """In a copy of the tree without its history, `--record` is refused at once unless the commit is given."""
    parser = argparse.ArgumentParser(prog="bench")
    parser.add_argument("--record", action=record.Record)
    assert parser.parse_args([]).record is False
    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.delenv("FASTMIM_COMMIT", raising=False)
    for commit in (None, "v1.0", "0" * 39):
        if commit:
            monkeypatch.setenv("FASTMIM_COMMIT", commit)
        with pytest.raises(SystemExit) as refusal:
            parser.parse_args(["--record"])
        line = capsys.readouterr().err.splitlines()[-1]
        assert refusal.value.code == 2 and line.startswith("bench: error: --record: ") and "full" in line
    monkeypatch.setenv("FASTMIM_COMMIT", "0" * 40)
    assert parser.parse_args(["--record"]).record is True
    assert record.read(record.record(ROW, "step").name.split("_")[0])[0]["provenance"]["commit"] == "0" * 40
    monkeypatch.setattr(platform, "node", lambda: "python")  # every row's command would name this machine
    with pytest.raises(SystemExit):
        parser.parse_args(["--record"])


@pytest.mark.parametrize("argv", [["python", "-m", "bench", "hours"], ["python", "-u", "-m", "bench", "hours"]])
def test_commands_of_a_person_and_of_the_launcher_are_accepted(results, argv):
    """DeepSpeed's launcher starts its processes with `python -u`."""
    record.check(ROW | {"provenance": results | {"command": record.command_line(argv)}})


@pytest.mark.parametrize("argv", [["python"], ["python", "-c", "import bench"], ["python", "-"]])
def test_a_row_without_a_command_is_refused(results, argv):
    row = ROW | {"provenance": results | {"command": record.command_line(argv)}}
    with pytest.raises(ValueError, match="command"):
        record.check(row)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"case": ""}, "case"),
        ({"seconds": "3.5"}, "measured number"),
        ({"note": "read from /data/imagenet/train"}, "machine path"),
        ({"note": "/data"}, "machine path"),
        ({"note": "data=~/images/train"}, "machine path"),
        ({"provenance": None}, "provenance"),
        ({"provenance": {"device": "tpu"}}, "cpu or cuda"),
        ({"provenance": {"commit": "abc123"}}, "git hash"),
        ({"provenance": {"date": "yesterday"}}, "isoformat"),
        ({"provenance": {"dirty": "no"}}, "dirty: expected bool"),
    ],
)
def test_rows_that_cannot_be_trusted_are_refused(results, change, match):
    row = {key: value for key, value in ROW.items() if key != "device"} | {"provenance": copy.deepcopy(results)}
    record.check(row)
    origin = change.get("provenance", {})
    row |= change if origin is None else change | {"provenance": row["provenance"] | origin}
    with pytest.raises(ValueError, match=match):
        record.check(row)


def test_a_bad_line_in_a_file_is_named(results):
    path = record.record(ROW, "step")
    path.write_text(path.read_text() + json.dumps({"case": "typed by hand", "seconds": 0.1}) + "\n")
    with pytest.raises(ValueError, match=rf"{path.name}:2: typed by hand: expected a provenance"):
        record.read("step")


def test_committed_rows_are_valid():
    themes = {path.name.split("_")[0] for path in record.RESULTS.glob("*.jsonl")}
    for theme in themes:
        assert record.read(theme)
