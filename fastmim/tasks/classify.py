"""Fine-tuning and linear probe: from a config to a classifier, and its accuracy on test images.

May import L3 and below, and convert.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ..config.classify import Finetune, LabelledData, Probe
from ..config.detect import Detect
from ..config.segment import Segment
from ..convert.position_tables import resize_table
from ..data.augment import Augmenter, color_jitter, rand_augment
from ..data.crops import CenterCrop
from ..data.loader import Changes, Loader, open_loader
from ..data.manifest import Manifest
from ..data.quarantine import Quarantine
from ..data.sampler import split_held_out
from ..engine.engine import StepResult
from ..engine.process import Process
from ..engine.settings import batch_plan
from ..export.saved_run import check_pretrained, open_weights
from ..host.terminal import shown
from ..model.classifier import Classifier, LinearProbe, hits, recalibrate
from ..model.encoders import PRETRAINING_ONLY
from ..model.encoders.convnet import ConvNet
from ..model.masking import UniformMasking
from ..parts import Encoder
from ..run import checkpoint
from ..run.tensors import read_tensors
from .run_outputs import run_on_all
from .task import MicroBatch, initial_weights
from .tested import Tested
from .training_set import Origin, TrainingSet, scan

if TYPE_CHECKING:
    from timm.utils.model_ema import ModelEmaV3

PIECE = 128
"""Test images in a forward, whatever the number of processes: so no process count changes a sum."""
SHARED, OWN = "rel_pos_bias.relative_position_bias_table", "attn.relative_position_bias_table"


ClassifyT = TypeVar("ClassifyT", Finetune, Probe)


class Sources(NamedTuple):
    """Images and module of a run that trains a classifier."""

    training: TrainingSet
    module: Classifier
    test: Manifest


def open_sources(config: Finetune | Probe, process: Process) -> Sources:
    """Lists the images of a run, and builds the module, initialised from the seed or from `run.init`."""
    data, manifest = config.data, scan(config, process)
    test = Manifest.scan(data.test, "data.test")
    classes = count_classes(manifest, test, data)
    if data.test_size not in (None, data.size) and not isinstance(config.encoder, ConvNet):
        raise ValueError(
            f"data.test_size={data.test_size}: {type(config.encoder).__name__} sees images of "
            f"data.size={data.size} only; another size of test images needs a convolutional network"
        )
    labels = torch.tensor(manifest.labels)
    digest = hashlib.sha256(labels.numpy().tobytes()).hexdigest()  # a list file gives labels beside the paths
    training = TrainingSet(config, manifest, {"labels": Origin(data.root, digest)}, labels)
    return Sources(training, build(config, classes, labels, initial_weights(config)), test)


class Classification(Tested[ClassifyT, Classifier]):
    """A run that trains a classifier; its scores are "top1", "top5" (fractions) and "loss"."""

    ema: ModelEmaV3 | None = None

    def __init__(self, config: ClassifyT, process: Process, sources: Sources, changes: Changes | None = None):
        super().__init__(config, process, *sources, changes=changes)
        self.test_labels = torch.tensor(self.test.labels)
        if self.test.hash == self.manifest.hash:
            self.notes.append("data.test holds the images of data.root: the score is that of images trained on")
        if untested := sorted(set(self.manifest.labels) - set(self.test.labels)):
            self.notes.append(
                f"data.test has no image of {len(untested)} of the {len(set(self.manifest.labels))} classes in "
                f"data.root (such as class {untested[0]}): the score says nothing of them"
            )

    def open_test_loader(self) -> Loader:
        return whole_images(self.test, self.config.data, self.process.device)

    def facts(self) -> dict[str, str]:
        config, module = self.config, self.module
        weights = f"encoder at first that of {config.run.init}" if config.run.init else "all"
        return {
            "images": f"{self.images} for training in {config.data.root} (manifest {self.manifest.hash[:12]}), "
            f"{len(self.test)} for testing in {config.data.test} (manifest {self.test.hash[:12]})",
            "model": f"{type(module.encoder).__name__}, {config.head.pool} token, {module.fc.out_features} classes, "
            f"{self.parameters / 1e6:.2f} M trained parameters",
            "weights": f"{weights}, the rest initialised from {config.train.seed}"
            if config.run.init
            else f"initialised from {config.train.seed}",
            "loss": f"{type(module.loss).__name__}, {self.config.augment}",
            "tested": "the average of the weights" if self.ema else "the weights",
        }

    def score(self) -> tuple[dict[str, float], dict[int, str]]:
        """Accuracy and loss."""
        module = self.ema.module if self.ema else self.module
        self.share_statistics(module)
        sums, bad = run_on_all(self.process, lambda: self.sums(module))
        # Without a single image, `leave_out` says so; until then it must not be a division by zero.
        top1, top5, loss, images = self.process.reduce_sum(sums).tolist()
        return {"top1": top1 / max(images, 1), "top5": top5 / max(images, 1), "loss": loss / max(images, 1)}, bad

    def sums(self, module: Classifier) -> tuple[Tensor, dict[int, str]]:
        """Sums over this process's test images: hits among the first one and five, losses, and images."""
        device, bad = self.process.device, {}
        pieces = torch.arange(len(self.test)).split(PIECE)
        sums = torch.zeros(4, dtype=torch.float64, device=device)
        turns = -(-len(pieces) // self.process.world)
        with self.engine.inference():
            for (images, ids, *_), left_out in self.test_loader.intact_batches(self.share(pieces)):
                bad |= left_out
                if not len(images):
                    continue
                labels = self.test_labels[ids].to(device)
                found = hits(module.predict(images.to(device)).float(), labels)
                sums += torch.stack([*found, torch.tensor(len(labels), device=device)])
                turns -= 1
            for _ in range(turns if self.engine.stage == 3 else 0):  # there a forward needs all processes
                module.predict(
                    torch.zeros((1, *self.config.data.size, len(module.mean)), dtype=torch.uint8, device=device)
                )
        return sums, bad

    def words(self) -> str:
        top1, top5, loss = (self.scores[name] for name in ("top1", "top5", "loss"))
        # Of five classes or fewer, every answer is among the first five.
        second = f"top-5 {top5:.2%}, " if self.module.fc.out_features > 5 else ""
        return f"top-1 {top1:.2%}, {second}loss {loss:.4f}"


class FineTuning(Classification[Finetune]):
    """Trains encoder and head."""

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
        sources = open_sources(config, process)
        if config.ema.decay is not None:  # copied before the engine changes the module
            from timm.utils.model_ema import ModelEmaV3

            self.ema = ModelEmaV3(sources.module, exclude_buffers=True).to(process.device)
        super().__init__(config, process, sources, changes)

    def train_step(self, step: int, micro_batches: Iterable[MicroBatch]) -> StepResult:
        result = super().train_step(step, micro_batches)
        if self.ema:
            spec = self.config.ema
            self.ema.decay = spec.decay * (0.9 + 0.1 * min(1.0, self.epoch(step + 1) / max(spec.warmup_epochs, 1e-9)))
            self.ema.update(self.module)
        return result

    def averages(self) -> dict[str, Tensor]:
        """The averages of trained parameters, if there are any; those of buffers and frozen ones are the module's."""
        return {n: p for n, p in self.ema.module.named_parameters() if p.requires_grad} if self.ema else {}

    def state_dict(self, alone: bool = False) -> checkpoint.State:
        state = super().state_dict(alone)
        if state and self.ema:
            state["ema"] = {name: p.detach().to("cpu", copy=True) for name, p in self.averages().items()}
        return state

    def load_state_dict(self, state: checkpoint.State) -> None:
        super().load_state_dict(state)
        if state and (missing := [name for name in self.averages() if name not in state.get("ema", {})]):
            raise ValueError(f"ema lacks {missing[0]}: the checkpoint is of a run without averages")
        for name, p in self.averages().items():
            p.data.copy_(self.process.broadcast(state["ema"][name] if state else None, p.shape, p.dtype))
        if self.ema:
            for average, buffer in zip(self.ema.module.buffers(), self.module.buffers(), strict=True):
                average.copy_(buffer)


class LinearProbing(Classification[Probe]):
    """Trains a linear layer on a frozen encoder, whose batch norms first see clean images."""

    def __init__(self, config: Probe, process: Process):
        super().__init__(config, process, open_sources(config, process))
        if self.fresh:
            images = calibration(self.manifest, config.data, config.calibrate, config.train.seed, process.device)
            with self.engine.inference():
                recalibrate(self.module.encoder, (self.module.pixels(some) for some in images))


KINDS = {Finetune: Classifier, Probe: LinearProbe}


def build(config: Finetune | Probe, classes: int, labels: Tensor, source: Path | None = None) -> Classifier:
    """The module of a config, initialised from its seed on the default device, its encoder from `source` if given.

    Args:
        labels: (N,) int64 class of each image of the manifest.
        source: see `initialise`.
    Raises:
        ValueError: parts that do not fit each other, the image size or the source.
    """
    data, encoder = config.data, seeded_encoder(config, source)
    return KINDS[type(config)](encoder, config.head, config.augment, labels, classes, data.image)


def seeded_encoder(config: Finetune | Probe | Detect | Segment, source: Path | None) -> nn.Module:
    """Builds the encoder of a config from its seed, or from `source` if given; the next part goes on with that seed."""
    torch.manual_seed(config.train.seed)
    encoder = build_encoder(config.encoder, config.data)
    if source:
        initialise(encoder, source)
    encoder.grad_checkpointing = config.train.activation_checkpointing
    return encoder


def build_encoder(spec: Encoder, data: LabelledData) -> nn.Module:
    """An encoder for whole images, of which what they use is trained, tables of positions too."""
    # No image is masked: this is the one masking that an encoder of any kind can be built for.
    encoder = spec.build(data.image, UniformMasking(secondary=0.0))
    for name, parameter in encoder.named_parameters():
        last = name.rpartition(".")[2]
        if last in PRETRAINING_ONLY or last == "pos_embed":
            parameter.requires_grad_(last == "pos_embed")
    return encoder


def initialise(encoder: nn.Module, source: Path) -> None:
    """Gives an encoder the weights of a run's newest checkpoint, or of an exported encoder.

    Tables of positions are resized to the encoder's grid and windows; one table for all blocks becomes one in each
    where the encoder has those (microsoft/SimMIM, utils.py).

    Raises:
        ValueError: there are none, or names or shapes are others.
    """
    loaded = None
    if (source / "model.safetensors").is_file():
        try:
            given = read_tensors(source / "model.safetensors")
        except ValueError as error:
            raise ValueError(f"run.init: {shown(source / 'model.safetensors')}: {error}") from error
        if hasattr(encoder, "backbone") and not any(name.startswith("backbone.") for name in given):
            given = {f"backbone.{name}": tensor for name, tensor in given.items()}
        if "backbone.head.norm.weight" in encoder.state_dict():  # `norm_pre` where timm has the norm before pooling
            given = {name.replace("backbone.norm_pre.", "backbone.head.norm."): t for name, t in given.items()}
    else:
        loaded = open_weights(source, "run.init")  # of any config: tensors are compared below
        model = loaded.state["model"]
        given = {name.removeprefix("encoder."): t for name, t in model.items() if name.startswith("encoder.")}
    state, problems = fit(encoder, given)
    if problems:
        named = shown("; ".join(problems[:3]))
        if loaded:
            check_pretrained(loaded, source)
        raise ValueError(f"run.init: {shown(source)} has another encoder than this config ({named})")
    encoder.load_state_dict(state)


def fit(encoder: nn.Module, given: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Returns the state of an encoder with the weights of another one, see `initialise`, and what does not fit."""
    given, ours = dict(given), encoder.state_dict()
    if shared := [name for name in given if name.endswith(SHARED) and name not in ours]:
        table = given.pop(shared[0])
        given |= {name: table for name in ours if name.endswith(OWN)}
    problems = [f"{n} is not there" for n in ours if n not in given and n.rpartition(".")[2] not in PRETRAINING_ONLY]
    for name, tensor in given.items():
        if name.rpartition(".")[2] in PRETRAINING_ONLY:
            continue
        if name not in ours:
            problems.append(f"{name} has no place here")
        elif tensor.shape != ours[name].shape:
            resized = resize_table(name, tensor, ours[name].shape, encoder)
            if resized is None:
                problems.append(f"{name} is {tuple(tensor.shape)}, here {tuple(ours[name].shape)}")
            else:
                ours[name] = resized
        else:
            ours[name] = tensor
    return ours, problems


def count_classes(train: Manifest, test: Manifest, data: LabelledData) -> int:
    """Returns the number of classes.

    Raises:
        ValueError: images without labels, fewer than two classes, or others in the test images.
    """
    for manifest, root in ((train, data.root), (test, data.test)):
        if manifest.labels is None:
            raise ValueError(
                f"{root}: expected one folder for each class with its images in it, or a list file with the number of "
                "the class behind each path"
            )
    known, asked = class_folders(train), class_folders(test)
    if known and asked and (others := [i for i, name in asked.items() if known.get(i) != name]):
        raise ValueError(
            f"{data.test}: class {others[0]} is {asked[others[0]]!r} there and {known.get(others[0], 'none')!r} in "
            f"{data.root}: both need the same class folders"
        )
    if unknown := set(test.labels) - set(train.labels):
        raise ValueError(
            f"{data.test} has images of class {min(unknown)}, of which {data.root} has none: "
            "add some to data.root, or take those out of data.test"
        )
    if len(set(train.labels)) < 2:
        raise ValueError(f"{data.root}: expected at least two classes, found {len(set(train.labels))}")
    return max(train.labels) + 1


def class_folders(manifest: Manifest) -> dict[int, str] | None:
    """The folder that holds each class, or None if folders are not classes."""
    folders: dict[int, set[str]] = {}
    for path, label in zip(manifest.paths, manifest.labels, strict=True):
        folders.setdefault(label, set()).add(path.rpartition("/")[0].rpartition("/")[2])
    names = [name for some in folders.values() for name in some]
    if len(names) != len(folders) or len(set(names)) != len(names):
        return None
    return {label: name for label, (name,) in folders.items()}


def whole_images(manifest: Manifest, data: LabelledData, device: torch.device) -> Loader:
    """A loader of images as they are tested: `intact` batches of manifest indices."""
    crop = CenterCrop(data.crop_pct, interpolation=data.test_interpolation or data.crop.interpolation)
    plain = replace(data, crop=crop, flip=0.0, size=data.test_size or data.size)
    nothing = torch.empty(0, dtype=torch.int64)
    return open_loader(manifest, plain, 0, Quarantine(manifest, 0), nothing, device)


def calibration(
    manifest: Manifest, data: LabelledData, count: int, seed: int, device: torch.device
) -> Iterator[Tensor]:
    """`count` images of a manifest, or all but one, as they are tested, the same in every process; bad ones left out.

    Returns: (B, H, W, C) uint8, batch by batch.
    """
    index = split_held_out(len(manifest), min(count, len(manifest) - 1), seed)[1]
    with whole_images(manifest, data, device) as loader:
        for batch, _ in loader.intact_batches(index.split(PIECE)):
            if len(batch.images):
                yield batch.images.to(device)
