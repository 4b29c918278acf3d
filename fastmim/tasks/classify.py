"""The tasks fine-tuning and linear probe: training of a classifier, and its accuracy on test images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..config.classify import Finetune, Probe
from ..data.augment import Augmenter, color_jitter, rand_augment
from ..data.loader import Changes, Loader
from ..data.manifest import Manifest
from ..engine.engine import StepResult
from ..engine.process import Process
from ..engine.settings import batch_plan
from ..model.classifier import Classifier, LinearProbe, hits, recalibrate
from ..model.encoders.convnet import ConvNet
from ..run import checkpoint
from .downstream_task import DownstreamTask
from .initial_encoder import seeded_encoder
from .labelled_images import PIECE, calibration, class_labels, count_classes, open_central_crops
from .run_outputs import run_on_all
from .task import MicroBatch, initial_weights
from .training_set import Origin, TrainingSet, scan

if TYPE_CHECKING:
    from timm.utils.model_ema import ModelEmaV3

ClassifyT = TypeVar("ClassifyT", Finetune, Probe)
MODULES = {Finetune: Classifier, Probe: LinearProbe}
"""Class of the module for each class of config."""


class Inputs(NamedTuple):
    """Images and module of a run that trains a classifier.

    Attributes:
        training: the training images.
        module: the classifier.
        test: lists the test images.
    """

    training: TrainingSet
    module: Classifier
    test: Manifest


def open_inputs(config: Finetune | Probe, process: Process) -> Inputs:
    """Lists the images of a run, and builds its module from the seed or from `run.init`.

    Raises:
        ValueError: data, encoder and initial weights do not fit each other.
    """
    data, manifest = config.data, scan(config, process)
    test = Manifest.scan(data.test, "data.test")
    classes = count_classes(manifest, test, data)
    if data.test_size not in (None, data.size) and not isinstance(config.encoder, ConvNet):
        raise ValueError(
            f"data.test_size={data.test_size}: {type(config.encoder).__name__} sees images of "
            f"data.size={data.size} only; another size of test images needs a convolutional network"
        )
    labels = torch.tensor(class_labels(manifest, data.root))
    # A list file holds the classes beside the paths, so the manifest's hash does not cover them.
    digest = hashlib.sha256(labels.numpy().tobytes()).hexdigest()
    training = TrainingSet(config, manifest, {"labels": Origin(data.root, digest)}, labels)
    return Inputs(training, build_classifier(config, classes, labels, initial_weights(config)), test)


class Classification(DownstreamTask[ClassifyT, Classifier]):
    """Base class of the tasks that train a classifier.

    The scores are "top1" and "top5" (fractions) and "loss".

    Attributes:
        averages: moving average of the weights, which is evaluated; None = the weights are evaluated.
    """

    averages: ModelEmaV3 | None = None

    def __init__(self, config: ClassifyT, process: Process, inputs: Inputs, changes: Changes | None = None):
        super().__init__(config, process, *inputs, changes=changes)
        train_labels = class_labels(self.manifest, config.data.root)
        test_labels = class_labels(self.test, config.data.test)
        self.test_labels = torch.tensor(test_labels)
        if self.test.hash == self.manifest.hash:
            self.notes.append("data.test holds the images of data.root: the score is for images of the training set")
        if untested := sorted(set(train_labels) - set(test_labels)):
            self.notes.append(
                f"data.test has no image of {len(untested)} of the {len(set(train_labels))} classes in data.root (such "
                f"as class {untested[0]}): the score does not cover these classes"
            )

    def open_test_loader(self) -> Loader:
        return open_central_crops(self.test, self.config.data, self.process.device)

    def facts(self) -> dict[str, str]:
        config, module = self.config, self.module
        return {
            "images": f"{self.images} for training in {config.data.root} (manifest {self.manifest.hash[:12]}), "
            f"{len(self.test)} for testing in {config.data.test} (manifest {self.test.hash[:12]})",
            "model": f"{type(module.encoder).__name__}, {config.head.pool} token, {module.fc.out_features} classes, "
            f"{self.parameters / 1e6:.2f} M trained parameters",
            "weights": self.origin_of_weights(),
            "loss": f"{type(module.loss).__name__}, {self.config.augment}",
            "tested": "the average of the weights" if self.averages else "the weights",
        }

    def score(self) -> tuple[dict[str, float], dict[int, str]]:
        module = self.averages.module if self.averages else self.module
        self.broadcast_buffers(module)
        sums, bad = run_on_all(self.process, lambda: self.sum_over_test(module))
        top1, top5, loss, images = self.process.reduce_sum(sums).tolist()
        images = max(images, 1)  # if no image can be used, `leave_out` later raises an error with the reason
        return {"top1": top1 / images, "top5": top5 / images, "loss": loss / images}, bad

    def sum_over_test(self, module: Classifier) -> tuple[Tensor, dict[int, str]]:
        """Sums hits and losses over this process's test images.

        Args:
            module: the classifier to test.

        Returns:
            (4,) float64: top-1 hits, top-5 hits, losses, images; and the reason for each image left out, by index.
        """
        device, bad = self.process.device, {}
        pieces = torch.arange(len(self.test)).split(PIECE)
        sums = torch.zeros(4, dtype=torch.float64, device=device)
        turns = self.forward_passes(len(pieces))
        with self.engine.inference():
            for (images, ids, *_), left_out in self.test_loader.intact_batches(self.own_share(pieces)):
                bad |= left_out
                if not len(images):
                    continue
                labels = self.test_labels[ids].to(device)
                found = hits(module.predict(images.to(device)).float(), labels)
                sums += torch.stack([*found, torch.tensor(len(labels), device=device)])
                turns -= 1
            self.join_forward_passes(module, turns)
        return sums, bad

    def describe_scores(self) -> str:
        top1, top5, loss = (self.scores[name] for name in ("top1", "top5", "loss"))
        # Among five classes or fewer, every answer is among the first five.
        second = f"top-5 {top5:.2%}, " if self.module.fc.out_features > 5 else ""
        return f"top-1 {top1:.2%}, {second}loss {loss:.4f}"


class FineTuning(Classification[Finetune]):
    """Task that trains an encoder with a classification head."""

    def __init__(self, config: Finetune, process: Process):
        augment = config.augment
        micro, _ = batch_plan(config.train, process.world)
        if micro % 2 and (augment.mixup or augment.cutmix):
            raise ValueError(
                f"augment.mixup and cutmix pair the images of a micro-batch, so it must be even, got {micro}: set "
                "train.micro_batch, or both to 0"
            )
        changes = None
        if augment.rand_augment:
            changes = Augmenter(rand_augment(augment.rand_augment, config.data), config.train.seed)
        elif augment.color_jitter:
            changes = Augmenter(color_jitter(augment.color_jitter), config.train.seed)
        inputs = open_inputs(config, process)
        if config.ema.decay is not None:  # copied before the engine changes the module
            from timm.utils.model_ema import ModelEmaV3

            self.averages = ModelEmaV3(inputs.module, exclude_buffers=True).to(process.device)
        super().__init__(config, process, inputs, changes)

    def train_step(self, step: int, micro_batches: Iterable[MicroBatch]) -> StepResult:
        result = super().train_step(step, micro_batches)
        decay, warmup_epochs = self.config.ema.decay, self.config.ema.warmup_epochs
        if self.averages and decay is not None:
            warm = min(1.0, self.epoch(step + 1) / max(warmup_epochs, 1e-9))
            self.averages.decay = decay * (0.9 + 0.1 * warm)
            self.averages.update(self.module)
        return result

    def averaged_parameters(self) -> dict[str, Tensor]:
        """Returns the averages of the trained parameters by name; empty if the run keeps no averages."""
        if self.averages is None:
            return {}
        return {name: p for name, p in self.averages.module.named_parameters() if p.requires_grad}

    def state_dict(self, alone: bool = False) -> checkpoint.State:
        state = super().state_dict(alone)
        if state and self.averages:
            state["ema"] = {name: p.detach().to("cpu", copy=True) for name, p in self.averaged_parameters().items()}
        return state

    def load_state_dict(self, state: checkpoint.State) -> None:
        super().load_state_dict(state)
        averages = self.averaged_parameters()
        if state and (missing := [name for name in averages if name not in state.get("ema", {})]):
            raise ValueError(f"ema lacks {missing[0]}: the checkpoint is of a run without averages")
        for name, p in averages.items():
            p.data.copy_(self.process.broadcast(state["ema"][name] if state else None, p.shape, p.dtype))
        if self.averages:
            for average, buffer in zip(self.averages.module.buffers(), self.module.buffers(), strict=True):
                average.copy_(buffer)


class LinearProbing(Classification[Probe]):
    """Task that trains a linear layer on a frozen encoder.

    The statistics of the encoder's batch norms are first recomputed on images without masks.
    """

    def __init__(self, config: Probe, process: Process):
        super().__init__(config, process, open_inputs(config, process))
        if self.fresh:
            images = calibration(self.manifest, config.data, config.calibrate, config.train.seed, process.device)
            with self.engine.inference():
                recalibrate(self.module.encoder, (self.module.pixels(batch) for batch in images))


def build_classifier(config: Finetune | Probe, classes: int, labels: Tensor, source: Path | None = None) -> Classifier:
    """Builds the classifier of a config on the default device.

    Args:
        config: the run's config. Its seed initialises all weights that do not come from `source`.
        classes: number of classes.
        labels: (N,) int64 class of each image of the manifest.
        source: run or export whose weights the encoder takes, or None.

    Raises:
        ValueError: parts, image size and source do not fit each other.
    """
    encoder = seeded_encoder(config, source)
    return MODULES[type(config)](encoder, config.head, config.augment, labels, classes, config.data.image)
