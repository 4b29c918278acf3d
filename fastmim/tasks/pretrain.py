"""Pre-training: from a config to a module and its figures on held-out images.

May import L3 and below, and analysis.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from .. import bittrace
from ..analysis.curve import plot_curve, plot_summary
from ..analysis.pictures import save_png
from ..analysis.predictors import trivial_losses
from ..analysis.reconstruction import reconstruction_grid, spread
from ..config import Config, Data
from ..data.loader import open_loader
from ..data.manifest import Manifest
from ..data.quarantine import Quarantine
from ..engine import Process
from ..files import output
from ..metrics import Meter, learnt, spent
from ..mim import MIM
from ..terminal import shown, typed
from ..tokens import Mask, sample_id
from .export import export_encoder
from .parts import build
from .runs import open_run
from .task import Task

GRID_ROWS, SUMMARY_ROWS = 8, 4
"""Images in each evaluation's grid, and in the summary of a finished run."""


@dataclass(frozen=True)
class HeldOut:
    """Images that training never sees, with masks that never change.

    images: (B, H, W, C) uint8. mask: of those images. index: (B,) int64, their places in the manifest.
    """

    images: Tensor
    mask: Mask
    index: Tensor

    @staticmethod
    def draw(mim: MIM, images: Tensor, index: Tensor) -> HeldOut:
        """Draws the masks that the images at these manifest indices would have in epoch 0."""
        device = next(mim.parameters()).device
        return HeldOut(images.to(device), mim.mask(sample_id(index, 0).to(device)), index)

    @staticmethod
    def load(mim: MIM, manifest: Manifest, index: Tensor, data: Data) -> tuple[HeldOut, dict[str, str]]:
        """Loads the images at these indices of the manifest; returns also why bad ones are left out, by path."""
        quarantine, nothing = Quarantine(manifest, 0), torch.empty(0, dtype=torch.int64)
        with open_loader(manifest, data, 0, quarantine, nothing, torch.device("cpu")) as loader:
            return HeldOut.draw(mim, *loader.held_out(index)), loader.bad_files()

    def spread(self, manifest: Manifest, count: int) -> list[int]:
        """Returns the places of `count` of these images, as many of each class; see `reconstruction.spread`."""
        return spread(*paths_and_labels(manifest, self.index), count)

    def __getitem__(self, places: list[int]) -> HeldOut:
        """The images at these places."""
        return HeldOut(self.images[places], self.mask[places], self.index[places])

    def predict(self, mim: MIM, batch: int) -> Tensor:
        """Predictions as `mim.predict` gives them, `batch` images at a time."""
        parts = [slice(start, start + batch) for start in range(0, len(self.images), batch)]
        return torch.cat([mim.predict(self.images[part], self.mask[part]) for part in parts])

    def grid(self, mim: MIM, pred: Tensor, notes: Iterable[str] = ()) -> Image.Image:
        """Draws these images and predictions; see `reconstruction_grid`."""
        return reconstruction_grid(mim.objective, self.images, self.mask, pred, notes)

    @torch.no_grad()
    def loss(self, mim: MIM, pred: Tensor) -> float:
        """The training loss of these predictions."""
        return mim.objective(pred, self.images, self.mask).item()


