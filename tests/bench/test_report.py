"""bench/results/kernels.md says what the rows say, and why where a target was missed."""

import json

import pytest

from bench import record
from bench.ops import misses, report
from fastmim_kernels import OPS


def test_the_page_is_fresh_and_every_miss_is_explained():
    page = report.page()
    assert page == report.PAGE.read_text(), "stale: run make readme"
    assert "NOT EXPLAINED" not in page
    unused = [key for key, reason in misses.MISSES.items() if f"{reason.why}\n\n**Tried:** {reason.tried}" not in page]
    assert not unused, "explanations of what is no miss any more"
    assert report.PLOT.stat().st_size > 10_000


def test_every_reason_says_what_was_tried():
    assert all(reason.why and reason.tried for reason in misses.MISSES.values())


def test_every_case_with_a_target_was_measured():
    measured = {key[:3] for key in report.newest()}
    wanted = set()
    for op in {op for group in report.groups() for op, _ in group.members}:
        cases = report.cases_of(op)
        wanted |= {(op, case, dtype) for case in cases.BENCH for dtype in cases.BENCH_DTYPES}
    exempt = {key for key in wanted if (key[0], key[2]) in misses.UNMEASURED}
    assert wanted - exempt <= measured
    assert {(op, dtype) for op, _, dtype in exempt} == set(misses.UNMEASURED)
    assert not exempt & measured, "measured: no exemption needed"
    assert all(f"Not measured: {op} in {dtype}" in report.page() for op, dtype in misses.UNMEASURED)


def test_every_op_has_a_floor_and_its_code():
    floors, code = ([line.split(" | ") for line in lines[2:]] for lines in (report.floors(), report.code()))
    first = {cells[0].removeprefix("| "): cells for cells in reversed(floors)}
    assert set(first) == {cells[0].removeprefix("| ") for cells in code} == set(OPS)
    assert len(floors) == len(OPS) + sum(map(len, report.ALSO.values()))
    for op in ("low_pass", "composite_residual", "focal_frequency", "window_attention"):
        assert float(first[op][5]) > 0, op
    assert all(
        float(cells[4]) > 0 for op, cells in first.items() if op not in ("block_mask", "philox", "scale_gradient")
    )
    assert "sm_80" in report.spills() and "for sm_90 none" in report.spills()


def test_flops_of_low_pass_and_focal_frequency():
    """Against low_pass's note (C++) and a count of the transforms."""
    cases = report.cases_of("low_pass")
    case = cases.BENCH["pixmim_vit_b/16 uint8"]
    assert cases.flops(case) / case.batch / case.channels == pytest.approx(2 * 4.1e6, rel=0.03)
    assert cases.flops(case, mirrors=2) == 2 * cases.flops(case)
    cases = report.cases_of("composite_residual")
    each, mean = (cases.flops(cases.BENCH[name]) for name in ("a2mim_resnet101", "a2mim_resnet50"))
    planes = 63 * 3  # more spectra
    assert each - mean == pytest.approx(planes * 224 * 224 * (5 * 15.61 + 6), rel=0.01)


MOVES = next(group for group in report.groups() if ("unshuffle", "") in group.members)


def copied(row: dict, **changes) -> dict:
    return json.loads(json.dumps(row)) | changes


def test_misses_are_seen(monkeypatch):
    """Covers a run slower than its targets, a run without an arm, and an old run after a new run."""
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
        lines, found = report.group_table(MOVES, report.newest(), "cpu")
        assert [name for _, name in found] == expected
        assert report.group_table(MOVES, report.newest(), "cuda") == ([], [])
        line = next(line for line in lines if line.startswith("| unshuffle"))
        assert ("**2.90**" in line and "**not measured**" in line) == bool(expected)
    row = copied(slow["ours"], op="scale_gradient")
    found = {"row": row, "copy": 0.1, "alone": {}}
    assert report.why(row, "copy") is None and "NOT EXPLAINED" in report.explained([(found, "copy")])


def test_a_noisy_row_is_marked():
    runs = report.newest()
    key = ("unshuffle", "mae_vit_h/14", "fp32")
    for share, mark in ((0.4, "| ~ "), (0.9, "| fp32 | ")):
        found = {k: dict(rows) for k, rows in runs.items() if k[:3] == key}
        for rows in found.values():
            ours = rows["ours", "both"]
            rows["ours", "both"] = ours | {"p20_ms": share * ours["p80_ms"]}
        lines, _ = report.group_table(MOVES, found, "cpu")
        line = next(line for line in lines if line.startswith("| unshuffle"))
        assert mark in line and ("~" in line) == (share < 0.5)


def test_a_stale_page_is_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(report, "PAGE", tmp_path / "kernels.md")
    monkeypatch.setattr(report, "page", lambda: "new")
    with pytest.raises(SystemExit, match="stale"):
        report.main(["--check"])
    (tmp_path / "kernels.md").write_text("new")
    with pytest.raises(SystemExit) as left:
        report.main(["--check"])
    assert not left.value.code
