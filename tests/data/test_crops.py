"""Tests of crop windows: torchvision's distribution from our own uniform numbers."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastmim.data.crops import CenterCrop, RandomResizedCrop, ScaleJitterCrop, SimpleResizedCrop, move
from fastmim.data.decode import Job, places
from fastmim.parts import Cut
from fastmim.samples import Stream
from fastmim_kernels.philox import uniform


def windows(crop, image, count, size=(224, 224)):
    rows = uniform(0, Stream.CROP, torch.arange(count), crop.draws).tolist()
    return np.array([crop.cut(image, size, row).window for row in rows])


def features(windows, image):
    """Returns area, log ratio and relative position of each window."""
    top, left, h, w = windows.T.astype(float)
    room = [np.where(full > part, start / np.maximum(full - part, 1), 0.5) for start, part, full in
            ((top, h, image[0]), (left, w, image[1]))]  # fmt: skip
    return np.stack([h * w / (image[0] * image[1]), np.log(w / h), *room])


@pytest.mark.parametrize("scale", [(0.2, 1.0), (0.67, 1.0), (0.08, 1.0)])
@pytest.mark.parametrize("image", [(375, 500), (500, 333), (60, 64)])
def test_same_distribution_as_torchvision(scale, image):
    from torchvision.transforms import RandomResizedCrop as TorchvisionCrop

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
    """No attempt fits such a long image, so the largest central window of an allowed ratio is used."""
    from torchvision.transforms import RandomResizedCrop as TorchvisionCrop

    for image in [(10, 400), (400, 10), (1, 7)]:
        theirs = TorchvisionCrop.get_params(torch.empty(3, *image), [0.9, 1.0], [3 / 4, 4 / 3])
        assert RandomResizedCrop(scale=(0.9, 1.0)).cut(image, (224, 224), [0.5] * 40).window == theirs


def test_each_attempt_has_its_own_numbers():
    crop = RandomResizedCrop(scale=(0.2, 1.0))
    image = (100, 400)
    good, bad = [0.1, 0.5, 0.3, 0.7], [0.99, 0.5, 0.3, 0.7]
    expected = crop.cut(image, (224, 224), good * 10)
    assert crop.cut(image, (224, 224), bad * 3 + good + bad * 6) == expected
    assert crop.cut(image, (224, 224), bad * 3 + good + [0.0] * 24) == expected


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
    assert CenterCrop().cut(image, size, []) == Cut(expected, size)


def test_whole_image():
    assert CenterCrop(crop_pct=1.0).cut((50, 100), (32, 64), []).window == (0, 0, 50, 100)


# Image, sample, resized image: values for 224 px, and samples that are not square.
RESIZED = [
    ((375, 500), (224, 224), (224, 298)),
    ((500, 375), (224, 224), (298, 224)),
    ((224, 224), (224, 224), (224, 224)),
    ((300, 1000), (224, 224), (224, 746)),
    ((1, 1), (224, 224), (224, 224)),
    ((375, 500), (112, 224), (168, 224)),
    ((375, 500), (224, 112), (224, 298)),
    ((300, 1000), (100, 400), (120, 400)),
    ((300, 1000), (100, 300), (100, 333)),
]


@pytest.mark.parametrize(("image", "size", "resized"), RESIZED)
def test_simple_resized_crop(image, size, resized):
    crop = SimpleResizedCrop()
    assert crop.cut(image, size, (0.0, 0.0)) == Cut((0, 0, *image), resized, (-4, -4))
    last = tuple(full + 4 - part for full, part in zip(resized, size, strict=True))
    assert crop.cut(image, size, (1 - 2**-53,) * 2) == Cut((0, 0, *image), resized, last)


def test_simple_resized_crop_takes_every_offset_equally_often():
    crop, count = SimpleResizedCrop(), 9000
    rows = uniform(0, Stream.CROP, torch.arange(count), crop.draws).tolist()
    top, left = np.array([crop.cut((375, 500), (224, 224), row).offset for row in rows]).T
    for offsets, expected in ((top, range(-4, 5)), (left, range(-4, 79))):
        values, found = np.unique(offsets, return_counts=True)
        assert values.tolist() == list(expected)
        # Chi-squared: its mean is the degrees of freedom, its variance twice that.
        free = len(expected) - 1
        assert ((found - count / len(expected)) ** 2).sum() / (count / len(expected)) < free + 5 * np.sqrt(2 * free)
    assert abs(np.corrcoef(top, left)[0, 1]) < 0.05


def test_simple_resized_crop_of_a_long_image_takes_the_middle():
    assert SimpleResizedCrop().cut((2, 100), (8, 8), (0.0, 0.0)) == Cut((0, 34, 2, 32), (8, 128), (-4, -4))
    assert SimpleResizedCrop().cut((100, 2), (8, 8), (0.0, 0.0)) == Cut((34, 0, 32, 2), (128, 8), (-4, -4))
    assert SimpleResizedCrop().cut((2, 32), (8, 8), (0.0, 0.0)).window == (0, 0, 2, 32)


@pytest.mark.parametrize("offset", [(-4, -4), (4, 78), (0, 3), (-1, 75)])
@pytest.mark.parametrize("flip", [False, True])
def test_places_are_those_of_a_reflected_border(offset, flip):
    """The map is R(a, n) = |a| below n, else 2 (n - 1) - a. Edge pixels are not repeated. The flip comes last."""
    size, resized = (224, 224), (224, 298)
    rows, columns = Job(None, Cut((0, 0, 375, 500), resized, offset), flip).places(size)
    r, c = (np.arange(start, start + 224) for start in offset)
    assert np.array_equal(rows, np.where(r < 224, abs(r), 2 * 223 - r))
    c = np.where(c < 298, abs(c), 2 * 297 - c)
    assert np.array_equal(columns, c[::-1] if flip else c)


@pytest.mark.parametrize(("length", "expected"), [(1, [0] * 7), (2, [1, 0, 1, 0, 1, 0, 1]), (3, [1, 2, 1, 0, 1, 2, 1])])
def test_a_border_wider_than_the_image_is_reflected_again(length, expected):
    rows, _ = Job(None, Cut((0, 0, 1, 1), (length, 7), (-3, 0)), False).places((7, 7))
    assert rows.tolist() == expected


def test_bad_ranges_are_refused():
    with pytest.raises(ValueError, match="pad"):
        SimpleResizedCrop(pad=-1)
    for scale in [(0.0, 1.0), (0.5, 0.2), (0.2, 1.5)]:
        with pytest.raises(ValueError, match="scale"):
            RandomResizedCrop(scale=scale)
    for ratio in [(0.0, 1.0), (2.0, 1.0)]:
        with pytest.raises(ValueError, match="ratio"):
            RandomResizedCrop(ratio=ratio)
    with pytest.raises(ValueError, match="crop_pct"):
        CenterCrop(crop_pct=0.0)


def scaled(crop, image, size, count=400):
    rows = uniform(0, Stream.CROP, torch.arange(count), crop.draws).tolist()
    return [crop.cut(image, size, row) for row in rows]


@pytest.mark.parametrize("fit", ["inside", "cover"])
@pytest.mark.parametrize("image", [(375, 500), (500, 333), (60, 64), (30, 400), (1, 1)])
def test_scaled_windows_show_all_that_fits(image, fit):
    """Each axis shows the whole image with padding, or a part without. The place is any whole pixel."""
    size, scale = (96, 128), (0.1, 2.0)
    inside, cover = sorted((size[0] / image[0], size[1] / image[1]))
    base = inside if fit == "inside" else min(cover, 4 * inside)
    for cut in scaled(ScaleJitterCrop(scale=scale, fit=fit), image, size):
        assert cut.padded and cut.offset == (0, 0)
        for full, part, start, length, resized in zip(
            image, size, cut.window[:2], cut.window[2:], cut.resized, strict=True
        ):
            assert 0 <= start <= full - length and 1 <= resized <= part
            assert resized == part or (start, length) == (0, full)
            # Rounding to whole pixels moves image and sample by at most half a pixel each.
            assert (resized - 0.5) / (length + 0.5) <= scale[1] * base
            assert (resized + 0.5) / max(length - 0.5, 1e-9) >= scale[0] * base


def test_scaled_factor_is_uniform():
    factors = [cut.resized[0] / 100 for cut in scaled(ScaleJitterCrop(scale=(0.2, 1.0)), (100, 100), (100, 100), 4000)]
    assert np.allclose(np.quantile(factors, [0.1, 0.5, 0.9]), [0.28, 0.6, 0.92], atol=0.02)


def test_scaled_place_is_uniform():
    crop = ScaleJitterCrop(scale=(2.0, 2.0))
    windows = np.array([cut.window for cut in scaled(crop, (8, 8), (32, 32), 2500)])
    counts = np.zeros((5, 5))
    np.add.at(counts, tuple(windows[:, :2].T), 1)
    assert set(map(tuple, windows[:, 2:])) == {(4, 4)}
    assert ((counts - 100) ** 2 / 100).sum() < 24 + 5 * np.sqrt(48)  # chi-squared of 24 degrees of freedom


@pytest.mark.parametrize("image", [(375, 500), (500, 375), (683, 1024), (7, 3), (1, 999)])
def test_a_scale_of_one_shows_the_whole_image(image):
    for cut in scaled(ScaleJitterCrop(scale=(1.0, 1.0)), image, (128, 128), 3):
        assert cut.window == (0, 0, *image) and max(cut.resized) == 128
        assert abs(min(cut.resized) - max(1, 128 * min(image) / max(image))) <= 0.5


@pytest.mark.parametrize("flip", [False, True])
def test_padding_is_below_and_on_the_right(flip):
    rows, columns = Job(None, Cut((0, 0, 30, 40), (3, 4), padded=True), flip).places((5, 6))
    assert rows.tolist() == [0, 1, 2, -1, -1]
    assert columns.tolist() == [*([3, 2, 1, 0] if flip else [0, 1, 2, 3]), -1, -1]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [(64, 96), (300, 200)])
def test_points_move_with_the_pixels(flip, size):
    """The colours of the image are its coordinates, so the colour at a moved point is the point."""
    image = (120, 160)
    y, x = np.mgrid[: image[0], : image[1]]
    pixels = Image.fromarray(np.stack([x, y, x * 0], axis=-1).astype(np.uint8))
    for cut in scaled(ScaleJitterCrop(scale=(0.5, 2.0), interpolation="bilinear"), image, size, 20):
        top, left, height, width = cut.window
        window = pixels.crop((left, top, left + width, top + height)).resize(
            cut.resized[::-1], Image.Resampling.BILINEAR
        )
        rows, columns = places(cut, flip, size) or map(np.arange, size)
        shown = np.asarray(window)[np.ix_(rows, columns)] if places(cut, flip, size) else np.asarray(window)
        if flip and places(cut, flip, size) is None:
            shown = shown[:, ::-1]
        for u, v in [(0.3, 0.4), (0.5, 0.5), (0.7, 0.6)]:
            point = torch.tensor([left + u * width, top + v * height], dtype=torch.float64)
            column, row = move(point, cut, flip).tolist()
            found = shown[int(row), int(column), :2]
            # A pixel of the sample may be several of the image; colours are those of pixel centres.
            assert np.allclose(
                found + 0.5, point.numpy(), atol=1.0 + max(width / cut.resized[1], height / cut.resized[0])
            )


def test_bad_scales_are_refused():
    for scale in [(0.0, 1.0), (2.0, 1.0)]:
        with pytest.raises(ValueError, match="scale"):
            ScaleJitterCrop(scale=scale)
