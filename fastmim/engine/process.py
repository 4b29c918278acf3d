"""The processes of a run: their meeting, and the values that they exchange."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import HashStore

from fastmim_kernels import keep_freed_memory

from ..host.launcher import START, launched, share_of_cores

T = TypeVar("T")

_LAST_PORT = 65535


@dataclass(frozen=True)
class Process:
    """Place of a process in the run, and its exchanges with the other processes.

    Every method is collective: all processes call it at the same time.

    Attributes:
        rank: number of the process, from 0.
        world: number of processes in the run.
        local_rank: number of the process on its machine, from 0.
        device: device that the process trains on.
    """

    rank: int
    world: int
    local_rank: int
    device: torch.device

    def reduce_sum(self, value: Tensor) -> Tensor:
        """Returns the sum of a tensor over all processes; integers wrap around."""
        value = value.detach().to(self.device, copy=True)
        if self.world > 1:
            dist.all_reduce(value)
        return value

    def reduce_mean(self, value: Tensor) -> Tensor:
        """Returns the mean of a tensor over all processes."""
        return self.reduce_sum(value) / self.world

    def broadcast(self, value: Tensor | None, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Returns rank 0's tensor on every process.

        Args:
            value: the tensor on rank 0; ignored on other ranks.
            shape: shape of the tensor.
            dtype: type of the result.
        """
        if self.rank == 0:
            assert value is not None
            received = value.to(self.device, dtype).contiguous()
        else:
            received = torch.empty(shape, dtype=dtype, device=self.device)
        if self.world > 1:
            dist.broadcast(received, 0)
        return received

    def broadcast_number(self, number: float) -> float:
        """Returns rank 0's number on every process. The argument of other ranks is ignored."""
        return self.broadcast(torch.tensor(number, dtype=torch.float64), torch.Size(), torch.float64).item()

    def gather(self, value: T) -> list[T]:
        """Returns every process's object, by rank."""
        if self.world == 1:
            return [value]
        gathered: list[Any] = [None] * self.world
        dist.all_gather_object(gathered, value)
        return gathered


def init_distributed(device: str = "auto", deterministic: bool = False) -> Process:
    """Joins the processes that the launcher started, or makes a run of one process.

    The launcher is `deepspeed`, `torchrun`, or any program that sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
    MASTER_PORT.

    Args:
        device: "auto" (a GPU if there is one), "cpu" (gloo) or "cuda" (nccl).
        deterministic: True for bit-identical GPU runs; CPU runs always are.

    Raises:
        ValueError: there is no GPU for "cuda", the processes do not meet, or a variable holds no number.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("train.device is cuda, but torch sees no GPU: use train.device=cpu or auto")
    cuda = device != "cpu" and torch.cuda.is_available()
    os.environ["DS_ACCELERATOR"] = "cuda" if cuda else "cpu"  # DeepSpeed reads this variable once, on import
    if deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS reads this variable when it starts
        torch.use_deterministic_algorithms(True)
    import deepspeed

    # DeepSpeed calls deprecated functions of torch. A user who trains can do nothing about the warning.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    # DeepSpeed would compile a shared-memory collective here (a minute, and a compiler), which only inference needs.
    deepspeed.ops.__dict__["__compatible_ops__"] = {"deepspeed_shm_comm": False}
    if not dist.is_initialized():  # an earlier run in this process set the variables itself
        check_launch()
    alone = "RANK" not in os.environ or "WORLD_SIZE" not in os.environ
    if alone:  # DeepSpeed searches for MPI if these variables are missing
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
        # A single process keeps its store in memory. So it needs no port, which another run could hold.
        store: dict[str, Any] = {"store": HashStore(), "rank": 0, "world_size": 1} if alone else {}
        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", **store)
        except RuntimeError as error:
            where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
            cause = "that port is taken (EADDRINUSE)" if "EADDRINUSE" in str(error) else "not all of them arrived"
            raise ValueError(
                f"expected {world} processes to meet at {where}, but {cause}: start all of them, or name another port "
                "(deepspeed --master_port, torchrun --rdzv-endpoint)"
            ) from error
    deepspeed.init_distributed("nccl" if cuda else "gloo", verbose=False)
    return Process(rank, world, local_rank, torch.device("cuda", local_rank) if cuda else torch.device("cpu"))


def check_launch() -> None:
    """Checks the environment variables by which processes meet.

    Raises:
        ValueError: the variables contradict each other, or do not describe a process of a run.
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
