"""Properties of every masking and method: counts, laws, finite losses and gradients on hostile input."""

import math
import subprocess
from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastmim.model import masking
from fastmim.model.masking import BlockMasking, JointMasking, RandomMasking, UniformMasking
from fastmim.parts import Masking
from fastmim.tasks.pretrain import build
from tests.methods.tiny import ROOT, methods, traits
from tests.sweep import covering

SEEDS = st.integers(0, 2**63 - 1)
GRIDS = st.tuples(st.integers(1, 20), st.integers(1, 20))
RATIOS = st.floats(0.0, 1.0, exclude_min=True, exclude_max=True)
SOME = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
METHODS = methods()


def draw(law, seed, grid, patch_size=16, first=0, count=3):
    """Draws the masks of `count` samples and checks them; None if the masking refuses the grid."""
    ids = torch.arange(first, first + count)
    try:
        mask = law(seed, ids, grid, patch_size)
    except ValueError as refusal:
        assert "masking" in str(refusal)
        return None
    num_patches = grid[0] * grid[1]
    assert mask.grid == grid and mask.ids.dtype == torch.int64
    assert torch.equal(mask.ids.sort(dim=1).values, torch.arange(num_patches).expand(count, -1))
    assert 0 < mask.num_keep < num_patches
    assert torch.equal(mask.mask.sum(dim=1), torch.full((count,), num_patches - mask.num_keep))
    assert torch.equal(mask.hidden_map(grid).flatten(1), mask.mask)
    assert (mask.secondary is not None) == law.replaces
    # A sample's mask is its own, whatever else is in the batch.
    assert torch.equal(law(seed, ids[1:2], grid, patch_size).ids[0], mask.ids[1])
    return mask


def test_every_law_is_tested():
    laws = {part for part in vars(masking).values() if isinstance(part, type) and issubclass(part, Masking)}
    assert laws - {Masking} == {RandomMasking, BlockMasking, JointMasking, UniformMasking}


@SOME
@given(SEEDS, GRIDS, RATIOS, st.sampled_from(["noise", "raster"]))
def test_random_masking(seed, grid, ratio, order):
    num_patches = grid[0] * grid[1]
    mask = draw(RandomMasking(ratio, order), seed, grid)
    num_keep = int(num_patches * (1 - ratio))
    assert (mask is None) == (not 0 < num_keep < num_patches)
    if mask is not None:
        assert mask.num_keep == num_keep
        if order == "raster":
            assert all((part.diff() > 0).all() for part in (mask.ids_keep, mask.ids_hidden))


