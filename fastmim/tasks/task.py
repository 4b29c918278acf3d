"""The base of every task: wires images, samples, module and engine together, and continues a run.

May import L3 and below.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastmim_kernels

from ..config.base import Experiment, to_json
from ..data.doctor import first_look, still_bad
from ..data.held_out import split
from ..data.loader import Changes, limits_of, open_loader
from ..data.manifest import Manifest
from ..data.quarantine import Quarantine, recheck_list
from ..data.sampler import Sampler
from ..engine.engine import Engine, Process, StepResult
from ..engine.optim import learning_rate
from ..host.extras import require
from ..host.launcher import share_of_cores
from ..host.terminal import shown
from ..model import encoders
from ..run import checkpoint, trace
from ..run.metrics import Meter, say
from ..samples import sample_index
from . import setting_warnings
from .run_outputs import FinalOutputs
from .saved_run import config_of, kind_of

# What a continued run may change: how it computes and what it is tested on, not what it computes.
FREE = (
    *("run.", "optim.", "train."),
    *("data.root", "data.held_out_root", "data.annotations", "data.masks", "data.test", "data.stride"),
    *("data.loader", "data.bad_budget", "data.workers", "data.prefetch", "data.decode_memory", "data.decode_seconds"),
)


class Task(ABC):
    """A run: what it trains, on what, and how. `train.py` is the loop around it.

    Attributes:
        total: updates in the run.
        held_out_images, held_out_index: the images that held-out ones are chosen from, and which are.
        module: the network that is trained, `module(images, ids) -> loss`.
        labels: (N,) int64 of the images of the manifest, if the module reads them.
        changes: changes of samples beside crop and flip, or None.
        evaluates: True if there is anything to evaluate on.
        notes: lines to print before the first update, about what is left out or looks like a mistake.
        outputs: the results beside the checkpoints.
    """

    labels: Tensor | None = None
    changes: Changes | None = None
    evaluates = True

    def __init__(self, config: Experiment, process: Process):
        """
        Raises:
            ValueError: parts, data or batch sizes that do not fit.
        """
        data, seed = config.data, config.train.seed
        self.config, self.process, self.folder = config, process, Path(config.run.dir)
        self.notes: list[str] = []
        self.outputs = FinalOutputs()
        self.fresh = not checkpoint.steps(self.folder / "checkpoints")
        self.manifest = self.scan()
        train_index, self.held_out_images, self.held_out_index = split(self.manifest, data, seed)
        self.images = len(train_index)
        self.sampler = Sampler(train_index, seed, data.repeats, data.repeats_together)
        self.total = total_steps(config, self.images)
        self.module = self.build()
        self.parameters = sum(p.numel() for p in self.module.parameters() if p.requires_grad)
        self.engine = Engine(self.module, config, process)
        if process.rank == 0:
            recheck_list(self.folder / "bad_files.jsonl", self.still_bad, say if not self.fresh else lambda line: None)
        for place, digest in self.trained_on().values():
            self.same_everywhere(digest, place)
        if data.held_out_root:
            self.same_everywhere(self.held_out_images.hash, data.held_out_root)
        quarantine = Quarantine(self.manifest, seed, self.folder / "bad_files.jsonl", self.labels)
        self.loader = open_loader(self.manifest, data, seed, quarantine, train_index, process.device, self.changes)

    def scan(self) -> Manifest:
        """The images that are trained on, and held out."""
        return Manifest.scan(self.config.data.root, "data.root", say if self.process.rank == 0 else lambda line: None)

    def still_bad(self, paths: list[str]) -> Container[str]:
        """Returns those of the bad files of earlier starts that are still bad."""
        if self.fresh or not paths:  # an earlier run's, which is not continued
            return ()
        data = self.config.data
        return still_bad(self.manifest, paths, data.workers or share_of_cores(), limits_of(data), self.bad_label)

    def bad_label(self, index: int, size: tuple[int, int]) -> str | None:
        """Returns why a training image of this (height, width) has no label that can be used, or None.

        Raises:
            DataAwayError: the folder of the labels is away.
        """
        return None

    def trained_on(self) -> dict[str, tuple[str, str]]:
        """Maps each source of samples and labels, by its name in a checkpoint, to its place and hash (hex digits)."""
        return {"manifest": (self.config.data.root, self.manifest.hash)}

    @property
    def source(self) -> Path | None:
        """The folder whose weights a new run starts from, or None."""
        return Path(self.config.run.init) if self.config.run.init and self.fresh else None

    @classmethod
    def check_packages(cls, config: Experiment) -> None:
        """Checks that the packages which the run will need at some time are installed.

        Raises:
            ValueError: one is not.
        """
        if config.run.tensorboard:
            require("run.tensorboard", "tensorboard")

    def doubts(self) -> list[str]:
        """Says what about the settings looks like a mistake."""
        room = (
            setting_warnings.disk_warnings(self.folder, self.parameters, self.config.run.keep)
            if self.process.rank == 0
            else []
        )
        return [*setting_warnings.setting_warnings(self.config, self.images, self.total), *room]

    @abstractmethod
    def build(self) -> nn.Module:
        """The module, initialised from the seed, or in a new run from `run.init`; sets `labels` and `changes`."""

    @abstractmethod
    def facts(self) -> dict[str, str]:
        """Returns start-up lines that describe the images, the model and the loss, by name."""

    @abstractmethod
    def evaluate(self, done: int, meter: Meter) -> None:
        """Measures what the module has learned in `done` updates and leaves it in the run folder. Collective."""

    @abstractmethod
    def finish(self, meter: Meter) -> None:
        """Makes what a finished run promises, once it is saved; failures are in `outputs`. Collective."""

    def mask_hashes(self, ids: Tensor) -> int:
        """A hash of the masks of these samples, see `run.trace`; 0 where nothing is masked."""
        return 0

    def same_everywhere(self, digest: str, place: str) -> None:
        """
        Raises:
            ValueError: what processes found at `place` has different hashes.
        """
        number = int(digest[:12], 16)
        total = torch.tensor(number, device=self.process.device)
        if int(self.engine.reduce_sum(total)) != number * self.process.world:
            raise ValueError(f"the processes see different data in {place}: give all of them the same")

    def epoch(self, step: int) -> float:
        """Passes over the training images before an update."""
        return step * self.config.train.global_batch / samples_per_epoch(self.config, self.images)

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
        """Returns the number of bad files so far, and if they are too many, why the run must stop. Collective."""
        # Rank 0 speaks for all: they share the list. So they stop together.
        count = len(self.loader.bad_files()) if self.process.rank == 0 else 0
        count = int(self.engine.reduce_sum(torch.tensor(count)))
        if count <= self.config.data.bad_budget * len(self.manifest):
            return count, None
        named = f"{count} of {len(self.manifest)} images are bad, named in bad_files.jsonl"
        return count, f"{named}: more than data.bad_budget={self.config.data.bad_budget}"

    def describe(self) -> dict[str, str]:
        """Returns the start-up lines that describe the run, by name."""
        config, process = self.config, self.process
        train, micro, accumulation = config.train, self.engine.micro_batch, self.engine.accumulation
        device = torch.cuda.get_device_name(process.device) if process.device.type == "cuda" else "CPU"
        threads = "" if process.device.type == "cuda" else f", {torch.get_num_threads()} threads each"
        peak = config.optim.blr * train.global_batch / config.optim.lr_batch
        highest = setting_warnings.highest_rate(config, self.total)
        rate = (
            f"{peak:.3g} at its peak"
            if highest > 0.9 * peak
            else f"{highest:.3g} at most, never its peak of {peak:.3g}"
        )
        above = [f"optim.{name}" for name in ("warmup_lr", "min_lr") if getattr(config.optim, name) > peak]
        norms = {
            m.describe(micro, process.world, process.device.type)
            for m in self.module.modules()
            if isinstance(m, encoders.batchnorm.BatchNorm)
        }
        facts, warnings = self.facts(), first_look(self.manifest, limits_of(config.data))
        facts["images"] = "; ".join([facts["images"], *self.manifest.remarks()])
        return {
            "run folder": config.run.dir,
            **facts,
            **({"warning": "; ".join(warnings)} if warnings else {}),
            **({"batch norm": "; ".join(norms)} if norms else {}),
            "devices": f"{process.world} x {device}{threads}",
            "precision": self.engine.precision,
            "ZeRO": f"stage {train.zero_stage}" + (", optimizer state in host memory" if train.offload else ""),
            "kernels": kernels(process.device.type),
            "decoding": self.loader.describe(),
            "global batch": f"{train.global_batch} = {micro} images x {accumulation} micro-steps "
            f"x {process.world} processes",
            "learning rate": f"{rate} (blr {config.optim.blr:g} x {train.global_batch} / {config.optim.lr_batch}), "
            f"{config.optim.warmup_epochs:g} of {train.epochs:g} epochs of warm-up"
            + (f"; below {' and '.join(above)}, which do not follow the batch size: lower them" if above else ""),
            "updates": f"{self.total}",
        }

    def meta(self) -> dict[str, Any]:
        """Returns the description of the run that is part of a checkpoint."""
        return {"config": to_json(self.config)} | {name: digest for name, (_, digest) in self.trained_on().items()}

    def state_dict(self) -> checkpoint.State:
        """On rank 0, everything that training continues from. Collective."""
        return self.engine.state_dict()

    def load_state_dict(self, state: checkpoint.State) -> None:
        """Continues from rank 0's `state_dict`; the others' argument is ignored. Collective."""
        self.engine.load_state_dict(state)

    def resume(self, folder: Path) -> int:
        """Loads the newest valid checkpoint, if there is one; returns the updates done. Collective.

        Raises:
            ValueError: images or labels are not those that the checkpoint was trained on; or there are checkpoints and
                `run.resume` is off; or the checkpoint is of converted weights.
        """
        if not self.config.run.resume:
            if checkpoint.steps(folder):
                raise ValueError(
                    f"run.resume is False, but {shown(folder)} holds checkpoints: choose another run.dir, or resume"
                )
            return 0
        # Only rank 0 reads and checks; when it refuses, it ends, and the launcher ends the others.
        loaded = checkpoint.load(folder, check=config_of) if self.process.rank == 0 else None
        if loaded and loaded.step == 0:
            raise ValueError(
                f"{shown(loaded.path)} holds weights to start from: give its run folder as run.init, and another as "
                "run.dir"
            )
        step = int(self.engine.reduce_sum(torch.tensor(loaded.step if loaded else 0)))  # only rank 0 has read it
        if step == 0:
            return 0
        if loaded:
            stored = config_of(loaded)
            if type(stored) is not type(self.config):
                raise ValueError(
                    f"run.dir: {shown(self.folder)} holds a {kind_of(stored)} run, and this is a "
                    f"{kind_of(self.config)} run: choose another run.dir"
                )
            self._compare_data(loaded)
            self._compare(stored)
            checkpoint.tidy(folder, loaded, self.config.run.keep)
        self.load_state_dict(loaded.state if loaded else {})
        return step

    def _compare_data(self, loaded: checkpoint.Loaded) -> None:
        """Refuses to go on with other images or labels."""
        for name, (place, now) in self.trained_on().items():
            then = loaded.meta.get(name, now)  # an earlier version wrote that of the images only
            if then != now:
                raise ValueError(
                    f"{shown(place)} has changed since {shown(loaded.path)} was saved ({name}: now {now[:12]}, then "
                    f"{shown(str(then))[:12]}): the same samples would have other images or labels. Restore it, or "
                    "start a new run"
                )

    def _compare(self, stored: Experiment) -> None:
        """Refuses to go on under a config that would change samples, masks or model."""
        then, now = _leaves(to_json(stored)), _leaves(to_json(self.config))
        changed = [name for name in sorted(then | now) if then.get(name) != now.get(name)]
        fixed = [
            name
            for name in changed
            if not name.startswith(FREE)
            or name in ("train.seed", "train.global_batch")
            or (name == "data.held_out_root" and None in (then.get(name), now.get(name)))  # so data.root was split
        ]
        if fixed:
            words = ", ".join(
                f"{shown(name)[:100]} was {shown(str(then.get(name)))[:100]}, is now {now.get(name)}"
                for name in fixed[:4]
            )
            raise ValueError(f"the checkpoint is of another run: {words}. Use its values, or another run.dir")
        for name in changed:
            say(f"continued with {name} = {now.get(name)} (was {then.get(name)})")

    def fingerprint(self, step: int, result: StepResult) -> dict[str, float | int]:
        """Returns the bit trace's record of an update. Collective; waits for the device."""
        ids = torch.cat(self.ids(step)).to(self.process.device)
        hashes = [
            trace.parameters_hash(self.engine.local_weights()),
            trace.sample_hashes(ids),
            self.mask_hashes(ids),
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
        """Updates in a row that may be skipped; fp16 has 16 more, as each halves its loss scale, 2**16 at first."""
        return self.config.train.max_skipped + 16 * (self.engine.precision == "autocast-fp16")

    def close(self) -> None:
        """Ends the loader's threads."""
        self.loader.close()


def kernels(device: str) -> str:
    """Says which implementation of the kernels runs: the commonest one, and the ops that run another.

    Args:
        device: "cpu" or "cuda".
    """
    words = {"cpp": "C++", "triton": "Triton", "reference": "plain torch"}
    ops: dict[str, list[str]] = {}
    for op, by in fastmim_kernels.backends().items():
        ops.setdefault(by[device], []).append(op)
    most, *others = sorted(ops, key=lambda by: -len(ops[by]))
    rest = "".join(f"; {words.get(by, by)} for {', '.join(ops[by])}" for by in others)
    return words.get(most, most) + (rest.replace(";", ", except", 1) if rest else " for all")


def _leaves(value: Any, name: str = "") -> dict[str, Any]:
    """A nested dict as {dotted name: leaf}."""
    if not isinstance(value, dict):
        return {name: value}
    return {k: leaf for key, inner in value.items() for k, leaf in _leaves(inner, f"{name}.{key}".strip(".")).items()}


def samples_per_epoch(config: Experiment, images: int) -> int:
    """Samples in an epoch over `images` training images."""
    return images * (1 if config.data.repeats_together else config.data.repeats)


def total_steps(config: Experiment, images: int) -> int:
    """Updates in a run over `images` training images.

    Raises:
        ValueError: fewer images are seen in the whole run than one update needs.
    """
    seen = config.train.epochs * samples_per_epoch(config, images)
    if seen < config.train.global_batch:
        raise ValueError(
            f"train.epochs={config.train.epochs} over {images} images shows {seen:.0f} samples, fewer than one update "
            f"of train.global_batch={config.train.global_batch}: raise the epochs or lower the batch"
        )
    return int(seen // config.train.global_batch)
