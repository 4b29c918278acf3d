"""Tests of strangers' images: one module opens them, and limits apply before decoding begins."""

import io
import os
import re
import struct
import threading
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from fastmim.data import image as images
from fastmim.data.decode import Job, PillowDecoder, decode_window
from fastmim.data.doctor import examine
from fastmim.data.image import Limits, decode_upright, memory_needed, open_image, read_image, refusal, reserved
from fastmim.data.labels import LabelMaps
from fastmim.data.manifest import Manifest
from fastmim.data.quarantine import BadFilesError
from fastmim.parts import Cut
from fastmim_kernels.reader import File, Header, Reader, parse_header

ROOT = Path(__file__).parents[2]


def picture(height: int = 40, width: int = 60, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def save(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int = 8, colour: int = 2, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(bytes(100)))
        + chunk(b"IEND", b"")
    )


def tiff(body: bytes = b"", **changes: tuple[int, int]) -> bytes:
    """Returns a TIFF of 64 x 64 gray pixels; `changes` are tags: (number of values, value or place)."""
    tags = {"256": 64, "257": 64, "258": 8, "259": 1, "262": 1, "273": 8, "277": 1, "278": 64, "279": 4096}
    entries = {int(tag): (1, value) for tag, value in tags.items()} | {int(k[1:]): v for k, v in changes.items()}
    if 324 in entries:  # tiles instead of strips
        del entries[273], entries[278], entries[279]
    content = b"".join(struct.pack("<HHII", tag, 4, *entries[tag]) for tag in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + content + bytes(4) + bytes(5000) + body


def gif(width: int, height: int, left: int = 0) -> bytes:
    data = save(picture(mode="P"), "GIF")
    at = data.index(b",", 13)
    place = struct.pack("<HH", left, left)
    return data[:6] + struct.pack("<HH", width, height) + data[10 : at + 1] + place + data[at + 5 :]


def webp(width: int, height: int) -> bytes:
    """Returns a WebP canvas with one small frame."""
    frame = save(picture(), "WEBP")[12:]
    size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    part = bytes(6) + struct.pack("<I", 59)[:3] + struct.pack("<I", 39)[:3] + b"\1\0\0\0" + frame
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + size + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    body += b"ANMF" + struct.pack("<I", len(part)) + part
    return b"RIFF" + struct.pack("<I", len(body)) + body


def scans(count: int) -> bytes:
    """Returns a progressive JPEG that repeats its last scan."""
    data = save(Image.new("RGB", (2000, 2000)), "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    return data[:at] + data[at:-2] * count + b"\xff\xd9"


def marked(segment: bytes, count: int) -> bytes:
    data = save(picture(), "JPEG")
    return data[:2] + segment * count + data[2:]


def run_lengths(data: bytes) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, 3000, 3000, 1, 8, 1, len(data), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(data), 0, 0, 1078) + head + bytes(1024) + data


def avif_of_another_size() -> bytes:
    """Returns an AVIF whose box says 64 x 64 pixels, while its AV1 data say 9000 x 9000."""
    data = save(Image.new("RGB", (64, 64)), "AVIF", speed=10)
    # The sequence header of a still picture: 10 bits, the lengths of both sizes (4 bits each), the sizes.
    at = data.index(b"\x12\x00\x0a") + 4
    bits = 0b000_1_1_00000 << 4 | 13
    header = (bits << 4 | 13) << 28 | 8999 << 14 | 8999
    return data[:at] + (header << 2).to_bytes(6, "big") + data[at + 6 :]


def exif_rationals() -> bytes:
    """Returns a JPEG whose EXIF segments form a tag of 600,000 rationals."""
    exif = b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHIII", 282, 5, 600_000, 26, 0) + bytes(8 * 600_000)
    pieces = [b"Exif\0\0" + exif[at : at + 65_000] for at in range(0, len(exif), 65_000)]
    return marked(b"".join(b"\xff\xe1" + struct.pack(">H", len(piece) + 2) + piece for piece in pieces), 1)


AS_RATIONALS = (struct.pack("<HHI", 282, 4, 600_000), struct.pack("<HHI", 282, 5, 600_000))
APP1, EXIF = b"\xff\xe1\0\x10", b"Exif\0\0II*\0\x08\0\0\0"
BOMBS = {
    "jpeg-scans": lambda: scans(1000),
    "jpeg-canvas": lambda: save(Image.new("RGB", (8100, 8100)), "JPEG"),
    "jpeg-comments": lambda: marked(b"\xff\xfe\0\4ab", 300_000),
    "jpeg-exif-segments": lambda: marked(APP1 + EXIF, 200_000),
    "jpeg-large-metadata": lambda: marked(b"\xff\xe1\xff\xffExif\0\0" + bytes(65527), 1200),
    "jpeg-fill-bytes": lambda: marked(b"\xff", 300_000),
    "jpeg-photoshop": lambda: marked(b"\xff\xed\xff\xf8" + b"8BIM\4\0\0\0\0\0\0\0" * 5461 + bytes(2), 60),
    "png-canvas": lambda: png(60000, 60000),
    "png-16-bits": lambda: png(9000, 9000, 16, 6),
    "png-chunks": lambda: png(64, 64, extra=chunk(b"tEXt", b"a\0b") * 300_000),
    "gif-canvas": lambda: gif(65535, 2730),
    "gif-offset": lambda: gif(64, 64, 13000),
    "webp-canvas": lambda: webp(13000, 13000),
    "bmp-run-lengths": lambda: run_lengths(b"\1\0" * 1_500_000 + b"\0\1"),
    "tiff-strips": lambda: tiff(struct.pack("<I", 8) * 300_000, t273=(300_000, 5122), t279=(300_000, 5122)),
    "tiff-tile": lambda: tiff(t322=(1, 2**31 - 16), t323=(1, 2**31 - 16), t324=(1, 8), t325=(1, 9)),
    "tiff-tags": lambda: tiff(bytes(10**6), **{f"t{tag}": (250_000, 8) for tag in range(40000, 40600)}),
    "tiff-rationals": lambda: tiff(bytes(8 * 600_000), t282=(600_000, 5122)).replace(*AS_RATIONALS),
    "tiff-longs": lambda: tiff(bytes(4 * 8_000_000), t282=(8_000_000, 5122)),
    "jpeg-exif-rationals": exif_rationals,
    "avif-hidden-size": avif_of_another_size,
}


def reasons(path: Path, limits: Limits, *decoders) -> list[str]:
    """Returns the reasons why decoders and the doctor refuse a file."""
    with Reader(1, largest=limits.file_bytes, advice=limits.advice) as reader:
        (file,) = reader.submit([str(path)]).result()
    found = [examine(Manifest.scan(str(path.parent)), 1, limits=limits).broken[path.name]]
    with pytest.raises(ValueError) as error:
        open_image(path, limits)
    found.append(str(error.value))
    for decoder in decoders if file.header else ():
        found.append(decoder.start([Job(file, Cut((0, 0, 8, 8), (8, 8)), False)]).result()[1][0])
    return found


@pytest.fixture(scope="module")
def decoders():
    from fastmim.data.dali import DaliDecoder

    opened = [PillowDecoder((8, 8), 3, "bicubic", 1)]
    opened.append(DaliDecoder((8, 8), 3, "bicubic", 1, torch.device("cpu"), PillowDecoder((8, 8), 3, "bicubic", 1)))
    yield opened
    for decoder in opened:
        decoder.close()


@pytest.mark.parametrize("name", BOMBS)
def test_what_decodes_without_a_limit_is_refused_from_the_header(tmp_path, monkeypatch, name):
    (tmp_path / "x.jpg").write_bytes(BOMBS[name]())
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("the decoder was started"))
    found = reasons(tmp_path / "x.jpg", Limits())
    assert len(set(found)) == 1
    assert re.match(r"too (large|slow): .*data\.decode_(memory|seconds)=", found[0]), found[0]
    assert len(found[0]) < 250


