"""Tests of label maps: found by name, read strictly, cut like their images, prefetched."""

import json
import re
import time

import numpy as np
import pytest
import torch
from PIL import Image

from fastmim.data import loader as loading
from fastmim.data.crops import CenterCrop, RandomResizedCrop, ScaleJitterCrop, SimpleResizedCrop
from fastmim.data.labels import LabelMapLoader, LabelMaps, cut_labels, resized_pairs
from fastmim.data.manifest import Manifest
from fastmim.data.quarantine import BadFilesError, Quarantine
from fastmim.parts import Cut
from fastmim.samples import sample_id

SEED, CLASSES = 5, 9


def blocks(height, width, seed):
    """Returns (H, W) uint8 labels: large blocks of classes, and some pixels without a class."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([*range(CLASSES), 255], (4, 5)).astype(np.uint8)
    return labels[np.arange(height)[:, None] * 4 // height, np.arange(width) * 5 // width]


@pytest.fixture
def folder(tmp_path):
    """Makes seven JPEG images and a PNG image, with label maps. A gray level is 20 times the label."""
    for i in range(8):
        labels = blocks(60 + 9 * i, 80 - 3 * i, i)
        kind = "jpg" if i else "png"
        for name in ("images", "masks"):
            (tmp_path / name / f"part{i % 2}").mkdir(parents=True, exist_ok=True)
        gray = np.repeat(np.where(labels == 255, 200, 20 * labels)[..., None], 3, axis=2).astype(np.uint8)
        Image.fromarray(gray).save(tmp_path / f"images/part{i % 2}/{i}.{kind}", quality=95)
        Image.fromarray(labels).save(tmp_path / f"masks/part{i % 2}/{i}.png")
    return tmp_path


def open_both(folder, data, changes=None, file=None):
    manifest = Manifest.scan(str(folder / "images"))
    masks = LabelMaps(manifest, str(folder / "masks"), CLASSES)
    quarantine = Quarantine(manifest, SEED, file)
    loader = loading.open_loader(
        manifest, data, SEED, quarantine, torch.arange(len(manifest)), torch.device("cpu"), changes
    )
    return loader, LabelMapLoader(masks, loader, data.size, 2)


def load(folder, data, stream, **options):
    """Returns all batches and the loader's bad files."""
    loader, masks = open_both(folder, data, **options)
    try:
        return list(masks.batches(stream)), list(loader.bad_files())
    finally:
        loader.close()
        masks.close()


CROPS = [
    ScaleJitterCrop(scale=(0.4, 2.0), interpolation="bilinear"),
    ScaleJitterCrop(scale=(0.5, 2.0), fit="cover", interpolation="bilinear"),
    RandomResizedCrop(interpolation="bilinear"),
    SimpleResizedCrop(),
    CenterCrop(),
]


@pytest.mark.parametrize("crop", CROPS)
def test_label_maps_are_cut_as_their_images_are(folder, data, crop):
    """Except at the borders of blocks, which the resize mixes, the gray level is 20 times the label."""
    ids = torch.cat([sample_id(torch.arange(8), epoch) for epoch in range(3)])
    settings = data(crop, size=(48, 56), mean=(1.0, 1.0, 1.0), std=(1.0, 1.0, 1.0))
    ((images, found, labels),), _ = load(folder, settings, [ids])
    assert torch.equal(found, ids) and labels.dtype == torch.uint8 and labels.shape == (24, 48, 56)
    gray = images[..., 0].int()
    expected = torch.where(labels == 255, 200, 20 * labels.int())
    padding = (labels == 255) & (gray == 255)
    assert padding.any() == isinstance(crop, ScaleJitterCrop)
    right = ((gray - expected).abs() < 10) | padding
    assert right.float().mean() > 0.85
    # Every wrong pixel lies beside another label, or at the border of the sample.
    flat = torch.nn.functional.max_pool2d(labels[:, None].float(), 9, 1, 4) == -torch.nn.functional.max_pool2d(
        -labels[:, None].float(), 9, 1, 4
    )
    inner = flat[:, 0, 4:-4, 4:-4]
    assert inner.float().mean() > 0.2 and right[:, 4:-4, 4:-4][inner].float().mean() > 0.999


