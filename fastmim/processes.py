"""The processes of a run: how they find each other. May import torch, deepspeed, engine and terminal."""

from __future__ import annotations

import os
import warnings

import torch
import torch.distributed as dist

from fastmim_kernels import keep_freed_memory

from .engine import Process
from .terminal import shown

_LAST_PORT = 65535
_DIGITS = 10  # of a number that a launcher sets, at most


def init_distributed(device: str = "auto", deterministic: bool = False) -> Process:
    """Joins the processes of the launcher (`deepspeed`, `torchrun`, or RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
    MASTER_PORT in the environment), or makes a run of one process when there is none.

    Args:
        device: "auto" (a GPU if there is one), "cpu" (gloo) or "cuda" (nccl).
        deterministic: bit-identical GPU runs; a CPU always gives them.
    Raises:
        ValueError: "cuda" was asked for and there is no GPU, or the processes do not meet.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("train.device is cuda, but torch sees no GPU: use train.device=cpu or auto")
    cuda = device != "cpu" and torch.cuda.is_available()
    os.environ["DS_ACCELERATOR"] = "cuda" if cuda else "cpu"  # DeepSpeed reads it once, on import
    if deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS reads it when it starts
        torch.use_deterministic_algorithms(True)
    import deepspeed

    # DeepSpeed calls functions of torch that will go; that is for DeepSpeed to mend, not for who trains.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    # DeepSpeed would compile a shared-memory collective here (a minute, and a compiler), which only inference uses.
    deepspeed.ops.__compatible_ops__ = {"deepspeed_shm_comm": False}
    if not dist.is_initialized():  # an earlier run in this process has set the variables itself
        check_launch()
    launched = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    if not launched:  # DeepSpeed looks these up, and searches for MPI when they are missing
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_rank = int(os.environ.setdefault("LOCAL_RANK", "0"))
    if cuda:
        torch.cuda.set_device(local_rank)
    else:
        keep_freed_memory()
        if world > 1 and "OMP_NUM_THREADS" not in os.environ:
            local_world = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or world)
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_world))
    if not dist.is_initialized():
        # One process keeps its store in memory: no port that another run could hold.
        store = {} if launched else {"store": dist.HashStore(), "rank": 0, "world_size": 1}
        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", **store)
        except RuntimeError as error:
            where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
            cause = "that port is taken (EADDRINUSE)" if "EADDRINUSE" in str(error) else "not all came"
            raise ValueError(
                f"expected {world} processes to meet at {where}, but {cause}: start all of them, or name another port "
                "(deepspeed --master_port, torchrun --rdzv-endpoint)"
            ) from error
    deepspeed.init_distributed("nccl" if cuda else "gloo", verbose=False)
    return Process(rank, world, local_rank, torch.device("cuda", local_rank) if cuda else torch.device("cpu"))


def check_launch() -> None:
    """Checks the variables of the environment by which processes meet.

    Raises:
        ValueError: they describe no process of a run.
    """
    start = "start with torchrun or deepspeed, or unset RANK and WORLD_SIZE for a run of one process"
    numbers = {}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "MASTER_PORT"):
        text = os.environ.get(name, "")
        if text and not (text.isascii() and text.isdigit() and len(text) < _DIGITS):
            raise ValueError(f"{name} in the environment: expected a whole number, got {shown(text)}: {start}")
        if text:
            numbers[name] = int(text)
    if (port := numbers.get("MASTER_PORT", 0)) > _LAST_PORT:
        raise ValueError(f"MASTER_PORT={port} in the environment: expected at most {_LAST_PORT}: {start}")
    given = [name for name in ("RANK", "WORLD_SIZE") if name in os.environ]
    if not given:
        return
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise ValueError(f"{name} in the environment: expected a value beside {given[0]}, got none: {start}")
    if numbers["RANK"] >= numbers["WORLD_SIZE"]:
        raise ValueError(
            f"RANK={numbers['RANK']} in the environment: expected less than WORLD_SIZE={numbers['WORLD_SIZE']}: {start}"
        )
