"""Pre-training: from a config to a module and its figures on held-out images.

May import L3 and below.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastmim_kernels

from .. import bittrace, checkpoint, decoders, encoders, losses, masking, targets
from ..config import Config, Data, Optim, Run, Train, to_json
from ..data import crops
from ..data.loader import open_loader
from ..data.manifest import Manifest
from ..data.quarantine import Quarantine
from ..data.sampler import Sampler, split_held_out
from ..engine import Engine, Process, StepResult
from ..mim import MIM
from ..objective import Objective
from ..optim import learning_rate
from ..tokens import Crop, Decoder, Encoder, Loss, Mask, Masking, Target, sample_id, sample_index

# Every class that a run folder's config.json may name.
BASES = (Masking, Encoder, Decoder, Target, Loss, Crop)
MODULES = (masking, encoders, decoders, targets, losses, crops)
PARTS = (
    Config, Data, Optim, Run, Train,
    *(part for module in MODULES for part in vars(module).values()
      if isinstance(part, type) and issubclass(part, BASES) and part not in BASES),
)  # fmt: skip


def build(config: Config) -> MIM:
    """The module of a config, initialised from its seed on the default device.

    Raises:
        ValueError: parts that do not fit each other or the image size.
    """
    torch.manual_seed(config.train.seed)
    data = config.data
    encoder = config.encoder.build(data.size, data.mean, data.std, config.masking)
    decoder = config.decoder.build(encoder)
    if problem := config.loss.misfit(data.size):
        raise ValueError(problem)
    objective = Objective(config.target, config.loss, encoder.patch_size, data.mean, data.std)
    mim = MIM(config.masking, encoder, decoder, objective, config.train.seed)
    one = torch.zeros(1, dtype=torch.int64, device="cpu")
    config.masking(config.train.seed, one, encoder.grid, encoder.patch_size)  # refuses a ratio that cannot be
    encoder.grad_checkpointing = decoder.grad_checkpointing = config.train.activation_checkpointing
    return mim


# What a continued run may change: how it computes, not what it computes.
FREE = ("run.", "optim.", "train.", "data.root", "data.loader", "data.bad_budget", "data.workers", "data.prefetch")


@dataclass(frozen=True)
class HeldOut:
    """Images that training never sees, with masks that never change.

    images: (B, H, W, C) uint8. mask: of those images.
    """

    images: Tensor
    mask: Mask

    @staticmethod
    def draw(mim: MIM, images: Tensor, index: Tensor) -> HeldOut:
        """Draws the masks that the images at these manifest indices would have in epoch 0."""
        return HeldOut(images, mim.mask(sample_id(index, 0).to(images.device)))

    def first(self, count: int) -> HeldOut:
        """The first `count` images."""
        return HeldOut(self.images[:count], self.mask[:count])

    def predict(self, mim: MIM, batch: int) -> Tensor:
        """Predictions as `mim.predict` gives them, `batch` images at a time."""
        parts = [slice(start, start + batch) for start in range(0, len(self.images), batch)]
        return torch.cat([mim.predict(self.images[part], self.mask[part]) for part in parts])

    @torch.no_grad()
    def loss(self, mim: MIM, pred: Tensor) -> float:
        """The training loss of these predictions."""
        return mim.objective(pred, self.images, self.mask).item()


class Pretrain:
    """A pre-training run's parts, wired together: images, samples, module, engine.

    Attributes:
        total: updates in the run.
        held_out: images to look at, or None.
    """

    def __init__(self, config: Config, process: Process):
        """
        Raises:
            ValueError: parts, data or batch sizes that do not fit.
        """
        data, seed = config.data, config.train.seed
        self.config, self.process = config, process
        self.manifest = Manifest.scan(data.root)
        train_index, held_out_index = split_held_out(len(self.manifest), data.held_out, seed)
        self.sampler = Sampler(train_index, seed, data.repeats)
        self.total = total_steps(config, len(train_index))
        self.mim = build(config)
        folder = Path(config.run.dir)
        if config.run.init and not (folder / "checkpoints/latest").exists():
            initialise(self.mim, Path(config.run.init))
        self.parameters = sum(p.numel() for p in self.mim.parameters() if p.requires_grad)
        self.engine = Engine(self.mim, config, process)
        if process.rank == 0 and not (folder / "checkpoints/latest").exists():
            (folder / "bad_files.jsonl").unlink(missing_ok=True)  # of an earlier run, which this one does not continue
        number = int(self.manifest.hash[:12], 16)
        if int(self.engine.reduce_sum(torch.tensor(number))) != number * process.world:
            raise ValueError(f"the processes see different images in {data.root}: give all of them the same data")
        quarantine = Quarantine(self.manifest, seed, folder / "bad_files.jsonl")
        self.loader = open_loader(self.manifest, data, seed, quarantine, train_index, process.device)
        self.held_out = None
        if len(held_out_index) and config.run.evaluate_every:
            images, usable = self.loader.held_out(held_out_index)
            if len(usable):
                self.held_out = HeldOut.draw(self.mim, images.to(process.device), usable)

    def epoch(self, step: int) -> float:
        """Passes over the training images before an update."""
        return step * self.config.train.global_batch / len(self.sampler)

    def learning_rate(self, step: int) -> float:
        """Learning rate of an update."""
        return learning_rate(self.config.optim, self.config.train, self.epoch(step))

    def ids(self, step: int) -> list[Tensor]:
        """Sample ids of this process in an update, by micro-step."""
        place = {"rank": self.process.rank, "world": self.process.world, "size": self.engine.micro_batch}
        batch = self.config.train.global_batch
        return [
            self.sampler.micro_batch(step, micro, global_batch=batch, **place)
            for micro in range(self.engine.accumulation)
        ]

    def batches(self, first: int, last: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(images, ids) of this process for updates [first, last), micro-batch by micro-batch, decoded ahead."""
        return self.loader.batches(ids for step in range(first, last) for ids in self.ids(step))

    def train_step(self, step: int, micro_batches: Iterable[tuple[Tensor, Tensor]]) -> StepResult:
        """One update. Collective."""
        return self.engine.train_step(step, self.learning_rate(step), micro_batches)

    def files(self, step: int) -> list[str]:
        """The images of an update, over all processes."""
        batch = self.config.train.global_batch
        return [
            self.manifest.path(i) for i in sample_index(self.sampler.ids(step * batch, (step + 1) * batch)).tolist()
        ]

    def bad_files(self) -> tuple[int, str | None]:
        """How many bad files the run has found so far, and why it must stop if they are too many. Collective."""
        # Rank 0 speaks for all: they share the list. So they stop together.
        count = len(self.loader.bad_files()) if self.process.rank == 0 else 0
        count = int(self.engine.reduce_sum(torch.tensor(count)))
        if count <= self.config.data.bad_budget * len(self.manifest):
            return count, None
        named = f"{count} of {len(self.manifest)} images are bad, named in bad_files.jsonl"
        return count, f"{named}: more than data.bad_budget={self.config.data.bad_budget}"

    def describe(self) -> dict[str, str]:
        """What this run is, in the words a person would want before it starts."""
        config, process, mim = self.config, self.process, self.mim
        train, grid = config.train, mim.encoder.grid
        mask = mim.mask(torch.zeros(1, dtype=torch.int64, device=process.device))
        micro, accumulation = self.engine.micro_batch, self.engine.accumulation
        held_out = len(self.held_out.images) if self.held_out else 0
        device = torch.cuda.get_device_name(process.device) if process.device.type == "cuda" else "CPU"
        threads = "" if process.device.type == "cuda" else f", {torch.get_num_threads()} threads each"
        peak = config.optim.blr * train.global_batch / config.optim.lr_batch
        above = [f"optim.{name}" for name in ("warmup_lr", "min_lr") if getattr(config.optim, name) > peak]
        norms = {
            m.describe(micro, process.world, process.device.type)
            for m in mim.modules()
            if isinstance(m, encoders.batchnorm.BatchNorm)
        }
        kernels = "; ".join(f"{op}: {by[process.device.type]}" for op, by in fastmim_kernels.backends().items())
        return {
            "run folder": config.run.dir,
            "images": f"{len(self.sampler) // config.data.repeats} for training, {held_out} held out, "
            f"in {config.data.root} (manifest {self.manifest.hash[:12]})",
            "model": f"{type(mim.encoder).__name__} + {type(mim.decoder).__name__}, "
            f"{self.parameters / 1e6:.2f} M trained parameters",
            "weights": f"at first those of {config.run.init}" if config.run.init else f"initialised from {train.seed}",
            "mask": f"{mask.ids_hidden.shape[1]} of {grid[0]}x{grid[1]} patches of {mim.encoder.patch_size} px hidden",
            "loss": mim.objective.describe(process.device.type, micro),
            **({"batch norm": "; ".join(norms)} if norms else {}),
            "devices": f"{process.world} x {device}{threads}",
            "precision": self.engine.precision,
            "ZeRO": f"stage {train.zero_stage}" + (", optimizer state in host memory" if train.offload else ""),
            "kernels": kernels,
            "decoding": self.loader.describe(),
            "global batch": f"{train.global_batch} = {micro} images x {accumulation} micro-steps "
            f"x {process.world} processes",
            "learning rate": f"{peak:.3g} at its peak (blr {config.optim.blr:g} x {train.global_batch} / "
            f"{config.optim.lr_batch}), {config.optim.warmup_epochs:g} of {train.epochs:g} epochs of warm-up"
            + (f"; below {' and '.join(above)}, which do not follow the batch size: lower them" if above else ""),
            "updates": f"{self.total}",
        }

    def resume(self, folder: Path) -> int:
        """Loads the newest valid checkpoint, if there is one; returns the updates done. Collective.

        Raises:
            ValueError: the data set is not the one that the checkpoint was trained on; or there are checkpoints and
                `run.resume` is off; or the checkpoint is of converted weights.
        """
        if not self.config.run.resume:
            if (folder / "latest").exists():
                raise ValueError(
                    f"run.resume is False, but {folder} holds checkpoints: choose another run.dir, or resume"
                )
            return 0
        # Only rank 0 reads and checks; when it refuses, it ends, and the launcher ends the others.
        loaded = checkpoint.load(folder) if self.process.rank == 0 else None
        if loaded and loaded.step == 0:
            raise ValueError(
                f"{loaded.path} holds weights to start from: give its run folder as run.init, and another as run.dir"
            )
        step = int(self.engine.reduce_sum(torch.tensor(loaded.step if loaded else 0)))  # only rank 0 has read it
        if step == 0:
            return 0
        if loaded and loaded.meta["manifest"] != self.manifest.hash:
            raise ValueError(
                f"{self.config.data.root} has changed since {loaded.path} was saved (now {self.manifest.hash[:12]}, "
                f"then {loaded.meta['manifest'][:12]}): sample numbers would mean other images. Restore the folder, or "
                "start a new run"
            )
        if loaded:
            self._compare(loaded.meta["config"])
            checkpoint.tidy(folder, loaded, self.config.run.keep)
        self.engine.load_state_dict(loaded.state if loaded else {})
        return step

    def _compare(self, stored: dict) -> None:
        """Refuses to go on under a config that would change samples, masks or model."""
        then, now = _leaves(stored), _leaves(to_json(self.config))
        changed = [name for name in sorted(then | now) if then.get(name) != now.get(name)]
        fixed = [name for name in changed if not name.startswith(FREE) or name in ("train.seed", "train.global_batch")]
        if fixed:
            words = ", ".join(f"{name} was {then.get(name)}, is now {now.get(name)}" for name in fixed[:4])
            raise ValueError(f"the checkpoint is of another run: {words}. Use its values, or another run.dir")
        for name in changed:
            print(f"continued with {name} = {now.get(name)} (was {then.get(name)})")

    def fingerprint(self, step: int, result: StepResult) -> dict[str, float | int]:
        """What the bit trace records of an update. Collective; waits for the device."""
        ids = torch.cat(self.ids(step)).to(self.process.device)
        hashes = [
            bittrace.parameters_hash(self.engine.local_weights()),
            bittrace.sample_hashes(ids),
            bittrace.mask_hashes(ids, self.mim.mask(ids).mask),
        ]
        parameters, samples, masks = self.engine.reduce_sum(torch.tensor(hashes)).tolist()
        loss = self.engine.reduce_mean(result.loss).item()
        return dict(loss=loss, grad_norm=result.grad_norm.item(), parameters=parameters, samples=samples, masks=masks)

    def mean(self, losses: list[float], skipped: list[bool]) -> float:
        """Mean over processes and updates, skipped ones left out; NaN if all were. Collective."""
        kept = [loss for loss, skip in zip(losses, skipped, strict=True) if not skip]
        return self.engine.reduce_mean(torch.tensor(kept, device=self.process.device).mean()).item()

    @property
    def max_skipped(self) -> int:
        """Updates in a row that may be skipped; fp16's loss scale, 2**16 at first, halves with each of its own."""
        return self.config.train.max_skipped + 16 * (self.engine.precision == "autocast-fp16")

    def predict_held_out(self) -> Tensor:
        """Predictions for the held-out images. Collective: at ZeRO stage 3 each process holds part of the weights."""
        with self.engine.inference():
            return self.held_out.predict(self.mim, self.engine.micro_batch)

    def close(self) -> None:
        """Ends the loader's threads."""
        self.loader.close()


