"""Tests of the order of samples: each once an epoch, the same in every layout, and random."""

import itertools
import random

import pytest
import torch

from fastmim.data.sampler import Sampler, split_held_out
from fastmim.samples import sample_id, sample_index


def update(sampler, step, world, micro, accumulation):
    """Returns the ids of one update, process by process."""
    layout = {"world": world, "global_batch": world * micro * accumulation, "size": micro}
    return [
        torch.cat([sampler.micro_batch(step, m, rank=rank, **layout) for m in range(accumulation)])
        for rank in range(world)
    ]


def test_every_sample_once_an_epoch_in_1000_layouts():
    rng = random.Random(0)
    for _ in range(1000):
        n, repeats = rng.randint(1, 150), rng.randint(1, 3)
        world, micro, accumulation = rng.randint(1, 5), rng.randint(1, 9), rng.randint(1, 3)
        sampler = Sampler(n, rng.getrandbits(64), repeats)
        global_batch = world * micro * accumulation
        epochs = 2
        updates = -(-epochs * n * repeats // global_batch)
        seen = torch.cat([torch.cat(update(sampler, s, world, micro, accumulation)) for s in range(updates)])
        assert len(seen) == updates * global_batch
        # The last update may reach into a later epoch, whose samples do not count here.
        seen = seen[seen >> 40 < epochs].sort().values
        pairs = [sample_id(torch.arange(n), e, r) for e in range(epochs) for r in range(repeats)]
        assert torch.equal(seen, torch.cat(pairs).sort().values)


def test_an_update_is_the_same_on_1_2_and_4_processes():
    for world, micro, accumulation in [(1, 8, 1), (1, 2, 4), (2, 4, 1), (2, 1, 4), (4, 2, 1), (4, 1, 2)]:
        sampler = Sampler(11, seed=5)
        for step in range(6):
            parts = update(sampler, step, world, micro, accumulation)
            stream = torch.stack(parts).reshape(world, accumulation, micro).transpose(0, 1).flatten()
            assert torch.equal(stream, Sampler(11, seed=5).ids(step * 8, step * 8 + 8))


def test_the_stream_is_a_pure_function_of_position():
    whole = Sampler(7, seed=1, repeats=2).ids(0, 200)
    sampler = Sampler(7, seed=1, repeats=2)
    rng = random.Random(0)
    for _ in range(200):
        start = rng.randint(0, 200)
        stop = rng.randint(start, 200)
        assert torch.equal(sampler.ids(start, stop), whole[start:stop])


def test_only_the_given_indices_in_any_order():
    indices = torch.tensor([30, 4, 2**32 - 1])
    a, b = Sampler(indices, seed=0).ids(0, 9), Sampler(indices.flip(0), seed=0).ids(0, 9)
    assert torch.equal(a, b)
    assert sorted(sample_index(a[:3]).tolist()) == [4, 30, 2**32 - 1]


def test_epochs_and_seeds_differ():
    n = 50
    orders = [
        sample_index(Sampler(n, seed).ids(e * n, (e + 1) * n)).tolist() for seed in (0, 1, 2**63) for e in range(3)
    ]
    assert all(a != b for a, b in itertools.combinations(orders, 2))


def test_the_order_is_fixed_for_ever():
    assert sample_index(Sampler(10, seed=0).ids(0, 20)).tolist() == [3, 9, 8, 4, 2, 0, 5, 1, 7, 6] + [
        3,
        6,
        1,
        8,
        0,
        2,
        9,
        4,
        5,
        7,
    ]


def test_permutations_are_uniform():
    """Chi-square test of the 24 orders of 4 images over 1,200 epochs: 23 degrees of freedom, 1e-6 quantile 73."""
    orders = sample_index(Sampler(4, seed=3).ids(0, 4 * 1200)).reshape(-1, 4)
    _, counts = orders.unique(dim=0, return_counts=True)
    assert len(counts) == 24 and ((counts - 50.0) ** 2 / 50).sum() < 73


def test_no_epoch_remembers_the_one_before():
    """Chi-square test of (position in an epoch, position in the next) over 3,000 pairs: 35 degrees of freedom."""
    n, epochs = 6, 500
    positions = sample_index(Sampler(n, seed=8).ids(0, n * epochs)).reshape(epochs, n).argsort(dim=1)
    table = torch.bincount((positions[:-1] * n + positions[1:]).flatten(), minlength=n * n)
    expected = n * (epochs - 1) / n**2
    assert ((table - expected) ** 2 / expected).sum() < 95


def test_neighbouring_seeds_are_unrelated():
    firsts = [sample_index(Sampler(10, seed).ids(0, 1)).item() for seed in range(500)]
    counts = torch.bincount(torch.tensor(firsts), minlength=10)
    assert ((counts - 50.0) ** 2 / 50).sum() < 45


def test_repeats_are_samples_of_their_own():
    ids = Sampler(5, seed=0, repeats=3).ids(0, 15)
    assert len(ids.unique()) == 15
    assert torch.bincount(sample_index(ids)).tolist() == [3] * 5


def test_refused():
    with pytest.raises(ValueError, match="at least one"):
        Sampler(0, seed=0)
    for repeats in (0, 257):
        with pytest.raises(ValueError, match="repeats"):
            Sampler(3, seed=0, repeats=repeats)
    with pytest.raises(ValueError, match="start"):
        Sampler(3, seed=0).ids(5, 4)
    last = 2**23
    assert Sampler(1, seed=0).ids(last - 1, last).item() == (last - 1) << 40
    with pytest.raises(ValueError, match="epoch 8388608"):
        Sampler(1, seed=0).ids(last, last + 1)


def test_held_out():
    train, held_out = split_held_out(100, 8, seed=4)
    assert torch.equal(torch.cat([train, held_out]).sort().values, torch.arange(100))
    assert len(held_out) == 8 and torch.equal(held_out, held_out.sort().values)
    assert torch.equal(split_held_out(100, 8, seed=4)[1], held_out)
    assert not torch.equal(split_held_out(100, 8, seed=5)[1], held_out)
    # One more held-out image keeps the others.
    assert set(held_out.tolist()) < set(split_held_out(100, 9, seed=4)[1].tolist())
    assert len(split_held_out(3, 0, seed=0)[1]) == 0
    for n, count in [(8, 8), (3, 8), (3, -1)]:
        with pytest.raises(ValueError, match="held-out"):
            split_held_out(n, count, seed=0)


def test_held_out_images_are_drawn_evenly():
    counts = torch.zeros(20)
    for seed in range(500):
        counts[split_held_out(20, 4, seed)[1]] += 1
    assert ((counts - 100) ** 2 / 100).sum() < 60