@SOME
@given(SEEDS, GRIDS, RATIOS, st.integers(1, 4), st.sampled_from([4, 16]))
def test_block_masking(seed, grid, ratio, side, patch_size):
    fits = grid[0] % side == 0 and grid[1] % side == 0
    mask = draw(BlockMasking(ratio, block=side * patch_size), seed, grid, patch_size)
    total = grid[0] * grid[1] // side**2
    hidden = math.ceil(total * ratio)
    assert (mask is None) == (not fits or hidden == total)
    if mask is not None:
        blocks = mask.mask.view(-1, grid[0] // side, side, grid[1] // side, side).transpose(2, 3).flatten(3)
        assert torch.equal(blocks.all(dim=3), blocks.any(dim=3))
        assert torch.equal(blocks.all(dim=3).flatten(1).sum(dim=1), torch.full((3,), hidden))


@SOME
@given(SEEDS, GRIDS, RATIOS, st.integers(1, 4))
def test_joint_masking(seed, grid, ratio, side):
    num_patches = grid[0] * grid[1]
    mask = draw(JointMasking(ratio, side), seed, grid)
    num_keep = int(num_patches * (1 - ratio))
    several = grid[0] > side or grid[1] > side  # blocks: of a single one there is nothing to draw
    assert (mask is None) == (not (0 < num_keep < num_patches and several))
    if mask is None:
        return
    assert mask.num_keep == num_keep
    row, column = torch.arange(grid[0])[:, None] // side, torch.arange(grid[1])[None] // side
    block = (row * grid[1] + column).flatten()
    for hidden in mask.mask:
        cut = [int(b) for b in block.unique() if 0 < hidden[block == b].sum() < (block == b).sum()]
        assert len(cut) <= 1
    if grid[0] % side == 0 == grid[1] % side and num_keep % side**2 == 0:
        assert all(len(hidden[block == b].unique()) == 1 for hidden in mask.mask for b in block.unique())


@SOME
@given(SEEDS, GRIDS, st.floats(0.0, 1.0, exclude_max=True), st.sampled_from(["stratified", "iid"]))
def test_uniform_masking(seed, grid, secondary, rule):
    law = UniformMasking(secondary, rule)
    mask = draw(law, seed, grid)
    nothing_left = secondary > 0 and int(grid[0] * grid[1] // 4 * (1 - secondary)) == 0
    assert (mask is None) == bool(grid[0] % 2 or grid[1] % 2 or nothing_left)
    if mask is None:
        return
    blocks = mask.ids_keep // grid[1] // 2 * (grid[1] // 2) + mask.ids_keep % grid[1] // 2
    num_keep = grid[0] * grid[1] // 4
    assert mask.num_keep == num_keep
    assert torch.equal(blocks, torch.arange(num_keep).expand_as(blocks))  # one in each block, in their raster order
    if secondary:
        assert torch.equal(mask.secondary.sum(dim=1), torch.full((3,), num_keep - int(num_keep * (1 - secondary))))
    if rule == "stratified":
        corner = mask.ids_keep // grid[1] % 2 * 2 + mask.ids_keep % grid[1] % 2
        assert max(int((corner == c).sum(dim=1).max()) for c in range(4)) <= -(-num_keep // 2)


def check_finite(config, images):
    """Checks that the loss and its gradients are finite, and that encoder and decoder get gradients."""
    mim = build(config)
    loss = mim(images, torch.arange(len(images)))
    loss.backward()
    gradients = {name: p.grad for name, p in mim.named_parameters() if p.grad is not None}
    assert torch.isfinite(loss)
    assert not [name for name, gradient in gradients.items() if not torch.isfinite(gradient).all()]
    assert {name.split(".")[0] for name in gradients} == {"encoder", "decoder"}
    return loss.item()


def colours_and_traits(name, value):
    """Returns facts that the sample must cover: each trait, and both colours with each kind of part."""
    config = METHODS[name]
    kinds = {(value, type(part)) for part in (config.encoder, config.target, config.loss)}
    return traits(config) | kinds


@pytest.mark.parametrize(("name", "value"), covering(product(METHODS, (0, 255)), colours_and_traits))
def test_constant_images(name, value):
    config = METHODS[name]
    check_finite(config, torch.full((2, *config.data.size, len(config.data.mean)), value, dtype=torch.uint8))


def extremes(config):
    """Returns the config with as few hidden patches as possible, and with as many."""
    law, encoder = config.masking, build(config).encoder
    cells = encoder.grid[0] * encoder.grid[1]
    if law.uniform:
        secondary = (0.0, 1 - 1.2 / (cells // 4)) if law.replaces else (0.0,)
        return [replace(config, masking=replace(law, secondary=value)) for value in secondary]
    if isinstance(law, BlockMasking):
        cells //= (law.block // encoder.patch_size) ** 2
    return [replace(config, masking=replace(law, ratio=ratio)) for ratio in (0.5 / cells, 1 - 1.2 / cells)]


@pytest.mark.parametrize("name", covering(zip(METHODS), lambda name: traits(METHODS[name])))
def test_extreme_ratios(name):
    config = METHODS[name]
    shape = (2, *config.data.size, len(config.data.mean))
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for extreme in extremes(config):
        assert check_finite(extreme, images) > 0


def test_methods_are_compositions():
    """No code depends on the name of a method."""
    found = subprocess.run(
        ["git", "grep", "-n", "if method ==", "--", ":!tests"], cwd=ROOT, capture_output=True, text=True
    )
    assert found.returncode == 1, found.stdout
