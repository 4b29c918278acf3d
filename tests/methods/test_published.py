"""The published way of MAE: equal to the official code's outputs, and to ours with the same weights."""

import pytest
import torch

from bench.published.layers import patchify
from bench.published.mae import MaskedAutoencoder

IDENTITY = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
TINY = dict(img_size=96, embed_dim=64, depth=2, num_heads=4, decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=4)


@pytest.mark.parametrize("attention", ["explicit", "sdpa"])
@pytest.mark.parametrize("suffix", ["raw", "normpix"])
def test_forward_and_gradients(golden, check_gradients, suffix, attention):
    data = golden("forward_mae_tiny")
    model = MaskedAutoencoder(**TINY, norm_pix_loss=suffix == "normpix", attention=attention)
    model.load_state_dict({k[3:]: v for k, v in data.items() if k.startswith("sd/")}, strict=True)
    loss, pred, mask = model(data["img"], data["noise"])
    assert torch.equal(mask.bool(), data["mask"].bool())
    torch.testing.assert_close(pred, data["pred"], rtol=0, atol=1e-4)
    torch.testing.assert_close(loss, data[f"loss_{suffix}"][0], rtol=1e-5, atol=0)
    if suffix == "normpix":
        loss.backward()
        check_gradients({k: p.grad for k, p in model.named_parameters()}, data)


@pytest.mark.parametrize("suffix", ["raw", "normpix"])
def test_loss_and_its_gradient(golden, suffix):
    data = golden("mae_loss")
    model = MaskedAutoencoder(**TINY | {"img_size": 64}, norm_pix_loss=suffix == "normpix")
    assert torch.equal(patchify(data["img"], 16), data["patchify"])
    pred = data["pred"].clone().requires_grad_()
    loss = model.forward_loss(data["img"], pred, data["mask"])
    loss.backward()
    torch.testing.assert_close(loss, data[f"loss_{suffix}"][0], rtol=1e-5, atol=0)
    expected = data[f"grad_{suffix}"]
    torch.testing.assert_close(pred.grad, expected, rtol=0, atol=1e-4 * expected.abs().max().item())
