"""The published way of UM-MAE and of its repository's SimMIM, against the official code's outputs (tests/golden)."""

import pytest
import torch

from bench.published.um_mae import SimMIM, UniformMAE, UniformViT, draw_secondary
from bench.published.um_pyramids import PVT, Swin

TINY = dict(embed_dim=16, depths=(2, 2, 2, 1), num_heads=(1, 2, 4, 8), window=4, posmlp_dim=8)
DECODER = dict(decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=4)


@pytest.mark.parametrize("attention", ["explicit", "sdpa"])
@pytest.mark.parametrize("suffix", ["raw", "normpix"])
def test_forward_and_gradients(golden, check_gradients, suffix, attention):
    """Compares in float64, because a layer norm's eps of 1e-6 for 1e-5 changes a prediction by only 1.5e-5."""
    data = golden("forward_ummae_swin_tiny")
    norm_pix = suffix == "normpix"
    model = UniformMAE(Swin(**TINY), 128, **DECODER, norm_pix_loss=norm_pix, attention=attention)
    model.load_state_dict({k[3:]: v for k, v in data.items() if k.startswith("sd/")}, strict=True)
    model.double()
    mask, images = data["mask"].bool(), data["img"].double()
    secondary = draw_secondary(mask, 0.25, data["noise"])
    torch.testing.assert_close(
        model.forward_encoder(images, mask, secondary).float(), data["latent"], rtol=0, atol=5e-6
    )
    loss, pred, _ = model(images, mask, secondary)
    torch.testing.assert_close(pred.float(), data["pred"], rtol=0, atol=5e-6)
    torch.testing.assert_close(loss.float(), data[f"loss_{suffix}"][0], rtol=1e-6, atol=0)
    if suffix == "normpix":
        loss.backward()
        check_gradients({k: p.grad.float() for k, p in model.named_parameters() if p.requires_grad}, data)


@pytest.mark.parametrize("backbone", ["swin", "pvt"])
@pytest.mark.parametrize("ratio", ["000", "025"])
def test_compaction(golden, backbone, ratio):
    """Of the official tokens, put in place of the patch embedding."""
    data = golden("um_mask")
    name = f"{backbone}_vmr{ratio}"
    spec = Swin(**TINY | {"embed_dim": 8}) if backbone == "swin" else PVT(dims=(8, 8, 8, 8), num_heads=(1, 1, 1, 1))
    model = UniformMAE(spec, 128, **DECODER, vis_mask_ratio=int(ratio) / 100)
    tokens = data[f"{name}_tokens"].reshape(2, 32, 32, 8)
    mask = data["comp_mask"].bool()
    secondary = draw_secondary(mask, int(ratio) / 100, data["comp_noise"])
    if ratio == "025":
        assert torch.equal(mask | secondary, data["secondary_full_masked"].bool())
        token = data["swin_vmr025_vis_token_after_norm" if backbone == "swin" else "pvt_vmr025_vis_token"]
        model.vis_mask_token.data[:] = token
    if backbone == "pvt":
        model.pos_embed.data[:] = data[f"{name}_pos_embed"]
    model.patch_embed.forward = lambda images: tokens
    model.patch_embed.norm = torch.nn.Identity()  # the recorded token has been through it
    x, pos = model.compact_tokens(data["comp_img"], mask, secondary)
    torch.testing.assert_close(x.flatten(1, 2), data[f"{name}_compacted"], rtol=0, atol=1e-6)
    if backbone == "swin":
        assert torch.equal(pos, data[f"{name}_pos_hw"])


@pytest.mark.parametrize("model", [SimMIM, UniformMAE])
@pytest.mark.parametrize("suffix", ["raw", "normpix"])
def test_loss_and_its_gradient(golden, model, suffix):
    data = {k.removeprefix("ummae_repo/"): v for k, v in golden("simmim_loss").items()}
    name = "ummae_simmim" if model is SimMIM else "ummae"
    with torch.device("meta"):
        model = model(Swin(), norm_pix_loss=suffix == "normpix")
    mask, pred = data["mask"].bool(), data["pred"].clone().requires_grad_()
    rows = pred if name == "ummae_simmim" else pred[mask].reshape(2, -1, 768)
    loss = model.forward_loss(data["img"], rows, mask)
    loss.backward()
    torch.testing.assert_close(loss, data[f"{name}_loss_{suffix}"][0], rtol=1e-5, atol=0)
    expected = data[f"{name}_grad_{suffix}"]
    torch.testing.assert_close(pred.grad, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("model", [lambda: UniformMAE(Swin()), UniformViT])
def test_secondary_count(model):
    """A quarter of the visible patches, rounded up, in every image, and each of them equally often."""
    with torch.device("meta"):
        model = model()
    mask = torch.ones(2000, 64, dtype=torch.bool)
    mask[:, torch.randperm(64)[:14]] = False
    secondary = model.draw_secondary(mask)
    assert (secondary.sum(dim=1) == 4).all() and not (secondary & mask).any()
    share = secondary[:, ~mask[0]].double().mean(dim=0)
    assert (share - 4 / 14).abs().max() < 5 * (4 / 14 * 10 / 14 / 2000) ** 0.5
