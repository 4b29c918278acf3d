"""The whole-step comparison runs, and its arms train alike."""

import re

import pytest

from bench import compare


def test_arms_lose_alike(capsys):
    compare.main(["configs/debug/tiny_cpu.py", "--batch", "4", "--steps", "2", "--arms", "ours,eager,sdpa"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[3] for line in lines] == [" ours", " eager", " sdpa"]
    for line in lines:
        assert float(re.search(r"loss differs: (\S+)", line)[1]) < 1e-5
        assert float(re.search(r"saved MiB/image: ([\d.]+)", line)[1]) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arms", "ours,theirs"], "--arms: expected some of ours,eager,sdpa,compile, got 'theirs'"),
        (["--batch", "0"], "expected at least 1"),
        (["configs/mae/pretrain/vit_bose_patch16_224_800ep.py"], "did you mean"),
    ],
)
def test_bad_arguments_are_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit) as refusal:
        compare.main(arguments)
    assert refusal.value.code == 2
    assert message in capsys.readouterr().err
