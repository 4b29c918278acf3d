"""Signals and a vanished launcher stop every rank at one step edge, with exit code 0 and nothing left running."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

RANK = """
import os, sys, time
from torch import distributed as dist
from fastmim.stop import Stop
if "RANK" in os.environ:
    dist.init_process_group("gloo")
stop = Stop()
print("ready", os.getpid(), flush=True)
for step in range(2000):
    time.sleep(float(os.environ.get("STEP_SECONDS", 0.01)))
    if reason := stop.poll():
        break
stop.close()
with open(os.path.join(sys.argv[1], "rank" + os.environ.get("RANK", "0")), "w") as file:
    file.write(f"{step} {reason}")
"""

# The shape of DeepSpeed's chain: `deepspeed` starts `launch`, which starts the ranks and waits for them.
LAUNCH = "import subprocess, sys\nsys.exit(subprocess.Popen([sys.executable, *sys.argv[1:]]).wait())\n"


def start(command, **env):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **env}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


@pytest.mark.parametrize("name, times", [("SIGTERM", 20), ("SIGINT", 1)])
def test_signal(tmp_path, name, times):
    process = start([sys.executable, "-c", RANK, tmp_path], STEP_SECONDS="0.3")
    process.stdout.readline()
    for _ in range(times):
        process.send_signal(getattr(signal, name))
    assert process.communicate(timeout=20) == ("", "") and process.returncode == 0
    assert (tmp_path / "rank0").read_text().endswith(name)


def test_second_sigint_interrupts(tmp_path):
    process = start([sys.executable, "-c", RANK, tmp_path], STEP_SECONDS="60")
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=30)[1]
    assert process.returncode != 0


def test_ranks_agree(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    ranks = [start([sys.executable, "-c", RANK, tmp_path], RANK=str(r), **common) for r in range(2)]
    for process in ranks:
        assert process.stdout.readline().startswith("ready")
    time.sleep(0.2)
    ranks[1].send_signal(signal.SIGUSR1)
    assert [process.wait(timeout=20) for process in ranks] == [0, 0]
    first, second = ((tmp_path / f"rank{r}").read_text() for r in range(2))
    assert first == second and first.endswith("SIGUSR1")
    assert 0 < int(first.split()[0]) < 1999


@pytest.mark.parametrize("victim, how", [("deepspeed", signal.SIGTERM), ("launch", signal.SIGKILL)])
def test_launcher_gone(tmp_path, victim, how):
    """The runner's own parent never reaps it here, so a zombie must count as gone."""
    (tmp_path / "deepspeed").write_text(LAUNCH)
    (tmp_path / "deepspeed.launcher.launch").write_text(LAUNCH)
    (tmp_path / "rank.py").write_text(RANK)
    chain = ["deepspeed", "deepspeed.launcher.launch", "rank.py", "."]
    runner = subprocess.Popen(
        [sys.executable, *chain],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))},
    )
    rank = int(runner.stdout.readline().split()[1])
    launch = int(Path(f"/proc/{rank}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(runner.pid if victim == "deepspeed" else launch, how)
    deadline = time.monotonic() + 30
    while not (tmp_path / "rank0").exists() or alive(rank) or alive(launch):
        assert time.monotonic() < deadline, "still running 30 s after its launcher's end"
        time.sleep(0.02)
    assert (tmp_path / "rank0").read_text().endswith("launcher gone")
    runner.communicate()


def test_a_shell_is_no_launcher(tmp_path):
    """`nohup python ... &` goes on when its shell ends, even where the shell's command line mentions deepspeed."""
    (tmp_path / "rank.py").write_text(RANK)
    shell = start(["bash", "-c", f"# deepspeed\n{sys.executable} {tmp_path}/rank.py {tmp_path} & wait"])
    rank = int(shell.stdout.readline().split()[1])
    shell.kill()
    shell.wait()
    time.sleep(2.2)
    assert alive(rank) and not (tmp_path / "rank0").exists()
    os.kill(rank, signal.SIGTERM)
    shell.communicate(timeout=30)
    assert (tmp_path / "rank0").read_text().endswith("SIGTERM")


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