def test_raising_the_setting_admits_an_image(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(save(Image.new("RGB", (1000, 1000)), "PNG"))
    assert open_image(path).size == (1000, 1000)
    for limits, name in (
        (Limits(memory=4), "data.decode_memory=4"),
        (Limits(seconds=0.001), "data.decode_seconds=0.001"),
    ):
        assert name in refusal(read_image(path), limits)
    monstrous = read_image(path)
    assert refusal(monstrous, Limits(memory=100, seconds=1)) is None


def test_a_large_bilevel_image_needs_no_setting(tmp_path):
    (tmp_path / "pano.png").write_bytes(png(13600, 13200, 1, 0))
    assert refusal(read_image(tmp_path / "pano.png"), Limits()) is None
    (tmp_path / "pano.png").write_bytes(png(13600, 13200, 8, 2))
    assert "data.decode_memory" in refusal(read_image(tmp_path / "pano.png"), Limits())


def test_pillows_own_limit_is_lifted_only_while_something_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    (tmp_path / "x.png").write_bytes(save(picture(), "PNG"))
    file = read_image(tmp_path / "x.png")
    with reserved(Limits(), file):
        assert open_image(tmp_path / "x.png").size == (60, 40)
        # The end of the other image changes nothing for this image.
        assert decode_window(file, (0, 0, 39, 60), "RGB").size == (60, 39)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_pixels_that_the_header_does_not_announce_are_not_decoded(tmp_path, monkeypatch):
    (tmp_path / "x.png").write_bytes(save(picture(), "PNG"))
    file = read_image(tmp_path / "x.png")
    less = replace(file, header=replace(file.header, width=30))
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda image: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="damaged: its header says 30 x 40 pixels, decoded are 60 x 40"):
        decode_upright(less)


