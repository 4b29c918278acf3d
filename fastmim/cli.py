"""The `fastmim` command: everything but training. May import anything below."""

from __future__ import annotations

import inspect
import json
import math
import os
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from rich.progress import track
from rich.table import Table
from rich.text import Text

from .host.command import dispatch, nearest, refusing, version
from .host.terminal import shown, steady_output


def export(
    run: Path,
    *,
    to: Literal["timm", "mmdet", "mmseg", "detectron2", "onnx", "hub-folder"] = "timm",
    out: Path | None = None,
) -> None:
    """Writes the encoder of a run's newest checkpoint for another library, how to use it, and a model card.

    Of a fine-tuned or probed run the classifier goes along where the library has a place for it, and of averaged
    weights the averages. The export is loaded and compared with the trained weights before it counts.

    Args:
        run: run folder: of pre-training, fine-tuning or a linear probe.
        to: timm = model.safetensors and config.json for timm.create_model, or for fastmim.load where timm has no such
            model; hub-folder = the same, and a card with the header that the Hugging Face hub reads; mmdet, mmseg,
            detectron2 = backbone.pth and the piece of configuration that names it; onnx = model.onnx, from normalised
            images to features, tokens and logits.
        out: folder to write; default RUN/encoder for timm, else RUN/encoder-TO. An earlier export there is replaced,
            unless somebody has changed a file in it; any other folder must be empty.
    """
    from .export.export import export_encoder
    from .export.load import weights
    from .host.files import output, tidy_exit
    from .tasks.runs import open_run

    config, loaded = open_run(run, shown(run))
    # A link in a run folder may be a stranger's; one that the user names is the user's.
    out = out or output(run, "encoder" if to == "timm" else f"encoder-{to}", "README.md").parent
    with tidy_exit():
        folder = shown(export_encoder(config, weights(loaded), out, to, run, loaded.step))
    print(f"{folder}: gives the features of the trained weights; how to use it, and what it is: {folder}/README.md")


def visualize(
    run: Path, *, images: Path | None = None, count: int = 8, out: Path | None = None, overwrite: bool = False
) -> None:
    """Draws originals, masked images, reconstructions and paste-backs from a run's newest checkpoint.

    Says which of the images the run was trained on: these show what the model remembers, not what it has learned.

    Args:
        run: run folder.
        images: folder of images; default the run's held-out ones.
        count: how many images, as many of each class.
        out: PNG to write; default RUN/reconstruction.png.
        overwrite: replace another program's file at --out.
    """
    from .tasks.runs import open_pretraining
    from .tasks.visualize import draw

    print(*draw(run, *open_pretraining(run, shown(run)), images, count, out, overwrite), sep="\n")


