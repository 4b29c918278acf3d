"""Every config with a published form builds that form; with our weights, both losses are equal."""

from dataclasses import replace

import pytest
import torch

from bench import published
from fastmim.config.config_file import load
from fastmim.model.losses import MaskedL1
from fastmim.tasks import pretrain
from tests.methods.tiny import methods

TINY = "configs/debug/tiny_cpu.py"


@pytest.mark.parametrize(("name", "cfg"), methods().items(), ids=lambda value: value if isinstance(value, str) else "")
def test_same_weights_same_loss(name, cfg):
    mim = pretrain.build(cfg)
    images = torch.randint(0, 256, (2, *cfg.data.size, len(cfg.data.mean)), dtype=torch.uint8)
    ids = torch.tensor([5, 1 << 40])
    model, inputs = published.build(cfg)
    published.copy_weights(model, mim)
    torch.manual_seed(1)
    loss = model(mim.objective.normalize(images).permute(0, 3, 1, 2), *inputs(mim.mask(ids)))[0]
    torch.manual_seed(1)
    torch.testing.assert_close(loss, mim(images, ids), rtol=1e-5, atol=0)


def test_sdpa_and_the_mask_are_the_same():
    cfg = load(TINY)
    mim = pretrain.build(cfg)
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    mask = mim.mask(torch.tensor([5, 1 << 40]))
    model, inputs = published.build(cfg, "sdpa")
    published.copy_weights(model, mim)
    loss, _, hidden = model(mim.objective.normalize(images).permute(0, 3, 1, 2), *inputs(mask))
    assert torch.equal(hidden.bool(), mask.mask)
    torch.testing.assert_close(loss, mim.objective(mim.predict(images, mask), images, mask), rtol=1e-5, atol=0)


def test_no_published_form_is_said_with_every_reason():
    with pytest.raises(ValueError, match="no published form of this config; .*mae: .*MaskedL1"):
        published.build(replace(load(TINY), loss=MaskedL1()))


def test_weights_that_do_not_fit_are_named():
    mim = pretrain.build(load(TINY))
    model, _ = published.build(replace(load(TINY), encoder=replace(load(TINY).encoder, embed_dim=32)))
    with pytest.raises(ValueError, match="nearest: MAE .*, except for cls_token"):
        published.copy_weights(model, mim)
