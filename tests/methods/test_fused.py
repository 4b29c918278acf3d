"""`train.kernels`: every method learns the same on fused kernels and on references in plain torch."""

import pytest
import torch

from fastmim.samples import sample_id
from fastmim.tasks.pretrain import build
from fastmim_kernels import use_reference
from tests.methods.tiny import methods, traits
from tests.sweep import covering

METHODS = methods()


def curve(config, reference: bool) -> list[float]:
    """Returns the losses of four updates from the same weights on the same images."""
    torch.manual_seed(0)
    mim = build(config)
    images = torch.randint(0, 256, (4, *config.data.size, len(config.data.mean)), dtype=torch.uint8)
    optimizer = torch.optim.AdamW(mim.parameters(), 1e-3)
    losses = []
    use_reference(reference)
    try:
        for step in range(4):
            loss = mim(images, sample_id(torch.arange(4), step))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    finally:
        use_reference(False)
    return losses


@pytest.mark.parametrize("name", covering(zip(METHODS), lambda name: traits(METHODS[name])))
def test_same_loss_curve(name):
    fused, plain = (curve(METHODS[name], reference) for reference in (False, True))
    assert fused == pytest.approx(plain, rel=1e-3)
    assert fused[0] == pytest.approx(plain[0], rel=1e-5) and len(set(fused)) == 4