def knn(
    run: Path,
    *,
    data: Path,
    k: int = 20,
    temperature: float = 0.07,
    pool: Literal["mean", "cls"] = "mean",
    crop_pct: float = 224 / 256,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Measures how well the features of a run's newest checkpoint tell classes apart, without any training.

    Each image of DATA/test gets the class that most of the k most similar images of DATA/train vote for, with weights
    exp(cosine / temperature). Features are kept in RUN/features, the result in RUN/knn.json.

    Args:
        run: run folder.
        data: folder that holds train/CLASS/ and test/CLASS/ images.
        k: neighbours that vote.
        temperature: of the votes' weights.
        pool: mean of all tokens except the class token, or the class token.
        crop_pct: side of the central window that is cut from an image, as a fraction of the largest one that fits.
        device: where to compute; auto = a GPU if there is one.
    """
    if k < 1:
        raise ValueError(f"--k: expected at least 1, got {k}")
    if not 0 < temperature < math.inf:
        raise ValueError(f"--temperature: expected above 0 and below inf, got {temperature}")
    if not 0 < crop_pct <= 1:
        raise ValueError(f"--crop-pct: expected above 0 and at most 1, got {crop_pct}")
    import torch

    from .tasks.knn import measure
    from .tasks.runs import open_pretraining

    config, loaded = open_pretraining(run, shown(run))
    where = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    if device not in ("auto", where.type):
        raise ValueError("--device cuda: torch sees no GPU")
    found = measure(run, config, loaded, data, k, temperature, pool, crop_pct, where)
    place = shown(run / "knn.json")
    print(f"k-NN top-1 {found['top1']:.2%} of {found['images']} images, {found['classes']} classes: {place}")


def report(run: Path) -> None:
    """Draws the loss curve of a run.

    Args:
        run: run folder.
    """
    from .analysis.loss_curve import plot_curve

    print(shown(plot_curve(run)))


def convert(
    source: Path,
    out: Path,
    *,
    config: Path | None = None,
    size: tuple[int, int] | None = None,
    format: str | None = None,
    overwrite: bool = False,
) -> None:
    """Turns an official checkpoint into a run folder, or a run folder into an official checkpoint.

    Nothing in the file is run. Weights inside the wrappers of DDP, torch.compile, Lightning or DeepSpeed are found, and
    the wrapper is named. Every name without a place on the other side is listed. The run folder holds weights:
    `fastmim export` and `fastmim visualize` work on it, and training with `--run.init OUT` starts from it. Optimizer
    state, schedule, epoch and arguments are lost both ways. Parts that a file lacks (a decoder, say) are initialised.

    Args:
        source: official checkpoint (.pth of torch.save, or .safetensors), or a run folder for the way back.
        out: run folder to write, or with a run folder as source the .pth file.
        config: configuration of the model; default the official one, sizes taken from the file. Heads cannot be seen
            in a file: models of other widths than the published ones need it.
        size: height and width, pixels, of the images that the model will see; default the configuration's. Position
            embeddings and relative-bias tables are resized.
        format: official format to write, by a part of its name; default the one the weights came from, or the only one
            that fits.
        overwrite: replace a .pth file that is there already. Run folders are never replaced.
    """
    from .export.exchange import to_official, to_run

    if source.is_dir():
        if config or size:
            raise ValueError(
                f"{shown(source)} is a run folder, which has its own configuration: leave --config and --size out"
            )
        print(to_official(source, out, format, overwrite))
    elif format:
        raise ValueError(
            "--format is for writing an official file from a run folder; the format of a file is recognised"
        )
    elif not source.exists():
        raise ValueError(f"{shown(source)}: expected an official checkpoint (.pth, .safetensors) or a run folder")
    else:
        print(to_run(source, out, config, size))


def demo_data(
    folder: Path = Path("data/demo"),
    *,
    count: int = 600,
    size: int = 256,
    part: Literal["all", "train", "held_out"] = "all",
) -> None:
    """Makes a small folder of photographs, without any download, from those inside installed packages.

    Args:
        folder: where to write.
        count: images.
        size: side of each image, pixels.
        part: all = windows of every photograph; held_out = of three photographs; train = of all others, and drawings.
    """
    from .data.demo import write_demo_images

    if count < 1:
        raise ValueError(f"--count: expected at least 1 image, got {count}")
    if not 1 <= size <= 4096:
        raise ValueError(f"--size: expected 1 to 4096 pixels, got {size}")
    write_demo_images(str(folder), count, (size, size), part)


def doctor(
    images: Path,
    *,
    quick: bool = False,
    tiny: int = 32,
    manifest: Path | None = None,
    threads: int = 0,
    decode_memory: int = 500,
    decode_seconds: float = 2.0,
    overwrite: bool = False,
) -> None:
    """Examines every image of a folder, as training would see it, and writes a manifest with checksums.

    Names the files that are broken, unusual or double, and gives the sizes and the channel means. Training with
    --data.root MANIFEST notices every change of a file since. The exit status is 0 if no file is broken, 1 if one is, 2
    if this cannot be done.

    Args:
        images: folder, list file, or a manifest written before: its files are then compared with it, and nothing is
            written.
        quick: reads all files but decodes none: damage within the pixels is not found, and there are no means.
        tiny: name images with a shorter side below this, pixels.
        manifest: file to write; default manifest.json in the folder, or LIST.json beside a list file. bad_files.jsonl,
            in the same place, lists the broken ones with their reasons. Files that differ from the manifest that is
            replaced are named.
        threads: decoding threads; 0 = the CPU cores.
        decode_memory: as data.decode_memory in training, MB an image.
        decode_seconds: as data.decode_seconds in training.
        overwrite: replace other files that have the names of the manifest and of bad_files.jsonl.
    """
    from .data.doctor import check_bad_files, environment, examine, write_bad_files
    from .data.image import Limits
    from .data.manifest import Manifest
    from .run.metrics import console

    if tiny < 0:
        raise ValueError(f"--tiny: expected at least 0 pixels, got {tiny}")
    if not 0 <= threads <= 1024:
        raise ValueError(f"--threads: expected 0 to 1024, got {threads}")
    if decode_memory < 1 or not decode_seconds > 0:
        raise ValueError(
            f"--decode-memory and --decode-seconds: expected more than 0, got {decode_memory} and {decode_seconds}"
        )
    for name, value in environment().items():
        print(f"{name:<20}{value}")
    listed = Manifest.scan(str(images), say=print)
    verifies = images.is_file() and images.suffix == ".json"
    if verifies and manifest:
        raise ValueError(f"--manifest {manifest}: {images} is a manifest already; to write another, give its folder")
    target = manifest or (images / "manifest.json" if images.is_dir() else images.with_suffix(".json"))
    bad_files = target.with_name("bad_files.jsonl")
    before = None
    if not verifies:
        for path in (target, bad_files):
            if path.exists() and not (path.is_file() or path.is_symlink()):
                raise ValueError(
                    f"{path}: expected a file to replace, or none: name another place with --manifest FILE"
                )
        try:
            if target.exists():
                before = Manifest.load(str(target))
            check_bad_files(bad_files)
        except ValueError as error:  # of a file of somebody else's
            if not overwrite:
                raise ValueError(f"{error}; --overwrite replaces it") from error
        try:
            tempfile.TemporaryFile(dir=target.parent).close()
        except OSError as error:
            raise ValueError(
                f"{target} cannot be written ({error.strerror}): name another place with --manifest FILE"
            ) from error
    threads = threads or len(os.sched_getaffinity(0))
    progress = partial(track, total=len(listed), description="images", console=console, disable=not console.is_terminal)
    found = examine(listed, threads, tiny, quick, before, progress, Limits(decode_memory, decode_seconds))
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for row in found.rows():
        table.add_row(*(Text(cell, overflow="fold") for cell in row))
    console.print(table, soft_wrap=False)
    for line in found.advice():
        console.print(f"* {line}", markup=False)
    if not verifies:
        try:
            replace(listed, checksums=found.checksums).save(str(target))
            write_bad_files(bad_files, found.broken)
        except OSError as error:
            words = f"{shown(target)} and bad_files.jsonl beside it could not be written: {error.strerror}"
            raise RuntimeError(words) from error
        print(shown(target))
    elif listed.checksums is None:
        print(f"{shown(images)} has no checksums: compared sizes only; `fastmim doctor FOLDER` writes checksums")
    if found.broken:
        raise SystemExit(1)


def backends() -> None:
    """Says which implementation of each kernel runs on which device."""
    import fastmim_kernels

    print(json.dumps(fastmim_kernels.backends(), indent=2))


COMMANDS = {
    "export": export,
    "visualize": visualize,
    "knn": knn,
    "convert": convert,
    "report": report,
    "doctor": doctor,
    "demo-data": demo_data,
    "backends": backends,
}


@steady_output("fastmim")
def main(args: list[str] | None = None) -> None:
    """Runs one command; one that cannot be done ends the process with one line and exit status 2."""
    args = sys.argv[1:] if args is None else args
    name = args[0].replace("_", "-") if args else ""
    if name in COMMANDS:
        dispatch("fastmim", name, COMMANDS[name], args[1:])
        return
    with refusing("fastmim"):
        if name == "--version":
            print(version())
        elif name in ("", "-h", "--help", "help"):
            lines = [f"  {name:<11}{inspect.getdoc(command).splitlines()[0]}" for name, command in COMMANDS.items()]
            lines.append("\nTraining is another command: deepspeed fastmim/train.py CONFIG")
            print("usage: fastmim COMMAND ...    (COMMAND --help describes its options)\n", *lines, sep="\n")
            raise SystemExit(0 if args else 2)
        else:
            raise ValueError(f"{args[0]}: no such command of {', '.join(COMMANDS)}{nearest(name, COMMANDS)}")


if __name__ == "__main__":
    main()
