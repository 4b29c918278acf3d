"""Runs of fastmim/train.py on CPUs: in this process, in forks, or under the launcher."""

import contextlib
import faulthandler
import functools
import gc
import io
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path
from subprocess import CompletedProcess
from unittest import mock

import torch

import fastmim_kernels
from tests.methods.tiny import ROOT

SCRIPT = str(ROOT / "fastmim/train.py")
# One thread, because the order of sums, and so the last bit, depends on the number of threads.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"}
# Modules that DeepSpeed imports at ZeRO 1 to 3. Muon, which no run uses, imports torch.compile: two seconds.
ZERO = [f"deepspeed.runtime.zero.{name}" for name in ("muon.muon_optimizer", "stage_1_and_2", "stage3")]
PATIENCE = 1800  # seconds; a busy machine is slow


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Sets one thread inside, and restores the state of this process that a run changes."""
    environment, threads, reference = dict(os.environ), torch.get_num_threads(), fastmim_kernels.using_reference()
    linear = torch.nn.functional.linear  # at ZeRO 3 DeepSpeed replaces it by a function that rounds differently
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    torch.set_num_threads(1)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        torch.set_num_threads(threads)
        fastmim_kernels.use_reference(reference)
        torch.nn.functional.linear = linear
        for number, handler in handlers.items():
            signal.signal(number, handler)
        gc.collect()  # closes the lock of the run folder


@functools.cache
def _main() -> Callable:
    """Imports train.py once.

    The garbage collector then ignores all imported objects, whose scan would cost time after every run.
    """
    import deepspeed  # noqa: F401 - a run imports it

    from fastmim.train import main

    gc.collect()
    gc.freeze()
    return main


def train(words: list[str], check: bool = True) -> CompletedProcess:
    """Trains in this process.

    Args:
        words: config and settings, as on the command line.
        check: True if the run must succeed.
    """
    main = _main()
    output, errors, code = io.StringIO(), io.StringIO(), 0
    with restored(), contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            main([*words, "--train.device", "cpu"])
        except SystemExit as error:
            code = error.code or 0
            if isinstance(code, str):
                print(code, file=sys.stderr)
                code = 1
    done = CompletedProcess(words, code, output.getvalue(), errors.getvalue())
    assert not check or code == 0, done.stdout + done.stderr
    return done


def refusal(words: list[str]) -> str:
    """Runs a command that must be refused; returns its only line."""
    done = train(words, check=False)
    assert done.returncode == 2 and done.stderr.startswith("train.py: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@functools.cache
def _forks() -> multiprocessing.context.ForkServerContext:
    """Starts a process whose forks have all imports that training needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "fastmim.train", *ZERO, "tests.train.launched"])
    with mock.patch.dict(os.environ, ENVIRONMENT):
        forkserver.ensure_running()
    return context


def _run_rank(output: Path, environment: dict[str, str], call: Callable, *arguments) -> None:
    with open(output, "w") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    faulthandler.dump_traceback_later(0.9 * PATIENCE)  # shows where a rank waits before it is killed
    os.environ.update(environment)
    torch.set_num_threads(1)
    gc.freeze()  # DeepSpeed collects garbage often
    call(*arguments)


class Forks:
    """The ranks of one call, each in a fork. A context manager, which kills the forks on leaving.

    Args:
        folder: folder of each rank's output.
        ranks: number of forks. A single fork has no environment of a launcher.
        call: function that each fork calls.
        arguments: arguments of the function.

    Attributes:
        ranks: the processes.
        outputs: file of each rank's output.
    """

    def __init__(self, folder: Path, ranks: int, call: Callable, *arguments):
        folder.mkdir(parents=True, exist_ok=True)
        # As with torchrun, this process keeps the store, at a free port that the system chooses.
        self._store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self._store.port), "WORLD_SIZE": str(ranks)}
        shared |= {"TORCHELASTIC_USE_AGENT_STORE": "True"}
        self.outputs, self.ranks = [folder / f"rank{rank}.txt" for rank in range(ranks)], []
        for rank, output in enumerate(self.outputs):
            own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {}
            process = _forks().Process(target=_run_rank, args=(output, own, call, *arguments))
            process.start()
            self.ranks.append(process)

    def __enter__(self) -> "Forks":
        return self

    def __exit__(self, *_) -> None:
        for process in self.ranks:
            process.kill()
            process.join()

    def wait(self) -> list[int]:
        """Waits until all forks have ended; returns their exit codes."""
        deadline = time.monotonic() + PATIENCE
        for process in self.ranks:
            process.join(max(0, deadline - time.monotonic()))
        return [process.exitcode for process in self.ranks]

    def check(self) -> None:
        """Waits until all forks have ended, and checks that none has failed."""
        assert self.wait() == [0] * len(self.ranks), "\n".join(path.read_text() for path in self.outputs)


def _train_rank(words: list[str]) -> None:
    _main()(words)


def train_on_two(words: list[str], folder: Path) -> None:
    """Trains in two processes; `folder` gets their output."""
    with Forks(folder, 2, _train_rank, [*words, "--train.device", "cpu"]) as forks:
        forks.check()


def start(words: list[str], ranks: int = 0, **options) -> subprocess.Popen:
    """Starts train.py as a person does: one process, or `ranks` under DeepSpeed's launcher."""
    launcher = []
    if ranks:
        launcher = ["-m", "deepspeed.launcher.runner", "--num_accelerators", str(ranks), "--master_port", free_port()]
    return subprocess.Popen([sys.executable, *launcher, SCRIPT, *words], env=os.environ | ENVIRONMENT, **options)


@contextlib.contextmanager
def launch(words: list[str], ranks: int, output: Path, begun: Callable[[], bool]) -> Iterator[subprocess.Popen]:
    """Starts ranks under DeepSpeed's launcher, and kills them on leaving.

    A taken port is tried again, three times in all.

    Args:
        words: config and settings, as on the command line.
        ranks: number of ranks.
        output: file of all output.
        begun: function that returns True once the run has begun.
    """
    for _ in range(3):
        with open(output, "w") as file:
            launcher = start(words, ranks, stdout=file, stderr=subprocess.STDOUT)
        try:
            wait_for(lambda: begun() or launcher.poll() is not None)  # noqa: B023 - called in this turn only
            if begun():
                yield launcher
                return
        finally:
            launcher.kill()
            launcher.wait()
        if "EADDRINUSE" not in output.read_text():
            break
    raise AssertionError(output.read_text())


def free_port() -> str:
    """Returns a port that is free at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


def wait_for(condition: Callable[[], bool]) -> None:
    """Waits until the condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def result(run: Path) -> dict:
    """Returns the content of a finished run's result.json."""
    return json.loads((run / "result.json").read_text())


def rows(run: Path) -> list[dict]:
    """Returns the rows of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
