"""Long-sequence MAE: joint masks equal the published way; sizes; checkpoints."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.published import lsmae
from fastmim.config.config_file import load
from fastmim.convert import official_weights
from fastmim.convert.restricted_reader import OfficialFile
from fastmim.model.masking import JointMasking
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
    """Returns patches of blocks in random order, each block column by column, as the published loader does."""
    torch.manual_seed(0)
    published, _ = lsmae.joint_mask(grid=28, side=2, mask_ratio=0.75)
    ours = JointMasking()(0, torch.arange(1), (28, 28), 16).ids_keep[0]
    for keep in (published, ours):
        assert (keep.view(49, 4) - keep[::4, None]).unique(dim=0).tolist() == [[0, 28, 1, 29]]


@pytest.mark.parametrize(("file", "millions"), [("vit_base", 101.3), ("vit_large", 330.4)])
def test_rows(file, millions):
    """Parameter counts are the published ones, and a file of the published model is recognised."""
    config = load(CONFIGS / f"lsmae/pretrain/{file}_patch16_448_800ep.py")
    with torch.device("meta"):
        mim, published = build(config), lsmae.from_config(config, "sdpa")
    assert round(sum(p.numel() for p in mim.parameters()) / 1e6, 1) == millions
    file = OfficialFile("model", published.state_dict(), {})
    fmt = official_weights.unwrap(file).format
    inferred = official_weights.infer_config(fmt, file.state)
    inferred = replace(inferred, encoder=replace(inferred.encoder, depth=None))  # said, where the row leaves it open
    parts = ("masking", "encoder", "decoder", "target", "loss")
    assert [getattr(inferred, part) for part in parts] == [getattr(config, part) for part in parts]
    assert inferred.data.size == (448, 448)
    state, account = official_weights.to_ours(fmt, file.state, mim)
    assert not account.missing and not account.unmatched and not account.resized
    mim.load_state_dict(state, assign=True)
    back, _ = official_weights.to_official(fmt, mim)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in file.state.items()}
