"""The published way of long-sequence MAE: names, sizes and masks (from facebookresearch/long_seq_mae)."""

import json
from pathlib import Path

import pytest
import torch

from bench.published.lsmae import LongSequenceMaskedAutoencoder, joint_mask
from bench.published.mae import MaskedAutoencoder

GOLDEN = Path(__file__).parents[1] / "golden"
LARGE = dict(embed_dim=1024, depth=24, num_heads=16, decoder_embed_dim=512, decoder_num_heads=16)


def test_keys_are_those_of_mae():
    entries = json.loads((GOLDEN / "state_dict_keys/mae_vit_base_patch16.json").read_text())["entries"]
    with torch.device("meta"):
        model = LongSequenceMaskedAutoencoder()
    shapes = {k: v.shape for k, v in model.state_dict().items()}
    assert set(shapes) == {e["key"] for e in entries}
    assert shapes["pos_embed"] == (1, 785, 768) and shapes["decoder_pos_embed"] == (1, 785, 384)
    assert all(shapes[e["key"]] == tuple(e["shape"]) for e in entries if e["key"].startswith(("blocks", "norm")))


@pytest.mark.parametrize(("sizes", "millions"), [({}, 101.3), (LARGE, 330.4)])
def test_sizes(sizes, millions):
    """The sheet's parameter counts, with the fixed position tables."""
    with torch.device("meta"):
        model = LongSequenceMaskedAutoencoder(**sizes)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions


def test_blocks_are_hidden_or_shown_as_one():
    torch.manual_seed(0)
    keep, restore = joint_mask(grid=28, side=2, mask_ratio=0.75)
    shuffle = restore.argsort()
    assert torch.equal(shuffle[:196], keep) and torch.equal(shuffle.sort().values, torch.arange(784))
    visible = torch.zeros(784, dtype=torch.bool).index_fill_(0, keep, True).view(14, 2, 14, 2)
    assert torch.equal(visible.sum(dim=(1, 3)).unique(), torch.tensor([0, 4]))
    assert (keep.view(49, 4) - keep[::4, None]).unique(dim=0).tolist() == [[0, 28, 1, 29]]


def test_blocks_over_the_edge_are_cut():
    keep, restore = joint_mask(grid=5, side=2, mask_ratio=0.75)
    assert len(keep) == 6 and torch.equal(restore.sort().values, torch.arange(25))


def test_given_ids_are_mae_of_the_same_order():
    torch.manual_seed(0)
    sizes = dict(img_size=64, embed_dim=16, depth=1, num_heads=2)
    sizes |= dict(decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=2)
    ours, mae = LongSequenceMaskedAutoencoder(**sizes), MaskedAutoencoder(**sizes)
    for p in mae.parameters():
        torch.nn.init.normal_(p, std=0.2)
    ours.load_state_dict(mae.state_dict())
    images, noise = torch.randn(2, 3, 64, 64), torch.rand(2, 16)
    shuffle = noise.argsort(dim=1)
    for got, expected in zip(ours(images, shuffle[:, :4], shuffle.argsort(dim=1)), mae(images, noise), strict=True):
        torch.testing.assert_close(got, expected)
