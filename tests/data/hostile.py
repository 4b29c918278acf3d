"""A folder of hostile image files that a loader must survive. The files are small and reproducible.

A *bad* file gives no picture, and another image must replace it. An *odd* file is unusual, but gives a picture. Pillow
refuses exactly the bad files, as `tests/data/test_hostile.py` checks.
"""

from __future__ import annotations

import gzip
import io
import os
import struct
import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

SIZE = (48, 64)  # height and width of most pictures
NOT_UTF8 = os.fsdecode(b"not-utf8-\xff\xfe.jpg")


@dataclass(frozen=True)
class Hostile:
    """A file: its defect, True if it is bad, and True if it becomes bad only after `spoil`."""

    name: str
    cause: str
    bad: bool
    late: bool = False


def write_hostile(folder: Path) -> dict[str, Hostile]:
    """Writes the corpus; returns a description of each image by file name.

    The corpus also has a folder and a pipe with names of images. They do not count as images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries: dict[str, Hostile] = {}
    for bad, files in ((True, _bad()), (False, _odd())):
        for name, cause, content in files:
            assert name not in entries, name
            (folder / name).write_bytes(content)
            entries[name] = Hostile(name, cause, bad)
    (folder / "link-to-nowhere.jpg").symlink_to("nowhere")
    (folder / "link-to-itself.jpg").symlink_to("link-to-itself.jpg")
    (folder / "link-to-a-picture.jpg").symlink_to("exif-6.jpg")
    entries |= {
        "link-to-nowhere.jpg": Hostile("link-to-nowhere.jpg", "a link to a file that is not there", True),
        "link-to-itself.jpg": Hostile("link-to-itself.jpg", "a link to itself", True),
        "link-to-a-picture.jpg": Hostile("link-to-a-picture.jpg", "a link to a good file", False),
    }
    for name, (cause, _) in _LATE.items():
        (folder / name).write_bytes(_jpeg())
        entries[name] = Hostile(name, cause, True, late=True)
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    return entries


def spoil(folder: Path) -> None:
    """Spoils the `late` files, as happens between the scan and the reading."""
    for name, (_, change) in _LATE.items():
        (folder / name).unlink()
        change(folder / name)


_LATE = {
    "late-deleted.jpg": ("deleted after the scan", lambda path: None),
    "late-emptied.jpg": ("emptied after the scan", lambda path: path.touch()),
    "late-folder.jpg": ("a folder since the scan", lambda path: path.mkdir()),
    "late-pipe.jpg": ("a pipe since the scan: reading it would wait for ever", os.mkfifo),
    "late-link.jpg": ("a link to nowhere since the scan", lambda path: path.symlink_to("nowhere")),
}


def _picture(mode: str = "RGB", height: int = SIZE[0], width: int = SIZE[1]) -> Image.Image:
    """Returns a smooth picture with some noise, in any mode."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 24, (height, width, 3))
    planes = np.stack([x * 231 // width, y * 231 // height, (x + y) * 231 // (height + width)], axis=-1) + noise
    image = Image.fromarray(planes.astype(np.uint8))
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray((x * 255 // width).astype(np.uint8)))
    return image if mode == "RGB" else image.convert(mode)


def _save(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _jpeg(**options) -> bytes:
    return _save(_picture(), "JPEG", quality=90, **options)


def _with_exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return _jpeg(exif=exif)


def _srgb() -> bytes:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return _put(profile, 24, bytes(12))  # without the time of creation


# JPEG, by segment


def _segments(data: bytes) -> list[tuple[int, bytes]]:
    """Returns (marker, bytes after 0xFF) of each segment. The last segment, SOS, also holds the scan."""
    found, at = [(0xD8, b"\xd8")], 2
    while found[-1][0] != 0xDA:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        end = len(data) if marker == 0xDA else at + 2 + length
        found.append((marker, data[at + 1 : end]))
        at = end
    return found


def _join(segments: list[tuple[int, bytes]]) -> bytes:
    return b"".join(b"\xff" + content for _, content in segments)


def _without(marker: int) -> bytes:
    return _join([s for s in _segments(_jpeg()) if s[0] != marker])


def _patched(marker: int, at: int, value: bytes) -> bytes:
    """Returns a JPEG with `value` in the first segment of a marker, `at` bytes after the marker."""
    segments = _segments(_jpeg())
    place = next(i for i, s in enumerate(segments) if s[0] == marker)
    content = segments[place][1]
    segments[place] = (marker, content[: 1 + at] + value + content[1 + at + len(value) :])
    return _join(segments)


def _scan(share: float) -> bytes:
    data = _jpeg()
    start = data.index(b"\xff\xda")
    return data[: start + 14 + int(share * (len(data) - start - 14))]


def _inside(content: bytes) -> bytes:
    """Returns a JPEG with `content` in the middle of its scan."""
    data = _scan(0.5)
    return data + content + _jpeg()[len(data) :]


def _five_components() -> bytes:
    segments = _segments(_jpeg())
    place = next(i for i, s in enumerate(segments) if s[0] == 0xC0)
    head = segments[place][1][3:8] + b"\x05" + b"".join(bytes((i, 0x11, 0)) for i in range(1, 6))
    segments[place] = (0xC0, b"\xc0" + struct.pack(">H", len(head) + 2) + head)
    return _join(segments)


_BAD_DHT = b"\xff\xc4\0\x13\0" + b"\xff" * 16


# PNG, by chunk


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = _chunk(b"IEND", b"")


def _header(width: int = SIZE[1], height: int = SIZE[0], bits: int = 8, colour: int = 2) -> bytes:
    return _SIGNATURE + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))


def _rows(pixels: np.ndarray) -> bytes:
    """Returns the IDAT chunk of (H, W, C) samples, unfiltered."""
    rows = pixels.reshape(len(pixels), -1)
    return _chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))


def _png_16(colour: int, channels: int) -> bytes:
    pixels = np.asarray(_picture())[..., :channels].astype(">u2") * 257
    return _header(bits=16, colour=colour) + _rows(pixels.astype(">u2")) + _END


def _damaged_idat() -> bytes:
    data = bytearray(_save(_picture(), "PNG"))
    start = data.index(b"IDAT") + 4
    length = int.from_bytes(data[start - 8 : start - 4], "big")
    data[start + length // 2 : start + length // 2 + 8] = b"\xa5" * 8
    data[start + length : start + length + 4] = struct.pack(">I", zlib.crc32(data[start - 4 : start + length]))
    return bytes(data)


def _text_bomb() -> bytes:
    return _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(4 << 20), 9))


