"""What runs share that are measured on test images: when that is done, and result.json. May import L3 and below."""

from __future__ import annotations

import json
from abc import abstractmethod
from typing import Any

from torch import nn

from .. import metrics
from ..config import Experiment
from ..data.manifest import Manifest
from ..engine import Process
from ..metrics import Meter
from .task import Task


class Tested(Task):
    """A run that is measured on images of their own.

    Attributes:
        test: these images; `build` sets it.
        scores: what was measured after `tested` updates.
    """

    test: Manifest

    def __init__(self, config: Experiment, process: Process):
        self.scores: dict[str, Any] = {}
        self.tested = -1
        super().__init__(config, process)
        self.same_everywhere(self.test.hash, config.data.test)

    @abstractmethod
    def score(self) -> dict[str, Any]:
        """What is measured on the test images, each of which counts once. Collective."""

    @abstractmethod
    def words(self) -> str:
        """`scores` for a person."""

    def evaluate(self, done: int, meter: Meter) -> None:
        self.scores, self.tested = self.score(), done
        meter.tested(self.scores, self.words())

    def finish(self, meter: Meter) -> None:
        """result.json: what was reached, and what it took."""
        if self.tested != self.total:
            self.scores, self.tested = self.score(), self.total
        if self.process.rank:
            return
        hours, peak = metrics.spent(self.folder, self.config.train.global_batch)
        result = self.scores | {
            "images": len(self.test),
            "hours": hours,
            "peak_bytes": peak,
            "processes": self.process.world,
            "updates": self.total,
            "parameters": sum(p.numel() for p in self.module.parameters()),
            "trained_parameters": self.parameters,
            "init": self.config.run.init,
            "test_manifest": self.test.hash,
        }
        metrics.replace(self.folder / "result.json", json.dumps(result, indent=2) + "\n")
        took = f"{metrics.duration(hours * 3600)} of training, {peak / 2**30:.2f} GiB"
        meter.say(f"{self.words()} on {len(self.test)} images; {took}: {self.folder / 'result.json'}")

    def share_statistics(self, module: nn.Module) -> None:
        """Gives a module on all processes the first one's buffers, which are saved too. Collective.

        Where batch norms do not share statistics, each process has its own.
        """
        kept = module.state_dict().keys()
        for name, buffer in module.named_buffers():
            if name in kept:
                buffer.copy_(self.engine.from_first(buffer, buffer.shape, buffer.dtype))
