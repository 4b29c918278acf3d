"""Compares the images a second of fastmim's loader, torch's DataLoader and a plain DALI pipeline.

Each loader reads files and makes batches of random resized crops of 224 pixels, bicubic and antialiased, with flips.
All loaders have the same number of threads or worker processes, and take turns. The results are medians over rounds.
"""

from __future__ import annotations

import importlib
import os
import statistics
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bench.options import command_parser
from bench.record import Record, record
from fastmim.config import base as config
from fastmim.data.crops import RandomResizedCrop
from fastmim.data.loader import open_loader
from fastmim.data.manifest import Manifest
from fastmim.data.quarantine import Quarantine
from fastmim.data.sampler import Sampler
from fastmim.host.command import at_least, explain

SIZE = 224
SCALE = (0.2, 1.0)
Batches = Generator[Tensor, None, None]


@dataclass(frozen=True)
class Setting:
    """Input of all loaders.

    Attributes:
        manifest: the image files.
        batch: images in a batch.
        batches: least number of batches that a loader makes.
        threads: threads or worker processes of a loader.
        device: device of the batches.
    """

    manifest: Manifest
    batch: int
    batches: int
    threads: int
    device: torch.device


def ours(setting: Setting, decoder: Literal["dali", "pillow"]) -> Batches:
    """Yields batches of fastmim's loader with a decoder, "dali" or "pillow"."""
    data = config.Data(crop=RandomResizedCrop(scale=SCALE), size=(SIZE, SIZE), loader=decoder, workers=setting.threads)
    everything = torch.arange(len(setting.manifest))
    sampler = Sampler(len(setting.manifest), 0)
    stream = (sampler.ids(i * setting.batch, (i + 1) * setting.batch) for i in range(setting.batches))
    quarantine = Quarantine(setting.manifest, 0)
    with open_loader(setting.manifest, data, 0, quarantine, everything, setting.device) as loader:
        for images, _ in loader.batches(stream):
            yield images


class Files(Dataset):
    """Endless images of a manifest, through torchvision's transforms."""

    def __init__(self, setting: Setting, normalised: bool):
        from torchvision import transforms

        self.manifest = setting.manifest
        self.length = setting.batch * setting.batches
        crop = transforms.RandomResizedCrop(SIZE, SCALE, interpolation=transforms.InterpolationMode.BICUBIC)
        last = [transforms.PILToTensor()]
        if normalised:
            normalize = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
            last = [transforms.ToTensor(), normalize]
        self.transform = transforms.Compose([crop, transforms.RandomHorizontalFlip(), *last])

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.manifest.path(index % len(self.manifest))) as image:
            return self.transform(image.convert("RGB"))


def data_loader(setting: Setting, normalised: bool) -> Batches:
    """Yields batches of torch's DataLoader, of uint8 or of normalised floats."""
    loader = DataLoader(
        Files(setting, normalised),
        setting.batch,
        num_workers=setting.threads,
        pin_memory=setting.device.type == "cuda",
        multiprocessing_context="spawn",  # a fork of a process with DALI's threads may crash
    )
    for images in loader:
        yield images.to(setting.device, non_blocking=True)


def stock_dali(setting: Setting) -> Batches:
    """Yields batches of a pipeline as in DALI's documentation."""
    dali: Any = importlib.import_module("nvidia.dali")  # has no types
    fn = dali.fn
    on_gpu = setting.device.type == "cuda"
    files = [setting.manifest.path(i) for i in range(len(setting.manifest))]

    @dali.pipeline_def
    def pipeline():
        encoded, _ = fn.readers.file(files=files, random_shuffle=True, initial_fill=min(1024, len(files)))
        images = fn.decoders.image_random_crop(
            encoded, device="mixed" if on_gpu else "cpu", random_area=SCALE, random_aspect_ratio=(3 / 4, 4 / 3)
        )
        images = fn.resize(images, size=(SIZE, SIZE), interp_type=dali.types.INTERP_CUBIC, antialias=True)
        return fn.flip(images, horizontal=fn.random.coin_flip())

    built = pipeline(
        batch_size=setting.batch, num_threads=setting.threads, device_id=setting.device.index if on_gpu else None
    )
    built.build()
    for _ in range(setting.batches):
        (images,) = built.run()
        yield torch.from_dlpack(images.as_tensor())


