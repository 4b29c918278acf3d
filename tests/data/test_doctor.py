"""Tests of the doctor: statistics against numpy, broken files, duplicates, manifest, exit status."""

import errno
import json
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from fastmim import cli
from fastmim.data import availability
from fastmim.data import doctor as doctoring
from fastmim.data.doctor import ChannelStatistics, environment, examine, first_look, still_bad
from fastmim.data.manifest import Manifest
from tests.data.hostile import NOT_UTF8, spoil

pytestmark = [pytest.mark.filterwarnings("ignore:Corrupt EXIF data"), pytest.mark.usefixtures("impatient")]


def report(root, **options):
    return examine(Manifest.scan(str(root)), threads=2, **options)


@pytest.fixture
def folder(make_folder):
    """Makes a folder of four good images, and `e.png`, a copy of `a.png`."""
    root = make_folder(["a.png", "b.png", "c.bmp", "sub/d.png"])
    shutil.copy(root / "a.png", root / "e.png")
    return root


@pytest.fixture
def doctor(capsys):
    """Returns doctor(*words), which runs the command and returns exit status and output."""

    def run(*words):
        try:
            cli.main(["doctor", *map(str, words)])
        except SystemExit as error:
            return error.code, capsys.readouterr()
        return 0, capsys.readouterr()

    return run