def test_labels_are_never_mixed():
    """An enlarged checkerboard of 0 and 8 contains no other class."""
    board = (np.indices((6, 6)).sum(axis=0) % 2 * 8).astype(np.uint8)
    found = cut_labels(board, Cut((1, 1, 4, 4), (31, 17), padded=True), True, (40, 40))
    assert set(np.unique(found)) == {0, 8, 255}
    assert (found[31:] == 255).all() and (found[:, 17:] == 255).all() and (found[:31, :17] != 255).all()
    assert np.array_equal(cut_labels(board, Cut((0, 0, 6, 6), (6, 6)), False, (6, 6)), board)
    assert np.array_equal(cut_labels(board, Cut((0, 0, 6, 6), (6, 6)), True, (6, 6)), board[:, ::-1])


def test_a_bad_image_has_the_mask_of_what_takes_its_place(folder, data):
    (folder / "images/part0/4.jpg").write_bytes(b"")
    whole = (folder / "images/part1/7.jpg").read_bytes()
    (folder / "images/part1/7.jpg").write_bytes(whole[: len(whole) // 2])
    settings = data(CROPS[0], size=(48, 56))
    ((images, _, labels),), bad = load(folder, settings, [sample_id(torch.arange(8), 2)])
    assert sorted(bad) == ["part0/4.jpg", "part1/7.jpg"]
    expected = torch.where(labels == 255, images[..., 0].int(), 20 * labels.int())
    assert ((images[..., 0].int() - expected).abs() < 10).float().mean(dim=(1, 2)).min() > 0.75


def test_distortion_leaves_masks_and_padding_alone(folder, data):
    from fastmim.data.augment import Augmenter, photometric_distortion

    settings, stream = data(CROPS[0], size=(48, 56)), [sample_id(torch.arange(8), 0)]
    ((plain, _, labels),), _ = load(folder, settings, stream)
    found = [load(folder, settings, stream, changes=Augmenter(photometric_distortion(), 1))[0][0] for _ in range(2)]
    assert torch.equal(found[0][0], found[1][0]) and not torch.equal(plain, found[0][0])
    assert torch.equal(labels, found[0][2])
    padding = (plain == torch.tensor([124, 116, 104])).all(dim=-1)
    assert padding.any() and (found[0][0][padding] == torch.tensor([124, 116, 104])).all()
    other, _ = load(folder, settings, stream, changes=Augmenter(photometric_distortion(), 2))
    assert not torch.equal(other[0][0], found[0][0])


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("3", lambda path: Image.new("L", (50, 40)).save(path), "is 50x40 pixels, its image '.*3.jpg' is 71x87"),
        ("3", lambda path: Image.new("RGB", (71, 87)).save(path), "got Pillow's mode RGB"),
        ("3", lambda path: Image.new("L", (71, 87), 9).save(path), r"has 9, expected one of 9 classes \(0 .. 8\)"),
        ("3", lambda path: path.write_bytes(path.read_bytes()[:60]), "cannot be read"),
    ],
)
def test_an_image_with_a_bad_mask_is_replaced_and_named(folder, data, name, spoil, message):
    spoil(folder / f"masks/part1/{name}.png")
    listed = folder / "bad_files.jsonl"
    settings, stream = data(CROPS[0], size=(48, 56)), [sample_id(torch.arange(8), 0)] * 2
    batches, bad = load(folder, settings, stream, file=listed)
    assert bad == [f"part1/{name}.jpg"]
    (entry,) = map(json.loads, listed.read_text().splitlines())
    assert re.search(f"the label map '.*{name}.png'.*{message}", entry["reason"])
    for images, _, labels in batches:
        expected = torch.where(labels == 255, images[..., 0].int(), 20 * labels.int())
        assert ((images[..., 0].int() - expected).abs() < 10).float().mean(dim=(1, 2)).min() > 0.75
    assert all(torch.equal(one, other) for one, other in zip(*batches, strict=True))


