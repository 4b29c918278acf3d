"""The base class of downstream tasks: training whose result is a score on test images."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ..config.classify import Finetune, Probe
from ..config.detect import Detect
from ..config.segment import Segment
from ..data.loader import Changes, Loader
from ..data.manifest import Manifest
from ..data.quarantine import BadFilesError
from ..engine.process import Process
from ..host.files import write
from ..host.terminal import shown
from ..run import metrics
from ..run.console import duration
from ..run.meter import Meter
from .run_outputs import run_on_all
from .task import ModuleT, Task
from .training_set import TrainingSet

DownstreamT = TypeVar("DownstreamT", bound=Finetune | Probe | Detect | Segment)
BAD_TEST_FILES = "bad_test_files.jsonl"
_NAMED = 3  # bad files that a message names
_MANY = 5000  # test images whose check takes long enough to be announced


class Predictor(Protocol):
    """Module that predicts from images."""

    def predict(self, images: Tensor) -> Any:
        """Predicts from (B, H, W, C) uint8 images."""


class DownstreamTask(Task[DownstreamT, ModuleT]):
    """Task that is scored on test images.

    Args:
        config: config of the run.
        process: this process.
        training: images to train on.
        module: the network to train.
        test: lists the test images.
        changes: changes of training images besides crop and flip.

    Attributes:
        test: lists the test images.
        test_loader: loads the test images.
        bad: the reason for each test image that is left out, by path.
        scores: the latest scores, by name.
    """

    def __init__(
        self,
        config: DownstreamT,
        process: Process,
        training: TrainingSet,
        module: ModuleT,
        test: Manifest,
        changes: Changes | None = None,
    ):
        super().__init__(config, process, training, module, changes)
        self.test = test
        self.scores: dict[str, Any] = {}
        self.check_same_everywhere(test.hash, config.data.test)
        self.bad: dict[str, str] = {}
        self.test_loader = self.open_test_loader()
        if process.rank == 0 and len(self.test) > _MANY:
            print(f"checking the {len(self.test)} test images in {shown(config.data.test)}")
        indices = self.own_share(torch.arange(len(self.test)))
        self.leave_out(run_on_all(process, lambda: dict(self.find_unusable(indices))))
        self.notes += self.describe_left_out()

    @abstractmethod
    def open_test_loader(self) -> Loader:
        """Opens the loader of the test images."""

    @abstractmethod
    def score(self) -> tuple[dict[str, Any], dict[int, str]]:
        """Measures the scores on all test images, each counted once. Collective.

        Returns:
            The scores by name, and the reason for each image that this process left out, by index.
        """

    @abstractmethod
    def describe_scores(self) -> str:
        """Returns the latest scores in words."""

    def find_unusable(self, indices: Tensor) -> Iterator[tuple[int, str]]:
        """Yields (index, reason) of test images whose headers show that they cannot be used."""
        for index, _, reason in self.test_loader.headers(indices):
            if reason:
                yield index, reason

    def own_share(self, pieces: Any) -> Any:
        """Returns this process's share: every n-th piece for n processes."""
        return pieces[self.process.rank :: self.process.world]

    def forward_passes(self, pieces: int) -> int:
        """Returns the most forward passes of any process if all processes share `pieces`."""
        return -(-pieces // self.process.world)

    def join_forward_passes(self, module: Predictor, missing: int) -> None:
        """Takes part in the forward passes of processes with more images. Collective.

        Only ZeRO stage 3 needs this method, because every process holds a part of the weights.

        Args:
            module: the module that the other processes call.
            missing: number of forward passes that this process has not made.
        """
        if self.engine.stage != 3:
            return
        data = self.config.data
        shape = (1, *data.size, data.image.channels)
        for _ in range(missing):
            module.predict(torch.zeros(shape, dtype=torch.uint8, device=self.process.device))

    def origin_of_weights(self) -> str:
        """Returns the origin of the initial weights in words."""
        init, seed = self.config.run.init, self.config.train.seed
        return (
            f"encoder at first that of {init}, the rest initialised from {seed}" if init else f"initialised from {seed}"
        )

    def leave_out(self, bad: dict[int, str]) -> None:
        """Leaves the unusable test images of all processes out of the score. Collective.

        Args:
            bad: the reason for each image that this process cannot use, by index.

        Raises:
            BadFilesError: the fraction of bad images is above `data.bad_budget`, or all are bad.
        """
        every = self.process.gather(bad)
        found = {self.test.paths[index]: reason for some in every for index, reason in sorted(some.items())}
        data = self.config.data
        check_budget("data.test", data.test, found, len(self.test), data.bad_budget)
        self.bad = found

    def describe_left_out(self) -> list[str]:
        """Returns one line that names the test images left out, or no lines."""
        if not self.bad:
            return []
        named = "; ".join(f"{shown(path)}: {shown(reason)}" for path, reason in list(self.bad.items())[:_NAMED])
        more = f"; and {len(self.bad) - _NAMED} more" if len(self.bad) > _NAMED else ""
        return [f"{len(self.bad)} of {len(self.test)} test images are left out, in {BAD_TEST_FILES}: {named}{more}"]

    def evaluate(self, done: int, meter: Meter) -> None:
        """Measures the scores, logs them and writes the list of bad test images. Collective."""
        known = self.bad
        self.scores, bad = self.score()
        self.leave_out(bad)
        if self.process.rank:
            return
        meter.log_test(self.scores, self.describe_scores())
        if self.bad != known:
            for line in self.describe_left_out():
                meter.say(f"warning: {line}")
        lines = [json.dumps({"path": path, "reason": reason}) for path, reason in self.bad.items()]
        with meter.attempt(BAD_TEST_FILES):
            if lines:
                write(self.folder / BAD_TEST_FILES, "\n".join(lines) + "\n")
            else:
                (self.folder / BAD_TEST_FILES).unlink(missing_ok=True)

    def finish(self, meter: Meter) -> None:
        """Measures the final scores and writes result.json. Collective."""
        with self.outputs.make("the test score", meter):
            self.evaluate(self.total, meter)
            if self.process.rank == 0:
                self.write_result(meter)

    def write_result(self, meter: Meter) -> None:
        """Writes result.json with the scores and the cost of the run, and prints both."""
        hours, peak = metrics.training_cost(self.folder, self.config.train.global_batch)
        counted = len(self.test) - len(self.bad)
        result = self.scores | {
            "images": counted,
            "bad_images": len(self.bad),
            "hours": hours,
            "peak_bytes": peak,
            "processes": self.process.world,
            "updates": self.total,
            "parameters": sum(p.numel() for p in self.module.parameters()),
            "trained_parameters": self.parameters,
            "init": self.config.run.init,
            "test_manifest": self.test.hash,
        }
        write(self.folder / "result.json", json.dumps(result, indent=2) + "\n")
        took = f"{duration(hours * 3600)} of training, {peak / 2**30:.2f} GiB"
        others = f" ({len(self.bad)} bad left out)" if self.bad else ""
        meter.say(f"{self.describe_scores()} on {counted} images{others}; {took}: {self.folder / 'result.json'}")

    def close(self) -> None:
        """Ends the loaders' threads."""
        super().close()
        self.test_loader.close()

    def broadcast_buffers(self, module: nn.Module) -> None:
        """Copies the saved buffers of the first process's module to all processes. Collective.

        Batch norms without synchronised statistics differ between processes.
        """
        kept = module.state_dict().keys()
        for name, buffer in module.named_buffers():
            if name in kept:
                buffer.copy_(self.process.broadcast(buffer, buffer.shape, buffer.dtype))


def check_budget(field: str, folder: str, bad: Mapping[str, str], count: int, budget: float) -> None:
    """Checks that enough test images can be used.

    Args:
        field: the setting that names the folder.
        folder: the folder of the images.
        bad: the reason for each bad image, by path.
        count: number of images.
        budget: largest fraction of bad images, see `data.bad_budget`.

    Raises:
        BadFilesError: the fraction of bad images is above the budget, or all are bad.
    """
    if len(bad) <= budget * count and len(bad) < count:
        return
    path, reason = min(bad.items())
    more = f", more than data.bad_budget={budget}" if len(bad) < count else ""
    raise BadFilesError(
        f"{field}: {len(bad)} of {count} images in {shown(folder)} cannot be used{more}; the first is {shown(path)} "
        f"({shown(reason)}). Repair or remove them; `fastmim doctor` says what is wrong with each"
    )
