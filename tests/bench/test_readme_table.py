"""README's table says what bench/results says."""

import pytest

from bench import readme, record


def test_the_table_is_fresh():
    assert readme.rendered(readme.README.read_text()) == readme.README.read_text(), "stale: run make readme"


def test_lines_say_what_was_measured_and_what_was_projected(monkeypatch, tmp_path):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(record.sys, "orig_argv", ["python", "-m", "bench.hours"])
    setting = {
        "config": "configs/debug/tiny_cpu.py", "precision": "fp32", "stage": 0, "checkpointing": False, "ranks": 1,
        "batch": 8, "device": "cpu",
    }  # fmt: skip
    record.record(setting | {"case": "tiny", "epochs": 4, "projected hours": 12.34567}, "hours")
    other = {"peak GiB": 9.0, "out of memory": False, "case": "tiny"}
    record.record(setting | other | {"stage": 3}, "memory")
    line = readme.table().splitlines()[-1]
    assert line.startswith(
        "| debug | [tiny_cpu](configs/debug/tiny_cpu.py) | 4 | 12.35 (projected) | not yet | not yet |"
    )
    assert "| CPU: " in line
    record.record(setting | other | {"peak GiB": 2.0}, "memory")
    assert "| 2.15 (batch 8) |" in readme.table()
    page = readme.rendered(f"before\n{readme.START}{readme.END}after\n")
    assert page.startswith("before\n") and page.endswith("after\n") and line.split("|")[1] in page
    assert readme.rendered(page) == page


def test_a_page_without_markers_is_refused():
    with pytest.raises(ValueError, match="once each"):
        readme.rendered("# fastmim\n")
