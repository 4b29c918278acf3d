"""README's table says what bench/results says."""

import re

import pytest

from bench import readme, record


def test_the_table_is_fresh():
    assert readme.rendered(readme.README.read_text()) == readme.README.read_text(), "stale: run make readme"


def test_measured_numbers_stand_in_generated_tables_only():
    """A number typed by hand outlives what it was measured on."""
    page = readme.README.read_text()
    for start, end in (readme.RESULTS, readme.TRANSFER):
        page = page[: page.index(start)] + page[page.index(end) :]
    prose = re.sub(
        r"^```.*?^```$|`[^`]*`|arXiv:[\d.]+|Python [\d.]+|Apache-2.0", "", page, flags=re.DOTALL | re.MULTILINE
    )
    assert re.findall(r".*(?:\d+\.\d|\d %|\d points).*", prose) == []


def test_lines_say_what_was_measured_and_what_was_projected(monkeypatch, tmp_path):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(record.sys, "orig_argv", ["python", "-m", "bench.hours"])
    setting = {
        "config": "configs/debug/tiny_cpu.py", "precision": "fp32", "stage": 0, "checkpointing": False, "ranks": 1,
        "batch": 8, "device": "cpu",
    }  # fmt: skip
    record.record(setting | {"case": "tiny", "epochs": 4, "images": 5, "projected hours": 12.34567}, "hours")
    other = {"peak GiB": 9.0, "out of memory": False, "case": "tiny"}
    record.record(setting | other | {"stage": 3}, "memory")
    line = readme.table().splitlines()[-1]
    assert line.startswith(
        "| debug | [tiny_cpu](configs/debug/tiny_cpu.py) | 4 | 12.35 (projected, 5 images) | not yet | not yet |"
    )
    assert "| CPU: " in line
    record.record(setting | other | {"peak GiB": 2.0}, "memory")
    assert "| 2.15 (batch 8) |" in readme.table()
    for seed, score in enumerate((0.4, 0.41, 0.43)):
        arm = {"case": f"{seed}", "proof": "cifar10_vit", "arm": "probe", "seed": seed, "score": score}
        record.record(arm | {"CPU seconds": 20.0 + seed, "device": "cpu"}, "transfer")
    assert readme.transfer().splitlines()[-1].startswith("| cifar10_vit | probe | 41.3 | 3.0 of 3 seeds | 21 | ")
    page = readme.rendered("before\n" + "".join(readme.RESULTS) + "".join(readme.TRANSFER) + "after\n")
    assert page.startswith("before\n") and page.endswith("after\n") and line.split("|")[1] in page
    assert readme.rendered(page) == page


def test_a_page_without_markers_is_refused():
    with pytest.raises(ValueError, match="once each"):
        readme.rendered("# fastmim\n")
