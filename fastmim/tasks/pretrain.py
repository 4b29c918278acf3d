"""The task pre-training: training of encoder and decoder, and their loss on held-out images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from ..analysis.loss_curve import plot_curve, plot_summary
from ..analysis.png_files import save_png
from ..analysis.reconstruction import choose_images, reconstruction_grid
from ..analysis.trivial_predictors import trivial_losses
from ..config.base import Config, Data, Experiment
from ..data.loader import open_loader
from ..data.manifest import Manifest
from ..data.quarantine import Quarantine
from ..data.split import split_images
from ..engine.process import Process
from ..export.finished_run import check_export_place, export_finished_run
from ..export.saved_run import check_pretrained, open_run
from ..host.extras import require
from ..host.terminal import shell_word, shown
from ..model.build import build
from ..model.mim import MIM
from ..run import metrics, trace
from ..run.meter import Meter
from ..samples import sample_id
from ..tokens import Mask
from .run_outputs import run_on_all
from .task import Task, initial_weights
from .training_set import TrainingSet, scan

GRID_ROWS = 8
"""Most images in the picture of each evaluation."""
SUMMARY_ROWS = 4
"""Most images in the summary of a finished run."""


@dataclass(frozen=True)
class HeldOut:
    """Images that training never sees, with masks that never change.

    Attributes:
        images: (B, H, W, C) uint8.
        mask: masks of the images.
        index: (B,) int64, indices of the images in their manifest.
    """

    images: Tensor
    mask: Mask
    index: Tensor

    @staticmethod
    def draw(mim: MIM, images: Tensor, index: Tensor) -> HeldOut:
        """Draws for each image the mask of the first epoch.

        Args:
            mim: draws the masks, and gives the device.
            images: (B, H, W, C) uint8.
            index: (B,) int64, indices of the images in their manifest.
        """
        device = next(mim.parameters()).device
        return HeldOut(images.to(device), mim.mask(sample_id(index, 0).to(device)), index)

    @staticmethod
    def load(mim: MIM, manifest: Manifest, index: Tensor, data: Data) -> tuple[HeldOut, dict[str, str]]:
        """Loads images of a manifest.

        Args:
            mim: draws the masks, and gives the device.
            manifest: lists the images.
            index: (B,) int64, indices of the images to load.
            data: settings of the run's data.

        Returns:
            The images that can be used, and the reason for each bad image, by path.
        """
        quarantine, nothing = Quarantine(manifest, 0), torch.empty(0, dtype=torch.int64)
        with open_loader(manifest, data, 0, quarantine, nothing, torch.device("cpu")) as loader:
            return HeldOut.draw(mim, *loader.load_held_out(index)), loader.bad_files()

    def spread(self, manifest: Manifest, count: int) -> list[int]:
        """Returns the positions of `count` of these images, spread evenly over the classes."""
        return choose_images(*paths_and_labels(manifest, self.index), count)

    def __getitem__(self, places: list[int]) -> HeldOut:
        """Returns the images at these positions."""
        return HeldOut(self.images[places], self.mask[places], self.index[places])

    def predict(self, mim: MIM, batch: int) -> Tensor:
        """Returns the predictions of `mim.predict`, computed `batch` images at a time."""
        parts = [slice(start, start + batch) for start in range(0, len(self.images), batch)]
        return torch.cat([mim.predict(self.images[part], self.mask[part]) for part in parts])

    def grid(self, mim: MIM, pred: Tensor, notes: Iterable[str] = ()) -> Image.Image:
        """Draws these images and predictions; see `reconstruction_grid`."""
        return reconstruction_grid(mim.objective, self.images, self.mask, pred, notes)

    @torch.no_grad()
    def loss(self, mim: MIM, pred: Tensor) -> float:
        """Returns the training loss of predictions."""
        return mim.objective(pred, self.images, self.mask).item()


class Pretraining(Task[Config, MIM]):
    """Task that pre-trains an encoder by predicting hidden patches.

    Attributes:
        held_out: held-out images, or None if the run has none.
        held_out_images: manifest that the held-out images are chosen from.
        held_out_index: (H,) int64, indices of the held-out images in that manifest.
        latest: a few held-out images and their predictions at the last evaluation, or None.
    """

    def __init__(self, config: Config, process: Process):
        check_export_place(Path(config.run.dir))
        data, manifest = config.data, scan(config, process)
        index, self.held_out_images, self.held_out_index = split_images(manifest, data, config.train.seed)
        training = TrainingSet(config, manifest, index=index)
        mim = build(config)
        if source := initial_weights(config):
            load_weights(mim, source)
        super().__init__(config, process, training, mim)
        if data.held_out_root:
            self.check_same_everywhere(self.held_out_images.hash, data.held_out_root)
        self.trivial: dict[str, float] = {}
        self.latest: tuple[HeldOut, Tensor] | None = None
        self.held_out = self.load_held_out() if config.run.evaluate_every else None

    def load_held_out(self) -> HeldOut | None:
        """Loads the held-out images and notes bad ones. Returns None if no image can be used."""
        asked = len(self.held_out_index)
        if not asked:
            return None
        if self.config.data.held_out_root:
            held_out, bad = HeldOut.load(self.mim, self.held_out_images, self.held_out_index, self.config.data)
            self.notes += [
                f"left out of data.held_out_root: {shown(path)}: {shown(reason)}" for path, reason in bad.items()
            ]
        else:
            held_out = HeldOut.draw(self.mim, *self.loader.load_held_out(self.held_out_index))
        found = len(held_out.images)
        if found < asked:
            self.notes.append(
                f"{asked - found} of {asked} held-out images cannot be used"
                + ("" if found else ": the run has no held-out loss and no pictures")
            )
        return held_out if found else None

    @classmethod
    def check_packages(cls, config: Experiment) -> None:
        super().check_packages(config)
        require("the loss curve of a pre-training run", "matplotlib")

    @property
    def mim(self) -> MIM:
        """The module, named after its class."""
        return self.module

    @property
    def evaluates(self) -> bool:
        return self.held_out is not None

    def facts(self) -> dict[str, str]:
        config, mim, grid = self.config, self.mim, self.mim.encoder.grid
        mask = mim.mask(torch.zeros(1, dtype=torch.int64, device=self.process.device))
        held_out = len(self.held_out.images) if self.held_out else 0
        other_folder = f" and {config.data.held_out_root}" if config.data.held_out_root else ""
        weights = f"at first those of {config.run.init}" if config.run.init else f"initialised from {config.train.seed}"
        return {
            "images": f"{self.images} for training, {held_out} held out, "
            f"in {config.data.root} (manifest {self.manifest.hash[:12]}){other_folder}",
            "model": f"{type(mim.encoder).__name__} + {type(mim.decoder).__name__}, "
            f"{self.parameters / 1e6:.2f} M trained parameters",
            "weights": weights,
            "mask": f"{mask.ids_hidden.shape[1]} of {grid[0]}x{grid[1]} patches of {mim.encoder.patch_size} px hidden",
            "loss": mim.objective.describe(self.process.device.type, self.engine.micro_batch),
        }

    def mask_hashes(self, ids: Tensor) -> int:
        return trace.mask_hashes(ids, self.mim.mask(ids).mask)

    def predict(self, images: HeldOut) -> Tensor:
        """Returns the predictions for held-out images. Collective, because ZeRO stage 3 splits the weights."""
        with self.engine.inference():
            return images.predict(self.mim, self.engine.micro_batch)

    def evaluate(self, done: int, meter: Meter) -> None:
        """Logs the held-out loss and the losses of trivial predictors, draws reconstructions. Collective."""
        objective, held_out = self.mim.objective, self.held_out
        if held_out is None:
            return
        pred = run_on_all(self.process, lambda: self.predict(held_out))
        if self.process.rank:
            return
        self.trivial = self.trivial or trivial_losses(objective, held_out.images, held_out.mask)
        meter.log_held_out(held_out.loss(self.mim, pred), self.trivial)
        with meter.attempt("the reconstruction grid"):
            places = held_out.spread(self.held_out_images, GRID_ROWS)
            save_png(held_out[places].grid(self.mim, pred[places]), self.folder, "grids", f"{done:08d}.png")
        places = held_out.spread(self.held_out_images, SUMMARY_ROWS)
        self.latest = held_out[places], pred[places]

    def finish(self, meter: Meter) -> None:
        """Evaluates once more, makes pictures and export, and prints the result of the run. Collective."""
        self.latest = None
        if self.evaluates:
            with self.outputs.make("the last evaluation", meter):
                self.evaluate(self.total, meter)
        if self.process.rank:
            return
        results: dict[str, tuple[str, Callable[[], object]]] = {
            "learnt": ("the comparison with trivial predictors", lambda: metrics.progress(self.folder)),
            "pictures": ("summary.png", self.summary),
            "curve": ("loss.png", lambda: plot_curve(self.folder)),
            "encoder": ("the exported encoder", lambda: export_finished_run(self.config)),
            "speed": ("the speed", self.speed),
            "next": ("the next step", self.next_step),
        }
        for name, (result, words) in results.items():
            with self.outputs.make(result, meter):
                meter.say(f"{name:<10}{shown(str(words()))}")

    def summary(self) -> str:
        """Draws the loss curve beside reconstructions into summary.png, and returns the result in words."""
        if not self.evaluates:
            return "none (no held-out images, or run.evaluate_every=0)"
        if self.latest is None:
            return "none, because the last evaluation failed"
        few, pred = self.latest
        summary = plot_summary(self.folder, few.grid(self.mim, pred))
        return f"{summary} (curve and some images); each evaluation's in {self.folder / 'grids'}"

    def speed(self) -> str:
        """Returns the speed and the peak memory of the run in words."""
        batch = self.config.train.global_batch
        hours, peak = metrics.training_cost(self.folder, batch)
        if not hours:
            return "unknown: metrics.jsonl holds no speed"
        return f"{self.total * batch / hours / 3600:.1f} images/s, {peak / 2**30:.2f} GiB peak memory"

    def next_step(self) -> str:
        """Returns commands for the user's next steps with this run."""
        own = " --data.held_out_root None" if self.config.data.held_out_root else ""
        return (
            f"fastmim visualize {shell_word(self.folder)} --images FOLDER; to train on your images: "
            f"deepspeed fastmim/train.py CONFIG --data.root FOLDER{own} --run.dir OTHER"
        )


def paths_and_labels(manifest: Manifest, index: Tensor) -> tuple[list[str], list[int] | None]:
    """Returns the paths and labels of the images at these indices of the manifest."""
    places, labels = index.tolist(), manifest.labels
    return [manifest.paths[i] for i in places], None if labels is None else [labels[i] for i in places]


def load_weights(mim: MIM, run: Path) -> None:
    """Loads the weights of a run's newest checkpoint into a module.

    Args:
        mim: receives the weights.
        run: run folder of pre-training.

    Raises:
        ValueError: there is no checkpoint, or its tensors have other names or shapes.
    """
    loaded = open_run(run, "run.init")[1]
    check_pretrained(loaded, run)
    then = {name: tuple(tensor.shape) for name, tensor in loaded.state["model"].items()}
    now = shapes(mim)
    if others := [name for name in now | then if then.get(name) != now.get(name)]:
        named = "; ".join(
            f"{name} is {then.get(name, 'missing')}, here {now.get(name, 'missing')}" for name in others[:3]
        )
        raise ValueError(f"run.init: {shown(run)} has other weights than this config's encoder and decoder ({named})")
    mim.load_state_dict(loaded.state["model"])


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Maps each tensor of a module's state to its shape."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
