"""Tests that damaged side files of a run are repaired or set aside, and never stop the run."""

import contextlib
import json
import os
import resource

import pytest

from fastmim.host import records
from fastmim.host.records import Records, put
from fastmim.run.metrics import progress, read_metrics, training_cost

ROW = b'{"step": 1, "images_per_s": 2.0, "updates": 1, "peak_bytes": 3, "loss": 0.5}\n'
DAMAGE = {
    "a broken line": b'{"step": 1, "lo\n',
    "binary junk": bytes(range(256)) + b"\n",
    "not UTF-8": b'{"step": 1, "x": "\xff"}\n',
    "another JSON value": b"[1]\n7\nnull\n",
    "a step of another type": b'{"step": "x"}\n{"step": true}\n{"step": -1}\n{"step": 1e9}\n{}\n',
    "an average of nothing": b'{"step": 1, "loss": 0.5, "averaged": null}\n',
    "a number of another type": b'{"step": 1, "loss": "x"}\n{"step": 1, "loss": [1]}\n',
    "a speed of 0": b'{"step": 1, "images_per_s": 0, "updates": 1, "peak_bytes": 3}\n',
    "speed without updates": b'{"step": 1, "images_per_s": 2}\n',
    "a huge number": b'{"step": 1, "loss": 1' + b"0" * 400 + b"}\n",
    "too many digits": b'{"step": 1, "loss": 1' + b"0" * 5000 + b"}\n",
    "not a number": b'{"step": 1, "loss": NaN}\n',
    "deep nesting": b"[" * 100_000 + b"\n",
    "no predictors": b'{"step": 1, "held_out": 1.0}\n{"step": 1, "held_out": 1.0, "trivial": {}}\n',
    "predictors of another type": b'{"step": 1, "held_out": 1.0, "trivial": {"zero": "x"}}\n{"step": 1, "trivial": 3}',
    "many predictors": b'{"step": 1, "held_out": 1, "trivial": {%s}}\n' % b",".join(b'"p%d":1' % i for i in range(11)),
    "a long name": json.dumps({"step": 1, "held_out": 1.0, "trivial": {"p" * 41: 1.0}}).encode() + b"\n",
    "markup as a name": b'{"step": 1, "held_out": 1.0, "trivial": {"$\\\\frac$": 1.0}}\n',
    "zeros, as after a power cut": bytes(4096),
}


def opened(path, keep=lambda row: True, said=None):
    said = [] if said is None else said
    return Records(path, lambda row: records.is_count(row.get("step")), keep, said.append), said


@pytest.mark.parametrize("junk", DAMAGE.values(), ids=DAMAGE)
def test_damaged_metrics_are_left_out_by_all_that_read_them(tmp_path, junk):
    (tmp_path / "metrics.jsonl").write_bytes(ROW + junk + ROW)
    assert len(read_metrics(tmp_path)) in (1, 2) and training_cost(tmp_path, 4)[1] == 3
    assert progress(tmp_path).startswith("loss 0.5000")
    (tmp_path / "metrics.jsonl").write_bytes(junk)
    assert progress(tmp_path) == "unknown: metrics.jsonl holds no loss" and training_cost(tmp_path, 4) == (0, 0)


def test_a_damaged_file_is_set_aside_and_its_readable_lines_stay(tmp_path):
    path, junk = tmp_path / "a.jsonl", b'{"step": 1}\nrubbish\n{"step": 2}\n{"step": 3}\n'
    path.write_bytes(junk)
    file, said = opened(path, lambda row: row["step"] < 3)
    file.append({"step": 4})
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 4}\n'
    assert (tmp_path / "a.jsonl.damaged").read_bytes() == junk
    assert said == ["warning: a.jsonl is damaged: its 2 readable lines are kept, the file itself as a.jsonl.damaged"]
    path.write_bytes(b"rubbish\n")
    opened(path)
    assert (tmp_path / "a.jsonl.damaged-2").read_bytes() == b"rubbish\n"


@pytest.mark.parametrize("torn", [b"", b'{"st', b'{"step": 9}', b'{"step": 9}\n{"step": 1'])
def test_what_a_kill_leaves_is_no_damage(tmp_path, torn):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"step": 1}\n' + torn)
    file, said = opened(path, lambda row: row["step"] < 5)
    file.append({"step": 2})
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n' and not said


def test_a_last_line_without_its_newline_stays(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"step": 1}')
    opened(path)[0].append({"step": 2})
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_a_line_without_end_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "LONGEST", 100)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"step": 1}\n' + b"{" * 1000)
    file, said = opened(path)
    assert path.read_bytes() == b'{"step": 1}\n' and len(said) == 1


@pytest.mark.parametrize("kind", ["folder", "pipe", "link", "dead link"])
def test_what_is_no_file_is_set_aside(tmp_path, kind):
    path, other = tmp_path / "a.jsonl", tmp_path / "other"
    if kind == "folder":
        (path / "inner").mkdir(parents=True)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        if kind == "link":
            other.write_text("precious")
        path.symlink_to(other)
    said = []
    opened(path, said=said)[0].append({"step": 1})
    assert path.read_text() == '{"step": 1}\n' and os.path.lexists(tmp_path / "a.jsonl.damaged") and len(said) == 1
    assert not other.exists() or other.read_text() == "precious"
    path.unlink()
    (tmp_path / "a.jsonl.damaged").rename(path)
    put(path, "{}", said.append)
    assert path.read_text() == "{}" and not path.is_symlink()


@contextlib.contextmanager
def full_disk(size: int):
    """Keeps every file of this process from growing beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_costs_lines_and_one_warning(tmp_path):
    path = tmp_path / "a.jsonl"
    file, said = opened(path)
    file.append({"step": 1})
    with full_disk(path.stat().st_size + 4):
        for step in range(2, 5):
            file.append({"step": step})
        put(tmp_path / "b.json", "x" * 100, said.append)
    file.append({"step": 5})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 5]
    assert [line.split(" (")[0] for line in said] == [
        "warning: a.jsonl could not be written",
        "warning: b.json could not be written",
        "a.jsonl is written again; 3 lines are missing in it",
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl"]


def test_a_folder_that_is_gone_costs_lines_only(tmp_path):
    file, said = opened(tmp_path / "gone/a.jsonl")
    file.append({"step": 1})
    file.append({"step": 2})
    (tmp_path / "gone").mkdir()
    file.append({"step": 3})
    assert len(said) == 2 and (tmp_path / "gone/a.jsonl").read_text() == '{"step": 3}\n'


def test_damage_is_repaired_on_a_full_disk_too(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"step": 1}\nrubbish\n')
    with full_disk(0):
        file, said = opened(path)
        file.append({"step": 2})
    file.append({"step": 3})
    assert path.read_text() == '{"step": 3}\n' and (tmp_path / "a.jsonl.damaged").exists()
