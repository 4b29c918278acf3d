"""Tests of the reader's header check against Pillow.

The check reports the facts that Pillow reports, and rejects nothing that Pillow decodes.
"""

import io
import os
import random
import shutil
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastmim_kernels.reader import parse_header

ROOT = Path(__file__).parents[2]
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
CASES = [
    *[("JPEG", mode, {}) for mode in ("L", "RGB", "CMYK")],
    *[("JPEG", "RGB", {"subsampling": subsampling}) for subsampling in ("4:4:4", "4:2:2")],
    *[("JPEG", mode, {"progressive": True}) for mode in ("L", "RGB", "CMYK")],
    *[("JPEG", mode, {"restart_marker_blocks": 2}) for mode in ("L", "RGB")],
    *[("PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")],
    *[("WEBP", mode, {"lossless": lossless}) for mode in ("RGB", "RGBA") for lossless in (False, True)],
    *[("BMP", mode, {}) for mode in ("1", "L", "P", "RGB", "RGBA")],
    *[("TIFF", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "YCbCr")],
    *[("TIFF", "RGB", {"compression": name}) for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")],
    ("TIFF", "RGB", {"big_tiff": True}),
    *[("GIF", mode, {}) for mode in ("L", "P")],
    *[(format, "RGB", {"save_all": True}) for format in ("PNG", "WEBP", "GIF", "TIFF")],
    *[("AVIF", mode, {}) for mode in ("L", "RGB", "RGBA")],
]


def picture(mode: str, width: int = 29, height: int = 20) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 4), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[:, :, :2].copy().view(np.uint16)[:, :, 0])
    image = Image.fromarray(pixels)
    return image.convert("RGB").convert("P") if mode == "P" else image.convert(mode)


def encode(format: str, mode: str, options: dict, orientation: int = 1) -> bytes:
    image, file = picture(mode), io.BytesIO()
    options = dict(options)
    if "save_all" in options:
        options["append_images"] = [picture(mode).rotate(180)]
    if orientation != 1:
        exif = Image.Exif()
        exif[274] = orientation
        options |= {"tiffinfo": {274: orientation}} if format == "TIFF" else {"exif": exif}
    image.save(file, format, **options)
    return file.getvalue()


