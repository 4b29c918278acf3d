"""The `fastmim` command: everything except training. Docstrings are the texts of `--help`."""

from __future__ import annotations

import inspect
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.progress import track
from rich.table import Table
from rich.text import Text

from .host.command import dispatch, nearest, refusing, version
from .host.terminal import shown, steady_output

if TYPE_CHECKING:
    from .data.manifest import Manifest


def export(
    run: Path,
    *,
    to: Literal["timm", "mmdet", "mmseg", "detectron2", "onnx", "hub-folder"] = "timm",
    out: Path | None = None,
) -> None:
    """Exports the encoder of a run for another library, with a usage example and a model card.

    Takes the newest checkpoint of RUN, or its averaged weights if the run keeps them. The classifier of a fine-tuned or
    probed run is exported too if the library has a place for it. Before anything is written to its place, the export is
    loaded and its features are compared with those of the trained weights.

    Writes the folder RUN/encoder (or --out): weights, configuration, usage example, README.md.

    Example: fastmim export runs/mine --to mmseg

    Args:
        run: run folder of pre-training, fine-tuning or a linear probe.
        to: timm = model.safetensors and config.json for timm.create_model, or for fastmim.load if timm has no such
            model; hub-folder = the same with the card header that the Hugging Face hub reads; mmdet, mmseg, detectron2
            = backbone.pth and the piece of configuration that names it; onnx = model.onnx, from normalised images to
            features, tokens and logits.
        out: folder to write; default RUN/encoder for timm, else RUN/encoder-TO. An earlier export there is replaced
            unless somebody has changed a file in it. Any other folder must be empty.
    """
    from .export.export import export_encoder
    from .export.load import final_weights
    from .export.saved_run import open_run
    from .host.files import output, tidy_exit

    config, loaded = open_run(run, shown(run))
    # A stranger may have put a link into a run folder, so `output` refuses links. The user's own --out may be a link.
    out = out or output(run, "encoder" if to == "timm" else f"encoder-{to}", "README.md").parent
    with tidy_exit():
        folder = shown(export_encoder(config, final_weights(loaded), out, to, run, loaded.step))
    print(f"{folder}: gives the features of the trained weights; {folder}/README.md says how to use it")


def visualize(
    run: Path, *, images: Path | None = None, count: int = 8, out: Path | None = None, overwrite: bool = False
) -> None:
    """Draws originals, masked images and reconstructions from a pre-training run.

    Takes the newest checkpoint of RUN. Each row shows an image, its visible patches, the predicted patches, and both
    together. Names the images that the run was trained on. Such images show what the model remembers, not what it has
    learned.

    Writes the picture RUN/reconstruction.png (or --out).

    Example: fastmim visualize runs/mine --images photographs --count 4

    Args:
        run: run folder of pre-training.
        images: folder of images; default the run's held-out images.
        count: number of images, spread evenly over the classes.
        out: PNG to write; default RUN/reconstruction.png.
        overwrite: replace a file at --out that another program wrote.
    """
    from .export.saved_run import open_pretraining
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
    """Measures the k-NN accuracy of a pre-trained encoder, without any training.

    Takes the newest checkpoint of RUN. For each image of DATA/test, the k most similar images of DATA/train vote for
    their class. A vote counts exp(cosine similarity / temperature).

    Writes the accuracy to RUN/knn.json. Keeps the features in RUN/features for the next call.

    Example: fastmim knn runs/mine --data data/cifar10

    Args:
        run: run folder of pre-training.
        data: folder that holds train/CLASS/ and test/CLASS/ images.
        k: number of images that vote.
        temperature: temperature of the votes. Lower values give similar images more weight.
        pool: mean = the mean of all tokens except the class token; cls = the class token.
        crop_pct: side of the central crop, as a fraction of the largest crop that fits.
        device: auto = a GPU if there is one, else the CPU.
    """
    if k < 1:
        raise ValueError(f"--k: expected at least 1, got {k}")
    if not 0 < temperature < math.inf:
        raise ValueError(f"--temperature: expected above 0 and below inf, got {temperature}")
    if not 0 < crop_pct <= 1:
        raise ValueError(f"--crop-pct: expected above 0 and at most 1, got {crop_pct}")
    import torch

    from .export.saved_run import open_pretraining
    from .tasks.knn import measure

    config, loaded = open_pretraining(run, shown(run))
    where = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    if device not in ("auto", where.type):
        raise ValueError("--device cuda: expected a GPU, but torch sees none; use --device cpu")
    found = measure(run, config, loaded, data, k, temperature, pool, crop_pct, where)
    place = shown(run / "knn.json")
    print(f"k-NN top-1 {found['top1']:.2%} of {found['images']} images, {found['classes']} classes: {place}")


