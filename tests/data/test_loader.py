"""Tests of the loader with Pillow: pixels, order, prefetching, bad files, shutdown."""

import gc
import json
import re
import subprocess
import sys
import textwrap
import threading
import time
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from fastmim.data import decode
from fastmim.data import loader as loading
from fastmim.data.crops import CenterCrop, RandomResizedCrop, ScaleJitterCrop, SimpleResizedCrop
from fastmim.data.manifest import Manifest
from fastmim.data.quarantine import BadFilesError, Quarantine
from fastmim.data.sampler import Sampler
from fastmim.host.launcher import share_of_cores
from fastmim.samples import Stream, sample_id
from fastmim_kernels.philox import uniform

pytestmark = pytest.mark.usefixtures("impatient")
SEED = 3
PATIENCE = 1800  # seconds


def open_loader(root, data, workers=2, prefetch=2, manifest=None, file=None):
    manifest = manifest or Manifest.scan(str(root))
    settings = replace(data, loader="pillow", workers=workers, prefetch=prefetch)
    quarantine = Quarantine(manifest, SEED, file)
    everything = torch.arange(len(manifest))
    return loading.open_loader(manifest, settings, SEED, quarantine, everything, torch.device("cpu"))


def load_whole(root, data):
    """Returns the only image below `root` as a whole: one sample, (1, H, W, C)."""
    with open_loader(root, data) as loader:
        return loader.load(torch.tensor([0])).numpy()


def decode_threads():
    return [t for t in threading.enumerate() if t.name.startswith("fastmim-decode")]


def numbered(count, size):
    return [sample_id(torch.arange(size), step) for step in range(count)]


# Pixels


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(32, 24), (150, 200)])
def test_pixels_equal_torchvision(photographs, data, interpolation, size):
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as F

    crop = RandomResizedCrop(interpolation=interpolation)
    ids = Sampler(12, SEED).ids(0, 24)
    with open_loader(photographs, data(crop, size=size)) as loader:
        images = loader.load(ids)
    assert images.shape == (24, *size, 3) and images.dtype == torch.uint8 and images.is_contiguous()
    draws = uniform(SEED, Stream.CROP, ids, crop.draws).tolist()
    flips = (uniform(SEED, Stream.FLIP, ids, 1)[:, 0] < 0.5).tolist()
    assert 4 < sum(flips) < 20
    manifest = Manifest.scan(str(photographs))
    for i, key in enumerate(ids.tolist()):
        photograph = Image.open(manifest.path(key & 0xFFFFFFFF)).convert("RGB")
        window = crop.cut((photograph.height, photograph.width), size, draws[i]).window
        expected = F.resized_crop(photograph, *window, list(size), InterpolationMode(interpolation))
        expected = F.hflip(expected) if flips[i] else expected
        assert np.array_equal(images[i].numpy(), np.asarray(expected))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(40, 40), (32, 24), (90, 150)])
def test_simple_resized_crop_equals_torchvision(photographs, data, interpolation, size):
    """The reference is PixMIM's transforms: resize, reflected border, crop, flip, on square samples."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as F

    crop = SimpleResizedCrop(interpolation=interpolation)
    ids = Sampler(12, SEED).ids(0, 24)
    with open_loader(photographs, data(crop, size=size)) as loader:
        images = loader.load(ids)
    draws = uniform(SEED, Stream.CROP, ids, crop.draws).tolist()
    flips = (uniform(SEED, Stream.FLIP, ids, 1)[:, 0] < 0.5).tolist()
    manifest = Manifest.scan(str(photographs))
    for i, key in enumerate(ids.tolist()):
        photograph = Image.open(manifest.path(key & 0xFFFFFFFF)).convert("RGB")
        square = size[0] == size[1]
        resized = size[0] if square else list(crop.cut((photograph.height, photograph.width), size, draws[i]).resized)
        image = F.pad(F.resize(photograph, resized, InterpolationMode(interpolation)), 4, padding_mode="reflect")
        top, left = (int(u * (f - part + 1)) for u, f, part in zip(draws[i], image.size[::-1], size, strict=True))
        expected = F.crop(image, top, left, *size)
        expected = F.hflip(expected) if flips[i] else expected
        assert np.array_equal(images[i].numpy(), np.asarray(expected))


def test_flip_probability(photographs, data):
    ids = torch.arange(12)
    images = []
    for flip in (0.0, 1.0):
        with open_loader(photographs, data(flip=flip)) as loader:
            images.append(loader.load(ids))
    assert torch.equal(images[0], images[1].flip(2)) and not torch.equal(*images)


def test_held_out_is_the_centre(photographs, data):
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as F

    with open_loader(photographs, data(size=(30, 30), flip=1.0)) as loader:
        images, usable = loader.load_held_out(torch.tensor([5, 2]))
    assert usable.tolist() == [5, 2]
    for image, name in zip(images, ("05.jpg", "02.jpg"), strict=True):
        photograph = Image.open(photographs / name)
        side = round(min(photograph.size) * 224 / 256)
        top, left = (photograph.height - side) // 2, (photograph.width - side) // 2
        expected = F.resized_crop(photograph, top, left, side, side, [30, 30], InterpolationMode.BICUBIC)
        assert np.array_equal(image.numpy(), np.asarray(expected))


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_modes(tmp_path, data, picture, mode, channels):
    """Every mode gives the pixels of Pillow's convert; transparency is dropped."""
    image = Image.fromarray(picture(24, 32))
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(picture(24, 32, 1, seed=9)[..., 0]))
    image = image.convert(mode)
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    image.save(path)
    expected = np.asarray(Image.open(path).convert({1: "L", 3: "RGB"}[channels])).reshape(1, 24, 32, channels)
    settings = {"size": (24, 32), "flip": 0.0, "mean": (0.5,) * channels, "std": (0.5,) * channels}
    assert np.array_equal(load_whole(tmp_path, data(CenterCrop(crop_pct=1.0), **settings)), expected)


