"""Both ways of secondary masking give the same map, so that their times may be compared."""

import torch

from bench import secondary


def test_both_ways_give_the_same_bits(capsys):
    first, second = (way() for way in secondary.ways(2, "cpu").values())
    assert first.shape == (2, 32, 32, 96) and torch.equal(first, second)
    secondary.main(["--batch", "2", "--samples", "2", "--device", "cpu"])
    assert "others gathered" in capsys.readouterr().out
