"""The base of runs that are measured on test images, and result.json. May import L3 and below."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

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
from .task import ConfigT, ModuleT, Task
from .training_set import TrainingSet

BAD = "bad_test_files.jsonl"
_NAMED = 3
_MANY = 5000  # test images; to look at more takes long enough to be said


class Tested(Task[ConfigT, ModuleT]):
    """A run that is measured on test images.

    Attributes:
        test: the test images.
        test_loader: loads them.
        bad: why each test image that cannot be used is left out, by path.
        scores: what was measured last.
    """

    def __init__(
        self,
        config: ConfigT,
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
            print(f"looking at the {len(self.test)} test images in {shown(config.data.test)}")
        bad = run_on_all(process, lambda: dict(self.unusable(self.share(torch.arange(len(self.test))))))
        self.leave_out(bad)
        self.notes += self.left_out()

    @abstractmethod
    def open_test_loader(self) -> Loader:
        """Opens the loader of the test images."""

    @abstractmethod
    def score(self) -> tuple[dict[str, Any], dict[int, str]]:
        """Measures on the test images, each of which counts once. Collective.

        Returns: the scores, and why each image that this process had to leave out, by index, cannot be used.
        """

    @abstractmethod
    def words(self) -> str:
        """`scores` for a person."""

    def unusable(self, indices: torch.Tensor) -> Iterator[tuple[int, str]]:
        """Yields the test images that cannot be used, as far as that can be seen without decoding, and why."""
        for index, _, reason in self.test_loader.headers(indices):
            if reason:
                yield index, reason

    def share(self, pieces: Any) -> Any:
        """Every n-th part, n the number of processes: this process's."""
        return pieces[self.process.rank :: self.process.world]

    def leave_out(self, bad: dict[int, str]) -> None:
        """Notes the test images that all processes have to leave out. Collective.

        Raises:
            BadFilesError: they are more than `data.bad_budget` of all, or all.
        """
        every = self.process.gather(bad)
        found = {self.test.paths[index]: reason for some in every for index, reason in sorted(some.items())}
        data = self.config.data
        check_budget("data.test", data.test, found, len(self.test), data.bad_budget)
        self.bad = found

    def left_out(self) -> list[str]:
        """Says which test images are left out, in a line or none."""
        if not self.bad:
            return []
        named = "; ".join(f"{shown(path)}: {shown(reason)}" for path, reason in list(self.bad.items())[:_NAMED])
        more = f"; and {len(self.bad) - _NAMED} more" if len(self.bad) > _NAMED else ""
        return [f"{len(self.bad)} of {len(self.test)} test images are left out, in {BAD}: {named}{more}"]

    def evaluate(self, done: int, meter: Meter) -> None:
        known = self.bad
        self.scores, bad = self.score()
        self.leave_out(bad)
        if self.process.rank:
            return
        meter.log_test(self.scores, self.words())
        if self.bad != known:
            for line in self.left_out():
                meter.say(f"warning: {line}")
        lines = [json.dumps({"path": path, "reason": reason}) for path, reason in self.bad.items()]
        with meter.attempt(BAD):
            if lines:
                write(self.folder / BAD, "\n".join(lines) + "\n")
            else:
                (self.folder / BAD).unlink(missing_ok=True)

    def finish(self, meter: Meter, export: Callable[[], str] | None = None) -> None:
        """Writes result.json: the scores and what they took."""
        with self.outputs.make("the test score", meter):
            self.evaluate(self.total, meter)
            if self.process.rank == 0:
                self.write_result(meter)

    def write_result(self, meter: Meter) -> None:
        """Writes result.json and says what was reached."""
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
        meter.say(f"{self.words()} on {counted} images{others}; {took}: {self.folder / 'result.json'}")

    def close(self) -> None:
        super().close()
        self.test_loader.close()

    def share_statistics(self, module: nn.Module) -> None:
        """Gives a module on all processes the first one's buffers, which are saved too. Collective.

        Where batch norms do not share statistics, each process has its own.
        """
        kept = module.state_dict().keys()
        for name, buffer in module.named_buffers():
            if name in kept:
                buffer.copy_(self.process.broadcast(buffer, buffer.shape, buffer.dtype))


def check_budget(field: str, folder: str, bad: Mapping[str, str], count: int, budget: float) -> None:
    """Checks that enough of the images that are measured can be used.

    Args:
        field: the setting that names the folder.
        folder: the folder of the images.
        bad: why images cannot be used, by path.
        count: images in all.
        budget: `data.bad_budget`.

    Raises:
        BadFilesError: more than the budget are bad, or all.
    """
    if len(bad) <= budget * count and len(bad) < count:
        return
    path, reason = min(bad.items())
    more = f", more than data.bad_budget={budget}" if len(bad) < count else ""
    raise BadFilesError(
        f"{field}: {len(bad)} of {count} images in {shown(folder)} cannot be used{more}; the first is {shown(path)} "
        f"({shown(reason)}). Repair or remove them; `fastmim doctor` says what is wrong with each"
    )
