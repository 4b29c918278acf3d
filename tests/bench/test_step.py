"""fastmim's own step and torch's attention kernels can be timed."""

import pytest

from bench.step import engine, sdpa

CONFIG = "configs/debug/tiny_cpu.py"


def test_busy_is_the_union_of_spans():
    assert engine.busy([(0, 4), (1, 2), (6, 8), (3, 5)]) == (7, 8)
    assert engine.busy([(2, 3)]) == (1, 1)


def test_every_precision_is_timed_and_recorded(monkeypatch, capsys):
    recorded = []
    monkeypatch.setattr(engine.timing, "matmul_rate", lambda device, dtype: 1e12)
    monkeypatch.setattr(engine.timing, "COPIED", {"cpu": 2**16})
    monkeypatch.setattr(engine.record, "record", lambda row, theme: recorded.append((row, theme)))
    monkeypatch.setattr(engine.record.Record, "__call__", lambda self, parser, args, *_: setattr(args, "record", True))
    small = ["data.size=16,16", "encoder.depth=1", "encoder.embed_dim=32"]
    words = [CONFIG, "--batch", "2", "--steps", "2", "--precision", "fp32", "autocast", "--record", "--set", *small]
    engine.main(words)
    assert [(row["precision"], theme) for row, theme in recorded] == [("fp32", "engine"), ("autocast", "engine")]
    for row, _ in recorded:
        assert row["images/s"] == pytest.approx(2 / row["s/step"]) and 0 <= row["idle"] < 1 and not row["skipped"]
        assert row["first step s"] > 0 and row["operators"] > 100 and row["copy TB/s"] > 0
    assert "aten::addmm" in capsys.readouterr().out  # among the longest


def test_backends_that_do_not_run_cost_only_themselves(monkeypatch, capsys):
    monkeypatch.setattr(sdpa, "SHAPES", {"tiny": (1, 4, 8)})
    sdpa.main(["--batch", "1", "--samples", "2", "--device", "cpu"])
    said = capsys.readouterr().out
    assert "tiny, cudnn does not run: " in said and "tiny, 4 tokens, 1 heads of 8, batch 1, math: " in said


@pytest.mark.parametrize(("module", "words"), [(engine, [CONFIG, "--batch", "0"]), (sdpa, ["--samples", "0"])])
def test_bad_arguments_are_one_line(module, words, capsys):
    with pytest.raises(SystemExit) as refusal:
        module.main(words)
    assert refusal.value.code == 2 and "of at least " in capsys.readouterr().err
