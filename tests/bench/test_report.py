"""bench/results/kernels.md says what the rows say, and why where a target was missed."""

import json

import pytest

from bench import misses, record, report


def test_the_page_is_fresh_and_every_miss_is_explained():
    page = report.page()
    assert page == report.PAGE.read_text(), "stale: run make readme"
    assert "NOT EXPLAINED" not in page
    unused = [key for key, words in misses.MISSES.items() if words not in page]
    assert not unused, "explanations of what is no miss any more"
    assert report.PLOT.stat().st_size > 10_000


def test_every_op_with_a_target_was_measured():
    measured = {op for op, *_ in report.newest()}
    assert {op for group in report.GROUPS for op in group.ops} <= measured


def copied(row: dict, **changes) -> dict:
    return json.loads(json.dumps(row)) | changes


def test_misses_are_seen(monkeypatch):
    """A run slower than its targets, one without an arm, and an old run behind a new one."""
    arms = {}
    for row in record.read("ops"):
        if (row["op"], row["case"], row["dtype"]) == ("unshuffle", "mae_vit_h/14", "fp32") and row.get(
            "phase"
        ) == "both":
            arms[row["implementation"]] = row
    fast, slow = dict(arms), {name: copied(row) for name, row in arms.items()}
    slow["reference"]["ours_is_faster"] = 2.9
    del slow["compiled"]
    for rows in (fast, slow):
        rows["ours"] = copied(rows["ours"], of_copy_bandwidth=0.71)
    slow["ours"]["provenance"]["commit"] = "0" * 40
    for row in slow.values():
        row["provenance"]["commit"] = "0" * 40
    for rows, expected in (([*slow.values(), *fast.values()], []), (slow.values(), ["eager", "compile"])):
        monkeypatch.setattr(record, "read", lambda theme, rows=rows: list(rows))
        lines, found = report.group_table(report.GROUPS[0], report.newest(), "cpu")
        assert [name for _, name in found] == expected
        assert report.group_table(report.GROUPS[0], report.newest(), "cuda") == ([], [])
        assert ("**2.90**" in lines[-2] and "**not measured**" in lines[-2]) == bool(expected)
    row = copied(slow["ours"], op="scale_")
    assert report.why(row, "copy") is None and "NOT EXPLAINED" in report.explained([(figures(row), "copy")])[0]


def figures(row: dict) -> dict:
    return {"row": row, "copy": 0.1}


def test_a_stale_page_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(report, "PAGE", tmp_path / "kernels.md")
    monkeypatch.setattr(report, "page", lambda: "new")
    with pytest.raises(SystemExit, match="stale"):
        report.main(["--check"])
    (tmp_path / "kernels.md").write_text("new")
    with pytest.raises(SystemExit) as left:
        report.main(["--check"])
    assert not left.value.code