def test_every_image_needs_one_mask(folder):
    manifest = Manifest.scan(str(folder / "images"))
    (folder / "masks/part0/2.tif").write_bytes(b"")
    (folder / "masks/part1/5.png").unlink()
    with pytest.raises(ValueError, match=r"part0/2.jpg has 2, part1/5.jpg has none$"):
        LabelMaps(manifest, str(folder / "masks"), CLASSES)


def test_ade20k_s_zero_is_no_class(folder):
    labels = np.array([[0, 1, 150, 255]], dtype=np.uint8)
    Image.fromarray(labels).save(folder / "masks/part0/0.png")
    manifest = Manifest.scan(str(folder / "images"))
    masks = LabelMaps(manifest, str(folder / "masks"), 150, reduce_zero_label=True)
    assert masks.read(0).tolist() == [[255, 0, 149, 255]] and masks.read(0).dtype == np.uint8
    with pytest.raises(BadFilesError, match=r"has 150, expected one of 149 classes \(1 .. 149\)"):
        LabelMaps(manifest, str(folder / "masks"), 149, reduce_zero_label=True).read(0)


def test_a_palette_is_not_looked_up(folder):
    labels = blocks(60, 80, 0)
    image = Image.fromarray(labels, "P")
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    image.save(folder / "masks/part0/0.png")
    assert np.array_equal(
        LabelMaps(Manifest.scan(str(folder / "images")), str(folder / "masks"), CLASSES).read(0), labels
    )


def test_resized_pairs(folder):
    """Images are resized in proportion and turned upright. Label maps stay as in the file."""
    manifest = Manifest.scan(str(folder / "images"))
    masks = LabelMaps(manifest, str(folder / "masks"), CLASSES)
    for fit, factor in (("inside", min), ("cover", max)):
        found = list(resized_pairs(masks, range(8), (48, 56), fit, "bilinear", 3, 2))
        for index, (image, labels) in enumerate(found):
            height, width = labels.shape
            scale = factor(48 / height, 56 / width)
            assert tuple(image.shape) == (round(height * scale), round(width * scale), 3)
            assert np.array_equal(labels, masks.read(index))
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(folder / "images/part1/3.jpg") as image:
        turned = image.transpose(Image.Transpose.ROTATE_90)
        turned.save(folder / "images/part1/3.jpg", exif=exif, quality=95)
    masks = LabelMaps(Manifest.scan(str(folder / "images")), str(folder / "masks"), CLASSES)
    index = masks.images.paths.index("part1/3.jpg")
    ((image, labels),) = resized_pairs(masks, [index], (87, 71), "inside", "bilinear", 3, 1)
    assert tuple(image.shape) == (87, 71, 3)
    expected = torch.where(labels == 255, 200, 20 * labels.int())
    assert ((image[..., 0].int() - expected).abs() < 20).float().mean() > 0.95


def test_a_bad_test_image_comes_as_its_reason(folder):
    (folder / "images/part0/2.jpg").write_bytes(b"x" * 100)
    masks = LabelMaps(Manifest.scan(str(folder / "images")), str(folder / "masks"), CLASSES)
    found = list(resized_pairs(masks, range(8), (48, 56), "inside", "bilinear", 3, 2))
    (index,) = [i for i, pair in enumerate(found) if isinstance(pair, BadFilesError)]
    assert masks.images.paths[index] == "part0/2.jpg"
    assert re.search("the test image '.*2.jpg' cannot be used", str(found[index]))


def test_label_maps_are_prefetched(folder, data, monkeypatch):
    """While the caller works, the label maps of the next micro-batches are read, and no more."""
    read = []
    original = LabelMaps.read
    monkeypatch.setattr(LabelMaps, "read", lambda self, index: read.append(index) or original(self, index))
    loader, masks = open_both(folder, data(CROPS[0], size=(48, 56), prefetch=2))
    batches = masks.batches(sample_id(torch.arange(8), epoch) for epoch in range(6))
    next(batches)
    deadline = time.monotonic() + 1800
    while len(read) < 24 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(read) == 24
    batches.close()
    loader.close()
    masks.close()