def initialise(mim: MIM, run: Path) -> None:
    """Gives a module the weights of a run's newest checkpoint.

    Raises:
        ValueError: there is none, or its names and shapes are not the module's.
    """
    loaded = checkpoint.load(run / "checkpoints")
    if loaded is None:
        raise ValueError(f"run.init: expected a run folder with checkpoints, found none in {run / 'checkpoints'}")
    then, now = (
        {name: tuple(t.shape) for name, t in state.items()} for state in (loaded.state["model"], mim.state_dict())
    )
    if others := [name for name in now | then if then.get(name) != now.get(name)]:
        named = "; ".join(
            f"{name} is {then.get(name, 'missing')}, here {now.get(name, 'missing')}" for name in others[:3]
        )
        raise ValueError(f"run.init: {run} has other weights ({named}): take its encoder, decoder and data.size")
    mim.load_state_dict(loaded.state["model"])


def _leaves(value: Any, name: str = "") -> dict[str, Any]:
    """A nested dict as {dotted name: leaf}."""
    if not isinstance(value, dict):
        return {name: value}
    return {k: leaf for key, inner in value.items() for k, leaf in _leaves(inner, f"{name}.{key}".strip(".")).items()}


def total_steps(config: Config, images: int) -> int:
    """Updates in a run over `images` training images.

    Raises:
        ValueError: fewer images are seen in the whole run than one update needs.
    """
    seen = config.train.epochs * images * config.data.repeats
    if seen < config.train.global_batch:
        raise ValueError(
            f"train.epochs={config.train.epochs} over {images} images shows {seen:.0f} samples, fewer than one update "
            f"of train.global_batch={config.train.global_batch}: raise the epochs or lower the batch"
        )
    return int(seen // config.train.global_batch)
