"""Signals and a vanished launcher stop every rank at one step edge, with exit code 0 and nothing left running."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from torch import distributed as dist

from fastmim.stop import Stop
from tests.train.launched import ENVIRONMENT, PATIENCE, Forks, wait_for

RANK = """
import os, sys, time
from fastmim.stop import Stop
stop, began, waited = Stop(), time.monotonic(), False
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


def signalled(number: int, times: int, file: Path) -> None:
    """Writes the reason to stop after so many signals."""
    before = signal.getsignal(number)
    stop = Stop()
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


def interrupted_twice() -> None:
    stop = Stop()
    signal.raise_signal(signal.SIGINT)
    print("running", stop.poll(), flush=True)
    signal.raise_signal(signal.SIGINT)
    print("not interrupted")


def test_second_sigint_interrupts(tmp_path):
    with Forks(tmp_path, 1, interrupted_twice) as forks:
        assert forks.wait() != [0]
    output = forks.outputs[0].read_text()
    assert output.startswith("running SIGINT") and "KeyboardInterrupt" in output and "not interrupted" not in output


def stops_together(folder: Path) -> None:
    """The last rank gets a signal in its sixth step."""
    dist.init_process_group("gloo")
    stop = Stop()
    for step in range(2000):
        if dist.get_rank() == 1 and step == 5:
            signal.raise_signal(signal.SIGUSR1)
        if reason := stop.poll():
            break
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
    """The runner's own parent never reaps it here, so a zombie must count as gone."""
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
    """`nohup python ... &` goes on when its shell ends, even where the shell's command line mentions deepspeed."""
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
