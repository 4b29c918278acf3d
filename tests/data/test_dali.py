"""The DALI decoder: pixels against Pillow's per kind of file, routing, failures, threads."""

import io
import subprocess
import sys
import threading
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from fastmim.data.dali import DaliDecoder
from fastmim.data.decode import Decoder, Job, Pending

CPU = torch.device("cpu")
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
MODES = {3: "RGB", 1: "L"}


@dataclass(frozen=True)
class Header:
    format: str
    width: int
    height: int
    orientation: int
    channels: int
    bits: int
    palette: bool
    alpha: bool
    cmyk: bool
    progressive: bool


@dataclass(frozen=True, eq=False)
class File:
    path: str
    data: np.ndarray
    header: Header | None
    error: str | None = None
    checksum: int | None = None


def reference(job, size, channels, interpolation):
    """Pillow's image of a job: decode, turn, crop, convert, resize the window alone, flip."""
    with Image.open(io.BytesIO(job.file.data.tobytes())) as image:
        ImageOps.exif_transpose(image, in_place=True)
        top, left, height, width = job.window
        image = image.crop((left, top, left + width, top + height))
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert(MODES[channels]).resize(size[::-1], FILTERS[interpolation])
    pixels = np.asarray(image).reshape(*size, channels)
    return pixels[:, ::-1] if job.flip else pixels


class Pillow(Decoder):
    """Decodes with `reference`, and remembers what it was given."""

    def __init__(self, size, channels, interpolation):
        self.arguments = (size, channels, interpolation)
        self.jobs = []

    def start(self, jobs):
        self.jobs += jobs
        images = torch.zeros((len(jobs), *self.arguments[0], self.arguments[1]), dtype=torch.uint8)
        failures = {}
        for i, job in enumerate(jobs):
            try:
                images[i] = torch.from_numpy(reference(job, *self.arguments).copy())
            except (OSError, SyntaxError, ValueError) as error:
                failures[i] = str(error)
        return Done(images, failures)

    def describe(self):
        return "Pillow"

    def close(self):
        pass


class Done(Pending):
    def __init__(self, images, failures):
        self.value = images, failures

    def result(self):
        return self.value

    def cancel(self):
        pass


