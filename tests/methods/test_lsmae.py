"""Long-sequence MAE: joint masks, against the published way, sizes, and its checkpoints."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.published import lsmae
from bench.published.lsmae import LongSequenceMaskedAutoencoder
from fastmim.config import load
from fastmim.convert import official
from fastmim.convert.read import OfficialFile
from fastmim.decoders import TransformerDecoder
from fastmim.encoders import ViT
from fastmim.losses import MaskedL2
from fastmim.masking import JointMasking
from fastmim.mim import MIM
from fastmim.objective import Objective
from fastmim.targets import LowPass, NormalizedPatches
from fastmim.tasks.pretrain import build

CONFIGS = Path(__file__).parents[2] / "configs"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_blocks_are_hidden_or_shown_as_one():
    mask = JointMasking()(0, torch.arange(2000), (28, 28), 16)
    assert torch.equal(mask.ids.sort(dim=1).values, torch.arange(784).expand(2000, -1))
    hidden = mask.mask.view(-1, 14, 2, 14, 2).double().mean(dim=(2, 4)).flatten(1)
    assert torch.equal(hidden.unique(), torch.tensor([0.0, 1.0]).double())
    assert torch.equal(hidden.sum(dim=1), torch.full((2000,), 147.0).double())
    assert (hidden.mean(dim=0) - 0.75).abs().max() < 5 * (0.75 * 0.25 / 2000) ** 0.5


def test_order_of_the_tokens_is_the_official_one():
    """Blocks in random order, each column by column, as the published loader has them."""
    torch.manual_seed(0)
    published, _ = lsmae.joint_mask(grid=28, side=2, mask_ratio=0.75)
    ours = JointMasking()(0, torch.arange(1), (28, 28), 16).ids_keep[0]
    for keep in (published, ours):
        assert (keep.view(49, 4) - keep[::4, None]).unique(dim=0).tolist() == [[0, 28, 1, 29]]


@pytest.mark.parametrize(("target", "radius"), [(NormalizedPatches(), None), (LowPass(10), 10)])
def test_ours_equals_the_published_way(target, radius):
    torch.manual_seed(0)
    masking = JointMasking()
    encoder = ViT("vit_base_patch16_224", embed_dim=32, depth=2, num_heads=2).build((128, 128), MEAN, STD, masking)
    decoder = TransformerDecoder(dim=16, depth=2, num_heads=2).build(encoder)
    ours = MIM(masking, encoder, decoder, Objective(target, MaskedL2(), 16, MEAN, STD), seed=0)
    for p in ours.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.1)
    sizes = dict(embed_dim=32, depth=2, num_heads=2, decoder_embed_dim=16, decoder_depth=2, decoder_num_heads=2)
    published = LongSequenceMaskedAutoencoder(img_size=128, radius=radius, **sizes)
    names = {official.FORMATS[-1].to_official({k: v})[0].popitem()[0]: k for k, v in ours.state_dict().items()}
    missing, unexpected = published.load_state_dict({k: ours.state_dict()[n] for k, n in names.items()}, strict=False)
    assert missing == (["filter.low_pass_filter"] if radius else []) and not unexpected

    images = torch.randint(0, 256, (3, 128, 128, 3), dtype=torch.uint8)
    mask = ours.mask(torch.arange(3))
    loss = ours.objective(ours.predict(images, mask), images, mask)
    pixels = ours.objective.normalize(images).permute(0, 3, 1, 2)
    expected, _, hidden = published(pixels, *lsmae.inputs(mask))
    assert torch.equal(hidden.bool(), mask.mask)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    loss.backward()
    expected.backward()
    gradients = dict(ours.named_parameters())
    for name, p in published.named_parameters():
        if p.requires_grad:
            scale = p.grad.abs().max().item()
            torch.testing.assert_close(gradients[names[name]].grad, p.grad, rtol=0, atol=1e-4 * scale, msg=name)


@pytest.mark.parametrize(("file", "millions"), [("vit_base", 101.3), ("vit_large", 330.4)])
def test_rows(file, millions):
    """The sheet's parameter counts, with the fixed position tables; the published model; and its file, recognised."""
    config = load(CONFIGS / f"lsmae/pretrain/{file}_patch16_448_800ep.py")
    with torch.device("meta"):
        mim, published = build(config), lsmae.from_config(config, "sdpa")
    assert round(sum(p.numel() for p in mim.parameters()) / 1e6, 1) == millions
    file = OfficialFile("model", published.state_dict(), {})
    fmt = official.recognise(file)
    inferred = official.configuration(fmt, file.state)
    inferred = replace(inferred, encoder=replace(inferred.encoder, depth=None))  # said, where the row leaves it open
    parts = ("masking", "encoder", "decoder", "target", "loss")
    assert [getattr(inferred, part) for part in parts] == [getattr(config, part) for part in parts]
    assert inferred.data.size == (448, 448)
    state, account = official.to_ours(fmt, file.state, mim)
    assert not account.missing and not account.unmatched and not account.resized
    mim.load_state_dict(state, assign=True)
    back, _ = official.to_official(fmt, mim)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in file.state.items()}