def report(run: Path) -> None:
    """Draws the loss curve of a run.

    Writes the picture RUN/loss.png from RUN/metrics.jsonl. Also works during the run.

    Example: fastmim report runs/mine

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
    """Converts an official checkpoint to a run folder, or a run folder to an official checkpoint.

    Reads checkpoints of the methods' original repositories, also inside the wrappers of DDP, torch.compile, Lightning
    or DeepSpeed. Runs no code of the file. Lists every tensor that has no counterpart on the other side. Parts that the
    file lacks, such as a decoder, are initialised at random. Only weights are converted: optimizer state, schedule and
    epoch are lost.

    Writes the run folder OUT, for `fastmim export`, `fastmim visualize` and training with --run.init OUT; or the
    checkpoint OUT.

    Example: fastmim convert mae_pretrain_vit_base.pth runs/mae_base

    Args:
        source: official checkpoint (.pth of torch.save, or .safetensors), or a run folder for the way back.
        out: run folder to write; if the source is a run folder, the .pth file to write.
        config: configuration of the model; default the official configuration with the sizes of the file's tensors.
            The number of attention heads is not visible in a file, so models of unpublished widths need this option.
        size: height and width of the images that the model will see, pixels; default the configuration's. Position
            embeddings and relative-bias tables are resized.
        format: official format to write, by a part of its name; default the format that the weights came from, or the
            only format that fits.
        overwrite: replace an existing .pth file. Run folders are never replaced.
    """
    from .export.run_conversion import convert_to_official, convert_to_run

    if source.is_dir():
        if config or size:
            raise ValueError(
                f"{shown(source)} is a run folder, which has its own configuration: leave --config and --size out"
            )
        print(convert_to_official(source, out, format, overwrite))
    elif format:
        raise ValueError(
            "--format is for writing an official file from a run folder; the format of a file is recognised"
        )
    elif not source.exists():
        raise ValueError(f"{shown(source)}: expected an official checkpoint (.pth, .safetensors) or a run folder")
    else:
        print(convert_to_run(source, out, config, size))


def demo_data(
    folder: Path = Path("data/demo"),
    *,
    count: int = 600,
    size: int = 256,
    part: Literal["all", "train", "held_out"] = "all",
) -> None:
    """Makes a small folder of photographs from installed packages, without any download.

    Writes COUNT square images to FOLDER.

    Example: fastmim demo-data data/demo --count 100

    Args:
        folder: folder to write.
        count: number of images.
        size: side of each image, pixels.
        part: all = windows of every photograph; held_out = windows of three photographs; train = windows of all other
            photographs, and drawings.
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
    """Examines every image of a folder as training would decode it, and writes a manifest with checksums.

    Names files that are broken, unusual or duplicates, and prints the image sizes and the channel means. The exit
    status is 0 if no file is broken, 1 if a file is broken, and 2 if the folder cannot be examined.

    Writes IMAGES/manifest.json and IMAGES/bad_files.jsonl. Training with --data.root MANIFEST notices every later
    change of a file.

    Example: fastmim doctor photographs

    Args:
        images: folder or list file. If this is a manifest, its files are compared with it and nothing is written.
        quick: read all files but decode none. Damaged pixels are not found, and no means are printed.
        tiny: name images whose shorter side is below this, pixels.
        manifest: manifest to write; default manifest.json in the folder, or LIST.json beside a list file. The list of
            broken files with reasons, bad_files.jsonl, goes to the same folder. Files that differ from an earlier
            manifest at this place are named.
        threads: decoding threads; 0 = as many as CPU cores.
        decode_memory: most memory for decoding an image, MB; as data.decode_memory in training.
        decode_seconds: longest time for decoding an image, seconds; as data.decode_seconds in training.
        overwrite: replace files of another program that have the names of the manifest and of bad_files.jsonl.
    """
    from .data.doctor import environment, examine, write_bad_files
    from .data.image import Limits
    from .data.manifest import Manifest
    from .run.console import console

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
    earlier = None if verifies else _earlier_manifest(target, bad_files, overwrite)
    threads = threads or len(os.sched_getaffinity(0))
    progress = partial(track, total=len(listed), description="images", console=console, disable=not console.is_terminal)
    found = examine(listed, threads, tiny, quick, earlier, progress, Limits(decode_memory, decode_seconds))
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


def _earlier_manifest(target: Path, bad_files: Path, overwrite: bool) -> Manifest | None:
    """Checks that `doctor` can write its two files, before the long examination.

    Args:
        target: manifest to write.
        bad_files: list of bad files to write.
        overwrite: allow replacing files of another program.

    Returns:
        The manifest that will be replaced, or None.

    Raises:
        ValueError: a file is another program's, or the folder cannot be written to.
    """
    from .data.doctor import check_bad_files
    from .data.manifest import Manifest

    earlier = None
    for path in (target, bad_files):
        if path.exists() and not (path.is_file() or path.is_symlink()):
            raise ValueError(f"{path}: expected a file to replace, or none: name another place with --manifest FILE")
    try:
        if target.exists():
            earlier = Manifest.load(str(target))
        check_bad_files(bad_files)
    except ValueError as error:  # another program's file
        if not overwrite:
            raise ValueError(f"{error}; --overwrite replaces it") from error
    try:
        tempfile.TemporaryFile(dir=target.parent).close()
    except OSError as error:
        raise ValueError(
            f"{target} cannot be written ({error.strerror}): name another place with --manifest FILE"
        ) from error
    return earlier


def backends() -> None:
    """Prints which implementation of each kernel runs on which device, as JSON.

    Example: fastmim backends
    """
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


def _summary(command: Callable[..., None]) -> str:
    """Returns the first line of a command's docstring."""
    return (inspect.getdoc(command) or "").partition("\n")[0]


@steady_output("fastmim")
def main(args: list[str] | None = None) -> None:
    """Runs one command. A command that fails for a known reason ends with one line and exit status 2."""
    args = sys.argv[1:] if args is None else args
    name = args[0].replace("_", "-") if args else ""
    if name in COMMANDS:
        dispatch("fastmim", name, COMMANDS[name], args[1:])
        return
    with refusing("fastmim"):
        if name == "--version":
            print(version())
        elif name in ("", "-h", "--help", "help"):
            lines = [f"  {name:<11}{_summary(command)}" for name, command in COMMANDS.items()]
            lines.append("\nTraining is another command: deepspeed fastmim/train.py CONFIG")
            print("usage: fastmim COMMAND ...    (COMMAND --help describes its options)\n", *lines, sep="\n")
            raise SystemExit(0 if args else 2)
        else:
            raise ValueError(f"{args[0]}: no such command of {', '.join(COMMANDS)}{nearest(name, COMMANDS)}")


if __name__ == "__main__":
    main()