def test_transparent_palette(tmp_path, data, picture):
    Image.fromarray(picture(24, 32)).quantize(16).save(tmp_path / "x.gif", transparency=3)
    expected = np.asarray(Image.open(tmp_path / "x.gif").convert("RGB"))
    assert np.array_equal(load_whole(tmp_path, data(CenterCrop(crop_pct=1.0), size=(24, 32), flip=0.0))[0], expected)


@pytest.mark.parametrize("name", ["x.png", "x.tif", "big-endian.tif"])
def test_16_bits_are_scaled_not_saturated(tmp_path, data, name):
    values = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    if name == "big-endian.tif":
        Image.frombytes("I;16B", (16, 16), values.astype(">u2").tobytes()).save(tmp_path / name)
    else:
        Image.fromarray(values).save(tmp_path / name)
    images = load_whole(tmp_path, data(CenterCrop(crop_pct=1.0), size=(16, 16), flip=0.0))
    assert np.array_equal(images[0], np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, data, picture, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture(24, 40)).save(tmp_path / "x.jpg", exif=exif)
    turned = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "x.jpg")))
    assert turned.shape[:2] == ((40, 24) if orientation > 4 else (24, 40))
    images = load_whole(tmp_path, data(CenterCrop(crop_pct=1.0), size=turned.shape[:2], flip=0.0))
    assert np.array_equal(images[0], turned)


@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (400, 1)])
def test_tiny_and_narrow(make_folder, data, shape):
    root = make_folder(["x.png"], *shape)
    with open_loader(root, data()) as loader:
        assert loader.load(numbered(1, 1)[0]).shape == (1, 32, 24, 3)
        assert loader.load_held_out(torch.tensor([0]))[0].shape == (1, 32, 24, 3)


# Bad files


def break_file(path, how):
    content = path.read_bytes()
    if how == "refused by the reader":
        path.write_bytes(b"not an image\n" * 50)
    elif how == "refused by the decoder":
        # The pixel data start with a wrong zlib header, and the checksum fits the wrong header.
        start = content.index(b"IDAT")
        length = int.from_bytes(content[start - 4 : start], "big")
        chunk = b"IDAT" + b"\0\0" + content[start + 6 : start + 4 + length]
        checksum = zlib.crc32(chunk).to_bytes(4, "big")
        path.write_bytes(content[:start] + chunk + checksum + content[start + 8 + length :])
    elif how == "gone":
        path.unlink()
    else:
        assert how == "changed"
        path.write_bytes(content + b"more")


