"""The published way of ConvMAE: names, sizes, and what hidden pixels can reach (from Alpha-VL/ConvMAE)."""

import pytest
import torch

from bench.published.convmae import ConvMaskedAutoencoder
from bench.published.pixmim import LowFrequencyTarget

TINY = dict(
    img_size=64,
    embed_dims=(8, 12, 16),
    depths=(1, 1, 2),
    num_heads=2,
    decoder_embed_dim=16,
    decoder_depth=1,
    decoder_num_heads=2,
)

OFFICIAL = TINY | dict(img_size=224, depths=(2, 1, 2))


def conv_block(d):
    norms = {"norm1": (d,), "norm2": (d,), "attn": (d, 1, 5, 5)}
    return norms | {
        "conv1": (d, d, 1, 1),
        "conv2": (d, d, 1, 1),
        "mlp.fc1": (4 * d, d, 1, 1),
        "mlp.fc2": (d, 4 * d, 1, 1),
    }


def block(d):
    norms = {"norm1": (d,), "norm2": (d,), "attn.qkv": (3 * d, d), "attn.proj": (d, d)}
    return norms | {"mlp.fc1": (4 * d, d), "mlp.fc2": (d, 4 * d)}


def test_keys_and_shapes_are_the_official_ones():
    """Lists the shape of every layer's weight; every layer also has a bias."""
    layers = {
        "patch_embed1.proj": (256, 3, 4, 4), "patch_embed1.norm": (256,), "stage1_output_decode": (768, 256, 4, 4),
        "patch_embed2.proj": (384, 256, 2, 2), "patch_embed2.norm": (384,), "stage2_output_decode": (768, 384, 2, 2),
        "patch_embed3.proj": (768, 384, 2, 2), "patch_embed3.norm": (768,), "patch_embed4": (768, 768), "norm": (768,),
        "decoder_embed": (512, 768), "decoder_norm": (512,), "decoder_pred": (768, 512),
    }  # fmt: skip
    stacks = {"blocks1": (2, conv_block(256)), "blocks2": (2, conv_block(384)), "blocks3": (11, block(768))}
    for stack, (depth, names) in (stacks | {"decoder_blocks": (8, block(512))}).items():
        layers |= {f"{stack}.{i}.{name}": shape for i in range(depth) for name, shape in names.items()}
    fixed = {"pos_embed": (1, 196, 768), "decoder_pos_embed": (1, 196, 512)}
    trained = {"mask_token": (1, 1, 512)}
    for name, shape in layers.items():
        trained |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    with torch.device("meta"):
        model = ConvMaskedAutoencoder()
    assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == fixed | trained
    assert {k for k, p in model.named_parameters() if p.requires_grad} == set(trained)


def test_epsilons_are_the_official_ones():
    """The eps is 1e-5 in convolutional stages and patch embeddings, 1e-6 in transformers and final norms."""
    model = ConvMaskedAutoencoder(**TINY)
    norms = {name: m.eps for name, m in model.named_modules() if isinstance(m, torch.nn.LayerNorm)}
    assert {name for name, eps in norms.items() if eps == 1e-5} == {
        name for name in norms if name.startswith(("patch_embed", "blocks1", "blocks2"))
    }
    assert set(norms.values()) == {1e-5, 1e-6}


@pytest.mark.parametrize("attention", ["explicit", "sdpa"])
def test_forward_and_gradients(golden, check_gradients, attention):
    """Outputs equal those of the official class (4c97b4c, float32, CPU), of which every 14th row is kept."""
    data = golden("forward_convmae_tiny")
    model = ConvMaskedAutoencoder(**OFFICIAL, attention=attention)
    model.load_state_dict({k[3:]: v for k, v in data.items() if k.startswith("sd/")}, strict=True)
    images = data["img"].float()
    latent, _, _ = model.forward_encoder(images, data["noise"])
    torch.testing.assert_close(latent, data["latent"], rtol=0, atol=1e-4)
    loss, pred, mask = model(images, data["noise"])
    assert torch.equal(mask.bool(), data["mask"].bool())
    torch.testing.assert_close(pred[:, ::14], data["pred_rows"], rtol=0, atol=1e-4)
    torch.testing.assert_close(loss, data["loss_normpix"][0], rtol=1e-5, atol=0)
    loss.backward()
    check_gradients({k: p.grad for k, p in model.named_parameters()}, data)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = ConvMaskedAutoencoder(**TINY)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model


def test_hidden_pixels_do_not_reach_visible_tokens(model):
    images, noise = torch.randn(2, 3, 64, 64), torch.rand(2, 16)
    latent, mask, _ = model.forward_encoder(images, noise)
    assert latent.shape == (2, 4, 16) and torch.equal(mask.sum(dim=1), torch.full((2,), 12.0))
    hidden = mask.view(2, 1, 4, 4).repeat_interleave(16, 2).repeat_interleave(16, 3).bool()
    other, _, _ = model.forward_encoder(torch.where(hidden, torch.randn_like(images), images), noise)
    assert torch.equal(latent, other)
    other, _, _ = model.forward_encoder(torch.where(hidden, images, images + 1), noise)
    assert not torch.isclose(latent, other).any(dim=-1).all()


def test_visible_neighbours_are_read(model):
    """A patch reaches the tokens of visible patches beside it, before any attention; not across a hidden one."""
    model.blocks3 = torch.nn.ModuleList()
    images, noise = torch.randn(1, 3, 64, 64), torch.arange(1.0, 17)[None]
    noise[0, 3] = 0
    noise[0, 2] = 17  # visible: 3, 0, 1 and 4
    latent, _, _ = model.forward_encoder(images, noise)
    images[:, :, :16, 16:32] += torch.randn(3, 16, 16)
    changed = (model.forward_encoder(images, noise)[0] - latent)[0].abs().amax(dim=1) > 1e-6
    assert changed.tolist() == [False, True, True, True]  # of 3 (behind a hidden one), 0, 1, 4 (diagonal)


def test_low_pass_target(model):
    filtered = ConvMaskedAutoencoder(**TINY, radius=5)
    missing, unexpected = filtered.load_state_dict(model.state_dict(), strict=False)
    assert missing == ["filter.low_pass_filter"] and not unexpected
    images, noise = torch.randn(2, 3, 64, 64), torch.rand(2, 16)
    loss, pred, mask = filtered(images, noise)
    torch.testing.assert_close(pred, model(images, noise)[1])
    torch.testing.assert_close(loss, model.forward_loss(LowFrequencyTarget(64, 5)(images), pred, mask))
