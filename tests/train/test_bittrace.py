"""Tests that traces differ where runs differ, and that a resumed trace equals an undisturbed one."""

import pytest
import torch

from fastmim import bittrace
from fastmim.bittrace import diff
from fastmim.run.trace import Fingerprint, Trace, mask_hashes, parameters_hash, read, sample_hashes

IDS = torch.tensor([3, 1, 2, 2**40 + 5, -7])
MASK = torch.rand(5, 16, generator=torch.Generator().manual_seed(0)) > 0.5


def write(path, steps, resume_step=0, **change):
    file = Trace(path, resume_step)
    for step in range(resume_step, steps):
        update = Fingerprint(step, 1 / (step + 1), grad_norm=2.0, parameters=step, samples=-step, masks=7)
        file.record(update._replace(**change.get(f"at{step}", {})))
    file.close()
    return path


def test_samples_and_masks_do_not_depend_on_layout():
    order = torch.tensor([4, 2, 0, 1, 3])
    assert sample_hashes(IDS) == sample_hashes(IDS[order])
    assert mask_hashes(IDS, MASK) == mask_hashes(IDS[order], MASK[order])
    shards = torch.tensor([sample_hashes(IDS[:2]), sample_hashes(IDS[2:])]).sum()  # int64 sums wrap around
    assert shards.item() == sample_hashes(IDS)
    shards = torch.tensor([mask_hashes(IDS[:1], MASK[:1]), mask_hashes(IDS[1:], MASK[1:])]).sum()
    assert shards.item() == mask_hashes(IDS, MASK)
    assert sample_hashes(IDS[:0]) == 0


def test_every_bit_counts():
    other = MASK.clone()
    other[2, 3] ^= True
    assert mask_hashes(IDS, MASK) != mask_hashes(IDS, other)
    assert mask_hashes(IDS, MASK) != mask_hashes(IDS, MASK.flip(0)), "the same masks on other samples"
    assert sample_hashes(IDS) != sample_hashes(IDS + 1)
    assert sample_hashes(torch.tensor([1, 1])) != sample_hashes(torch.tensor([2, 2]))


def test_parameters_hash():
    tensors = [("b", torch.randn(3, 4).t()), ("a", torch.randn(5).bfloat16())]
    base = parameters_hash(tensors)
    assert base == parameters_hash(tensors[::-1]) == parameters_hash((n, t.contiguous()) for n, t in tensors)
    assert base != parameters_hash([("c", tensors[0][1]), tensors[1]])
    assert base != parameters_hash([("b", tensors[0][1].reshape(-1)), tensors[1]])
    assert base != parameters_hash([tensors[0], ("a", tensors[1][1].view(torch.int16))])
    changed = tensors[1][1].clone().view(torch.int16)
    changed[4] ^= 1
    assert base != parameters_hash([tensors[0], ("a", changed.view(torch.bfloat16))])


def test_diff_names_the_first_difference(tmp_path):
    a = write(tmp_path / "a", 5)
    assert diff(a, write(tmp_path / "same", 5)) is None
    b = write(tmp_path / "b", 5, at3={"parameters": 9}, at4={"loss": 0.0})
    assert diff(a, b) == "step 3: parameters differs: 0000000000000003 and 0000000000000009"
    assert diff(a, b, fields=("samples", "masks")) is None
    tiny = write(tmp_path / "tiny", 5, at1={"loss": 0.5 + 2**-53, "samples": 1})
    assert diff(a, tiny).startswith("step 1: loss differs: 0x1.0000000000000p-1 (0.5) and 0x1.0000000000001p-1")
    assert diff(a, tiny, fields=("samples",)).startswith("step 1: samples differs: ffffffffffffffff and 00000000000000")
    assert diff(a, write(tmp_path / "short", 4)) == f"{tmp_path / 'short'} ends before step 4"
    assert diff(write(tmp_path / "short", 4), a) == f"{tmp_path / 'short'} ends before step 4"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.0])
def test_odd_floats(tmp_path, value):
    a, b = write(tmp_path / "a", 2, at1={"loss": value}), write(tmp_path / "b", 2, at1={"loss": value})
    assert diff(a, b) is None
    assert "step 1: loss" in diff(a, write(tmp_path / "c", 2, at1={"loss": 0.0}))


@pytest.mark.parametrize("torn", ["", '{"step": 7, "lo', '{"step": 1}'])
def test_resume_repeats_nothing(tmp_path, torn):
    whole = write(tmp_path / "whole", 10)
    path = write(tmp_path / "killed", 7, at5={"loss": 99.0})
    with open(path, "a") as file:
        file.write(torn)
    write(path, 10, resume_step=5)
    assert path.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["killed", "whole"]


def test_a_line_is_on_disk_once_recorded(tmp_path):
    file = Trace(tmp_path / "t", 0)
    file.record(Fingerprint(0, 1.0, 1.0, 1, 1, 1))
    assert [line["loss_decimal"] for line in read(tmp_path / "t")] == ["1"]
    file.close()


def test_damage_is_refused(tmp_path):
    path = write(tmp_path / "a", 3)
    path.write_text(path.read_text().replace('{"step": 1', '{"step"'))
    with pytest.raises(ValueError, match="line 2: expected the trace of an update"):
        diff(path, path)


def test_command(tmp_path, capsys):
    a, b = str(write(tmp_path / "a", 3)), str(write(tmp_path / "b", 3, at2={"masks": 8}))
    assert (bittrace.main([a, a]), capsys.readouterr().out) == (0, "no difference\n")
    assert (bittrace.main([a, b]), capsys.readouterr().out[:22]) == (1, "step 2: masks differs:")
    assert bittrace.main([a, b, "--fields", "loss", "samples"]) == 0


def test_the_command_takes_run_folders(tmp_path, capsys):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    a = write(tmp_path / "one/trace.jsonl", 3)
    assert bittrace.main([str(tmp_path / "one"), str(a)]) == 0
    with pytest.raises(ValueError, match="two: expected a run folder with trace.jsonl, .* --run.trace True"):
        bittrace.main([str(tmp_path / "one"), str(tmp_path / "two")])
    with pytest.raises(SystemExit):
        bittrace.main([str(a)])
    assert ": B: missing; " in capsys.readouterr().err
