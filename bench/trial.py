"""A few real training steps of a config: real loader, real engine, nothing else. Times, waits, losses, peak memory.

`run` does it in this process; `launch` in child processes, so that memory is that of one config, and running out of it
ends a child only. May import fastmim.
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

import torch

import fastmim_kernels
from fastmim.config import base as config
from fastmim.config.overrides import override
from fastmim.engine.process import Process, init_distributed
from fastmim.host.command import lacks_memory
from fastmim.tasks.pretrain import Pretraining


@dataclass(frozen=True)
class Trial:
    """Results of the steps of one process."""

    device: str
    """"cpu" or "cuda"."""
    precision: str
    world: int
    batch: int
    """Images per process per step."""
    seconds: list[float]
    """Of each timed step, waiting for its images included."""
    waits: list[float]
    """Part of it in which the device had nothing to do because the images were not there."""
    losses: list[float]
    """Of every step, warm-up included."""
    peak: int
    """Peak bytes: allocated on a GPU; on a CPU, resident beyond what the process had before it built the model."""
    trained: int
    """Parameters that are trained, of the whole model."""
    frozen: int
    images: int
    """Of the data set, without those held out."""

    @property
    def images_per_second(self) -> float:
        return self.world * self.batch / statistics.median(self.seconds)

    @property
    def stall(self) -> float:
        """Share of the time spent waiting for images."""
        return sum(self.waits) / sum(self.seconds)


def load(path: str, settings: list[str]) -> config.Config:
    """A config with `section.field=value` settings.

    Raises:
        ValueError: see `config.load`, `overrides.override`; a setting without "="; or not a config of pre-training.
    """
    words = {}  # the last one counts
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--set: expected section.field=value, got {setting!r}")
        words[name.replace("-", "_")] = [f"--{name}", *value.split(",")]
    cfg = config.load(path)
    if not isinstance(cfg, config.Config):
        raise ValueError(
            f"{path} is a {type(cfg).__name__}: expected a config of pre-training; what another run took is in its "
            "result.json"
        )
    return override(cfg, [word for setting in words.values() for word in setting], prog="--set")


def with_batch(cfg: config.Config, images: int) -> config.Config:
    """The config with that many images an update."""
    return replace(cfg, train=replace(cfg.train, global_batch=images))


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def resident() -> tuple[int, int]:
    """Bytes of this process in memory now, and the most there have been since `forget_peak` (Linux)."""
    status = Path("/proc/self/status").read_text()
    return tuple(int(re.search(rf"{name}:\s+(\d+)", status)[1]) * 1024 for name in ("VmRSS", "VmHWM"))


def forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is resident now


def mark(device: torch.device) -> float | torch.cuda.Event:
    """A moment in the device's work."""
    if device.type == "cpu":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def between(start: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
    """Seconds from one mark to another; a GPU must have passed both."""
    return end - start if isinstance(start, float) else start.elapsed_time(end) / 1e3


def run(cfg: config.Config, process: Process, steps: int, warmup: int) -> Trial:
    """Trains `warmup` untimed and `steps` timed updates, as train.py does, without logs, pictures and checkpoints.

    On a GPU times are between events in its queue: the host runs ahead as in training, and a wait counts only where
    the GPU has run dry.

    Raises:
        ValueError: the config cannot run; see `Pretraining`.
    """
    device = process.device
    forget_peak(device)
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
    """`run` on new processes, more than one under DeepSpeed's launcher.

    Args:
        limit: bytes that each may use: on a GPU altogether, on a CPU beyond what it has before it builds the model.
    Returns: one Trial a rank; None if memory ran out.
    Raises:
        ValueError: a child refused the config, and why; or failed otherwise, with the end of what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        task = {"path": path, "settings": settings, "steps": steps, "warmup": warmup, "limit": limit, "folder": folder}
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = str(free.getsockname()[1])
        launcher = ["deepspeed.launcher.runner", "--num_accelerators", str(ranks), "--master_port", port]
        words = [*launcher, "--no_local_rank", "--module"] if ranks > 1 else []
        command = [sys.executable, "-m", *words, "bench.trial", json.dumps(task)]
        # A run of one process in this one has left its place there.
        environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
        child = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        said = child.stdout + child.stderr
        if child.returncode == 0:
            results = sorted(Path(folder).glob("rank*.json"), key=lambda p: int(p.stem.removeprefix("rank")))
            trials = [Trial(**json.loads(result.read_text())) for result in results]
            return None if limit and max(trial.peak for trial in trials) > limit else trials
        # By the kernel (-9), or by a library whose allocator cannot say so in Python (-6).
        killed = child.returncode in (-9, -6) or re.search(r"return code = -[96]\b", said)
        if (Path(folder) / "out_of_memory").exists() or (killed and limit):
            return None
        if (refused := Path(folder) / "refused").exists():
            raise ValueError(f"{path}: {refused.read_text()}")
        raise ValueError("\n".join([f"{path} {' '.join(settings)} failed:", *said.strip().splitlines()[-15:]]))


def set_limit(limit: int, device: torch.device) -> None:
    """Makes an allocation that would take this process far beyond `limit` bytes fail."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), device)
        return
    # Counts what was asked for, used or not: a rail for the machine's sake. The limit itself is held to the peak.
    data = int(re.search(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (data + limit + 2**31, resource.RLIM_INFINITY))


def main(task: dict) -> None:
    """A child of `launch`."""
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
        os._exit(1)  # at once: the other ranks wait for this one
    (folder / f"rank{process.rank}.json").write_text(json.dumps(asdict(trial)))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
