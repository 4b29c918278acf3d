"""Trains a few real steps of a config, and measures times, losses and memory.

The loader and the engine are those of training. `run` trains in this process. `launch` trains in child processes: the
peak memory is then that of one config, and a lack of memory ends only a child.
"""

from __future__ import annotations

import json
import os
import re
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

import fastmim_kernels
from fastmim.config import base as config
from fastmim.config import config_file
from fastmim.config.overrides import override
from fastmim.engine.process import Process, init_distributed
from fastmim.host.command import lacks_memory
from fastmim.tasks.pretrain import Pretraining


@dataclass(frozen=True)
class Trial:
    """Results of the steps of one process.

    Attributes:
        device: "cpu" or "cuda".
        precision: precision of the engine.
        world: number of processes.
        batch: images per process per step.
        seconds: time of each timed step, with the wait for its images.
        waits: part of each step in which the device waited for images.
        losses: loss of every step, with the warm-up.
        peak: peak memory in bytes. On a GPU: allocated. On a CPU: resident above the memory before the model was built.
        trained: number of trained parameters of the whole model.
        frozen: number of frozen parameters of the whole model.
        images: size of the data set, without held-out images.
    """

    device: str
    precision: str
    world: int
    batch: int
    seconds: list[float]
    waits: list[float]
    losses: list[float]
    peak: int
    trained: int
    frozen: int
    images: int

    @property
    def images_per_second(self) -> float:
        """Images a second of all processes, from the median step."""
        return self.world * self.batch / statistics.median(self.seconds)

    @property
    def stall(self) -> float:
        """Share of the time spent waiting for images."""
        return sum(self.waits) / sum(self.seconds)


def load(path: str, settings: list[str]) -> config.Config:
    """Loads a config and applies settings.

    Args:
        path: the config's file.
        settings: `section.field=value`; the last one of a field counts.

    Raises:
        ValueError: the file or a setting is wrong, or the config is not one of pre-training.
    """
    words = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--set: expected section.field=value, got {setting!r}")
        words[name.replace("-", "_")] = [f"--{name}", *value.split(",")]
    cfg = override(config_file.load(path), [word for setting in words.values() for word in setting], prog="--set")
    if not isinstance(cfg, config.Config):
        raise ValueError(
            f"{path} is a {type(cfg).__name__}: expected a config of pre-training. The cost of other runs is in "
            "their result.json"
        )
    return cfg


def with_batch(cfg: config.Config, images: int) -> config.Config:
    """Returns the config with that many images an update."""
    return replace(cfg, train=replace(cfg.train, global_batch=images))


def synchronize(device: torch.device) -> None:
    """Waits until a GPU is done; does nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def resident() -> tuple[int, int]:
    """Returns the resident bytes of this process, now and at the peak since `reset_peak`; Linux only."""
    return status_bytes("VmRSS"), status_bytes("VmHWM")


def status_bytes(name: str) -> int:
    """Returns a figure of this process in /proc/self/status, in bytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"/proc/self/status has no {name}")
    return int(found[1]) * 1024


def reset_peak(device: torch.device) -> None:
    """Makes the present memory the peak."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")


def mark(device: torch.device) -> Any:
    """Returns a mark at the present point of the device's work: a time on a CPU, an event on a GPU."""
    if device.type == "cpu":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def between(start: Any, end: Any) -> float:
    """Returns the seconds from one mark to another, both of which a GPU must have passed."""
    return end - start if isinstance(start, float) else start.elapsed_time(end) / 1e3


