"""Crop windows: torchvision's distribution from our own uniform numbers."""

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop as TorchvisionCrop

from fastmim.data.crops import CenterCrop, RandomResizedCrop
from fastmim.tokens import Stream
from fastmim_kernels.philox import uniform


def windows(crop, image, count, size=(224, 224)):
    rows = uniform(0, Stream.CROP, torch.arange(count), crop.draws).tolist()
    return np.array([crop.window(image, size, row) for row in rows])


def features(windows, image):
    """Area, log ratio and relative position of each window."""
    top, left, h, w = windows.T.astype(float)
    room = [np.where(full > part, start / np.maximum(full - part, 1), 0.5) for start, part, full in
            ((top, h, image[0]), (left, w, image[1]))]  # fmt: skip
    return np.stack([h * w / (image[0] * image[1]), np.log(w / h), *room])


@pytest.mark.parametrize("scale", [(0.2, 1.0), (0.67, 1.0), (0.08, 1.0)])
@pytest.mark.parametrize("image", [(375, 500), (500, 333), (60, 64)])
def test_same_distribution_as_torchvision(scale, image):
    count = 3000
    torch.manual_seed(0)
    blank, ratio = torch.empty(3, *image), (3 / 4, 4 / 3)
    theirs = [TorchvisionCrop.get_params(blank, list(scale), list(ratio)) for _ in range(count)]
    a = features(windows(RandomResizedCrop(scale=scale, ratio=ratio), image, count), image)
    b = features(np.array(theirs), image)
    # Five standard errors of the difference of two means.
    tolerance = 5 * np.sqrt((a.var(axis=1) + b.var(axis=1)) / count)
    assert (abs(a.mean(axis=1) - b.mean(axis=1)) < tolerance).all()
    assert np.allclose(a.std(axis=1), b.std(axis=1), rtol=0.1)
    quantiles = np.linspace(0.1, 0.9, 9)
    assert np.allclose(np.quantile(a, quantiles, axis=1), np.quantile(b, quantiles, axis=1), atol=0.05)


@pytest.mark.parametrize("image", [(1, 1), (1, 400), (400, 1), (2, 3), (375, 500), (4000, 30)])
def test_windows_lie_inside(image):
    top, left, h, w = windows(RandomResizedCrop(), image, 300).T
    assert (top >= 0).all() and (left >= 0).all() and (h > 0).all() and (w > 0).all()
    assert (top + h <= image[0]).all() and (left + w <= image[1]).all()


def test_a_window_reaches_both_edges():
    top, left, h, w = windows(RandomResizedCrop(scale=(0.5, 0.5), ratio=(1.0, 1.0)), (8, 8), 500).T
    assert set(h) == set(w) == {6} and set(top) == set(left) == {0, 1, 2}


def test_fallback_is_torchvisions():
    """No attempt fits an image this long: the largest central window of an allowed ratio."""
    for image in [(10, 400), (400, 10), (1, 7)]:
        theirs = TorchvisionCrop.get_params(torch.empty(3, *image), [0.9, 1.0], [3 / 4, 4 / 3])
        assert RandomResizedCrop(scale=(0.9, 1.0)).window(image, (224, 224), [0.5] * 40) == theirs


def test_each_attempt_has_its_own_numbers():
    crop = RandomResizedCrop(scale=(0.2, 1.0))
    image = (100, 400)
    good, bad = [0.1, 0.5, 0.3, 0.7], [0.99, 0.5, 0.3, 0.7]
    expected = crop.window(image, (224, 224), good * 10)
    assert crop.window(image, (224, 224), bad * 3 + good + bad * 6) == expected
    assert crop.window(image, (224, 224), bad * 3 + good + [0.0] * 24) == expected


@pytest.mark.parametrize(
    ("image", "size", "expected"),
    [
        ((256, 256), (224, 224), (16, 16, 224, 224)),
        ((256, 512), (224, 224), (16, 144, 224, 224)),
        ((256, 512), (112, 224), (16, 32, 224, 448)),
        ((512, 256), (112, 224), (200, 16, 112, 224)),
        ((1, 1), (224, 224), (0, 0, 1, 1)),
    ],
)
def test_center_crop(image, size, expected):
    assert CenterCrop().window(image, size, []) == expected


def test_whole_image():
    assert CenterCrop(crop_pct=1.0).window((50, 100), (32, 64), []) == (0, 0, 50, 100)


def test_bad_ranges_are_refused():
    for scale in [(0.0, 1.0), (0.5, 0.2), (0.2, 1.5)]:
        with pytest.raises(ValueError, match="scale"):
            RandomResizedCrop(scale=scale)
    for ratio in [(0.0, 1.0), (2.0, 1.0)]:
        with pytest.raises(ValueError, match="ratio"):
            RandomResizedCrop(ratio=ratio)
    with pytest.raises(ValueError, match="crop_pct"):
        CenterCrop(crop_pct=0.0)