def flip_a_bit(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


# Findings


def test_mean_and_std_are_averages_over_images(tmp_path, picture):
    pixels = [picture(20, 30, seed=1), picture(70, 40, seed=2), picture(9, 8, 1, seed=3)]
    for i, image in enumerate(pixels):
        Image.fromarray(image.squeeze()).save(tmp_path / f"{i}.png")
    found = report(tmp_path)
    rgb = [np.broadcast_to(image, (*image.shape[:2], 3)).reshape(-1, 3) / 255 for image in pixels]
    for value, expected in ((found.mean, [i.mean(0) for i in rgb]), (found.std, [i.std(0) for i in rgb])):
        assert np.allclose(value, np.mean(expected, axis=0), rtol=0, atol=1e-12)


def test_sizes_are_as_seen(tmp_path, picture):
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(picture(40, 90)).save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(picture(31, 50)).save(tmp_path / "tiny.jpg")
    found = report(tmp_path)
    assert found.sizes.tolist() == [[31, 50], [90, 40]]
    assert found.unusual["tiny"] == ["tiny.jpg"] and found.unusual["EXIF-rotated"] == ["turned.jpg"]
    assert report(tmp_path, tiny=40).unusual["tiny"] == ["tiny.jpg"]
    assert report(tmp_path, tiny=41).unusual["tiny"] == ["tiny.jpg", "turned.jpg"]
    rows = {what: (value, details) for what, value, details in found.rows()}
    assert rows["shorter side"] == ("36", "px, median; 31 to 40")
    assert rows["longer side"] == ("70", "px, median; 50 to 90")
    assert rows["width / height"] == ("1.03", "median; 0.4444 to 1.613")


def test_kinds(hostile):
    root, entries = hostile
    found = report(root)
    kinds = {kind: set(paths) for kind, paths in found.unusual.items()}
    assert kinds == {
        "16-bit": {"gray-16.png", "gray-16.tif", "rgb-16.png"},
        "CMYK": {"cmyk.jpg", "ycck.jpg"},
        "grayscale": {"1-bit.png", "gray-16.png", "gray-16.tif", "gray.jpg", "icc-wrong.jpg", "la.png"},
        "palette": {"animated.gif", "palette.png", "transparent.gif"},
        "alpha": {"la.png", "palette.png", "rgba.png", "rgba.webp", "transparent.gif"},
        "EXIF-rotated": {"exif-6.jpg", "link-to-a-picture.jpg"},
        "frames": {"animated.gif", "animated.png", "animated.webp"},
        "bands": set(),
        "tiny": {"1x1.jpg", "1x4000.jpg", "4000x1.png"},
    }


def test_everything_broken_is_named_with_a_reason(hostile):
    root, entries = hostile
    manifest = Manifest.scan(str(root))
    assert sorted(report(root).broken) == sorted(e.name for e in entries.values() if e.bad and not e.late)
    spoil(root)
    found = examine(manifest, threads=2)
    assert sorted(found.broken) == sorted(entry.name for entry in entries.values() if entry.bad)
    assert all(reason and "\n" not in reason for reason in found.broken.values())


def test_quick_reads_headers_only(hostile):
    root, _ = hostile
    whole, quick = report(root), report(root, quick=True)
    assert "png-damaged.png" in whole.broken.keys() - quick.broken.keys() and "png-cut.png" in quick.broken
    assert quick.mean is None and not any(what.startswith("mean") for what, _, _ in quick.rows())
    assert quick.checksums == whole.checksums and ["exif-6.jpg", "link-to-a-picture.jpg"] in quick.duplicates


def test_duplicates(folder):
    found = report(folder)
    assert found.duplicates == [["a.png", "e.png"]] and found.checksums[0] == found.checksums[3]
    assert ("duplicates", "1", "a.png = e.png") in found.rows()


def test_a_file_read_as_another_than_was_listed_is_broken(folder):
    manifest = Manifest.scan(str(folder))
    with open(folder / "c.bmp", "ab") as file:
        file.write(b"x")
    assert "changed since it was listed" in examine(manifest, threads=1).broken["c.bmp"]


def test_a_list_of_bad_files_is_examined_again(folder):
    whole = (folder / "a.png").read_bytes()
    (folder / "a.png").write_bytes(bytes(len(whole)))
    (folder / "c.bmp").write_bytes((folder / "c.bmp").read_bytes()[:-1] + b"x")
    manifest = Manifest.scan(str(folder))
    assert list(still_bad(manifest, ["c.bmp", "b.png", "a.png", "gone.png"], 1)) == ["a.png"]
    (folder / "a.png").write_bytes(whole)
    assert not still_bad(manifest, ["a.png"], 1)
    assert still_bad(manifest, ["a.png"], 1, check=lambda index, size: "its mask is bad") == {
        "a.png": "its mask is bad"
    }


def save_16(folder, name, values):
    Image.fromarray(np.asarray(values, np.uint16).reshape(32, -1)).save(folder / name)


def test_levels_of_more_than_8_bits_are_measured_and_their_loss_is_said(tmp_path):
    save_16(tmp_path, "a.png", np.arange(1024))
    save_16(tmp_path, "b.tif", np.arange(1024) * 3)
    found = report(tmp_path)
    levels = len({*range(1024), *range(0, 3072, 3)})
    assert found.levels == ChannelStatistics(0, 3069, levels, 12) and found.levels.lost
    words = f"values 0 to 3069; 12 of {levels} levels survive the conversion to 8 bits"
    assert ("levels of 16 bits", str(levels), words) in found.rows()
    sentence = f"images of more than 8 bits lose levels ({words}): scale them to the full range of 16 bits, or write"
    assert any(advice.startswith(sentence) for advice in found.advice())
    assert any(line.startswith(sentence) for line in first_look(Manifest.scan(str(tmp_path))))


def test_a_full_range_of_16_bits_loses_nothing_that_8_bits_could_show(tmp_path):
    save_16(tmp_path, "a.png", np.arange(1024) * 64)
    found = report(tmp_path)
    assert found.levels == ChannelStatistics(0, 65472, 1024, 256) and not found.levels.lost
    assert not any("levels" in line for line in (*found.advice(), *first_look(Manifest.scan(str(tmp_path)))))


def test_colours_of_16_bits_are_measured_by_their_high_bytes(tmp_path, hostile):
    root, _ = hostile
    shutil.copy(root / "rgb-16.png", tmp_path)
    found = report(tmp_path)
    assert found.levels.kept > 200 and not found.levels.lost


def test_pages_frames_and_bands_that_are_not_used_are_counted(tmp_path, picture):
    pages = [Image.fromarray(picture(24, 24, seed=i)) for i in range(4)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "film.gif", save_all=True, append_images=pages[1:3])
    pages[0].save(tmp_path / "one.png")
    found = report(tmp_path)
    assert found.frames == 5 and found.unusual["frames"] == ["film.gif", "stack.tif"]
    assert any(line.startswith("5 pages or frames beyond the first, in 2 files") for line in found.advice())
    first = first_look(Manifest.scan(str(tmp_path)))
    assert first[0] == "2 of 3 examined images have several pages or frames, of which the first is used"
    assert report(tmp_path, quick=True).frames == 5


def test_files_that_are_no_images_are_counted(doctor, folder):
    (folder / "notes.txt").write_text("x")
    (folder / "x.jp2").write_bytes(b"\0\0\0\x0cjP  \r\n\x87\n")
    status, printed = doctor(folder)
    assert status == 0 and re.search(
        r"left out \(.*?\) 2 1 \.jp2 \(JPEG 2000\), 1 \.txt", " ".join(printed.out.split())
    )


def test_names_reach_the_terminal_as_plain_characters(doctor, make_folder):
    root = make_folder(["a\x1b[31m.png", "b\n.png", "c [red].png", os.fsdecode(b"d\xff.png")], 5, 5)
    (root / "e\x1b.png").write_bytes(b"x")
    status, printed = doctor(root)
    assert status == 1 and "\x1b" not in printed.out and "\udcff" not in printed.out
    for name in (r"a\x1b[31m.png", r"b\n.png", "c [red].png", r"d\xff.png", r"e\x1b.png: not an image but text"):
        assert name in " ".join(printed.out.split())


def test_a_look_before_a_run_takes_a_few_files_and_passes_over_bad_ones(make_folder, monkeypatch):
    root = make_folder([f"{i:02}.png" for i in range(40)])
    (root / "00.png").write_bytes(b"x")
    looked = []
    monkeypatch.setattr(doctoring.Reader, "submit", spy(doctoring.Reader.submit, looked))
    assert first_look(Manifest.scan(str(root))) == [] and len(looked) == 8


def spy(submit, looked):
    return lambda self, paths: looked.extend(paths) or submit(self, paths)


def test_a_folder_that_goes_away_ends_the_examination_after_one_wait(make_folder, monkeypatch):
    root = make_folder([f"{i}.png" for i in range(40)])
    manifest, naps = Manifest.scan(str(root)), []
    shutil.rmtree(root)
    monkeypatch.setattr(availability.time, "sleep", naps.append)
    monkeypatch.setattr(availability.time, "monotonic", lambda: float(sum(naps)))
    with pytest.raises(availability.DataUnavailableError, match="has been away for 300 s"):
        examine(manifest, 2)
    assert sum(naps) < 310


@pytest.mark.parametrize("threads", [1, 3])
def test_order_and_progress(photographs, threads):
    manifest, steps = Manifest.scan(str(photographs)), []
    many = Manifest(manifest.root, manifest.paths * 5, manifest.sizes * 5, None)
    found = examine(many, threads, progress=lambda items: (steps.append(1) or item for item in items))
    once = examine(manifest, 2)
    assert len(steps) == 60 and found.checksums == once.checksums * 5
    assert found.sizes.tolist() == once.sizes.tolist() * 5


def test_advice(tmp_path):
    Image.new("RGB", (40, 40), (124, 116, 104)).save(tmp_path / "1.png")
    (advice,) = report(tmp_path).advice()
    assert "--data.mean 0.486 0.455 0.408 --data.std 0.000 0.000 0.000" in advice
    y, x = np.mgrid[:64, :64] / 63
    means, stds = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    Image.fromarray(((means + (x + y > 1)[..., None] * 2 * stds - stds) * 255).astype(np.uint8)).save(
        tmp_path / "1.png"
    )
    assert not report(tmp_path).advice()


@pytest.mark.parametrize(
    ("broken", "advice"),
    [
        (1, "5% are broken, within data.bad_budget's default of 10%: a run replaces each by another image"),
        (2, "10% are broken, within data.bad_budget's default of 10%: a run replaces each by another image"),
        (3, "15% are broken, above data.bad_budget's default of 10%: a run would stop"),
    ],
)
def test_advice_on_broken_files(make_folder, broken, advice):
    root = make_folder([f"{i:02}.png" for i in range(20)])
    for i in range(broken):
        (root / f"{i:02}.png").write_bytes(b"x")
    assert report(root, quick=True).advice() == [advice]


def test_environment_names_what_a_run_decodes_with():
    assert environment()["a run decodes with"].startswith(("DALI", "Pillow"))


# The command


def test_a_healthy_folder(doctor, folder):
    status, printed = doctor(folder)
    assert status == 0 and not printed.err
    assert (folder / "bad_files.jsonl").read_text() == ""
    manifest = Manifest.scan(str(folder / "manifest.json"))
    assert manifest.checksums == report(folder).checksums
    plain = Manifest.scan(str(folder))
    assert manifest.hash == plain.hash and manifest.paths == plain.paths
    assert doctor(folder / "manifest.json", "--quick")[0] == 0


def test_broken_files_are_listed_as_training_lists_them(doctor, hostile):
    root, entries = hostile
    status, printed = doctor(root)
    assert status == 1 and "Traceback" not in printed.err
    lines = [json.loads(line) for line in (root / "bad_files.jsonl").read_text().splitlines()]
    assert sorted(line["path"] for line in lines) == sorted(e.name for e in entries.values() if e.bad and not e.late)
    assert all(set(line) == {"path", "reason"} for line in lines)
    assert NOT_UTF8 in Manifest.scan(str(root / "manifest.json")).paths


def test_corruption_that_decodes_is_found_by_its_checksum(doctor, folder):
    assert doctor(folder)[0] == 0
    before = (folder / "manifest.json").read_bytes()
    flip_a_bit(folder / "c.bmp", -1)
    status, printed = doctor(folder / "manifest.json")
    assert status == 1 and "c.bmp: changed since it was listed: checksum" in " ".join(printed.out.split())
    assert (folder / "manifest.json").read_bytes() == before and (folder / "bad_files.jsonl").read_text() == ""
    status, printed = doctor(folder)
    assert status == 0 and (folder / "manifest.json").read_bytes() != before
    assert re.search(r"changed \(since.*?\) 1 c.bmp: changed since it was listed", " ".join(printed.out.split()))
    assert re.search(r"changed \(since.*?\) 0", " ".join(doctor(folder)[1].out.split()))


def test_a_manifest_is_verified_file_by_file(doctor, folder):
    assert doctor(folder)[0] == 0
    (folder / "a.png").unlink()
    with open(folder / "b.png", "ab") as file:
        file.write(b"x")
    status, printed = doctor(folder / "manifest.json")
    out = " ".join(printed.out.split())
    assert status == 1 and " a.png: " in out and "b.png: changed since it was listed: " in out
    assert "40% are broken, above data.bad_budget's default of 10%" in out


def test_verifying_writes_nothing(doctor, folder, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    Manifest.scan(str(folder)).save(str(run / "manifest.json"))
    (run / "bad_files.jsonl").write_text("kept")
    before = {path: path.read_bytes() for path in [*run.iterdir(), *folder.glob("*.*")]}
    status, printed = doctor(run / "manifest.json")
    assert status == 0 and "compared sizes only; `fastmim doctor FOLDER` writes checksums" in printed.out
    assert {path: path.read_bytes() for path in [*run.iterdir(), *folder.glob("*.*")]} == before


def test_a_full_disk_is_an_error(doctor, folder, monkeypatch):
    def full(self, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Manifest, "save", full)
    status, printed = doctor(folder)
    assert status == 2 and "mean" in printed.out and "manifest.json and" in printed.err
    assert "No space left" in printed.err and len(printed.err.splitlines()) == 1


def test_where_the_manifest_goes(doctor, folder, tmp_path):
    (folder / "list.txt").write_text("a.png 3\nb.png 4\n")
    assert doctor(folder / "list.txt")[0] == 0
    manifest = Manifest.scan(str(folder / "list.json"))
    assert manifest.labels == [3, 4] and len(manifest.checksums) == 2
    assert doctor(folder, "--manifest", tmp_path / "m.json")[0] == 0
    assert len(Manifest.scan(str(tmp_path / "m.json"))) == 5 and (tmp_path / "bad_files.jsonl").exists()
    assert not (folder / "manifest.json").exists()
    status, printed = doctor(folder, "--manifest", tmp_path / "nowhere/m.json")
    assert status == 2 and "nowhere/m.json cannot be written" in printed.err and "--manifest" in printed.err
    assert len(printed.err.splitlines()) == 1 and "images/s" not in printed.out


def test_outputs_replace_links_and_only_what_the_doctor_wrote(doctor, folder, tmp_path):
    assert doctor(folder)[0] == 0
    precious = tmp_path / "precious"
    precious.write_text('{"path": "a", "reason": "b"}\n')
    (folder / "bad_files.jsonl").unlink()
    (folder / "bad_files.jsonl").symlink_to(precious)
    assert doctor(folder)[0] == 0 and not (folder / "bad_files.jsonl").is_symlink()
    assert precious.read_text() == '{"path": "a", "reason": "b"}\n'
    (folder / "bad_files.jsonl").write_text("my own notes\n")
    status, printed = doctor(folder)
    assert status == 2 and "expected a list of bad files to replace, or none; --overwrite replaces it" in printed.err
    assert (folder / "bad_files.jsonl").read_text() == "my own notes\n"
    (folder / "manifest.json").write_text("mine")
    assert doctor(folder, "--overwrite")[0] < 2
    assert Manifest.load(str(folder / "manifest.json")) and "mine" not in (folder / "bad_files.jsonl").read_text()


def test_usage_errors(doctor, folder, tmp_path):
    (folder / "manifest.json").write_text('{"precious": 1}')
    for words, message in (
        ([tmp_path / "nowhere"], "no folder of images"),
        ([folder, "--threads", "-1"], "--threads: expected 0 to 1024"),
        ([folder], "manifest.json is not a manifest"),
    ):
        status, printed = doctor(*words)
        assert status == 2 and message in printed.err and len(printed.err.splitlines()) == 1
    assert (folder / "manifest.json").read_text() == '{"precious": 1}'
    Manifest.scan(str(folder)).save(str(folder / "m.json"))
    assert "is a manifest already" in doctor(folder / "m.json", "--manifest", tmp_path / "n.json")[1].err