def pillow_loads(data: bytes) -> bool:
    """Returns True if Pillow decodes the file; warnings of decompression bombs do not count."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            Image.open(io.BytesIO(data), formats=FORMATS).load()
        except Exception:
            return False
    return True


def error_of(data: bytes) -> str:
    header, error = parse_header(data)
    assert header is None and error
    return error


def segments(jpeg: bytes) -> list[bytes]:
    """Returns the segments of a JPEG before its first scan, then the rest."""
    at, parts = 2, []
    while jpeg[at + 1] != 0xDA:
        size = 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        parts.append(jpeg[at : at + size])
        at += size
    return [*parts, jpeg[at:]]


def without(jpeg: bytes, marker: int) -> bytes:
    return b"\xff\xd8" + b"".join(part for part in segments(jpeg) if part[1] != marker)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def exif(orientation: int, order: str = "MM", kind: int = 3, count: int = 1) -> bytes:
    sign = ">" if order == "MM" else "<"
    value = struct.pack(sign + {1: "Bxxx", 3: "Hxx", 4: "I"}[kind], orientation)
    return order.encode() + struct.pack(sign + "HIHHHI", 42, 8, 1, 274, kind, count) + value + bytes(4)


@pytest.mark.parametrize(("format", "mode", "options"), CASES)
def test_header_says_what_pillow_says(format, mode, options):
    for orientation in range(1, 9) if format in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF") else [1]:
        data = encode(format, mode, options, orientation)
        header, error = parse_header(data)
        assert error is None
        with Image.open(io.BytesIO(data)) as image:
            size = image.size
            if format == "TIFF" and orientation >= 5:
                size = size[::-1]  # Pillow turns TIFFs by itself
            stored = image.getexif().get(274, 1)
        assert (header.format, header.width, header.height) == (format.lower(), *size)
        assert header.orientation == stored == orientation
    channels = {"LA": 2, "RGB": 3, "YCbCr": 3, "RGBA": 4, "CMYK": 4}.get(mode, 1)
    if format == "GIF" or (format, mode) == ("BMP", "1"):
        assert (header.channels, header.palette) == (1, True)
    elif format != "BMP":
        assert header.channels == channels
        assert header.palette == (mode == "P")
        assert header.alpha == (mode in ("LA", "RGBA"))
    assert header.bits == {"1": 8 if format == "GIF" else 1, "I;16": 16}.get(mode, 8)
    assert header.cmyk == (mode == "CMYK")
    assert header.progressive == options.get("progressive", False)
    assert header.frames == (2 if "save_all" in options else 1)


@pytest.mark.parametrize(("format", "mode", "options"), CASES)
def test_truncation(format, mode, options):
    """No cut that Pillow accepts is rejected, and nearly all others are.

    A JPEG without end marker is an exception.
    """
    data = encode(format, mode, options)
    missed = 0
    for length in range(len(data)):
        error = parse_header(data[:length])[1]
        if format == "JPEG":
            assert error
        elif pillow_loads(data[:length]):
            assert error is None, f"{len(data) - length} bytes cut: {error}"
        else:
            missed += error is None
    # The pixels' checksum in a PNG, the last of several blocks in a GIF, the tables of JPEG in a TIFF.
    assert missed <= (650 if options.get("compression") == "jpeg" else 16)


def test_damage():
    """Damage never crashes the check, and no damaged byte that Pillow accepts leads to a rejection.

    AVIF is an exception: only understanding every box tells how much memory an AV1 decoder needs.
    """
    generator = random.Random(0)
    for case in CASES:
        data = encode(*case)
        for _ in range(40):
            damaged = bytearray(data)
            damaged[generator.randrange(min(len(data), 400))] = generator.choice([0, 1, 127, 128, 254, 255])
            error = parse_header(bytes(damaged))[1]
            assert error is None or case[0] == "AVIF" or not pillow_loads(bytes(damaged)), (case, error)


def avif(*boxes: bytes, data: bytes = b"") -> bytes:
    """Returns an AVIF with the data of its images from byte 28 on, then a `meta` box with these boxes."""
    return box(b"ftyp", b"avif\0\0\0\0avif") + box(b"mdat", data) + box(b"meta", bytes(4) + b"".join(boxes))


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def shared_data() -> bytes:
    """Returns 1000 images with the same 200,013 bytes: a sequence header, then empty delimiters."""
    data = b"\x0a\x0b\0\0\0\4\x3c\x3f\xbf\xc3\x20" + bytes(2) + b"\x12\0" * 100_000
    names = b"".join(box(b"infe", b"\2\0\0\0" + struct.pack(">Hxx", i) + b"av01") for i in range(1000))
    places = b"".join(struct.pack(">HHHII", i, 0, 1, 28, len(data)) for i in range(1000))
    return avif(box(b"iinf", bytes(6) + names), box(b"iloc", struct.pack(">IHH", 0, 0x4400, 1000) + places), data=data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (shared_data(), "share their data"),
        (
            avif(
                box(
                    b"iprp",
                    box(
                        b"ipma",
                        b"\1\0\0\0" + struct.pack(">I", 10**5) + b"".join(struct.pack(">Ix", i) for i in range(10**5)),
                    ),
                )
            ),
            "too many items",
        ),
        # 60,000 images of 65,535 pieces each, of which every one takes no bytes.
        (avif(box(b"iloc", struct.pack(">IHH", 0, 0, 60000) + b"\0\0\0\0\xff\xff" * 60000)), "no image data"),
    ],
    ids=["shared data", "items", "extents"],
)
def test_a_small_avif_is_examined_in_little_time_and_memory(data, words):
    assert words in parse_header(data)[1]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (bytes(1000), "nothing but zero bytes"),
        (b"<!DOCTYPE html><html></html>", "HTML"),
        (b"\n <HTML><body>404", "HTML"),
        (b"PK\3\4" + bytes(50), "zip"),
        (b"%PDF-1.7\n\x80", "PDF"),
        (b"hello, world\n", "text"),
        (b"\x93\x01\x80\xff" * 9, "not an image of a known format"),
        (bytes(4) + b"ftypheic" + bytes(30), "HEIC"),
        (bytes(3) + b"\x18ftypavif" + bytes(16), "AVIF has no image data"),
        (bytes(4) + b"ftypisom" + bytes(30), "video"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\xff\x0a\x00\x10", "JPEG XL"),
        (b"\xff\xd8\xff\xd9", "ends before its image data"),
        (
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)) + chunk(b"IEND", b""),
            "no image",
        ),
        (b"GIF89a" + bytes(7) + b";", "no image"),
        (b"BM" + bytes(60), "BMP: a header of 0 bytes"),
        (b"II*\0\xff\xff\0\0", "truncated"),
    ],
)
def test_hopeless(data, words):
    assert words in error_of(data)


def test_a_jpeg_without_its_end_marker_is_truncated_whatever_fills_its_place():
    for options in ({}, {"progressive": True}, {"restart_marker_blocks": 2}):
        whole = encode("JPEG", "RGB", options)
        scan = whole.index(b"\xff\xda") + 14
        half = whole[: (scan + len(whole)) // 2]
        for data in (whole[:-2], whole[:-2] + bytes(2), whole[:-2] + b"garbage", half, half + bytes(len(whole))):
            assert error_of(data) == "truncated: the JPEG has no end marker"
        for data in (whole, whole + bytes(5000), whole + b"any garbage \xff\xd8\xff", whole + b"\xff\xd9"):
            assert parse_header(data)[1] is None and pillow_loads(data)


def test_an_end_marker_inside_the_pixels_is_damage():
    for options in ({}, {"progressive": True}, {"restart_marker_blocks": 2}):
        whole = encode("JPEG", "RGB", options)
        middle = (whole.index(b"\xff\xda") + 14 + len(whole)) // 2
        assert "end marker in the middle" in error_of(whole[:middle] + b"\xff\xd9" + whole[middle:])
        assert parse_header(whole + whole)[1] is None  # a second picture behind the first


def test_jpeg_structure():
    plain, progressive = (encode("JPEG", "RGB", {"progressive": value}) for value in (False, True))
    frame = plain.index(b"\xff\xc0")
    motion = without(plain, 0xC4)  # as in motion JPEG, whose tables are the standard's
    assert parse_header(motion)[1] is None and pillow_loads(motion)
    for data, words in [
        (without(plain, 0xDB), "lacks the quantization table 0"),
        (without(progressive, 0xC4), "Huffman table"),
        (without(plain, 0xC0), "before its frame header"),
        (plain[:2] + plain, "two start markers"),
        (plain[:frame] + plain[frame : frame + 19] + plain[frame:], "two frame headers"),
        (plain[: frame + 4] + b"\x0c" + plain[frame + 5 :], "12 bits"),
        (plain[: frame + 1] + b"\xc5" + plain[frame + 2 :], "unusual coding"),
        (plain[: frame + 5] + bytes(2) + plain[frame + 7 :], "29 x 0 pixels"),
    ]:
        assert words in error_of(data)
        assert not pillow_loads(data)
    for marker in (0xC1, 0xC9):  # extended, arithmetic
        data = plain[: frame + 1] + bytes([marker]) + plain[frame + 2 :]
        assert parse_header(data)[1] is None and pillow_loads(data)
    table = b"\xff\xc4\x00\x14\x00" + bytes([1]) + bytes(16)
    lossless = b"\xff\xd8" + table + b"\xff\xc3\x00\x0b\x08\x00\x08\x00\x08\x01\x01\x11\x00"
    lossless += b"\xff\xda\x00\x08\x01\x01\x00\x01\x00\x00" + bytes(8) + b"\xff\xd9"
    assert parse_header(lossless)[1] is None and pillow_loads(lossless)


def not_interleaved() -> bytes:
    """Returns a sequential JPEG of three scans, one per component."""
    plain = encode("JPEG", "L", {})
    head, frame, scan = plain.index(b"\xff\xdb"), plain.index(b"\xff\xc0"), plain.index(b"\xff\xda")
    components = b"".join(bytes([i, 0x11, 0]) for i in (1, 2, 3))
    frame3 = b"\xff\xc0\x00\x11" + plain[frame + 4 : frame + 9] + b"\3" + components
    scans = [plain[scan : scan + 5] + bytes([i]) + plain[scan + 6 : -2] for i in (1, 2, 3)]
    return b"\xff\xd8" + plain[head:frame] + frame3 + plain[frame + 13 : scan] + b"".join(scans) + b"\xff\xd9"


def test_whole_jpegs_are_regular():
    jpegs = [encode(*case) for case in CASES if case[0] == "JPEG"] + [not_interleaved()]
    for jpeg in jpegs:
        scans = jpeg.index(b"\xff\xda")
        comment = b"\xff\xfe\x00\x06soi\xff"
        for data in (
            jpeg,
            jpeg + b"garbage \xff\xd8\xff\xc0",
            jpeg + jpeg,  # as in an MPO
            jpeg[:-2] + b"\xff\xff\xff\xd9",
            jpeg[:scans] + comment + jpeg[scans:],
        ):
            assert pillow_loads(data)
            assert parse_header(data)[0].irregular is False
    for jpeg in (not_interleaved(), encode("JPEG", "RGB", {"progressive": True})):
        last = jpeg.rindex(b"\xff\xda")
        for segment in (b"\xff\xe3\x00\x04ab", b"\xff\xdd\x00\x04\x00\x00", b"\xff\xfe\x00\x02"):
            data = jpeg[:last] + segment + jpeg[last:]
            assert pillow_loads(data) and not parse_header(data)[0].irregular
        for segment in (b"\xff\x01", b"\xff\xcc\x00\x04\x00\x10"):
            assert parse_header(jpeg[:last] + segment + jpeg[last:])[0].irregular
    assert not parse_header(encode("PNG", "RGB", {}))[0].irregular


@pytest.mark.parametrize("options", [{}, {"restart_marker_blocks": 2}, {"subsampling": "4:4:4"}])
def test_markers_in_the_pixels_make_a_jpeg_irregular(options):
    jpeg = encode("JPEG", "RGB", options)
    middle = (jpeg.index(b"\xff\xda") + len(jpeg)) // 2
    for marker in (*range(1, 0xD0), *range(0xD8, 0xFF)):
        if marker != 0xD9:
            for place in (middle, len(jpeg) - 2):
                data = jpeg[:place] + bytes([0xFF, marker, 0, 2]) + jpeg[place:]
                assert parse_header(data)[0].irregular is True
    assert parse_header(jpeg[:-2] + bytes(500))[0] is None or parse_header(jpeg[:-2] + bytes(500))[0].irregular


def test_png_checksums():
    data = encode("PNG", "RGB", {})
    pixels = data.index(b"IDAT")
    wrong = data[:29] + bytes([data[29] ^ 1]) + data[30:]
    assert "wrong checksum in PNG chunk IHDR" in error_of(wrong) and not pillow_loads(wrong)
    end = pixels + 4 + int.from_bytes(data[pixels - 4 : pixels], "big")
    ignored = data[:end] + bytes([data[end] ^ 1]) + data[end + 1 :]
    assert parse_header(ignored)[1] is None and pillow_loads(ignored)
    interlaced = bytearray(data)
    interlaced[28] = 1
    interlaced[29:33] = struct.pack(">I", zlib.crc32(interlaced[12:29]))
    assert parse_header(bytes(interlaced))[0].progressive
    absurd = data[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 2**31, 1, 8, 2, 0, 0, 0)) + data[33:]
    assert "2147483648 x 1 pixels" in error_of(absurd)


@pytest.mark.parametrize("order", ["MM", "II"])
def test_orientation(order):
    png, jpeg = encode("PNG", "L", {}), encode("JPEG", "L", {})
    for kind in (1, 3, 4):
        for value in (6, 0, 9):
            block = exif(value, order, kind)
            app1 = struct.pack(">HH", 0xFFE1, len(block) + 8) + b"Exif\0\0" + block
            for data in (
                jpeg[:2] + app1 + jpeg[2:],
                png[:33] + chunk(b"eXIf", block) + png[33:],
                png[:-12] + chunk(b"eXIf", block) + png[-12:],
            ):
                assert parse_header(data)[0].orientation == (6 if value == 6 else 1)
    for block in (
        b"",
        b"MM",
        exif(6, order)[:-9],
        exif(6, order, count=0),
        exif(6, order, count=2**31),
        b"XX" + exif(6),
    ):
        assert parse_header(png[:33] + chunk(b"eXIf", block) + png[33:])[0].orientation == 1


def test_tiff_strips_beyond_the_end():
    """The directory comes first, as most writers put it; in files by Pillow only if uncompressed."""
    pixels = bytes(range(200)) * 3
    entries = [(256, 20), (257, 30), (258, 8), (259, 1), (262, 1), (277, 1), (278, 10), (279, 0), (273, 0)]
    table = 8 + 2 + 12 * len(entries) + 4
    offsets = [table + 24, table + 224, table + 424]
    data = b"II*\0" + struct.pack("<IH", 8, len(entries))
    for tag, value in sorted(entries):
        count = 3 if tag in (273, 279) else 1
        place = {273: table, 279: table + 12}.get(tag, value)
        data += struct.pack("<HHII", tag, 4, count, place)
    data += bytes(4) + struct.pack("<6I", *offsets, 200, 200, 200) + pixels
    assert parse_header(data)[1] is None and pillow_loads(data)
    for cut, words in ((1, "strip 2"), (200, "strip 2"), (201, "strip 1")):
        assert words in error_of(data[:-cut]) and not pillow_loads(data[:-cut])


@pytest.mark.costly("build", "the reader's C++ for the sanitizers of addresses and overflows")
@pytest.mark.parametrize("sanitizer", ["address,undefined", pytest.param("thread", marks=pytest.mark.slow)])
def test_under_sanitizers(tmp_path, sanitizer):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    cmake = shutil.which("cmake", path=path)
    build = tmp_path / "build"
    options = [f"-DFASTMIM_SANITIZE={sanitizer}", "-DCMAKE_CXX_FLAGS_RELEASE=-O1"]
    files = []
    for i, case in enumerate(CASES):
        files.append(tmp_path / f"{i}.bin")
        files[-1].write_bytes(encode(*case, orientation=6 if case[0] in ("JPEG", "PNG", "WEBP", "TIFF") else 1))
    for command in (
        [cmake, "-S", ROOT, "-B", build, *options],
        [cmake, "--build", build, "--target", "reader_test", "--parallel", "2"],
        [build / "reader_test", *files],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "all passed" in done.stdout