def test_one_file_is_refused_in_the_words_of_the_reader_of_many(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "large.png").write_bytes(bytes(600_000))
    limits = Limits(memory=1)
    paths = [str(tmp_path / name) for name in ("pipe.png", "large.png", "missing.png")]
    with Reader(1, largest=limits.file_bytes, advice=limits.advice) as reader:
        files = reader.submit(paths).result()
    for path, file in zip(paths, files, strict=True):
        assert file.error and tmp_path.name not in file.error
        assert read_image(path, limits).error == file.error


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    (tmp_path / "x.jpg").write_bytes(save(picture(), "JPEG"))
    with open(tmp_path / "x.jpg", "ab") as file:
        file.truncate(900 << 20)
    with Reader(1, largest=Limits().file_bytes, advice=Limits().advice) as reader:
        (file,) = reader.submit([str(tmp_path / "x.jpg")]).result()
    assert not len(file.data)
    assert "943718400 bytes" in file.error and "data.decode_memory=500" in file.error


def test_threads_share_one_budget_of_memory():
    limits, order = Limits(memory=1), []
    entered = threading.Event()
    file, small = (
        File("x", np.empty(0, np.uint8), Header("png", side, side, 1, 3, 8, *[False] * 5), None, None)
        for side in (340, 90)
    )
    files = [file] * 4  # each 0.92 MB

    def second():
        with reserved(limits, files[0]):
            order.append("second")

    with reserved(limits, *files):
        thread = threading.Thread(target=second)
        thread.start()
        entered.wait(0.05)
        with reserved(limits, small):  # a reservation that fits does not wait
            order.append("small")
        order.append("first ends")
    thread.join(10)
    assert order == ["small", "first ends", "second"]
    assert images._used.bytes == 0


def test_only_one_function_opens_images():
    opens = re.compile(r"Image\.open\(|imread\(|read_image\(|ImageFile\.Parser|pil_loader|ImageFolder\(")
    own = re.compile(r"Image\.open\(file, formats=FORMATS\)|def read_image\(| read_image\((path, limits)\)")
    found = []
    for path in [*(ROOT / "fastmim").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]:
        for line in path.read_text().splitlines():
            if opens.search(line) and not own.search(line):
                found.append((path.relative_to(ROOT).as_posix(), line.strip()))
    assert [path for path, _ in found] == ["fastmim/data/image.py"], found
    assert "formats=(header.format.upper(),)" in found[0][1]


@pytest.mark.parametrize("name", ["0.png", "0.jpg", "0.tif"])
def test_a_label_image_that_is_postscript_starts_no_interpreter(tmp_path, monkeypatch, name):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    (tmp_path / "images/0.png").write_bytes(save(picture(), "PNG"))
    (tmp_path / "masks" / name).write_bytes(save(picture(), "EPS"))
    masks = LabelMaps(Manifest.scan(str(tmp_path / "images")), str(tmp_path / "masks"), 3)
    with pytest.raises(BadFilesError, match="PostScript"):
        masks.read(0)