def encode(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def oriented(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return {"exif": exif, "quality": 90}


def job_of(data, window=None, flip=False, name="x"):
    """A job with the header that the reader would give; the window defaults to an off-centre part of the image."""
    array = np.frombuffer(data, dtype=np.uint8)
    try:
        image = Image.open(io.BytesIO(data))
    except OSError:
        return Job(File(name, array, None, "not an image"), window or (0, 0, 1, 1), flip)
    orientation = image.getexif().get(0x0112, 1)
    depth = data[24] if image.format == "PNG" else 16 if image.mode == "I;16" else 1 if image.mode == "1" else 8
    header = Header(
        format=image.format.lower(),
        width=image.width,
        height=image.height,
        orientation=orientation,
        channels={"1": 1, "L": 1, "P": 1, "I;16": 1, "LA": 2, "RGB": 3}.get(image.mode, 4),
        bits=depth,
        palette=image.mode == "P",
        alpha=image.mode in ("LA", "RGBA"),
        cmyk=image.mode == "CMYK",
        progressive="progressive" in image.info,
    )
    height, width = (image.height, image.width) if orientation < 5 else (image.width, image.height)
    if window is None:
        window = (height // 5, width // 7, max(1, height * 2 // 3), max(1, width * 3 // 4))
    return Job(File(name, array, header), window, flip)


@pytest.fixture
def dali():
    """dali(**changes): a decoder of 32 x 24 samples, and the Pillow decoder behind it."""
    opened = []

    def make(size=(32, 24), channels=3, interpolation="bicubic", threads=2):
        pillow = Pillow(size, channels, interpolation)
        opened.append(DaliDecoder(size, channels, interpolation, threads, CPU, pillow))
        return opened[-1], pillow

    yield make
    for decoder in opened:
        decoder.close()


@pytest.fixture(scope="module")
def kinds(picture):
    """Kind -> file, of an odd-sized picture."""
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


def difference(a, b):
    return np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int))


# Pixels


def test_decoding_equals_pillow_bit_for_bit(kinds, dali):
    for name, data in kinds.items():
        for flip in (False, True):
            job = job_of(data, flip=flip)
            size = job.window[2:]  # nothing to resize
            decoder, pillow = dali(size=size)
            images, failures = decoder.start([job]).result()
            assert not failures, name
            assert np.array_equal(images[0], reference(job, size, 3, "bicubic")), name
            assert bool(pillow.jobs) == (name in BY_PILLOW), name


@pytest.mark.parametrize("interpolation,largest", [("bicubic", 24), ("bilinear", 1)])
@pytest.mark.parametrize("size", [(32, 24), (150, 200)])
def test_resizing_is_close_to_pillow(kinds, dali, interpolation, largest, size):
    decoder, _ = dali(size=size, interpolation=interpolation)
    jobs = [job_of(data, flip=i % 2 == 1) for i, data in enumerate(kinds.values())]
    images, failures = decoder.start(jobs).result()
    assert images.shape == (len(jobs), *size, 3) and images.dtype == torch.uint8 and images.is_contiguous()
    assert not failures
    for name, job, image in zip(kinds, jobs, images, strict=True):
        d = difference(image, reference(job, size, 3, interpolation))
        assert d.max() <= largest and d.mean() < 0.1, (name, d.max(), d.mean())


def test_one_channel(kinds, dali):
    for name, data in kinds.items():
        job = job_of(data)
        decoder, pillow = dali(size=job.window[2:], channels=1)
        images, failures = decoder.start([job]).result()
        assert not failures and np.array_equal(images[0], reference(job, job.window[2:], 1, "bicubic")), name
        assert bool(pillow.jobs) == (name not in ("jpeg gray", "png gray", "png gray alpha")), name


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
        bad[position] = jobs[position]._replace(file=file, window=(0, 0, 50 + position, 70))
    for _ in range(2):
        images, failures = decoder.start(bad).result()
        assert sorted(failures) == [3, 7, 39] and all("truncated" in reason for reason in failures.values())
        good = [i for i in range(40) if i not in failures]
        assert torch.equal(images[good], clean[good])
    again, failures = decoder.start(jobs).result()
    assert not failures and torch.equal(again, clean)


def test_pillow_makes_what_dali_cannot(kinds, dali):
    # The header says JPEG, so DALI is asked; it has no GIF decoder.
    gif = job_of(kinds["gif"])
    gif = gif._replace(file=replace(gif.file, header=replace(gif.file.header, format="jpeg", palette=False)))
    decoder, pillow = dali()
    images, failures = decoder.start([job_of(kinds["png"]), gif, job_of(kinds["jpeg 420"])]).result()
    assert not failures and pillow.jobs == [gif]
    assert np.array_equal(images[1], reference(gif, (32, 24), 3, "bicubic"))


def test_failures_keep_their_positions(kinds, dali):
    nothing = job_of(b"")
    decoder, _ = dali()
    jobs = [job_of(kinds["gif"]), nothing, job_of(kinds["png"]), nothing]
    images, failures = decoder.start(jobs).result()
    assert sorted(failures) == [1, 3]
    for i in (0, 2):
        assert difference(images[i], reference(jobs[i], (32, 24), 3, "bicubic")).mean() < 0.1


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
    decoder = DaliDecoder((32, 24), 3, "bicubic", 2, CPU, Pillow((32, 24), 3, "bicubic"))
    decoder.start(photographs_as_jobs(picture, 20)).result()
    assert any(t.name.startswith("fastmim-dali") for t in threading.enumerate())
    decoder.close()
    assert not any(t.name.startswith("fastmim-dali") for t in threading.enumerate())


# Import


def test_the_module_imports_without_dali():
    code = """
import sys
sys.modules["nvidia.dali"] = None
from fastmim.data.dali import DaliDecoder
try:
    DaliDecoder((8, 8), 3, "bicubic", 1, None, None)
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install nvidia-dali-cuda130" in done.stdout


def test_describe(dali):
    text = dali()[0].describe()
    assert "DALI on the CPU, 2 threads" in text and "Pillow" in text
