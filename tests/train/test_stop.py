"""Tests that a signal or a vanished launcher stops every rank after the same update, with status 0."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from torch import distributed as dist

from fastmim.run.stop import Stop
from tests.train.launched import ENVIRONMENT, PATIENCE, Forks, wait_for

RANK = """
import os, sys, time
from fastmim.run.stop import Stop
class Saved:
    def updates(self):
        return 0, 0
stop, began, waited = Stop(), time.monotonic(), False
stop.watch(Saved())
print(os.getpid(), flush=True)
for step in range(60_000):
    time.sleep(0.01)
    if reason := stop.poll():
        break
    if not waited and time.monotonic() > began + 2.2:
        waited = True
        print("still running", flush=True)
stop.close()
with open(os.path.join(sys.argv[1], "reason"), "w") as file:
    file.write(reason)
"""

# The shape of DeepSpeed's chain: `deepspeed` starts `launch`, which starts the ranks and waits for them.
LAUNCH = "import subprocess, sys\nsys.exit(subprocess.Popen([sys.executable, *sys.argv[1:]]).wait())\n"


class Half:
    """A run that has done two updates and saved one. It can save now if `can` is True."""

    def __init__(self, can: bool = True):
        self.number, self.can = 1, can

    def updates(self):
        return 2, self.number

    def can_save(self):
        return self.can

    def save_now(self):
        self.number = 2


def signalled(number: int, times: int, file: Path) -> None:
    """Sends itself a signal several times, and writes the reason to stop to a file."""
    before = signal.getsignal(number)
    stop = Stop()
    stop.watch(Half())
    for _ in range(times):
        signal.raise_signal(number)
    file.write_text(stop.poll())
    stop.close()
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("name, times", [("SIGTERM", 20), ("SIGINT", 1), ("SIGUSR1", 3)])
def test_signal(tmp_path, name, times):
    with Forks(tmp_path, 1, signalled, getattr(signal, name), times, tmp_path / "reason") as forks:
        forks.check()
    assert (tmp_path / "reason").read_text() == name and forks.outputs[0].read_text() == ""


def blocked(numbers: tuple[int, ...], rescue: Half | None) -> None:
    """Gets signals while the main thread waits in a system call, which Python restarts after each signal."""
    stop = Stop()
    if rescue:
        stop.watch(rescue)
    for number in numbers:
        signal.raise_signal(number)
    os.read(os.pipe()[0], 1)


@pytest.mark.parametrize(
    "numbers, rescue, status, words",
    [
        (("SIGTERM",), None, 143, "stopped by SIGTERM before the first update"),
        (("SIGINT",), None, 130, "stopped by SIGINT before the first update"),
        (("SIGTERM",), Half(), 0, "stopped by SIGTERM; saved: update 2; the same command continues"),
        (("SIGHUP",), Half(False), 1, "stopped by SIGHUP; update 2 is not saved; the same command continues from 1"),
        (
            ("SIGINT", "SIGINT"),
            Half(False),
            130,
            "interrupted again; update 2 is not saved; the same command continues",
        ),
    ],
)
def test_a_signal_ends_a_process_that_is_blocked(tmp_path, numbers, rescue, status, words):
    with Forks(tmp_path, 1, blocked, tuple(getattr(signal, name) for name in numbers), rescue) as forks:
        assert forks.wait() == [status]
    assert words in forks.outputs[0].read_text() and forks.outputs[0].read_text().count("\n") == 1


def finishes(number: int, before: bool) -> None:
    """Gets a signal before or during the work after the last save."""
    stop, rescue = Stop(), Half()
    rescue.save_now()
    with stop:
        stop.watch(rescue)
        if before:
            signal.raise_signal(number)
        with stop.finishing():
            try:
                signal.raise_signal(number)
                print("went on")
            except Exception:
                print("swallowed")


@pytest.mark.parametrize("before", [True, False])
def test_a_signal_ends_the_work_after_the_last_save(tmp_path, before):
    with Forks(tmp_path, 1, finishes, signal.SIGTERM, before) as forks:
        assert forks.wait() == [0]
    said = "train.py: stopped by SIGTERM; saved: update 2; the same command makes the rest\n"
    assert forks.outputs[0].read_text() == said


class Alive:
    """The other processes of a run, all alive."""

    timeout, all_alive, is_first = 4.0, True, True

    def lost(self, elapsed):
        return None

    def tell(self, words):
        pass

    def leave(self):
        pass


def blocked_among_others() -> None:
    stop = Stop()
    stop.watch(Half(False))
    stop.peers = Alive()
    signal.raise_signal(signal.SIGTERM)
    os.read(os.pipe()[0], 1)


def test_a_signal_ends_ranks_that_wait_for_ever_though_all_are_alive(tmp_path):
    with Forks(tmp_path, 1, blocked_among_others) as forks:
        assert forks.wait() == [1]
    assert (
        "stopped by SIGTERM; update 2 is not saved; the same command continues from 1" in forks.outputs[0].read_text()
    )


def stops_together(folder: Path) -> None:
    """Runs a loop of steps; the last rank gets a signal in its sixth step."""
    dist.init_process_group("gloo")
    stop = Stop()
    stop.join(dist.get_rank(), 2, 60)
    stop.watch(Half())
    for step in range(2000):
        if dist.get_rank() == 1 and step == 5:
            signal.raise_signal(signal.SIGUSR1)
        if reason := stop.poll():
            break
    stop.settle()
    stop.close()
    (folder / f"reason{dist.get_rank()}").write_text(f"{step} {reason}")


def test_ranks_agree(tmp_path):
    with Forks(tmp_path, 2, stops_together, tmp_path) as forks:
        forks.check()
    first, second = ((tmp_path / f"reason{r}").read_text() for r in range(2))
    assert first == second and first.endswith("SIGUSR1")
    assert 5 < int(first.split()[0]) < 1999


@pytest.mark.parametrize("victim, how", [("deepspeed", signal.SIGTERM), ("launch", signal.SIGKILL)])
def test_launcher_gone(tmp_path, victim, how):
    """The parent of the launcher never reaps it here, so a zombie must count as gone."""
    (tmp_path / "deepspeed").write_text(LAUNCH)
    (tmp_path / "deepspeed.launcher.launch").write_text(LAUNCH)
    (tmp_path / "rank.py").write_text(RANK)
    chain = ["deepspeed", "deepspeed.launcher.launch", "rank.py", "."]
    command, environment = [sys.executable, *chain], os.environ | ENVIRONMENT
    runner = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment)
    rank = int(runner.stdout.readline())
    launch = int(Path(f"/proc/{rank}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(runner.pid if victim == "deepspeed" else launch, how)
    wait_for(lambda: (tmp_path / "reason").exists() and not alive(rank) and not alive(launch))
    assert (tmp_path / "reason").read_text() == "launcher gone"
    runner.communicate()


def test_a_shell_is_no_launcher(tmp_path):
    """`nohup python ... &` continues after its shell ends, even if the shell's command line says deepspeed."""
    (tmp_path / "rank.py").write_text(RANK)
    command = ["bash", "-c", f"# deepspeed\n{sys.executable} {tmp_path}/rank.py {tmp_path} & wait"]
    shell = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | ENVIRONMENT)
    rank = int(shell.stdout.readline())
    shell.kill()
    shell.wait()
    assert shell.stdout.readline() == "still running\n"
    os.kill(rank, signal.SIGTERM)
    shell.communicate(timeout=PATIENCE)
    assert (tmp_path / "reason").read_text() == "SIGTERM"


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