@pytest.mark.parametrize(
    ("how", "when", "reason"),
    [
        ("refused by the reader", "before", "text"),
        ("refused by the decoder", "before", ""),
        ("gone", "after", "No such file"),
        ("changed", "after", r"\d+ bytes then"),
    ],
)
def test_a_bad_file_is_replaced_and_named_once(make_folder, data, tmp_path, how, when, reason):
    root = make_folder([f"{i}.png" for i in range(12)])
    stream = [sample_id(torch.arange(12), epoch) for epoch in range(3)]
    with open_loader(root, data()) as loader:
        clean = [images for images, _ in loader.batches(stream)]
    manifest = Manifest.scan(str(root))
    break_file(root / "4.png", how)
    file = tmp_path / "bad_files.jsonl"
    found = []
    for _ in range(2):  # the second process finds the file in the list
        manifest = Manifest.scan(str(root)) if when == "before" else manifest
        with open_loader(root, data(), manifest=manifest, file=file) as loader:
            found.append([images for images, _ in loader.batches(stream)])
            assert list(loader.bad_files()) == ["4.png"]
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["path"] for line in lines] == ["4.png"] and re.search(reason, lines[0]["reason"]), lines
    bad = manifest.paths.index("4.png")
    for before, first, second in zip(clean, *found, strict=True):
        others = torch.arange(12) != bad
        assert torch.equal(before[others], first[others]) and not torch.equal(before[bad], first[bad])
        assert torch.equal(first, second)


def test_a_substitute_has_the_window_and_flip_of_the_sample_it_replaces(make_folder, data):
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as F

    root = make_folder([f"{i}.png" for i in range(5)])
    (root / "2.png").write_bytes(b"")
    ids = sample_id(torch.arange(5), 7)
    with open_loader(root, data()) as loader:
        images = loader.load(ids)
        substitute = loader._quarantine.resolve(2, torch.arange(5))
    assert substitute != 2
    crop, ids = RandomResizedCrop(), ids[2:3]
    window = crop.cut((12, 16), (32, 24), uniform(SEED, Stream.CROP, ids, crop.draws)[0].tolist()).window
    image = F.resized_crop(Image.open(root / f"{substitute}.png"), *window, [32, 24], InterpolationMode.BICUBIC)
    image = F.hflip(image) if uniform(SEED, Stream.FLIP, ids, 1) < 0.5 else image
    assert np.array_equal(images[2], np.asarray(image))


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_scaled_crops_equal_pillows_resize_with_padding(photographs, data, flip):
    crop, size, ids = ScaleJitterCrop(scale=(0.3, 2.0)), (48, 40), Sampler(12, SEED).ids(0, 24)
    manifest = Manifest.scan(str(photographs))
    with open_loader(photographs, data(crop, size=size, flip=flip)) as loader:
        (loaded,) = loader.loaded_batches([ids])
        cuts = loader.cuts(loaded.ids, loaded.sizes)
    assert torch.equal(loaded.indices, ids & 0xFFFFFFFF)
    assert any(min(cut.resized) < 40 for cut, _ in cuts) and any(cut.resized == size for cut, _ in cuts)
    for i, (cut, flipped) in enumerate(cuts):
        photograph = Image.open(manifest.path(int(loaded.indices[i])))
        assert loaded.sizes[i] == (photograph.height, photograph.width) and flipped == bool(flip)
        top, left, height, width = cut.window
        shown = photograph.crop((left, top, left + width, top + height)).resize(cut.resized[::-1], Image.BICUBIC)
        expected = Image.new("RGB", size[::-1], (124, 116, 104))
        expected.paste(ImageOps.mirror(shown) if flipped else shown)
        assert np.array_equal(loaded.images[i], np.asarray(expected))


