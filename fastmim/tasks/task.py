"""The base class of every task, which connects images, samples, module and engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from ..config.base import Experiment
from ..config.json_form import to_json
from ..data.doctor import still_bad
from ..data.loader import Changes, limits_of, open_loader
from ..data.quarantine import Quarantine, recheck_list
from ..engine.engine import Engine, StepResult
from ..engine.optim import learning_rate
from ..engine.process import Process
from ..host.extras import require
from ..host.launcher import share_of_cores
from ..run import checkpoint, trace
from ..run.console import say
from ..run.meter import Meter
from ..samples import sample_index
from . import resume
from .run_outputs import FinalOutputs
from .training_set import TrainingSet, samples_per_epoch

ConfigT = TypeVar("ConfigT", bound=Experiment)
ModuleT = TypeVar("ModuleT", bound=nn.Module)
MicroBatch = tuple[Any, ...]
"""(images, ids), and the labels that the module reads."""


class Task(ABC, Generic[ConfigT, ModuleT]):
    """A run: images, module and single updates. `Trainer` is the training loop.

    A subclass builds images and module in its own constructor, and passes them to the constructor of this class.

    Args:
        config: config of the run.
        process: this process.
        training: images to train on.
        module: the network to train, `module(images, ids, *labels) -> loss`.
        changes: changes of training images besides crop and flip.

    Attributes:
        total: updates in the run.
        images: number of images that are trained on.
        parameters: number of trained parameters.
        fresh: True if the run has no checkpoint to continue from.
        notes: warnings about data and settings, to print before the first update.
        outputs: results of a finished run besides the checkpoints.

    Raises:
        ValueError: batch sizes, precision or data do not fit.
    """

    def __init__(
        self,
        config: ConfigT,
        process: Process,
        training: TrainingSet,
        module: ModuleT,
        changes: Changes | None = None,
    ):
        data, seed = config.data, config.train.seed
        self.config, self.process, self.folder = config, process, Path(config.run.dir)
        self.training, self.manifest, self.module = training, training.manifest, module
        self.total, self.images = training.updates, len(training.index)
        self.notes: list[str] = []
        self.outputs = FinalOutputs()
        self.fresh = is_new(config)
        self.parameters = sum(p.numel() for p in module.parameters() if p.requires_grad)
        self.engine = Engine(module, config, process)
        if process.rank == 0:
            recheck_list(self.folder / "bad_files.jsonl", self.still_bad, say if not self.fresh else lambda line: None)
        for place, digest in training.origins.values():
            self.check_same_everywhere(digest, place)
        quarantine = Quarantine(self.manifest, seed, self.folder / "bad_files.jsonl", training.labels)
        self.loader = open_loader(self.manifest, data, seed, quarantine, training.index, process.device, changes)

    @classmethod
    def check_packages(cls, config: Experiment) -> None:
        """Checks that all packages that the run needs are installed.

        Raises:
            ValueError: a package is missing.
        """
        if config.run.tensorboard:
            require("run.tensorboard", "tensorboard")

    @property
    def evaluates(self) -> bool:
        """True if there are images to evaluate on."""
        return True

    @abstractmethod
    def facts(self) -> dict[str, str]:
        """Returns start-up lines that describe the images, the model and the loss, by name."""

    @abstractmethod
    def evaluate(self, done: int, meter: Meter) -> None:
        """Evaluates the module after `done` updates, and writes the result into the run folder. Collective."""

    @abstractmethod
    def finish(self, meter: Meter) -> None:
        """Makes the results of a finished run, once it is saved. Collective.

        `outputs` keeps the names of the results that failed.

        Args:
            meter: the run's meter.
        """

    def mask_hashes(self, ids: Tensor) -> int:
        """Returns a hash of the masks of these samples, see `run.trace`; 0 in tasks without masks."""
        return 0

    def bad_label(self, index: int, size: tuple[int, int]) -> str | None:
        """Returns why the label of a training image is unusable, or None.

        Args:
            index: index of the image in the manifest.
            size: height and width of the image, as seen.

        Raises:
            DataUnavailableError: the folder of the labels is away.
        """
        return None

    def still_bad(self, paths: list[str]) -> Container[str]:
        """Returns the paths on the list of earlier starts that are still bad."""
        if self.fresh or not paths:  # a new run ignores the list of another run
            return ()
        data = self.config.data
        return still_bad(self.manifest, paths, data.workers or share_of_cores(), limits_of(data), self.bad_label)

    def check_same_everywhere(self, digest: str, place: str) -> None:
        """Checks that all processes found the same data. Collective.

        Args:
            digest: hash of the data that this process found, in hex digits.
            place: file or folder of the data, for the message.

        Raises:
            ValueError: the hashes differ.
        """
        number = int(digest[:12], 16)
        total = torch.tensor(number, device=self.process.device)
        if int(self.process.reduce_sum(total)) != number * self.process.world:
            raise ValueError(f"the processes see different data in {place}: give all processes the same data")

    def epoch(self, step: int) -> float:
        """Returns the passes over the training images before an update."""
        return step * self.config.train.global_batch / samples_per_epoch(self.config, self.images)

    def learning_rate(self, step: int) -> float:
        """Returns the learning rate of an update."""
        return learning_rate(self.config.optim, self.config.train, self.epoch(step))

    def ids(self, step: int) -> list[Tensor]:
        """Returns this process's sample ids in an update, by micro-step: (B,) int64 each."""
        place = {"rank": self.process.rank, "world": self.process.world, "size": self.engine.micro_batch}
        batch = self.config.train.global_batch
        return [
            self.training.sampler.micro_batch(step, micro, global_batch=batch, **place)
            for micro in range(self.engine.accumulation)
        ]

    def ids_of_updates(self, first: int, last: int) -> Iterator[Tensor]:
        """Yields this process's sample ids of updates [first, last), by micro-step: (B,) int64 each."""
        for step in range(first, last):
            yield from self.ids(step)

    def batches(self, first: int, last: int) -> Iterator[MicroBatch]:
        """Yields this process's micro-batches of updates [first, last), decoded ahead."""
        return self.loader.batches(self.ids_of_updates(first, last))

    def train_step(self, step: int, micro_batches: Iterable[MicroBatch]) -> StepResult:
        """Does one update. Collective."""
        return self.engine.train_step(step, self.learning_rate(step), micro_batches)

    def files(self, step: int) -> list[str]:
        """Returns the paths of the images in an update, over all processes."""
        batch = self.config.train.global_batch
        ids = self.training.sampler.ids(step * batch, (step + 1) * batch)
        return [self.manifest.path(i) for i in sample_index(ids).tolist()]

    def bad_files(self) -> tuple[int, str | None]:
        """Returns the number of bad files, and why they stop the run, or None. Collective."""
        # All ranks share the list. Rank 0 counts for all of them, so that all stop together.
        count = int(self.process.broadcast_number(len(self.loader.bad_files()) if self.process.rank == 0 else 0))
        if count <= self.config.data.bad_budget * len(self.manifest):
            return count, None
        named = f"{count} of {len(self.manifest)} images are bad, named in bad_files.jsonl"
        return count, f"{named}: more than data.bad_budget={self.config.data.bad_budget}"

    def mean(self, losses: list[float], skipped: list[bool]) -> float:
        """Returns the mean loss over processes and updates. Collective.

        Args:
            losses: this process's loss of each update.
            skipped: True for each update to leave out; NaN is returned if all are left out.
        """
        kept = [loss for loss, skip in zip(losses, skipped, strict=True) if not skip]
        return self.process.reduce_mean(torch.tensor(kept, device=self.process.device).mean()).item()

    @property
    def max_skipped(self) -> int:
        """Updates in a row that may be skipped.

        fp16 has 16 more than `train.max_skipped`: each skip halves the loss scale, which is 2**16 at first.
        """
        return self.config.train.max_skipped + 16 * (self.engine.precision == "autocast-fp16")

    def fingerprint(self, step: int, result: StepResult) -> trace.Fingerprint:
        """Returns the bit trace's record of an update. Collective; waits for the device."""
        ids = torch.cat(self.ids(step)).to(self.process.device)
        hashes = [
            trace.parameters_hash(self.engine.local_weights()),
            trace.sample_hashes(ids),
            self.mask_hashes(ids),
        ]
        parameters, samples, masks = self.process.reduce_sum(torch.tensor(hashes)).tolist()
        loss = self.process.reduce_mean(result.loss).item()
        return trace.Fingerprint(step, loss, result.grad_norm.item(), parameters, samples, masks)

    def meta(self) -> dict[str, Any]:
        """Returns the description of the run that is part of a checkpoint."""
        digests = {name: origin.digest for name, origin in self.training.origins.items()}
        return {"config": to_json(self.config), **digests}

    def state_dict(self, alone: bool = False) -> checkpoint.State:
        """Returns, on rank 0, the state that a continued run needs; see `Engine.state_dict`. Collective."""
        return self.engine.state_dict(alone)

    def load_state_dict(self, state: checkpoint.State) -> None:
        """Continues from rank 0's `state_dict`; the others' argument is ignored. Collective."""
        self.engine.load_state_dict(state)

    def resume(self, folder: Path) -> int:
        """Loads the newest valid checkpoint, if there is one; returns the updates done. Collective.

        Args:
            folder: folder of the checkpoints.

        Raises:
            ValueError: the checkpoint does not belong to this run, or there are checkpoints and `run.resume` is off.
        """
        if not self.config.run.resume:
            resume.refuse_checkpoints(folder)
            return 0
        # Only rank 0 reads and checks. If rank 0 refuses a checkpoint, it ends, and the launcher ends the other ranks.
        loaded = resume.newest(folder, self.config, self.training.origins) if self.process.rank == 0 else None
        step = int(self.process.broadcast_number(loaded.step if loaded else 0))
        if step:
            self.load_state_dict(loaded.state if loaded else {})
        return step

    def close(self) -> None:
        """Ends the loader's threads."""
        self.loader.close()


def is_new(config: Experiment) -> bool:
    """True if a run has no checkpoint to continue from."""
    return not checkpoint.steps(Path(config.run.dir) / "checkpoints")


def initial_weights(config: Experiment) -> Path | None:
    """Returns the folder of the weights that a new run starts from (`run.init`), or None."""
    return Path(config.run.init) if config.run.init and is_new(config) else None
