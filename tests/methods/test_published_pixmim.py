"""The published way of PixMIM: the official keys, targets and filters (tests/golden; open-mmlab/mmselfsup, float32)."""

import re

import pytest
import torch

from bench.published.mae import MaskedAutoencoder
from bench.published.pixmim import LowFrequencyTarget, PixMIM

TINY = dict(img_size=96, embed_dim=64, depth=2, num_heads=4, decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=4)
CASES = [("64", 5), ("64", 10), ("64", 20), ("64", 40), ("48x64", 10), ("224", 10), ("224", 40)]


@pytest.mark.parametrize(("size", "radius"), CASES)
def test_targets_and_filters(golden, size, radius):
    data = golden("pixmim_lowfreq")
    images = data[f"img{size}"].float()
    generator = LowFrequencyTarget(tuple(images.shape[2:]), radius)
    expected = data[f"filter{size}_r{radius}"].float().expand(3, -1, -1)
    assert torch.equal(generator.low_pass_filter, expected)
    torch.testing.assert_close(generator(images), data[f"target{size}_r{radius}"], rtol=0, atol=2e-5)


def mmselfsup_name(name):
    """mmselfsup's name of a parameter of facebookresearch/mae."""
    part = "neck" if name.startswith(("decoder_", "mask_token")) else "backbone"
    for pattern, new in (
        (r"^(decoder_)?norm\.", "ln1."),
        (r"\.norm(\d)", r".ln\1"),
        (r"mlp\.fc1", "ffn.layers.0.0"),
        (r"mlp\.fc2", "ffn.layers.1"),
        (r"^blocks", "layers"),
        (r"embed\.proj\.", "embed.projection."),
    ):
        name = re.sub(pattern, new, name)
    return f"{part}.{name}"


@pytest.mark.parametrize("attention", ["explicit", "sdpa"])
def test_all_but_the_target_is_mae(golden, check_gradients, attention):
    """With every frequency kept, the official MAE's predictions, loss and gradients (mean and std leave no trace)."""
    data = golden("forward_mae_tiny")
    model = PixMIM(**TINY, radius=100, attention=attention)
    weights = {mmselfsup_name(k[3:]): v for k, v in data.items() if k.startswith("sd/")}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert missing == ["target_generator.low_pass_filter"] and not unexpected
    loss, pred, mask = model(data["img"], data["noise"])
    assert torch.equal(mask.bool(), data["mask"].bool())
    torch.testing.assert_close(pred, data["pred"], rtol=0, atol=1e-4)

    pixels = data["img"] * model.target_generator.std + model.target_generator.mean
    rectified = (pixels.abs() - model.target_generator.mean) / model.target_generator.std
    mae = MaskedAutoencoder(**TINY)
    torch.testing.assert_close(loss, mae.forward_loss(rectified, data["pred"], mask), rtol=1e-5, atol=0)
    model.forward_loss(data["img"], pred, mask).backward()
    names = {mmselfsup_name(k): k for k in mae.state_dict()}
    check_gradients({names[k]: p.grad for k, p in model.named_parameters()}, data)


def test_the_encoder_reads_the_unfiltered_image():
    torch.manual_seed(0)
    model = PixMIM(**TINY, radius=5)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    images, noise = torch.randn(2, 3, 96, 96), torch.rand(2, 36)
    loss, pred, mask = model(images, noise)
    _, filtered_pred, _ = model(model.target_generator(images), noise)
    assert (pred - filtered_pred).abs().max() > 1e-2
    torch.testing.assert_close(loss, model.forward_loss(model.target_generator(images), pred, mask))