class Pretrain(Task):
    """A pre-training run.

    Attributes:
        held_out: images to look at, or None.
    """

    def __init__(self, config: Config, process: Process):
        super().__init__(config, process)
        self.held_out, self.trivial = None, None
        if len(self.held_out_index) and config.run.evaluate_every:
            if config.data.held_out_root:
                held_out, bad = HeldOut.load(self.mim, self.held_out_images, self.held_out_index, config.data)
                for path, reason in bad.items() if process.rank == 0 else ():
                    print(f"left out of data.held_out_root: {shown(path)}: {shown(reason)}")
            else:
                held_out = HeldOut.draw(self.mim, *self.loader.held_out(self.held_out_index))
            self.held_out = held_out if len(held_out.images) else None

    @property
    def mim(self) -> MIM:
        """The module, by its own name."""
        return self.module

    @property
    def evaluates(self) -> bool:
        return self.held_out is not None

    def build(self) -> MIM:
        mim = build(self.config)
        if self.source:
            initialise(mim, self.source)
        return mim

    def facts(self) -> dict[str, str]:
        config, mim, grid = self.config, self.mim, self.mim.encoder.grid
        mask = mim.mask(torch.zeros(1, dtype=torch.int64, device=self.process.device))
        held_out = len(self.held_out.images) if self.held_out else 0
        return {
            "images": f"{len(self.sampler) // config.data.repeats} for training, {held_out} held out, "
            f"in {config.data.root} (manifest {self.manifest.hash[:12]})"
            + (f" and {config.data.held_out_root}" if config.data.held_out_root else ""),
            "model": f"{type(mim.encoder).__name__} + {type(mim.decoder).__name__}, "
            f"{self.parameters / 1e6:.2f} M trained parameters",
            "weights": f"at first those of {config.run.init}"
            if config.run.init
            else f"initialised from {config.train.seed}",
            "mask": f"{mask.ids_hidden.shape[1]} of {grid[0]}x{grid[1]} patches of {mim.encoder.patch_size} px hidden",
            "loss": mim.objective.describe(self.process.device.type, self.engine.micro_batch),
        }

    def mask_hashes(self, ids: Tensor) -> int:
        return bittrace.mask_hashes(ids, self.mim.mask(ids).mask)

    def predict(self, images: HeldOut) -> Tensor:
        """Predictions for held-out images. Collective: at ZeRO stage 3 each process holds part of the weights."""
        with self.engine.inference():
            return images.predict(self.mim, self.engine.micro_batch)

    def evaluate(self, done: int, meter: Meter) -> None:
        """Loss and pictures on the held-out images, beside what trivial predictors reach there."""
        objective, held_out, pred = self.mim.objective, self.held_out, self.predict(self.held_out)
        if self.process.rank:
            return
        self.trivial = self.trivial or trivial_losses(objective, held_out.images, held_out.mask)
        meter.evaluated(held_out.loss(self.mim, pred), self.trivial)
        with meter.attempt("the reconstruction grid"):
            places = held_out.spread(self.held_out_images, GRID_ROWS)
            save_png(held_out[places].grid(self.mim, pred[places]), self.folder, "grids", f"{done:08d}.png")

    def finish(self, meter: Meter) -> None:
        """Writes the encoder, checked, and the pictures, and says where they are and what was learnt."""
        few = self.held_out and self.held_out[self.held_out.spread(self.held_out_images, SUMMARY_ROWS)]
        pred = few and self.predict(few)
        if self.process.rank:
            return
        folder, batch = self.folder, self.config.train.global_batch
        _, loaded = open_run(folder, "run.dir")
        place = output(folder, "encoder", "README.md").parent
        encoder = export_encoder(self.config, loaded.state["model"], place, run=folder, step=loaded.step)
        curve, pictures = plot_curve(folder), "none (no held-out images, or run.evaluate_every=0)"
        if few:
            summary = plot_summary(folder, few.grid(self.mim, pred))
            pictures = f"{summary} (curve and some images); each evaluation's in {folder / 'grids'}"
        hours, peak = spent(folder, batch)
        own = " --data.held_out_root None" if self.config.data.held_out_root else ""
        for name, words in {
            "learnt": learnt(folder),
            "pictures": pictures,
            "curve": curve,
            "encoder": f"{encoder} for timm or fastmim.load (features compared: bit-equal)",
            "speed": f"{self.total * batch / hours / 3600:.1f} images/s, {peak / 2**30:.2f} GiB peak memory",
            "next": f"fastmim visualize {typed(folder)} --images FOLDER; to train on your images: "
            f"deepspeed fastmim/train.py CONFIG --data.root FOLDER{own} --run.dir OTHER",
        }.items():
            meter.say(f"{name:<10}{shown(str(words))}")


def paths_and_labels(manifest: Manifest, index: Tensor) -> tuple[list[str], list[int] | None]:
    """Returns the paths and labels of the images at these indices of the manifest."""
    places, labels = index.tolist(), manifest.labels
    return [manifest.paths[i] for i in places], None if labels is None else [labels[i] for i in places]


def initialise(mim: MIM, run: Path) -> None:
    """Gives a module the weights of a run's newest checkpoint.

    Raises:
        ValueError: there is none, or its names and shapes are not the module's.
    """
    loaded = open_run(run, "run.init")[1]
    then, now = (
        {name: tuple(t.shape) for name, t in state.items()} for state in (loaded.state["model"], mim.state_dict())
    )
    if others := [name for name in now | then if then.get(name) != now.get(name)]:
        named = "; ".join(
            f"{name} is {then.get(name, 'missing')}, here {now.get(name, 'missing')}" for name in others[:3]
        )
        raise ValueError(f"run.init: {run} has other weights ({named}): take its encoder, decoder and data.size")
    mim.load_state_dict(loaded.state["model"])
