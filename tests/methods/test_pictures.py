"""Pictures: content and captions of reconstruction grids, choice of images, and files."""

import errno
import os

import pytest
import torch
from PIL import Image, ImageDraw

from fastmim.analysis import loss_curve, png_files, reconstruction
from fastmim.analysis.reconstruction import choose_images, reconstruction_grid
from fastmim.data import duplicates
from fastmim.data.manifest import Manifest
from fastmim.model.losses import MaskedL2
from fastmim.model.objective import Objective
from fastmim.model.targets import LowPass, NormalizedPatches, Pixels
from fastmim.parts import ImageSpec
from fastmim.tokens import Mask, patchify, take, unpatchify

CELL = reconstruction.CELL + reconstruction.GAP


@pytest.fixture
def written(monkeypatch):
    """List that collects the texts that are drawn."""
    texts, draw = [], ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda self, xy, text, **how: texts.append(text) or draw(self, xy, text, **how)
    )
    return texts


def grid_of(target, notes=()):
    """Draws the grid of two images of 16 x 16 pixels with wrong predictions."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8, generator=generator)
    mask = Mask(torch.stack([torch.randperm(16, generator=generator) for _ in range(2)]), 4, (4, 4))
    objective = Objective(target, MaskedL2(), 4, ImageSpec((16, 16), (0.5,) * 3, (0.25,) * 3))
    pred = torch.randn(2, 12, 48, generator=generator)
    return reconstruction_grid(objective, images, mask, pred, notes), images, mask


def tile(grid: Image.Image, column: int, row: int) -> torch.Tensor:
    """Returns the image in a cell of the grid, (16, 16, 3) uint8."""
    left, top = reconstruction.GAP + column * CELL, reconstruction.HEADER + reconstruction.GAP + row * CELL
    side = reconstruction.CELL
    cell = grid.crop((left, top, left + side, top + side)).resize((16, 16), Image.Resampling.NEAREST)
    return torch.frombuffer(bytearray(cell.tobytes()), dtype=torch.uint8).view(16, 16, 3)


@pytest.mark.parametrize("target", [NormalizedPatches(), LowPass(radius=99)])
def test_grids_of_normalised_patches_say_what_is_borrowed_and_show_it_alone(target, written):
    grid, images, mask = grid_of(target)
    assert grid.width == 5 * CELL + reconstruction.GAP and "predicting 0" in written
    assert " ".join(written).startswith(f"{reconstruction.BORROWED} original masked")
    patches = patchify(images.float(), 4)
    means = take(patches, mask.ids_hidden).mean(dim=-1, keepdim=True).expand(-1, -1, 48)
    index = mask.ids_hidden[..., None].expand_as(means)
    expected = unpatchify(patches.scatter(1, index, means), 4, mask.grid)
    for row in range(2):
        assert torch.equal(tile(grid, 0, row), images[row])
        assert (tile(grid, 4, row).float() - expected[row]).abs().max() <= 1


def test_grids_of_pixels_borrow_nothing(written):
    for target in (Pixels(), LowPass(norm_pix=False)):
        grid, _, _ = grid_of(target)
        assert grid.size == (4 * CELL + reconstruction.GAP, 2 * CELL + reconstruction.GAP + reconstruction.HEADER)
    assert set(written) == {"original", "masked", "reconstruction", "paste-back"}


def test_notes_are_wrapped_below_the_grid(written):
    note = " ".join(f"word{i}" for i in range(99))
    grid, _, _ = grid_of(Pixels(), [note])
    lines = [line for line in written if line.startswith("word")]
    assert " ".join(lines) == note and len(lines) > 1
    rest = grid.height - 2 * CELL - reconstruction.GAP - reconstruction.HEADER
    assert rest == len(lines) * reconstruction.CAPTION
    draw = ImageDraw.Draw(grid)
    assert all(draw.textlength(line, font_size=reconstruction.CAPTION - 6) <= grid.width for line in lines)


@pytest.mark.parametrize(
    ("sizes", "count", "expected"),
    [
        ({"airplane": 40, "boat": 5, "cat": 5}, 6, [0, 20, 40, 42, 45, 47]),
        ({"airplane": 40, "boat": 1, "cat": 1}, 6, [0, 10, 20, 30, 40, 41]),
        ({name: 2 for name in "abcdefghij"}, 5, [0, 4, 8, 12, 16]),
        ({"": 100}, 4, [0, 25, 50, 75]),
        ({"": 3}, 8, [0, 1, 2]),
        ({}, 8, []),
    ],
)
def test_images_are_spread_over_classes_and_within_them(sizes, count, expected):
    folders = [folder for folder, size in sizes.items() for _ in range(size)]
    paths = [os.path.join(folder, f"{number:03d}.png") for number, folder in enumerate(folders)]
    assert choose_images(paths, None, count) == expected
    # A list file gives labels instead.
    labels = [sorted(sizes).index(folder) for folder in folders]
    assert choose_images([f"{number:03d}.png" for number in range(len(paths))], labels, count) == expected


def test_equal_files_are_found_by_place_and_content(tmp_path, monkeypatch):
    contents = {
        "a/0.png": b"zero",
        "a/1.png": b"one!",
        "a/2.png": b"two, longer",
        "b/0.png": b"zero",
        "b/x.png": b"none",
    }
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "b/link.png").symlink_to(tmp_path / "a/2.png")
    known = Manifest.scan(str(tmp_path / "a"))

    def asked(*names, indices=(0, 1, 2)):
        paths = [tmp_path / name for name in names]
        return duplicates.find_duplicates(known, indices, [(str(path), path.stat().st_size) for path in paths])

    assert asked("a/0.png", "b/0.png", "b/link.png", "b/x.png") == [True, True, True, False]
    assert asked("a/0.png", "b/0.png", "b/link.png", indices=(1,)) == [False, False, False]
    monkeypatch.setattr(duplicates, "_COMPARED", 1)  # the file of the same name comes first
    assert asked("b/0.png", "b/x.png") == [True, None]
    # A stranger's list may name a pipe, which nobody would ever write to.
    (tmp_path / "a/1.png").unlink()
    os.mkfifo(tmp_path / "a/1.png")
    assert asked("b/x.png", indices=(1,)) == [None]


def test_pictures_are_written_whole_and_through_no_link(tmp_path, monkeypatch):
    image, precious = Image.new("RGB", (4, 4)), tmp_path / "precious.png"
    precious.write_bytes(b"mine")
    run = tmp_path / "run"
    run.mkdir()
    (run / "loss.png").symlink_to(precious)
    path = png_files.save_png(image, run, "loss.png")
    assert precious.read_bytes() == b"mine" and path.stat().st_mode & 0o777 == 0o644 & ~_umask()
    assert png_files.is_ours(path) and not png_files.is_ours(precious)
    (run / "grids").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="a link leads to"):
        png_files.save_png(image, run, "grids", "0.png")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = path.read_bytes()
    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space"):
        png_files.save_png(image, run, "loss.png")
    assert path.read_bytes() == before and sorted(p.name for p in run.iterdir()) == ["grids", "loss.png"]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    "name", ["$x^{$", "\N{SNOWMAN}\u6f22\u5b57", os.fsdecode(b"\xff\xfe"), "two\nlines", "n" * 200, "a_b %s {}"]
)
@pytest.mark.filterwarnings("error")
def test_a_run_folder_of_any_name_has_a_curve(tmp_path, name):
    run = tmp_path / name
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 0.5}\n')
    for path, size in {
        loss_curve.plot_curve(run): (960, 600),
        loss_curve.plot_summary(run, Image.new("RGB", (40, 8))): (880, 360),
    }.items():
        with Image.open(path) as picture:
            assert picture.size == size
