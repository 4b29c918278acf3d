"""MAE equals the outputs of the official code (tests/golden; facebookresearch/mae, float32, CPU)."""

import hashlib

import pytest
import torch

from fastmim.convert.mae import FORMATS
from fastmim.model.decoders import TransformerDecoder
from fastmim.model.encoders.vit import ViT
from fastmim.model.losses import MaskedL2
from fastmim.model.masking import RandomMasking
from fastmim.model.mim import MIM
from fastmim.model.objective import Objective
from fastmim.model.targets import NormalizedPatches, Pixels
from fastmim.parts import ImageSpec
from fastmim.samples import Stream, sample_id
from fastmim.tokens import Mask, patchify, sincos_position_embedding, unpatchify
from fastmim_kernels import philox

IDENTITY = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_patchify_layout(golden):
    data = golden("mae_loss")
    images = torch.arange(2 * 3 * 64 * 64).view(2, 3, 64, 64).permute(0, 2, 3, 1)
    assert torch.equal(patchify(images, 16), data["patchify_of_arange"].long())
    assert torch.equal(patchify(data["img"].permute(0, 2, 3, 1), 16), data["patchify"])
    assert torch.equal(unpatchify(patchify(images, 16), 16, (4, 4)), images)


@pytest.mark.parametrize(("target", "suffix"), [(Pixels(), "raw"), (NormalizedPatches(), "normpix")])
@pytest.mark.parametrize("path", ["fused", "reference"])
def test_loss_and_gradient(golden, target, suffix, path):
    data = golden("mae_loss")
    images = data["img"].permute(0, 2, 3, 1).contiguous()
    pred = data["pred"].clone().requires_grad_()
    rows = data["mask"].flatten().nonzero()[:, 0]  # 12 hidden patches in one image, 13 in the other
    objective = Objective(target, MaskedL2(), 16, ImageSpec((64, 64), *IDENTITY))
    if path == "fused":
        tall = images.reshape(1, 128, 64, 3)  # one image, of which any set of rows is a mask
        loss = objective(pred.flatten(0, 1)[rows][None], tall, Mask(rows[None], 0, (8, 4)))
    else:
        loss = MaskedL2()(pred.flatten(0, 1)[rows], objective.targets(images).flatten(0, 1)[rows])
    loss.backward()
    torch.testing.assert_close(loss, data[f"loss_{suffix}"][0], rtol=1e-5, atol=0)
    expected = data[f"grad_{suffix}"]
    torch.testing.assert_close(pred.grad, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize(("target", "suffix"), [(NormalizedPatches(), "normpix"), (Pixels(), "raw")])
def test_forward(golden, check_gradients, target, suffix):
    data = golden("forward_mae_tiny")
    spec = ViT("vit_base_patch16_224", embed_dim=64, depth=2, num_heads=4)
    encoder = spec.build(ImageSpec((96, 96), *IDENTITY), RandomMasking())
    decoder = TransformerDecoder(dim=32, depth=1, num_heads=4).build(encoder)
    mim = MIM(
        RandomMasking(0.75), encoder, decoder, Objective(target, MaskedL2(), 16, ImageSpec((96, 96), *IDENTITY)), seed=0
    )
    weights, unmatched = FORMATS[0].to_ours({k[3:]: v for k, v in data.items() if k.startswith("sd/")})
    assert not unmatched
    mim.load_state_dict(weights, strict=True)
    assert len(mim.state_dict()) == sum(k.startswith("sd/") for k in data)

    images = data["img"].permute(0, 2, 3, 1).contiguous()
    mask = Mask(data["noise"].argsort(dim=1), 9, (6, 6))
    assert torch.equal(mask.mask, data["mask"].bool())
    latent = encoder(images, mask)
    torch.testing.assert_close(latent, data["latent"], rtol=0, atol=1e-4)
    pred = decoder(latent, mask, 27)
    expected = data["pred"].gather(1, mask.ids_hidden[..., None].expand_as(pred))
    torch.testing.assert_close(pred, expected, rtol=0, atol=1e-4)
    loss = mim.objective(pred, images, mask)
    torch.testing.assert_close(loss, data[f"loss_{suffix}"][0], rtol=1e-5, atol=0)
    if suffix == "normpix":
        loss.backward()
        check_gradients(FORMATS[0].to_official({k: p.grad for k, p in mim.named_parameters()})[0], data)


@pytest.mark.parametrize(("name", "dim"), [("pos_embed", 64), ("decoder_pos_embed", 32)])
def test_position_tables(golden, name, dim):
    table = sincos_position_embedding(dim, (6, 6), num_prefix_tokens=1)
    torch.testing.assert_close(table, golden("forward_mae_tiny")[f"sd/{name}"], rtol=0, atol=1e-6)


def test_masks_follow_the_seed():
    masking, ids = RandomMasking(), torch.arange(4)
    encoder = ViT("vit_base_patch16_224", embed_dim=32, depth=1, num_heads=2).build(
        ImageSpec((64, 64), *IDENTITY), masking
    )
    mim = MIM(masking, encoder, torch.nn.Identity(), torch.nn.Identity(), seed=7)
    assert torch.equal(mim.mask(ids).ids, masking(7, ids, (4, 4), 16).ids)


def test_random_masking_law():
    """The count is the official one, every row is a permutation, and every patch is hidden equally often."""
    ids = torch.arange(4000)
    mask = RandomMasking(0.75)(0, ids, (14, 14), 16)
    assert mask.ids_keep.shape == (4000, 49) and mask.ids_hidden.shape == (4000, 147)
    assert torch.equal(mask.ids.sort(dim=1).values, torch.arange(196).expand(4000, -1))
    hidden = mask.mask.double().mean(dim=0)
    assert (hidden - 0.75).abs().max() < 5 * (0.75 * 0.25 / 4000) ** 0.5
    assert torch.equal(RandomMasking(0.75)(0, ids[17:18], (14, 14), 16).ids, mask.ids[17:18])
    assert not torch.equal(RandomMasking(0.75)(1, ids, (14, 14), 16).ids, mask.ids)


def test_random_masks_are_pinned():
    """The order is a stable argsort of the draws on every backend; published runs depend on these bits."""
    ids = sample_id(torch.arange(1000), epoch=3)
    masks = RandomMasking()(5, ids, (14, 14), 16).ids
    assert torch.equal(masks, philox(5, Stream.MASK, ids, 196).argsort(dim=1, stable=True))
    digest = hashlib.sha256(masks.numpy().astype("<i8").tobytes()).hexdigest()
    assert digest == "79c6cfc74b30d25fdbf34627b298d4f4e1cbca8acc8239ec9af46a5b04f47c89"


def test_orders_hide_the_same_patches():
    ids = torch.arange(50)
    noise, raster = (RandomMasking(order=order)(0, ids, (14, 14), 16) for order in ("noise", "raster"))
    assert torch.equal(noise.mask, raster.mask) and not torch.equal(noise.ids, raster.ids)
    assert (raster.ids_keep.diff(dim=1) > 0).all() and (raster.ids_hidden.diff(dim=1) > 0).all()
    with pytest.raises(ValueError, match="masking.order"):
        RandomMasking(order="random")


def test_ratio_that_leaves_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one must be visible"):
        RandomMasking(0.99)(0, torch.arange(1), (2, 2), 16)
    with pytest.raises(ValueError, match="hidden fraction"):
        RandomMasking(1.0)
