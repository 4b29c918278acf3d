"""The processes of a run: how they find each other. May import torch, deepspeed, engine and terminal."""

from __future__ import annotations

import os
import warnings

import torch
import torch.distributed as dist

from fastmim_kernels import keep_freed_memory

from ..host.launcher import START, launched, share_of_cores
from .engine import Process

_LAST_PORT = 65535


def init_distributed(device: str = "auto", deterministic: bool = False) -> Process:
    """Joins the processes of the launcher (`deepspeed`, `torchrun`, or RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
    MASTER_PORT in the environment), or makes a run of one process when there is none.

    Args:
        device: "auto" (a GPU if there is one), "cpu" (gloo) or "cuda" (nccl).
        deterministic: bit-identical GPU runs; a CPU always gives them.
    Raises:
        ValueError: "cuda" was asked for and there is no GPU, the processes do not meet, or a number
            in the environment is none.
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
    alone = "RANK" not in os.environ or "WORLD_SIZE" not in os.environ
    if alone:  # DeepSpeed looks these up, and searches for MPI when they are missing
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    os.environ.setdefault("LOCAL_RANK", "0")
    rank, world, local_rank = launched("RANK", 0) or 0, launched("WORLD_SIZE", 1) or 1, launched("LOCAL_RANK", 0) or 0
    if cuda:
        torch.cuda.set_device(local_rank)
    else:
        keep_freed_memory()
        if world > 1 and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(share_of_cores())
    if not dist.is_initialized():
        # One process keeps its store in memory: no port that another run could hold.
        store = {"store": dist.HashStore(), "rank": 0, "world_size": 1} if alone else {}
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
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "MASTER_PORT")
    numbers = {name: number for name in names if (number := launched(name, 0)) is not None}
    if (port := numbers.get("MASTER_PORT", 0)) > _LAST_PORT:
        raise ValueError(f"MASTER_PORT={port} in the environment: expected at most {_LAST_PORT}: {START}")
    given = [name for name in ("RANK", "WORLD_SIZE") if name in os.environ]
    if not given:
        return
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise ValueError(f"{name} in the environment: expected a value beside {given[0]}, got none: {START}")
    if numbers["RANK"] >= numbers["WORLD_SIZE"]:
        raise ValueError(
            f"RANK={numbers['RANK']} in the environment: expected less than WORLD_SIZE={numbers['WORLD_SIZE']}: {START}"
        )