CONTENDERS = {
    "ours, DALI": lambda setting: ours(setting, "dali"),
    "ours, Pillow": lambda setting: ours(setting, "pillow"),
    "stock DALI": stock_dali,
    "DataLoader, uint8": lambda setting: data_loader(setting, normalised=False),
    "DataLoader, normalised": lambda setting: data_loader(setting, normalised=True),
}


def has_dali() -> bool:
    """True if DALI is installed."""
    return bool(find_spec("nvidia") and find_spec("nvidia.dali"))


def images_per_second(contender: Callable[[Setting], Batches], setting: Setting) -> float:
    """Returns the images a second in steady state.

    The first two batches of each worker are not timed, because the loader makes them while it starts.
    """
    with closing(contender(setting)) as batches:
        for _ in range(2 * setting.threads):
            next(batches)
        start = time.perf_counter()
        count = setting.batches - 2 * setting.threads
        for _ in range(count):
            next(batches)
        if setting.device.type == "cuda":
            torch.cuda.synchronize()
        return count * setting.batch / (time.perf_counter() - start)


def main(argv: list[str] | None = None) -> None:
    """Runs `python -m bench loader`."""
    parser = command_parser("loader", __doc__)
    parser.add_argument("--data", required=True, help="folder of images")
    parser.add_argument("--batch", type=at_least(1), default=64, help="images per batch (default 64)")
    parser.add_argument(
        "--batches", type=at_least(1), help="batches of each in a round, 2 a thread untimed (default: 4 a thread)"
    )
    parser.add_argument(
        "--rounds", type=at_least(1), default=5, help="rounds, over which medians are taken (default 5)"
    )
    parser.add_argument("--threads", type=at_least(1), default=len(os.sched_getaffinity(0)), help="default: all cores")
    parser.add_argument("--bad", help="a folder with bad files, on which fastmim with DALI runs too")
    parser.add_argument("--record", action=Record)
    args = parser.parse_args(argv)
    count = 4 * args.threads if args.batches is None else args.batches
    if count <= 2 * args.threads:
        parser.error(f"--batches: expected more than {2 * args.threads}, which are 2 a thread, got {count}")
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        manifest = Manifest.scan(args.data)
        bad = args.bad and Manifest.scan(args.bad)
    except (OSError, ValueError) as error:
        parser.error(explain(error))
    setting = Setting(manifest, args.batch, count, args.threads, device)

    contenders = dict(CONTENDERS)
    if args.bad:
        contenders["ours, DALI, bad files"] = lambda setting: ours(replace(setting, manifest=bad), "dali")
    if not has_dali():
        print("DALI is not installed: left out")
        contenders = {name: contender for name, contender in contenders.items() if "DALI" not in name}
    first = next(iter(contenders))  # ours

    speeds = {name: [] for name in contenders}
    for number in range(args.rounds):
        names = list(contenders)
        turn = number % len(names)  # no loader always runs after the same other loader
        for name in names[turn:] + names[:turn]:
            speeds[name].append(images_per_second(contenders[name], setting))
            print(f"round {number + 1}, {name}: {speeds[name][-1]:.4g} images/s", flush=True)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    for name, median in medians.items():
        row = {
            "case": f"{len(setting.manifest)} images, batch {args.batch}, {args.threads} threads, {name}",
            "images/s": median,
            "slowest": min(speeds[name]),
            "fastest": max(speeds[name]),
            "ours is faster": medians[first] / median,
        }
        print(
            ", ".join(f"{key}: {value:.4g}" if isinstance(value, float) else str(value) for key, value in row.items()),
            flush=True,
        )
        if args.record:
            record(row | {"device": device.type}, "loader")
