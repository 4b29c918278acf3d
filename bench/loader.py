"""`python -m bench.loader --data FOLDER`: images a second of the loaders, ours and other people's, from one run.

Ours with DALI and with Pillow; `torch.utils.data.DataLoader` with torchvision's transforms, as uint8 and as normalised
floats; a DALI pipeline as its documentation builds it. All make 224-px random resized crops, bicubic and antialiased,
flipped half the time, with as many threads or workers as given. One at a time, in turn, each freshly started, timed
after a warm-up. May import fastmim, torchvision and DALI.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from bench.record import record
from fastmim.config import Data
from fastmim.data.crops import RandomResizedCrop
from fastmim.data.loader import open_loader
from fastmim.data.manifest import Manifest
from fastmim.data.quarantine import Quarantine
from fastmim.data.sampler import Sampler

SIZE = (224, 224)
CROP = RandomResizedCrop()


class Folder(torch.utils.data.Dataset):
    """The images of a manifest through torchvision's transforms, one at a time."""

    def __init__(self, manifest: Manifest, normalized: bool):
        last = [v2.PILToTensor()]
        if normalized:
            last = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(Data(CROP).mean, Data(CROP).std)]
        crop = v2.RandomResizedCrop(SIZE, CROP.scale, CROP.ratio, InterpolationMode.BICUBIC)
        self.manifest, self.transform = manifest, v2.Compose([crop, v2.RandomHorizontalFlip(), *last])

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.manifest.path(index)) as image:
            return self.transform(image.convert("RGB"))


@contextlib.contextmanager
def ours(loader: str, manifest: Manifest, batch: int, threads: int, device: torch.device) -> Iterator[Iterator]:
    """Ours, with the decoder of this name."""
    data = Data(CROP, size=SIZE, workers=threads, loader=loader)
    everything, sampler = torch.arange(len(manifest)), Sampler(len(manifest), 0)
    stream = (sampler.ids(i * batch, (i + 1) * batch) for i in range(1 << 40))
    with open_loader(manifest, data, 0, Quarantine(manifest, 0), everything, device) as opened:
        batches = opened.batches(stream)
        yield batches
        batches.close()


@contextlib.contextmanager
def data_loader(normalized: bool, manifest: Manifest, batch: int, threads: int, device: torch.device) -> Iterator:
    """torch's, with torchvision's transforms."""
    dataset = Folder(manifest, normalized)
    sampler = torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=1 << 24)
    pin = device.type == "cuda"
    loader = torch.utils.data.DataLoader(dataset, batch, sampler=sampler, num_workers=threads, pin_memory=pin)
    yield (images.to(device, non_blocking=True) for images in loader)


@contextlib.contextmanager
def stock_dali(manifest: Manifest, batch: int, threads: int, device: torch.device) -> Iterator[Iterator]:
    """DALI's own reader, random crop, resize and flip in a built pipeline."""
    from nvidia.dali import fn, pipeline_def, types

    gpu = device.type == "cuda"

    @pipeline_def(batch_size=batch, num_threads=threads, device_id=device.index or 0 if gpu else None)
    def pipeline():
        files = [manifest.path(i) for i in range(len(manifest))]
        encoded, _ = fn.readers.file(files=files, random_shuffle=True, initial_fill=256, name="files")
        images = fn.decoders.image_random_crop(
            encoded,
            device="mixed" if gpu else "cpu",
            output_type=types.RGB,
            random_area=list(CROP.scale),
            random_aspect_ratio=list(CROP.ratio),
        )
        images = fn.resize(images, size=list(SIZE), interp_type=types.INTERP_CUBIC, antialias=True)
        return fn.flip(images, horizontal=fn.random.coin_flip())

    built = pipeline()
    built.build()
    yield (built.run()[0] for _ in range(1 << 40))


def contenders() -> dict[str, Callable]:
    """Each opens a context manager of an iterator over batches."""
    return {
        "ours, DALI": lambda *args: ours("dali", *args),
        "ours, Pillow": lambda *args: ours("pillow", *args),
        "DataLoader, uint8": lambda *args: data_loader(False, *args),
        "DataLoader, normalised": lambda *args: data_loader(True, *args),
        "stock DALI pipeline": stock_dali,
    }


def rate(opened: Iterator, batch: int, batches: int, device: torch.device) -> float:
    """Images a second over `batches` batches, after half as many to warm up."""
    for _ in range(max(2, batches // 2)):
        next(opened)
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(batches):
        next(opened)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return batches * batch / (time.perf_counter() - start)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.loader", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder of images")
    parser.add_argument("--batch", type=int, default=64, help="images (default 64)")
    parser.add_argument("--batches", type=int, default=12, help="timed in each round (default 12)")
    parser.add_argument("--rounds", type=int, default=5, help="(default 5)")
    parser.add_argument("--threads", type=int, default=2, help="decoding threads, or worker processes (default 2)")
    parser.add_argument("--only", help="contenders whose name contains this")
    parser.add_argument("--record", action="store_true", help="append the rows to bench/results")
    args = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    manifest = Manifest.scan(args.data)
    opens = {name: open_ for name, open_ in contenders().items() if not args.only or args.only in name}
    rates: dict[str, list[float]] = {name: [] for name in opens}
    for _ in range(args.rounds):
        for name, open_ in opens.items():
            with open_(manifest, args.batch, args.threads, device) as opened:
                rates[name].append(rate(opened, args.batch, args.batches, device))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    first = next(iter(medians))
    print(f"{'images/s':<26}{'p20':>8}{'p50':>8}{'p80':>8}{first + ' is faster by':>28}")
    for name, values in rates.items():
        p20, _, _, p80 = statistics.quantiles(values, n=5) if len(values) > 1 else values * 4
        ratio = medians[first] / medians[name]
        print(f"{name:<26}{p20:>8.0f}{medians[name]:>8.0f}{p80:>8.0f}{ratio:>28.2f}")
        if args.record:
            row = {
                "case": f"{len(manifest)} images, batch {args.batch}, {args.threads} threads, {name}",
                "p20": p20,
                "images/s": medians[name],
                "p80": p80,
                f"{first} is faster by": ratio,
            }
            record(row | {"device": device.type}, "loader")


if __name__ == "__main__":
    main()