def run(cfg: config.Config, process: Process, steps: int, warmup: int) -> Trial:
    """Trains `warmup` untimed and `steps` timed updates, without logs, pictures and checkpoints.

    The updates are those of train.py. On a GPU, times are measured between events in its queue. The host runs ahead as
    in training, so a wait for images counts only if the GPU is idle.

    Raises:
        ValueError: the config cannot run.
    """
    device = process.device
    reset_peak(device)
    before = resident()[0] if device.type == "cpu" else 0
    with tempfile.TemporaryDirectory() as folder:
        cfg = replace(cfg, run=replace(cfg.run, dir=folder, evaluate_every=0))
        task = Pretraining(cfg, process)
        try:
            micro_batches = task.batches(0, warmup + steps)
            starts, ready, losses = [], [], []
            for step in range(warmup + steps):
                starts.append(mark(device))
                images = [next(micro_batches) for _ in range(task.engine.accumulation)]
                ready.append(mark(device))
                losses.append(task.train_step(step, images).loss)
            starts.append(mark(device))
            synchronize(device)
        finally:
            task.close()
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident()[1] - before
        parameters = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in task.mim.parameters()]
        return Trial(
            device=device.type,
            precision=task.engine.precision,
            world=process.world,
            batch=task.engine.micro_batch * task.engine.accumulation,
            seconds=[between(*pair) for pair in zip(starts[warmup:], starts[warmup + 1 :], strict=False)],
            waits=[between(*pair) for pair in zip(starts[warmup:], ready[warmup:], strict=False)],
            losses=[loss.item() for loss in losses],
            peak=peak,
            trained=sum(count for count, trained in parameters if trained),
            frozen=sum(count for count, trained in parameters if not trained),
            images=task.images,
        )


def launch(
    path: str, settings: list[str], ranks: int, steps: int, warmup: int, limit: int | None = None
) -> list[Trial] | None:
    """Calls `run` in new processes, several of them under DeepSpeed's launcher.

    Args:
        path: the config's file.
        settings: `section.field=value`, as for `load`.
        ranks: number of processes.
        steps: timed updates.
        warmup: untimed updates before them.
        limit: largest peak memory of a process in bytes, counted as `Trial.peak`.

    Returns:
        One trial per rank, or None if memory ran out.

    Raises:
        ValueError: a child refused the config or failed. The message has the reason, or the end of the child's output.
    """
    with tempfile.TemporaryDirectory() as folder:
        task = {"path": path, "settings": settings, "steps": steps, "warmup": warmup, "limit": limit, "folder": folder}
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = str(free.getsockname()[1])
        launcher = ["deepspeed.launcher.runner", "--num_accelerators", str(ranks), "--master_port", port]
        words = [*launcher, "--no_local_rank", "--module"] if ranks > 1 else []
        command = [sys.executable, "-m", *words, "bench.step.trial", json.dumps(task)]
        # An earlier run in this process has set its own rank there.
        environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
        child = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        said = child.stdout + child.stderr
        if child.returncode == 0:
            results = sorted(Path(folder).glob("rank*.json"), key=lambda p: int(p.stem.removeprefix("rank")))
            trials = [Trial(**json.loads(result.read_text())) for result in results]
            return None if limit and max(trial.peak for trial in trials) > limit else trials
        # Killed by the kernel (-9), or aborted by a library whose allocator cannot raise in Python (-6).
        killed = child.returncode in (-9, -6) or re.search(r"return code = -[96]\b", said)
        if (Path(folder) / "out_of_memory").exists() or (killed and limit):
            return None
        if (refused := Path(folder) / "refused").exists():
            raise ValueError(f"{path}: {refused.read_text()}")
        raise ValueError("\n".join([f"{path} {' '.join(settings)} failed:", *said.strip().splitlines()[-15:]]))


def set_limit(limit: int, device: torch.device) -> None:
    """Limits this process, so that an allocation far beyond `limit` bytes fails."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), device)
        return
    # The system counts reserved memory, used or not, hence the margin. `launch` compares the peak with the limit.
    resource.setrlimit(resource.RLIMIT_DATA, (status_bytes("VmData") + limit + 2**31, resource.RLIM_INFINITY))


def main(task: dict) -> None:
    """Runs a child of `launch`."""
    cfg = load(task["path"], task["settings"])
    fastmim_kernels.use_reference(cfg.train.kernels == "reference")
    process, folder = init_distributed(cfg.train.device), Path(task["folder"])
    if task["limit"]:
        set_limit(task["limit"], process.device)
    try:
        trial = run(cfg, process, task["steps"], task["warmup"])
    except ValueError as error:
        (folder / "refused").write_text(str(error))
        raise
    except (RuntimeError, MemoryError) as error:
        if not lacks_memory(error):
            raise
        (folder / "out_of_memory").touch()
        os._exit(1)  # a regular exit would wait for the other ranks, which wait for this one
    (folder / f"rank{process.rank}.json").write_text(json.dumps(asdict(trial)))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
