"""Tests of the DALI decoder: pixels of each kind of file against Pillow's, routing, failures, threads."""

import importlib.util
import io
import random
import sys
import threading
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fastmim.data.crops import ScaleJitterCrop, SimpleResizedCrop
from fastmim.data.dali import DaliDecoder, _DaliBatch, _DaliCall
from fastmim.data.decode import Job, PillowDecoder
from fastmim.data.image import Limits, seen_size
from fastmim.parts import Cut
from fastmim_kernels.reader import File, parse_header

CPU = torch.device("cpu")


class Pillow(PillowDecoder):
    """A Pillow decoder that remembers its jobs."""

    def __init__(self, *settings):
        super().__init__(*settings)
        self.jobs = []

    def start(self, jobs):
        self.jobs += jobs
        return super().start(jobs)


def encode(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def oriented(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return {"exif": exif, "quality": 90}


def job_of(data, window=None, flip=False, size=(32, 24), crop=None, place=(0.5, 0.5)):
    """Returns a job for a sample of `size`: a window, an off-centre part, or the cut of `crop`."""
    header, error = parse_header(data)
    assert error is None
    file = File("x", np.frombuffer(data, dtype=np.uint8), header, None, None)
    height, width = seen_size(file)
    if window is None:
        window = (height // 5, width // 7, max(1, height * 2 // 3), max(1, width * 3 // 4))
    return Job(file, crop.cut((height, width), size, place) if crop else Cut(window, size), flip)


def reference(jobs, *settings):
    """Returns Pillow's samples."""
    decoder = PillowDecoder(*settings, threads=1)
    images, failures = decoder.start(jobs).result()
    decoder.close()
    assert not failures
    return images


@pytest.fixture
def dali():
    """Returns dali(**changes), which makes a decoder of 32 x 24 samples and its Pillow decoder."""
    opened = []

    def make(size=(32, 24), channels=3, interpolation="bicubic", threads=2):
        pillow = Pillow(size, channels, interpolation, threads)
        opened.append(DaliDecoder(size, channels, interpolation, threads, CPU, pillow))
        return opened[-1], pillow

    yield make
    for decoder in opened:
        decoder.close()


@pytest.fixture(scope="module")
def kinds(picture):
    """Returns {kind: file} of a picture with odd sides."""
    rgb = Image.fromarray(picture(91, 133))
    gray, palette = rgb.convert("L"), rgb.quantize(32)
    alpha = rgb.copy()
    alpha.putalpha(gray)
    wide = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    files = {
        f"jpeg {name}{' progressive' if progressive else ''}": encode(
            rgb, "JPEG", quality=90, subsampling=subsampling, progressive=progressive
        )
        for name, subsampling in {"444": 0, "422": 1, "420": 2}.items()
        for progressive in (False, True)
    }
    files |= {f"jpeg orientation {i}": encode(rgb, "JPEG", **oriented(i)) for i in range(2, 9)}
    return files | {
        "jpeg restart markers": encode(rgb, "JPEG", restart_marker_rows=2),
        "jpeg gray": encode(gray, "JPEG"),
        "jpeg cmyk": encode(rgb.convert("CMYK"), "JPEG"),
        "jpeg 1x1": encode(rgb.resize((1, 1)), "JPEG"),
        "jpeg 1x4000": encode(rgb.resize((4000, 1)), "JPEG"),
        "png": encode(rgb, "PNG"),
        "png alpha": encode(alpha, "PNG"),
        "png gray": encode(gray, "PNG"),
        "png gray alpha": encode(alpha.convert("LA"), "PNG"),
        "png palette": encode(palette, "PNG"),
        "png 16-bit": encode(wide, "PNG"),
        "png 1-bit": encode(rgb.convert("1"), "PNG"),
        "png orientation 6": encode(rgb, "PNG", exif=oriented(6)["exif"]),
        "webp": encode(rgb, "WEBP"),
        "webp lossless": encode(rgb, "WEBP", lossless=True),
        "webp alpha": encode(alpha, "WEBP"),
        "webp orientation 8": encode(rgb, "WEBP", exif=oriented(8)["exif"]),
        "bmp": encode(rgb, "BMP"),
        "tiff": encode(rgb, "TIFF"),
        "gif": encode(palette, "GIF"),
    }


BY_PILLOW = {"jpeg cmyk", "png palette", "png 16-bit", "png 1-bit", "bmp", "tiff", "gif"}


WINDOW = (9, 5, 32, 24)  # of the size of a sample


def by_pillow(name):
    return name in BY_PILLOW or "orientation" in name


# Pixels


@pytest.mark.parametrize("channels", [3, 1])
def test_decoding_equals_pillow_bit_for_bit(kinds, dali, channels):
    """The windows need no resize."""
    decoder, _ = dali(WINDOW[2:], channels)
    big = [data for name, data in kinds.items() if "jpeg 1x" not in name]
    jobs = [job_of(data, WINDOW, flip) for data in big for flip in (False, True)]
    images, failures = decoder.start(jobs).result()
    assert not failures and torch.equal(images, reference(jobs, WINDOW[2:], channels, "bicubic"))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(32, 24), (150, 200)])
@pytest.mark.parametrize("channels", [3, 1])
def test_resizing_is_close_to_pillow(kinds, dali, interpolation, size, channels):
    decoder, _ = dali(size, channels, interpolation)
    jobs = [job_of(data, flip=flip, size=size) for data in kinds.values() for flip in (False, True)]
    images, failures = decoder.start(jobs).result()
    assert images.shape == (len(jobs), *size, channels) and images.dtype == torch.uint8 and images.is_contiguous()
    assert not failures
    difference = (images.int() - reference(jobs, size, channels, interpolation).int()).abs()
    assert difference.float().mean() < 0.02 and difference.max() <= 2


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("channels", [3, 1])
def test_a_cut_with_a_border_is_close_to_pillow(kinds, dali, interpolation, channels):
    """Reflections lie above and left, or below and right. Other samples of the batch are whole windows."""
    decoder, _ = dali((32, 24), channels, interpolation)
    crop, places = SimpleResizedCrop(), [(0.0, 0.0), (0.999, 0.999), (0.4, 0.6)]
    jobs = [job_of(data, flip=i % 2 == 0, crop=crop, place=places[i % 3]) for i, data in enumerate(kinds.values())]
    jobs += [job_of(kinds["png"], flip=True)]
    images, failures = decoder.start(jobs).result()
    assert not failures
    difference = (images.int() - reference(jobs, (32, 24), channels, interpolation).int()).abs()
    assert difference.float().mean() < 0.02 and difference.max() <= 2


@pytest.mark.parametrize("channels", [3, 1])
def test_a_padded_cut_is_close_to_pillow(kinds, dali, channels):
    """Samples have padding below, on the right, on both sides, or none."""
    decoder, _ = dali((32, 24), channels)
    crop, fill = ScaleJitterCrop(scale=(0.1, 2.0)), (124, 116, 104)[:channels]
    draws = [(u, 0.3, 0.8) for u in (0.1, 0.45, 0.5, 0.6, 0.99)]
    jobs = [
        job_of(data, flip=i % 2 == 0, crop=crop, place=draws[i % 5])._replace(fill=fill)
        for i, data in enumerate(kinds.values())
    ]
    images, failures = decoder.start(jobs).result()
    assert not failures and len({job.cut.resized for job in jobs}) > 4
    expected = reference(jobs, (32, 24), channels, "bicubic")
    assert (images.int() - expected.int()).abs().max() <= 2
    for job, image in zip(jobs, images, strict=True):
        rows, columns = job.cut.resized
        for padding in (image[rows:], image[:, columns:]):
            assert (padding == torch.tensor(fill)).all()


@pytest.mark.parametrize("channels", [3, 1])
def test_who_decodes(kinds, dali, channels):
    for name, data in kinds.items():
        decoder, pillow = dali(channels=channels)
        decoder.start([job_of(data)]).result()
        gray = name in ("jpeg gray", "png gray", "png gray alpha")
        assert bool(pillow.jobs) == (by_pillow(name) or channels == 1 and not gray), name


def test_nothing_outside_of_the_window_is_read(picture, dali):
    pixels = picture(60, 80)
    window = (8, 16, 24, 40)
    images = []
    for outside in (0, 255):
        image = np.full_like(pixels, outside)
        image[8:32, 16:56] = pixels[8:32, 16:56]
        decoder, _ = dali()
        images.append(decoder.start([job_of(encode(Image.fromarray(image), "PNG"), window)]).result()[0])
    assert torch.equal(*images)


# Failures


def photographs_as_jobs(picture, count, **options):
    return [
        job_of(encode(Image.fromarray(picture(50 + i, 70, seed=i)), "JPEG", **options), flip=i % 3 == 0)
        for i in range(count)
    ]


def test_a_bad_file_changes_no_other_pixel(picture, dali):
    jobs = photographs_as_jobs(picture, 40)
    decoder, pillow = dali()
    clean, failures = decoder.start(jobs).result()
    assert not failures and not pillow.jobs
    bad = list(jobs)
    for position in (3, 7, 39):
        file = replace(jobs[position].file, data=jobs[position].file.data[:-300])
        # The whole image: DALI decodes no further than the window's last row.
        bad[position] = jobs[position]._replace(file=file, cut=Cut((0, 0, 50 + position, 70), (32, 24)))
    for _ in range(2):
        images, failures = decoder.start(bad).result()
        assert sorted(failures) == [3, 7, 39] and all("truncated" in reason for reason in failures.values())
        good = [i for i in range(40) if i not in failures]
        assert torch.equal(images[good], clean[good])
    again, failures = decoder.start(jobs).result()
    assert not failures and torch.equal(again, clean)


def test_pillow_makes_what_dali_cannot(kinds, dali):
    whole = job_of(kinds["png"])
    # Without the end chunk.
    cut = whole._replace(file=replace(whole.file, data=whole.file.data[:-12]))
    decoder, pillow = dali()
    images, failures = decoder.start([job_of(kinds["webp"]), cut, job_of(kinds["jpeg 420"])]).result()
    assert not failures and pillow.jobs == [cut]
    assert torch.equal(images[1:2], reference([whole], (32, 24), 3, "bicubic"))


def test_a_file_is_as_bad_to_dali_as_to_pillow(kinds, dali):
    """Small JPEGs have random bytes, markers and segments in their pixel data."""
    decoder, pillow = dali()
    generator = random.Random(0)
    jpegs = [kinds[name] for name in ("jpeg 420", "jpeg 444", "jpeg 422 progressive", "jpeg restart markers")]
    jobs = []
    while len(jobs) < 150:
        jpeg = generator.choice(jpegs)
        place = generator.randrange(jpeg.index(b"\xff\xda") + 14, len(jpeg) - 2)
        marker, length = generator.randrange(256), generator.randrange(30)
        segment = bytes([0xFF, marker, 0, length + 2]) + generator.randbytes(length)
        damage = generator.choice([bytes([marker]), segment[:2], segment])
        data = jpeg[:place] + damage + jpeg[place + generator.choice([0, len(damage)]) :]
        if parse_header(data)[0]:
            jobs.append(job_of(data, (0, 0, 91, 133)))
    failures, expected = decoder.start(jobs).result()[1], pillow.start(jobs).result()[1]
    assert sorted(failures) == sorted(expected)
    assert 30 < len(expected) < 120
    assert 30 < sum(job.file.header.irregular for job in jobs) < 120


def test_failures_keep_their_positions(kinds, dali):
    decoder, _ = dali()
    jobs = [job_of(kinds[name], WINDOW) for name in ("gif", "bmp", "png", "jpeg 420")]
    bad = [job._replace(file=replace(job.file, data=job.file.data[:60])) for job in jobs]
    images, failures = decoder.start([jobs[0], bad[1], jobs[2], bad[3]]).result()
    assert sorted(failures) == [1, 3] and all(failures.values())
    assert torch.equal(images[::2], reference(jobs[::2], (32, 24), 3, "bicubic"))


def test_empty_batch(dali):
    images, failures = dali()[0].start([]).result()
    assert images.shape == (0, 32, 24, 3) and not failures


# Threads


def test_several_batches_at_once_equal_one_by_one(picture, dali):
    jobs = photographs_as_jobs(picture, 48)
    decoder, _ = dali()
    alone = [decoder.start(jobs[i : i + 12]).result()[0] for i in range(0, 48, 12)]
    pending = [decoder.start(jobs[i : i + 12]) for i in range(0, 48, 12)]
    for one, other in zip(alone, pending, strict=True):
        assert torch.equal(one, other.result()[0])


def test_close_ends_the_threads(picture):
    decoder = DaliDecoder((32, 24), 3, "bicubic", 2, CPU, Pillow((32, 24), 3, "bicubic", 2))
    decoder.start(photographs_as_jobs(picture, 20)).result()
    assert any(t.name.startswith("fastmim-dali") for t in threading.enumerate())
    decoder.close()
    assert not any(t.name.startswith("fastmim-d") for t in threading.enumerate())  # Pillow's decoder is closed too


def test_cancel_drops_what_has_not_begun(picture, dali):
    jobs = photographs_as_jobs(picture, 96)
    decoder, _ = dali(threads=1)
    cancelled = threading.Event()
    decoder._pool.submit(cancelled.wait, 1800)
    first, second = decoder.start(jobs), decoder.start(jobs)
    second.cancel()
    cancelled.set()
    assert not first.result()[1]
    with pytest.raises(CancelledError):
        second.result()


def test_a_batch_waits_for_its_own_calls_only(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(wait_event=waited.append))
    calls = [Future(), Future(), Future()]
    for call, filled in zip(calls, ("first", "second", None), strict=True):
        call.set_result(_DaliCall(None, filled))
    images = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    assert _DaliBatch(images, None, calls).result() == (images, {})
    assert waited == ["first", "second"]


def test_dali_is_handed_writable_views_of_the_files(picture, dali, monkeypatch):
    handed, decoder = [], dali()[0]
    as_batch = decoder._ndd.as_batch
    monkeypatch.setattr(decoder._ndd, "as_batch", lambda values: handed.append(values) or as_batch(values))
    jobs = photographs_as_jobs(picture, 4)
    for job in jobs:
        job.file.data.flags.writeable = False
    decoder.start(jobs).result()
    files = handed[0]
    assert all(view.flags.writeable for view in files)
    assert all(np.shares_memory(view, job.file.data) for view, job in zip(files, jobs, strict=True))


def test_one_call_takes_no_more_time_or_memory_than_one_image_may(picture, dali, monkeypatch):
    decoder, _ = dali(threads=1)
    jobs = photographs_as_jobs(picture, 12)
    assert [len(chunk) for chunk in decoder._chunks(list(range(12)), jobs)] == [12]
    monkeypatch.setattr("fastmim.data.dali.seconds_needed", lambda file: 0.9)
    assert [len(chunk) for chunk in decoder._chunks(list(range(12)), jobs)] == [2] * 6
    decoder._limits = Limits(seconds=0.5)
    assert [len(chunk) for chunk in decoder._chunks(list(range(12)), jobs)] == [1] * 12
    decoder._limits = Limits(seconds=1000)
    monkeypatch.setattr("fastmim.data.dali.memory_needed", lambda file: 240e6)
    assert [len(chunk) for chunk in decoder._chunks(list(range(12)), jobs)] == [2] * 6


# Import


def test_the_module_imports_without_dali(monkeypatch):
    for name in ("nvidia.dali", "nvidia.dali.experimental.dynamic"):
        monkeypatch.setitem(sys.modules, name, None)  # makes the import fail
    spec = importlib.util.find_spec("fastmim.data.dali")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(ImportError, match="pip install nvidia-dali-cuda130"):
        module.DaliDecoder((8, 8), 3, "bicubic", 1, None, None)


def test_describe(dali):
    text = dali()[0].describe()
    assert "DALI on cpu, 2 threads" in text and "Pillow" in text
