"""The published way of SimMIM, and of A2MIM's ViT: keys, outputs and gradients of the official code."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.published import a2mim_vit, simmim

GOLDEN = Path(__file__).parents[1] / "golden"
TINY_SWIN = dict(img_size=96, embed_dim=16, depths=(2, 2, 2, 1), num_heads=(1, 2, 4, 8), window=3)
TINY_VIT = dict(img_size=(96, 64), embed_dim=24, depth=3, num_heads=4)


def keys(name):
    return json.loads((GOLDEN / f"state_dict_keys/{name}.json").read_text())["entries"]


def test_keys_and_shapes_of_the_vit_of_a2mim():
    with torch.device("meta"):
        vit = a2mim_vit.ViT()
    official = {e["key"]: e["shape"] for e in keys("a2mim_vit_base") if not e["key"].startswith("neck.")}
    assert {f"backbone.{k}": list(v.shape) for k, v in vit.state_dict().items()} == official


@pytest.mark.parametrize("attention", ["explicit", "sdpa"])
def test_forward_and_gradients_of_swin(golden, attention):
    data = golden("forward_simmim_swin_ms_tiny")
    model = simmim.SimMIM(simmim.SwinTransformer(**TINY_SWIN, attention=attention))
    missing, unexpected = model.load_state_dict({k[3:]: v for k, v in data.items() if k[:3] == "sd/"}, strict=False)
    assert not unexpected and all(k.endswith("attn_mask") for k in missing)
    latent = model.encoder(data["img"], data["mask"].long())
    torch.testing.assert_close(latent, data["latent"], rtol=0, atol=1e-4)
    loss, pred, _ = model(data["img"], data["mask"].long())
    torch.testing.assert_close(pred, data["pred"], rtol=0, atol=1e-4)
    torch.testing.assert_close(loss, data["loss"][0], rtol=1e-5, atol=0)
    loss.backward()
    gradients = {k: p.grad for k, p in model.named_parameters()}
    assert set(gradients) == set(map(str, data["gradnorm_keys"]))
    for key, norm in zip(data["gradnorm_keys"], data["gradnorm"], strict=True):
        torch.testing.assert_close(gradients[str(key)].norm(), norm, rtol=1e-4, atol=1e-8, msg=str(key))


def test_loss_and_its_gradient(golden):
    data = golden("simmim_loss")
    images, mask = data["ms/img"], data["ms/mask"].long()
    pred = data["ms/pred"].requires_grad_()
    loss = simmim.SimMIM.loss(images, pred, mask)
    loss.backward()
    torch.testing.assert_close(loss, data["ms/loss"][0], rtol=1e-5, atol=0)
    expected = data["ms/grad"]
    torch.testing.assert_close(pred.grad, expected, rtol=0, atol=1e-4 * expected.abs().max().item())
    empty = simmim.SimMIM.loss(images, pred, torch.zeros_like(mask))
    torch.testing.assert_close(empty, data["ms/loss_empty_mask"][0], rtol=0, atol=0)


def test_masks_are_cells_of_32_pixels(golden):
    """The official loader's 64 masks: 22 of 36 cells, each 8 x 8 tokens, from NumPy's permutations."""
    masks = golden("simmim_loss")["ms/mask_192_32_4_060"]
    random = np.random.RandomState(203)
    cells = torch.zeros(64, 36, dtype=torch.uint8)
    for row in cells:
        row[random.permutation(36)[:22].copy()] = 1
    assert torch.equal(simmim.enlarge(cells.view(64, 6, 6), (48, 48)), masks)


@pytest.mark.parametrize("build", [simmim.VisionTransformer, a2mim_vit.ViT])
def test_sdpa_equals_explicit_attention(build):
    torch.manual_seed(0)
    vit = build(**TINY_VIT | {"drop_path": 0.0}).double()
    for p in vit.parameters():
        torch.nn.init.normal_(p, std=0.3)
    other = build(**TINY_VIT | {"drop_path": 0.0}, attention="sdpa").double()
    other.load_state_dict(vit.state_dict(), strict=True)
    images, mask = torch.randn(2, 3, 96, 64).double(), torch.randint(0, 2, (2, 3, 2))
    torch.testing.assert_close(other(images, mask), vit(images, mask), rtol=0, atol=1e-10)


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("token", ["replace", "add", "gated"])
def test_where_the_token_goes(token, layer):
    """Masked pixels have no effect if the token replaces them at layer 0, and almost none if it is gated.

    They have an effect if the token is added, or joins at a later layer.
    """
    torch.manual_seed(0)
    images, mask = torch.randn(2, 3, 96, 64), torch.zeros(2, 3, 2, dtype=torch.int64)
    mask[:, 1:] = 1
    changed = images.clone()
    changed[:, :, 32:] += 1
    vit = a2mim_vit.ViT(**TINY_VIT, mask_layer=layer, token=token).eval()
    for name, p in vit.named_parameters():
        if name != "mask_gamma":
            torch.nn.init.normal_(p, std=0.3)
    same = torch.allclose(vit(images, mask), vit(changed, mask), rtol=0, atol=1e-4)
    assert same == (layer == 0 and token != "add")
    assert not torch.allclose(vit(images, mask), vit(images, torch.zeros_like(mask)), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("size", "window"), [((96, 160), 3), (224, 6)])
def test_maps_that_the_official_windows_do_not_cover(size, window):
    with pytest.raises(ValueError, match="officially a square number of whole windows"):
        simmim.SwinTransformer(size, window=window)