def test_what_is_shown_in_place_of_bad_files_is_told(make_folder, data):
    """Index and size, and so the cut, are the substitute's, whether reader or decoder refuses the file."""
    root = make_folder([f"{i}.png" for i in range(6)])
    Image.open(root / "3.png").resize((30, 31)).save(root / "3.png")
    (root / "2.png").write_bytes(b"")
    whole = (root / "4.png").read_bytes()
    (root / "4.png").write_bytes(whole[: len(whole) // 2])
    crop = ScaleJitterCrop(scale=(1.0, 1.0))
    with open_loader(root, data(crop, flip=0.0, size=(16, 16))) as loader:
        (loaded,) = loader.loaded_batches([sample_id(torch.arange(6), 1)])
        assert len(loader.bad_files()) == 2
    assert loaded.indices.tolist()[::2] != [0, 2, 4] and not {2, 4} & set(loaded.indices.tolist())
    with open_loader(root, data(crop, flip=0.0, size=(16, 16))) as loader:
        assert torch.equal(loader.load(sample_id(loaded.indices, 0)), loaded.images)
    assert loaded.sizes == [(31, 30) if i == 3 else (12, 16) for i in loaded.indices.tolist()]


def test_every_process_chooses_the_same_substitutes(make_folder, data):
    """The choice depends on no earlier finding. A substitute of a bad image can be bad itself."""
    root = make_folder([f"{i:02d}.png" for i in range(20)])
    for i in (1, 4, 5, 7, 8, 11, 12, 13, 17, 19):
        (root / f"{i:02d}.png").write_bytes(b"")
    ids = sample_id(torch.arange(20), 0)
    with open_loader(root, data()) as loader:
        whole = loader.load(ids)
        again = loader.load(ids)
    with open_loader(root, data()) as loader:
        alone = torch.cat([loader.load(i[None]) for i in ids.flip(0)]).flip(0)
    assert torch.equal(whole, again) and torch.equal(whole, alone)


def test_bad_held_out_images_are_left_out(make_folder, data):
    root = make_folder([f"{i}.png" for i in range(9)])
    (root / "3.png").write_bytes(b"")
    with open_loader(root, data()) as loader:
        images, usable = loader.load_held_out(torch.tensor([3, 8]))
        assert usable.tolist() == [8] and images.shape == (1, 32, 24, 3) and list(loader.bad_files()) == ["3.png"]
        images, usable = loader.load_held_out(torch.tensor([3]))
        assert not len(usable) and images.shape == (0, 32, 24, 3)


def test_a_slow_file_holds_up_its_own_batch_only(photographs, data, monkeypatch):
    decoded = []
    start = decode.PillowDecoder.start
    monkeypatch.setattr(
        decode.PillowDecoder, "start", lambda self, jobs: decoded.append(len(jobs)) or start(self, jobs)
    )
    with open_loader(photographs, data(), prefetch=3) as loader:
        batches = loader.batches(numbered(6, 4))
        next(batches)
        # The last batch that is read ahead is not ready yet, which must not delay the others.
        read = loader._read
        monkeypatch.setattr(loader, "_read", lambda indices: Late(read(indices)))
        next(batches)
        before = len(decoded)
        next(batches)
        assert len(decoded) == before and not any(late.waited for late in Late.made[:1])
        list(batches)
    assert len(decoded) == 6


class Late:
    """A batch of files that is ready only when a caller waits for it."""

    made = []

    def __init__(self, batch):
        self.batch, self.waited = batch, False
        self.made.append(self)

    def done(self):
        return False

    def result(self):
        self.waited = True
        return self.batch.result()


def test_nothing_left_is_said(make_folder, data):
    root = make_folder(["a.png", "b.png"])
    for name in ("a.png", "b.png"):
        (root / name).write_bytes(b"")
    words = "[ab].png.*no bytes.*substitutes.*fastmim doctor"
    with open_loader(root, data()) as loader, pytest.raises(BadFilesError, match=words):
        loader.load(torch.arange(2))
    assert not decode_threads()


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.webp", "x.bmp", "x.tif", "x.gif"])
@pytest.mark.filterwarnings("ignore")
def test_random_damage_never_escapes_as_another_error(tmp_path, data, picture, name):
    path = tmp_path / name
    Image.fromarray(picture(20, 24)).save(path)
    content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        damaged = content.copy()
        places = rng.integers(0, min(len(content), 120), rng.integers(1, 8))
        damaged[places] = rng.integers(0, 256, len(places))
        path.write_bytes(damaged[: rng.integers(1, 2 * len(content))].tobytes())
        with open_loader(tmp_path, data(size=(8, 8)), workers=1) as loader:
            try:
                assert loader.load(torch.tensor([0])).shape == (1, 8, 8, 3)
            except BadFilesError:
                refused += 1
    assert refused


def test_settings_refused(photographs, data):
    with pytest.raises(ValueError, match=r"data\.mean: expected 3 channels .* got 4"):
        open_loader(photographs, data(mean=(0.5,) * 4, std=(0.5,) * 4))


# Order, prefetching, shutdown


@pytest.mark.parametrize("prefetch", [0, 1, 4, 50])
@pytest.mark.parametrize("workers", [1, 3])
def test_batches_come_in_order_and_equal_load(photographs, data, workers, prefetch):
    sampler = Sampler(12, SEED)
    stream = [sampler.ids(5 * i, 5 * i + 5) for i in range(9)]
    with open_loader(photographs, data(), workers, prefetch) as loader:
        batches = list(loader.batches(iter(stream)))
        assert len(batches) == 9
        for ids, (images, got) in zip(stream, batches, strict=True):
            assert torch.equal(ids, got) and torch.equal(images, loader.load(ids))


def test_resuming_in_the_middle_gives_identical_batches(photographs, data):
    def stream(first):
        sampler = Sampler(12, SEED, repeats=2)
        for step in range(first, 8):
            yield sampler.micro_batch(step, 0, rank=1, world=2, global_batch=10, size=5)

    with open_loader(photographs, data()) as loader:
        whole = list(loader.batches(stream(0)))
    with open_loader(photographs, data(), workers=1, prefetch=0) as loader:
        rest = list(loader.batches(stream(3)))
    assert len(rest) == 5
    for (a, a_ids), (b, b_ids) in zip(whole[3:], rest, strict=True):
        assert torch.equal(a_ids, b_ids) and torch.equal(a, b)


def test_repeats_and_epochs_have_their_own_windows(photographs, data):
    ids = torch.stack([sample_id(torch.tensor(3), epoch, repeat) for epoch in range(2) for repeat in range(2)])
    with open_loader(photographs, data(flip=0.0)) as loader:
        images = loader.load(ids)
    assert len(images.flatten(1).unique(dim=0)) == 4


def test_no_more_than_prefetch_in_flight(photographs, data):
    pulled = 0

    def stream():
        nonlocal pulled
        for ids in numbered(20, 4):
            pulled += 1
            yield ids

    with open_loader(photographs, data(), prefetch=3) as loader:
        batches = loader.batches(stream())
        assert pulled == 0
        for taken in range(1, 15):
            next(batches)
            time.sleep(0.002)
            assert pulled == taken + 3


def test_no_thread_left(photographs, data):
    before = threading.active_count()
    for _ in range(20):
        with open_loader(photographs, data(), prefetch=8) as loader:
            next(loader.batches(numbered(30, 12)))
    loader = open_loader(photographs, data())
    loader.load(torch.arange(4))
    assert decode_threads()
    loader.close()
    loader.close()
    assert not decode_threads() and threading.active_count() == before


def test_an_abandoned_iterator_drops_its_work(photographs, data, monkeypatch):
    decoded, dropped = [], threading.Event()

    def slow(file, *arguments):
        decoded.append(file.path)
        if len(decoded) > 12:
            dropped.wait(PATIENCE)
        return decode_window(file, *arguments)

    decode_window = decode.decode_window
    monkeypatch.setattr(decode, "decode_window", slow)
    with open_loader(photographs, data(), workers=1, prefetch=50) as loader:
        batches = loader.batches(numbered(60, 12))
        next(batches)
        del batches
        gc.collect()
        dropped.set()
        # This job comes after all jobs that still wait for the only thread.
        loader.load(torch.arange(2))
    assert len(decoded) <= 12 + 1 + 2


@pytest.mark.costly("processes", "an interpreter ends, one of them with DALI imported")
@pytest.mark.parametrize("name", ["pillow", "dali"])
def test_the_interpreter_exits_with_an_abandoned_iterator(photographs, name):
    program = f"""
        import torch
        from fastmim.config.base import Data
        from fastmim.data.crops import RandomResizedCrop
        from fastmim.data.loader import open_loader
        from fastmim.data.manifest import Manifest
        from fastmim.data.quarantine import Quarantine
        manifest = Manifest.scan({str(photographs)!r})
        data = Data(crop=RandomResizedCrop(), loader={name!r})
        quarantine = Quarantine(manifest, 0)
        loader = open_loader(manifest, data, 0, quarantine, torch.arange(12), torch.device("cpu"))
        batches = loader.batches(torch.arange(12) for _ in range(10**9))
        next(batches)
        print("got one")
    """
    paths = ":".join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "got one\n", "")


@pytest.mark.parametrize(
    "environment",
    [{"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6"}, {"LOCAL_SIZE": "2", "WORLD_SIZE": "6"}, {"WORLD_SIZE": "2"}],
    ids=["torchrun", "deepspeed", "by hand"],
)
def test_workers_default_to_the_share_of_the_cores(photographs, data, monkeypatch, environment):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)))
    for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with open_loader(photographs, data(), workers=0) as loader:
        loader.load(torch.arange(12).repeat(10))
        assert 1 <= len(decode_threads()) <= 3
        assert loader._decoder._threads == 3


@pytest.mark.parametrize("value", ["abc", "0", "-1", "1.5", "\x1b[31m", "9" * 30])
def test_a_number_of_processes_that_is_none_is_named(monkeypatch, value):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", value)
    with pytest.raises(
        ValueError, match="^LOCAL_WORLD_SIZE in the environment: expected a whole number of at least 1, got"
    ) as error:
        share_of_cores()
    assert str(error.value).isprintable()
