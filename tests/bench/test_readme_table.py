"""The tables of the READMEs show the rows in bench/results."""

import re

import pytest

from bench import readme, record

PAGES = [page for page in readme.PAGES if (record.ROOT / page).exists()]
CPU = {"device": "cpu"}


@pytest.fixture
def results(monkeypatch, tmp_path):
    """An empty folder of results, and a command to record."""
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(record.sys, "orig_argv", ["python", "-m", "bench", "compare"])
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_fresh(page):
    text = (record.ROOT / page).read_text()
    assert readme.rendered(text) == text, "stale: run make readme"


def test_every_table_stands_on_one_page():
    found = [match[2] for page in PAGES for match in readme.MARKED.finditer((record.ROOT / page).read_text())]
    assert sorted(found) == sorted(readme.TABLES)


@pytest.mark.parametrize("page", ["README.md", "bench/README.md"])
def test_measured_numbers_stand_in_generated_tables_only(page):
    """A number typed by hand outlives the code that it was measured on."""
    text = readme.MARKED.sub("", (record.ROOT / page).read_text())
    prose = re.sub(
        r"^```.*?^```$|`[^`]*`|arXiv:[\d.]+|arxiv.org/abs/[\d.]+|Python [\d.]+|Apache-2.0",
        "",
        text,
        flags=re.DOTALL | re.MULTILINE,
    )
    assert re.findall(r".*(?:\d+\.\d|\d %|\d points).*", prose) == []


def record_step(config: str, arm: str, seconds: float, **columns) -> None:
    """Records a step of four images, as `python -m bench compare` does; ours takes one second."""
    name = config.removeprefix("configs/").removesuffix(".py")
    row = {"case": f"{name}, fp32, batch 4, {arm}", "config": config, "s/step": seconds, "images/s": 4 / seconds}
    record.record(CPU | row | {"ours is faster": seconds} | columns, "step")


def test_a_line_has_time_and_memory_beside_the_published_code(results):
    config = "configs/um_mae/pretrain/swin_tiny_256_200ep.py"
    for arm, seconds, kept in (("ours", 1.0, 50.0), ("eager", 1.5, 80.0), ("compile", 1.25, None)):
        columns = {} if kept is None else {"saved for backward MiB/image": kept}
        record_step(config, arm, seconds, **columns)
    record_step("configs/um_mae/pretrain/swin_tiny_256_simmim_200ep.py", "ours", 1.0)
    record_step("configs/um_mae/pretrain/swin_tiny_256_simmim_200ep.py", "eager", 2.0)
    head, _, _, _, line = readme.results().splitlines()  # without the baseline of the paper
    assert head.startswith("CPU: ") and "fp32, 4 images a step" in head and "forward pass keeps" in head
    assert line == f"| UM-MAE | [swin_tiny_256]({config}) | 250 | 375 | 1.50x | 50 | 80 |"
    every = readme.steps().splitlines()
    assert every[4].startswith("| UM-MAE/swin_tiny_256 | 4 | 1.50 |  | 1.25 | 0.62 | ")
    assert every[5].startswith("| UM-MAE/swin_tiny_256_simmim | 4 | 2.00 |  |  |  | ")


def test_pairs_are_of_one_run(results, monkeypatch):
    """Rows of two commits are not compared."""
    config, now = "configs/mae/pretrain/vit_base_patch16_224_800ep.py", record.provenance("cpu")
    runs = {"a": (1.0, ("ours", "eager")), "b": (5.0, ("ours", "compile")), "c": (2.0, ("sdpa",))}
    for commit, (seconds, arms) in runs.items():
        monkeypatch.setattr(record, "provenance", lambda device, commit=commit: now | {"commit": 40 * commit})
        for arm in arms:
            record_step(config, arm, seconds)
    pairs = readme.step_rows()[config, now["hardware"]]
    assert {arm: (ours["s/step"], row["s/step"]) for arm, (ours, row) in pairs.items()} == {
        "eager": (1.0, 1.0), "compile": (5.0, 5.0)
    }  # fmt: skip


def test_rows_of_a_gpu_take_the_place_of_a_cpu_and_have_hours(results, monkeypatch):
    config = "configs/mae/pretrain/vit_base_patch16_224_800ep.py"
    hours = {"case": "hours", "config": config, "epochs": 800, "projected hours": 41.2345}
    for device in ("cpu", "cuda"):
        now = record.provenance("cpu") | {"device": device, "hardware": f"A {device}"}
        monkeypatch.setattr(record, "provenance", lambda device, now=now: now)
        for arm in ("ours", "eager"):
            record_step(config, arm, 1.0, **{"peak MiB above weights, gradients, optimizer": 1000.0})
        record.record(hours, "hours")
        if device == "cpu":
            assert "hours" not in readme.results() and readme.results().startswith("CPU: A cpu; ")
    head, _, columns, _, line = readme.results().splitlines()
    assert head.startswith("A cuda; ") and columns.endswith("| hours, projected |")
    assert line.endswith("| 250 | 250 | 1.00x | 250 | 250 | 41.2 (800 epochs) |")
    monkeypatch.undo()


def test_arms_of_the_transfer_campaign_have_means_and_spreads(results):
    for seed, score in enumerate((0.4, 0.41, 0.43)):
        arm = {"case": f"{seed}", "proof": "cifar10_vit", "arm": "probe", "seed": seed, "score": score}
        record.record(arm | CPU | {"CPU seconds": 20.0 + seed}, "transfer")
    assert readme.transfer().splitlines()[-1].startswith("| cifar10_vit | probe | 41.3 | 3.0 of 3 seeds | 21 | ")


def test_a_page_is_filled_between_its_markers():
    page = "before\n<!-- commands: make readme -->\nbefore this\n<!-- end of commands -->\nafter\n"
    fresh = readme.rendered(page)
    assert (
        fresh.startswith("before\n")
        and fresh.endswith("after\n")
        and "before this" not in fresh
        and "| `ops` |" in fresh
    )
    assert readme.rendered(fresh) == fresh
    assert readme.rendered("# no table\n") == "# no table\n"


@pytest.mark.parametrize(
    "page", ["<!-- nothing: make readme -->\n<!-- end of nothing -->\n", "<!-- steps: make readme -->\n"]
)
def test_a_marker_without_a_table_or_an_end_is_refused(page):
    with pytest.raises(ValueError, match="expected <!-- NAME: make readme -->"):
        readme.rendered(page)


def test_stale_tables_are_named(results, monkeypatch, tmp_path):
    page = tmp_path / "README.md"
    page.write_text("<!-- commands: make readme -->\nbefore this\n<!-- end of commands -->\n")
    monkeypatch.setattr(record, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match="stale tables in README.md"):
        readme.main(["--check"])
    readme.main([])
    readme.main(["--check"])
    assert "| `ops` |" in page.read_text()
