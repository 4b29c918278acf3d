"""Tests of DALI on a GPU: pixels, bad files, dropped batches. `python -m bench gpu_check` runs them."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastmim.data.crops import SimpleResizedCrop
from fastmim.data.dali import DaliDecoder
from fastmim.data.decode import Job, PillowDecoder
from fastmim.data.image import seen_size
from fastmim.parts import Cut
from fastmim_kernels.reader import Reader

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SIZE = (96, 80)


@pytest.fixture
def jobs(tmp_path, picture):
    """Returns jobs of 40 JPEG files and a file for Pillow, with windows of many sizes."""
    paths = []
    for i in range(40):
        paths.append(tmp_path / f"{i:02d}.jpg")
        Image.fromarray(picture(120 + 3 * i, 200 - 2 * i, seed=i)).save(paths[-1], quality=90)
    paths.append(tmp_path / "palette.png")
    Image.fromarray(picture(64, 64)).quantize(16).save(paths[-1])
    with Reader(2) as reader:
        files = reader.submit([str(path) for path in paths]).result()
    windows = [(h // 8, w // 9, h // 2 + i, w // 2) for i, (h, w) in enumerate(map(seen_size, files))]
    windows[-1] = (0, 0, 64, 64)
    return [
        Job(file, Cut(window, SIZE), i % 2 == 0) for i, (file, window) in enumerate(zip(files, windows, strict=True))
    ]


@pytest.fixture
def decoder():
    device = torch.device("cuda", torch.cuda.current_device())
    decoder = DaliDecoder(SIZE, 3, "bicubic", 4, device, PillowDecoder(SIZE, 3, "bicubic", 2, pin=True))
    yield decoder
    decoder.close()


def test_pixels_are_close_to_pillow(jobs, decoder):
    pillow = PillowDecoder(SIZE, 3, "bicubic", 2)
    expected, _ = pillow.start(jobs).result()
    pillow.close()
    for _ in range(3):
        images, failures = decoder.start(jobs).result()
        assert images.is_cuda and images.shape == expected.shape and not failures
        difference = (images.cpu().int() - expected.int()).abs().float()
        assert difference[:-1].mean() < 1.5 and difference[-1].max() == 0


def test_a_cut_with_a_border_is_close_to_pillow(jobs, decoder):
    places = [(0.0, 0.0), (0.999, 0.999), (0.4, 0.6)]
    cuts = [SimpleResizedCrop().cut(seen_size(job.file), SIZE, places[i % 3]) for i, job in enumerate(jobs)]
    bordered = [job._replace(cut=cut) for job, cut in zip(jobs, cuts, strict=True)]
    pillow = PillowDecoder(SIZE, 3, "bicubic", 2)
    for some in (bordered, bordered[:20] + jobs[20:]):
        expected, _ = pillow.start(some).result()
        images, failures = decoder.start(some).result()
        assert not failures and (images.cpu().int() - expected.int()).abs().float().mean() < 1.5
    pillow.close()


def test_a_bad_file_changes_no_other_pixel(jobs, decoder):
    clean = decoder.start(jobs).result()[0].cpu()
    cut = jobs[7].file.data[: len(jobs[7].file.data) // 3]
    jobs[7] = jobs[7]._replace(file=type(jobs[7].file)("cut.jpg", np.array(cut), jobs[7].file.header, None, None))
    images, failures = decoder.start(jobs).result()
    assert list(failures) == [7]
    others = [i for i in range(len(jobs)) if i != 7]
    assert torch.equal(images.cpu()[others], clean[others])


def test_dropped_batches_spoil_no_other(jobs, decoder):
    clean = decoder.start(jobs).result()[0].clone()
    for _ in range(10):
        decoder.start(jobs).cancel()
        filler = torch.full_like(clean, 7)
        images, _ = decoder.start(jobs).result()
        assert torch.equal(images, clean) and (filler == 7).all()