SAMPLES = {
    "int16": (np.zeros((8, 8), np.int16), "1 band of 16-bit signed samples"),
    "int32": (np.zeros((8, 8), np.int32), "1 band of 32-bit signed samples"),
    "float32": (np.zeros((8, 8), np.float32), "1 band of 32-bit float samples"),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_without_a_range_are_named_with_their_bits(tmp_path, decoders, name):
    pixels, words = SAMPLES[name]
    data = save(Image.fromarray(np.zeros((8, 8), np.uint16) if name == "int16" else pixels), "TIFF")
    if name == "int16":
        data = tiff(t258=(1, 16), t279=(1, 8192), t339=(1, 2), t278=(1, 64)) + bytes(8192)
    (tmp_path / "x.tif").write_bytes(data)
    assert all(words in reason for reason in reasons(tmp_path / "x.tif", Limits(), *decoders))


def test_reasons_come_from_the_header_and_are_the_same_in_every_run(tmp_path, decoders):
    damaged = {
        "bands.tif": tiff(t277=(1, 64), t279=(1, 4096 * 64)) + bytes(4096 * 64),
        "cut.png": save(picture(), "PNG")[:2000],
        "damaged.gif": save(picture(mode="P"), "GIF").replace(b"\x2c", b"\x2c\x01", 1),
        "zlib.png": png(64, 64),
    }
    for name, data in damaged.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_bytes(data)
        found = {*reasons(folder / name, Limits(), *decoders), *reasons(folder / name, Limits(), *decoders)}
        assert len(found) == 1, found
        assert not re.search(r"0x[0-9a-f]{4}|BytesIO|object|decoder error|Pillow|stream", found.pop())
    assert "64 bands of 8-bit unsigned samples" in reasons(tmp_path / "bands.tif/bands.tif", Limits())[0]


def test_whatever_a_decoder_raises_is_a_bad_file(tmp_path, decoders, monkeypatch):
    data = save(picture(), "AVIF")
    at = data.index(b"meta") - 4
    (tmp_path / "x.avif").write_bytes(data[:at] + b"\0\0\0\x08free" * 8 + data[at:])
    found = reasons(tmp_path / "x.avif", Limits(), *decoders)
    assert set(found) == {"damaged: the AVIF cannot be decoded"}

    def fail(*_):
        raise MemoryError

    (tmp_path / "x.avif").write_bytes(data)
    monkeypatch.setattr(Image.Image, "resize", fail)
    job = Job(read_image(tmp_path / "x.avif"), Cut((0, 0, 8, 8), (8, 8)), False)
    assert "no memory is left" in decoders[0].start([job]).result()[1][0]


@pytest.mark.parametrize("name", ["x.avif", "x.jfif", "x", "x.jpg"])
def test_avif_and_jpeg_are_read_under_any_name(tmp_path, decoders, name):
    for kind in ("AVIF", "JPEG", "MPO"):
        data = save(picture(), kind)
        (tmp_path / name).write_bytes(data)
        file = read_image(tmp_path / name)
        job = Job(file, Cut((0, 0, 40, 60), (8, 8)), False)
        (first, none), (second, nothing) = (decoder.start([job]).result() for decoder in decoders)
        assert not none and not nothing
        assert (first.int() - second.int()).abs().max() <= (0 if kind == "AVIF" else 3)
        with Image.open(io.BytesIO(data)) as expected:
            assert np.array_equal(decode_upright(file), expected.convert("RGB"))


def test_the_header_tells_frames_and_bands(tmp_path):
    frames = {"save_all": True, "append_images": [picture().rotate(90), picture().rotate(180)]}
    for kind in ("GIF", "TIFF", "WEBP", "PNG", "MPO", "AVIF"):
        (tmp_path / "x").write_bytes(save(picture(), kind, **frames))
        assert read_image(tmp_path / "x").header.frames == 3, kind
    (tmp_path / "x").write_bytes(tiff(t277=(1, 5), t279=(1, 4096 * 5)) + bytes(4096 * 5))
    assert read_image(tmp_path / "x").header.channels == 5


def test_12_bit_samples_keep_their_high_bits(tmp_path):
    values = np.array([[0, 16, 2048, 4095]], dtype=np.uint16)
    first = (values[0, 0::2] >> 4).astype(np.uint8)
    packed = bytearray()
    for a, b in values.reshape(-1, 2).tolist():
        packed += bytes((a >> 4, (a & 15) << 4 | b >> 8, b & 255))
    data = tiff(t256=(1, 4), t257=(1, 1), t258=(1, 12), t278=(1, 1), t279=(1, 6), t273=(1, 122 + 5000)) + bytes(packed)
    (tmp_path / "x.tif").write_bytes(data)
    file = read_image(tmp_path / "x.tif")
    found = np.asarray(decode_window(file, (0, 0, 1, 4), "L"))
    assert found.tolist() == [[0, 1, 128, 255]] and first[0] == 0


def test_the_estimate_covers_what_pillow_takes():
    """The numbers are bytes a pixel, measured with 4000 x 4000 pixels of noise. The window is a copy."""
    measured = {"WEBP": 16 + 4, "AVIF": 11 + 4, "JPEG": 4 + 4, "PNG": 4 + 4, "TIFF": 4 + 4, "GIF": 1 + 4, "BMP": 4 + 4}
    for kind, each in measured.items():
        data = save(picture(400, 600), kind)
        file = File("x", np.frombuffer(data, np.uint8), *parse_header(data), None)
        assert memory_needed(file) >= each * 400 * 600 + len(data), kind
