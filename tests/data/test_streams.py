"""Tests that any loader in any layout cuts the same crop of the same file at each position."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from fastmim.data.crops import RandomResizedCrop, SimpleResizedCrop
from fastmim.data.decode import ImageDecoder
from fastmim.data.loader import open_loader
from fastmim.data.manifest import Manifest
from fastmim.data.quarantine import Quarantine
from fastmim.data.sampler import Sampler
from fastmim.model.masking import RandomMasking
from tests.sweep import covering

SEED, BATCH, UPDATES = 5, 8, 5


class Recorder(ImageDecoder):
    """A decoder that records its jobs."""

    def __init__(self, decoder):
        self.decoder, self.jobs = decoder, []

    def start(self, jobs):
        self.jobs.append([(job.file.path, job.cut, job.flip) for job in jobs])
        return self.decoder.start(jobs)

    def describe(self):
        return self.decoder.describe()

    def close(self):
        self.decoder.close()


@pytest.fixture(scope="module")
def stream(photographs):
    """Returns stream(name, world, first): {position: (file, cut, flip, mask)} and {position: pixels}."""
    manifest = Manifest.scan(str(photographs))

    def run(data, name, world, first=0):
        # Without prefetching, because batches that are read ahead begin in any order, as their files arrive.
        settings = replace(data, loader=name, prefetch=0)
        sampler = Sampler(len(manifest), SEED)
        asked, pixels = {}, {}
        for rank in range(world):
            loader = open_loader(
                manifest, settings, SEED, Quarantine(manifest, SEED), torch.arange(len(manifest)), torch.device("cpu")
            )
            loader._decoder = recorder = Recorder(loader._decoder)
            layout = {"rank": rank, "world": world, "global_batch": BATCH, "size": BATCH // world}
            steps = range(first, UPDATES)
            with loader:
                batches = list(loader.batches(sampler.micro_batch(step, 0, **layout) for step in steps))
            for step, jobs, (images, ids) in zip(steps, recorder.jobs, batches, strict=True):
                masks = RandomMasking()(SEED, ids, (4, 4), 16).ids.tolist()
                for i, (job, mask, image) in enumerate(zip(jobs, masks, images, strict=True)):
                    position = step * BATCH + rank * (BATCH // world) + i
                    asked[position], pixels[position] = (*job, mask), image
        return asked, pixels

    return run


SWEEP = list(product(("pillow", "dali"), (1, 2, 4), (RandomResizedCrop(), SimpleResizedCrop())))


@pytest.mark.parametrize(("name", "world", "crop"), covering(SWEEP))
def test_the_same_on_every_layout_loader_and_after_a_resume(stream, data, name, world, crop):
    expected, pixels = stream(data(crop), "pillow", 1)
    assert sorted(expected) == list(range(BATCH * UPDATES))
    assert len({(cut, flip) for _, cut, flip, _ in expected.values()}) > BATCH * UPDATES / 2
    asked, seen = stream(data(crop), name, world)
    assert asked == expected
    resumed, _ = stream(data(crop), name, world, first=3)
    assert resumed == {position: job for position, job in expected.items() if position >= 3 * BATCH}
    for position, image in seen.items():
        difference = (image.int() - pixels[position].int()).abs()
        assert difference.max() == 0 if name == "pillow" else difference.float().mean() < 1