def _interlaced() -> bytes:
    """Returns an Adam7 PNG: seven pictures, each with a part of the pixels."""
    pixels = np.asarray(_picture())
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = [b"\0" + row.tobytes() for y, x, down, right in passes for row in pixels[y::down, x::right]]
    header = struct.pack(">IIBBBBB", SIZE[1], SIZE[0], 8, 2, 0, 0, 1)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b"".join(rows))) + _END


# TIFF, by entry


def _tiff(**changes: int) -> bytes:
    """Returns a grayscale TIFF of one strip; `changes` are entries, by name."""
    height, width = SIZE
    tags = {"width": 256, "height": 257, "bits": 258, "compression": 259, "photometric": 262, "offset": 273}
    tags |= {"samples": 277, "rows": 278, "bytes": 279}
    entries = {"width": width, "height": height, "bits": 8, "compression": 1, "photometric": 1, "samples": 1}
    entries |= {"rows": height, "bytes": width * height, "offset": 8 + 2 + 12 * len(tags) + 4} | changes
    content = b"".join(struct.pack("<HHII", tag, 4, 1, entries[name]) for name, tag in tags.items())
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + content + struct.pack("<I", 0)
    return head + _picture("L").tobytes()


def _put(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def _bad() -> list[tuple[str, str, bytes]]:
    """Returns (name, cause, content) of each bad file."""
    jpeg, png, webp, gif = (_save(_picture(), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF"))
    bmp, tiff = _save(_picture(), "BMP"), _tiff()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(zipfile.ZipInfo("x.jpg"), jpeg)
    ftyp = struct.pack(">I", 24) + b"ftyp%b\0\0\0\0mif1%b"
    lossless = _save(_picture("RGBA"), "WEBP", lossless=True)
    dqt, dht, sof = jpeg.index(b"\xff\xdb"), jpeg.index(b"\xff\xc4"), jpeg.index(b"\xff\xc0")
    return [
        # Not an image at all
        ("empty.jpg", "no bytes", b""),
        ("one-byte.jpg", "one byte", b"\xff"),
        ("text.jpg", "text", b"not an image\n" * 50),
        ("html.jpg", "a web page, as a failed download leaves", b"<!DOCTYPE html><html><h1>404</h1></html>"),
        ("json.jpg", "JSON", b'{"error": "rate limited"}'),
        ("zip.jpg", "a zip archive with an image inside", archive.getvalue()),
        ("gzip.jpg", "an image inside gzip", gzip.compress(jpeg, mtime=0)),
        ("pdf.jpg", "PDF", b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\n%%EOF\n"),
        ("elf.jpg", "a program", b"\x7fELF\x02\x01\x01" + bytes(100)),
        ("postscript.jpg", "PostScript, that Pillow would hand to an interpreter", _save(_picture(), "EPS")),
        ("svg.jpg", "SVG", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>'),
        ("zeros.jpg", "zeros, as a crash of the file system leaves", bytes(len(jpeg))),
        ("lfs-pointer.jpg", "a Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\nsize 12345\n"),
        # Kinds of image that are not read
        ("heic.jpg", "HEIC", ftyp % (b"heic", b"heic") + bytes(64)),
        ("avif.jpg", "AVIF", ftyp % (b"avif", b"avif") + bytes(64)),
        ("jpeg2000.jpg", "JPEG 2000", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(64)),
        ("jpegxl.jpg", "JPEG XL", b"\xff\x0a" + bytes(64)),
        ("ppm.jpg", "PPM", _save(_picture(), "PPM")),
        # JPEG
        ("jpeg-soi-only.jpg", "ends behind SOI", jpeg[:2]),
        ("jpeg-cut-in-header.jpg", "ends in the first segment", jpeg[:12]),
        ("jpeg-cut-in-dqt.jpg", "ends in the quantisation tables", jpeg[: dqt + 30]),
        ("jpeg-cut-in-dht.jpg", "ends in the Huffman tables", jpeg[: dht + 20]),
        ("jpeg-cut-at-10.jpg", "ends after 10 % of the scan", _scan(0.1)),
        ("jpeg-cut-at-50.jpg", "ends after 50 % of the scan", _scan(0.5)),
        ("jpeg-cut-at-90.jpg", "ends after 90 % of the scan", _scan(0.9)),
        ("jpeg-no-eoi.jpg", "ends two bytes early: no EOI", jpeg[:-2]),
        ("jpeg-no-soi.jpg", "no SOI", jpeg[2:]),
        ("jpeg-no-sof.jpg", "no SOF", _without(0xC0)),
        ("jpeg-no-dqt.jpg", "no quantisation table", _without(0xDB)),
        ("jpeg-no-sos.jpg", "no SOS", _join(_segments(jpeg)[:-1]) + b"\xff\xd9"),
        ("jpeg-sos-only.jpg", "SOI and SOS alone", jpeg[:2] + jpeg[jpeg.index(b"\xff\xda") :]),
        ("jpeg-length-0.jpg", "a segment of length 0", _patched(0xDB, 0, b"\0\0")),
        ("jpeg-length-1.jpg", "a segment of length 1", _patched(0xDB, 0, b"\0\1")),
        ("jpeg-length-beyond.jpg", "a segment longer than the file", _patched(0xDB, 0, b"\xff\xff")),
        ("jpeg-width-0.jpg", "width 0", _patched(0xC0, 5, b"\0\0")),
        ("jpeg-height-0.jpg", "height 0", _patched(0xC0, 3, b"\0\0")),
        ("jpeg-65000.jpg", "65,000 x 65,000 claimed", _patched(0xC0, 3, struct.pack(">HH", 65000, 65000))),
        ("jpeg-lossless.jpg", "lossless (SOF3)", _put(jpeg, sof + 1, b"\xc3")),
        ("jpeg-hierarchical.jpg", "hierarchical (SOF5)", _put(jpeg, sof + 1, b"\xc5")),
        ("jpeg-12-bits.jpg", "12 bits a sample", _patched(0xC0, 2, b"\x0c")),
        ("jpeg-0-components.jpg", "no components", _patched(0xC0, 7, b"\0")),
        ("jpeg-5-components.jpg", "five components", _five_components()),
        ("jpeg-bad-quantiser.jpg", "a component with quantisation table 9", _patched(0xC0, 10, b"\x09")),
        ("jpeg-bad-huffman.jpg", "a component with Huffman table 7", _patched(0xDA, 4, b"\x77")),
        ("jpeg-bad-dht.jpg", "more Huffman codes of one bit than there are", _patched(0xC4, 3, b"\xff")),
        ("jpeg-bad-sampling.jpg", "a sampling factor of 0", _patched(0xC0, 9, b"\0")),
        # JPEG, damaged in the pixel data; the picture before is whole, and some decoders read no further
        ("jpeg-scan-soi.jpg", "SOI inside the scan", _inside(b"\xff\xd8")),
        ("jpeg-scan-sof.jpg", "a second SOF inside the scan", _inside(b"\xff" + dict(_segments(_jpeg()))[0xC0])),
        ("jpeg-scan-unknown.jpg", "a marker that does not exist inside the scan", _inside(b"\xff\xf2\0\2")),
        ("jpeg-scan-dht.jpg", "a Huffman table of too many codes inside the scan", _inside(_BAD_DHT)),
        ("jpeg-scan-dqt.jpg", "quantisation table 9 inside the scan", _inside(b"\xff\xdb\0\x43\x09" + b"\1" * 64)),
        ("jpeg-scan-dri.jpg", "a DRI of a wrong length inside the scan", _inside(b"\xff\xdd\0\5\0\1\2")),
        # PNG
        ("png-signature.png", "the signature changed by a text-mode transfer", png.replace(b"\r\n", b"\n", 1)),
        ("png-header-only.png", "ends behind the header", png[:33]),
        ("png-header-crc.png", "the header's checksum is wrong", _put(png, 29, b"\0\0\0\0")),
        ("png-cut.png", "ends in the pixels", png[: len(png) // 2]),
        ("png-damaged.png", "a damaged zlib stream", _damaged_idat()),
        ("png-width-0.png", "width 0", _header(width=0) + _rows(np.asarray(_picture())) + _END),
        ("png-height-0.png", "height 0", _header(height=0) + _rows(np.asarray(_picture())) + _END),
        ("png-65000.png", "65,000 x 65,000 claimed", _header(65000, 65000) + _rows(np.asarray(_picture())) + _END),
        ("png-huge.png", "2**31 x 2**31 claimed", _header(2**31, 2**31) + _END),
        ("png-bits.png", "7 bits a sample", _header(bits=7) + _rows(np.asarray(_picture())) + _END),
        ("png-colour.png", "colour type 5", _header(colour=5) + _rows(np.asarray(_picture())) + _END),
        ("png-no-pixels.png", "no IDAT", _header() + _END),
        ("png-text-bomb.png", "a text of 4 MiB in 4 KiB", png[:33] + _text_bomb() + png[33:]),
        # WebP
        ("webp-header-only.webp", "ends behind the header", webp[:20]),
        ("webp-cut.webp", "ends in the pixels", webp[: len(webp) // 2]),
        ("webp-vp8-header.webp", "a damaged VP8 header", _put(webp, webp.index(b"\x9d\x01\x2a"), b"\0\0\0")),
        ("webp-vp8l-header.webp", "a damaged VP8L header", _put(lossless, lossless.index(b"VP8L") + 8, b"\0")),
        # BMP
        ("bmp-header-only.bmp", "ends behind the header", bmp[:54]),
        ("bmp-cut.bmp", "ends in the pixels", bmp[: len(bmp) // 2]),
        ("bmp-negative.bmp", "a negative width", _put(bmp, 18, struct.pack("<i", -64))),
        ("bmp-65000.bmp", "65,000 x 65,000 claimed", _put(bmp, 18, struct.pack("<ii", 65000, 65000))),
        ("bmp-bits.bmp", "7 bits a pixel", _put(bmp, 28, b"\x07")),
        ("bmp-compression.bmp", "compression 99", _put(bmp, 30, b"\x63")),
        # GIF
        ("gif-header-only.gif", "ends behind the header", gif[:13]),
        ("gif-cut.gif", "ends in the pixels", gif[: len(gif) // 2]),
        ("gif-65000.gif", "65,000 x 65,000 claimed", _put(gif, 6, struct.pack("<HH", 65000, 65000))),
        ("gif-no-image.gif", "no image", gif[:13] + b";"),
        # TIFF
        ("tiff-offset.tif", "the directory lies beyond the file", _put(tiff, 4, struct.pack("<I", 10**8))),
        ("tiff-strip.tif", "the strip lies beyond the file", _tiff(offset=10**8)),
        ("tiff-cut.tif", "ends in the pixels", tiff[:-1000]),
        ("tiff-65000.tif", "65,000 x 65,000 claimed", _tiff(width=65000, height=65000)),
        ("tiff-width-0.tif", "width 0", _tiff(width=0)),
        ("tiff-compression.tif", "compression 999", _tiff(compression=999)),
        ("tiff-float.tif", "32-bit samples, which have no defined range", _save(_picture("F"), "TIFF")),
    ]


def _odd() -> list[tuple[str, str, bytes]]:
    """Returns (name, cause, content) of each odd file."""
    jpeg, png = _jpeg(), _save(_picture(), "PNG")
    cmyk = _save(_picture("CMYK"), "JPEG")
    frames = [_picture(), _picture().transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    animated = {"save_all": True, "append_images": frames[1:]}
    palette = _picture().quantize(16)
    return [
        ("jpeg-named.png", "a JPEG named .png", jpeg),
        ("png-named.jpg", "a PNG named .jpg", png),
        ("trailing.jpg", "garbage behind the end", jpeg + b"garbage" * 100),
        ("fill-bytes.jpg", "fill bytes before a marker", jpeg[:2] + b"\xff" * 5 + jpeg[2:]),
        ("gray.jpg", "grayscale", _save(_picture("L"), "JPEG")),
        ("cmyk.jpg", "CMYK", cmyk),
        ("ycck.jpg", "YCCK", _put(cmyk, cmyk.index(b"Adobe") + 11, b"\x02")),
        ("progressive.jpg", "progressive", _jpeg(progressive=True)),
        ("exif-6.jpg", "to be turned by 90 degrees", _with_exif(6)),
        ("exif-9.jpg", "an orientation that does not exist", _with_exif(9)),
        ("exif-damaged.jpg", "EXIF that cannot be read", _jpeg(exif=b"Exif\0\0II*\0\xff\xff\xff\xff")),
        ("icc-damaged.jpg", "a colour profile that cannot be read", _jpeg(icc_profile=b"not a profile" * 20)),
        (
            "icc-wrong.jpg",
            "grayscale with the profile of an RGB image",
            _save(_picture("L"), "JPEG", icc_profile=_srgb()),
        ),
        ("1x1.jpg", "1 x 1", _save(_picture("RGB", 1, 1), "JPEG")),
        ("1x4000.jpg", "1 x 4000", _save(_picture("RGB", 1, 4000), "JPEG")),
        ("4000x1.png", "4000 x 1", _save(_picture("RGB", 4000, 1), "PNG")),
        ("gray-16.png", "16-bit grayscale", _png_16(0, 1)),
        ("rgb-16.png", "16-bit RGB", _png_16(2, 3)),
        ("rgba.png", "transparent", _save(_picture("RGBA"), "PNG")),
        ("la.png", "transparent grayscale", _save(_picture("LA"), "PNG")),
        ("1-bit.png", "1 bit a pixel", _save(_picture("1"), "PNG")),
        ("palette.png", "a palette with a transparent colour", _save(palette, "PNG", transparency=3)),
        ("interlaced.png", "interlaced", _interlaced()),
        ("animated.png", "an animation", _save(frames[0], "PNG", **animated)),
        ("animated.gif", "an animation", _save(frames[0], "GIF", **animated)),
        ("transparent.gif", "a transparent colour", _save(palette, "GIF", transparency=3)),
        ("lossless.webp", "lossless", _save(_picture(), "WEBP", lossless=True)),
        ("rgba.webp", "transparent", _save(_picture("RGBA"), "WEBP")),
        ("animated.webp", "an animation", _save(frames[0], "WEBP", **animated)),
        ("rgb.bmp", "BMP", _save(_picture(), "BMP")),
        ("rgb.tif", "TIFF", _save(_picture(), "TIFF")),
        (
            "gray-16.tif",
            "16-bit grayscale",
            _save(Image.fromarray(np.asarray(_picture("L")).astype("u2") * 257), "TIFF"),
        ),
        ("lzw.tif", "compressed TIFF", _save(_picture(), "TIFF", compression="tiff_lzw")),
        ("a name with spaces.jpg", "spaces in the name", jpeg),
        ("日本-é-\U0001f600.jpg", "letters of other scripts in the name", jpeg),
        ("new\nline.jpg", "a new line in the name", jpeg),
        ("-rf.jpg", "a name like an option", jpeg),
        ("[red]50%.jpg", "a name like markup", jpeg),
        (NOT_UTF8, "a name that is not UTF-8", jpeg),
    ]


if __name__ == "__main__":  # python -m tests.data.hostile FOLDER: for `python -m bench loader --bad`
    print(f"{len(write_hostile(Path(sys.argv[1])))} files in {sys.argv[1]}")
