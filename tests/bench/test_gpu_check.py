"""The GPU round: its parts keep to their limits and are judged; it refuses a machine without a GPU."""

import errno
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import fastmim_kernels
from bench import __main__ as bench
from bench import gpu_check, record
from bench.gpu_check import Part, python
from bench.ops import sanitize
from tests import conftest

ROOT = Path(__file__).parents[2]


def test_verdicts(tmp_path, capsys):
    wrong, slow = python("-c", "raise SystemExit(3)"), "import time; print('begun', flush=True); time.sleep(60)"
    round_ = [
        Part("fine", [python("-c", "print('one'); print('two')")], 60),
        Part("wrong", [wrong], 60),
        Part("slow", [python("-c", slow)], 5),
        Part("some wrong", [python("-c", "raise SystemExit('this')"), python("-c", "print('not this')")], 60),
        Part("some slow", [python("-c", slow), python("-c", "print(1)")], 5),
        Part("missing", [["no-such-program"], ["nor-this"]], 200),
    ]
    archive = tmp_path / "sent/back.tar.gz"
    assert not gpu_check.check(round_, 100, tmp_path, archive)
    table = capsys.readouterr().out.splitlines()[-len(round_) :]
    verdicts = ("ok", "failed (3)", "stopped after 5 s", "failed (1)", "stopped after 5 s", "no no-such-program")
    for line, part, words in zip(table, round_, verdicts, strict=True):
        assert line.startswith(part.name) and words in line, line
    assert table[0].endswith("two") and table[3].endswith("  this")
    assert (tmp_path / "logs/fine.log").read_text() == "one\ntwo\n"
    with tarfile.open(archive) as packed:
        assert {f"logs/{part.name.replace(' ', '_')}.log" for part in round_} < set(packed.getnames())
    assert gpu_check.check(round_[:1], 100, tmp_path, archive)


def test_processes_of_a_part_run_at_once(tmp_path):
    """Each of two processes waits for the other's file."""
    wait = "import pathlib, sys, time\npathlib.Path(sys.argv[1]).touch()\nwhile not pathlib.Path(sys.argv[2]).exists():"
    names = [str(tmp_path / name) for name in "ab"]
    both = Part("both", [python("-c", f"{wait} time.sleep(0.1)", *order) for order in (names, names[::-1])], 60)
    assert gpu_check.run(both, 60, tmp_path)[0] == "ok"


def test_nothing_runs_when_the_time_is_up(tmp_path, capsys):
    assert not gpu_check.check([Part("late", [python("-c", "print(1)")], 60)], 1, tmp_path, tmp_path / "a.tar.gz")
    assert "no time left" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "total", "expected"),
    [
        ((60, 20, 10), 90, (60, 70, 70)),  # what the others did not need
        ((60, 20, 10), 200, (170, 180, 180)),
        ((60, 20, 10), 65, (60, 45, 45)),  # too short for all: the first matter most
    ],
)
def test_a_part_has_its_own_seconds_and_those_that_others_left(tmp_path, monkeypatch, seconds, total, expected):
    """Each part here takes 10 seconds."""
    now, limits = [0.0], []

    def run(part, limit, out):
        limits.append(limit)
        now[0] += 10
        return "ok", 10.0, ""

    monkeypatch.setattr(gpu_check, "run", run)
    monkeypatch.setattr(gpu_check, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    gpu_check.check([Part(str(s), [["x"]], s) for s in seconds], total, tmp_path, tmp_path / "a.tar.gz")
    assert tuple(limits) == expected


def test_the_round_fits_a_lent_machine(tmp_path):
    """One command has 600 seconds there, of which packages take some, and 12,000 characters of its output are kept."""
    round_ = gpu_check.parts(tmp_path, tmp_path, photographs=True)
    assert sum(part.seconds for part in round_) <= gpu_check.TOTAL <= 560
    printed = sum(2 * 120 + 300 + gpu_check.SHOWN for part in round_) + 3 * 80 * len(round_)
    assert printed / 2 < 12_000  # half of the parts fail
    names = [part.name for part in round_]
    assert len(set(names)) == len(names) and names[0] == "build" and names[-1] == "sanitizer"
    assert names.index("step of UM-MAE Swin-T") == 2 < names.index("compiled MAE ViT-B") < names.index("ops")


def test_a_full_disk_costs_the_archive_only(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(gpu_check.tarfile, "open", full)
    assert gpu_check.check([Part("fine", [python("-c", "print(1)")], 60)], 60, tmp_path, tmp_path / "a.tar.gz")
    assert "a.tar.gz could not be written: No space left on device" in capsys.readouterr().out


def start(capsys, *words) -> tuple[int, str, str]:
    """Runs `python -m bench WORDS` in this process; returns exit status, output and errors."""
    with pytest.raises(SystemExit) as end:
        bench.run(list(words))
    return (end.value.code, *capsys.readouterr())


def test_every_part_can_be_started(tmp_path, capsys):
    """The benchmarks, tests and configs of a part exist, and take its options."""
    started = {}
    for part in gpu_check.parts(tmp_path, tmp_path, photographs=True):
        for command in part.commands:
            script, *options = command[command.index(sys.executable) + 1 :] if command[0] != "sh" else ("-c", *command)
            for word in options:
                if re.fullmatch(r"(configs|tests|fastmim)/[\w./]+", word):
                    assert (ROOT / word).exists(), word
            if script == "-m" and options[0] == "bench":
                started.setdefault(options[1], set()).update(o for o in options if o.startswith("--"))
    for name, options in started.items():
        status, help_, _ = start(capsys, name, "--help")
        assert status == 0 and all(option in help_ for option in options), name
    assert started.keys() == {"compare", "hours", "sanitize", "loader", "ops", "sdpa", "step"}


def pytest_words() -> dict[str, list[str]]:
    """Returns the arguments of pytest in each part; its other commands differ in the share only."""
    first = {part.name: part.commands[0] for part in gpu_check.parts(ROOT, ROOT, photographs=True)}
    return {name: command[3:] for name, command in first.items() if command[1:3] == ["-m", "pytest"]}


@pytest.mark.parametrize("name", pytest_words())
def test_every_pytest_command_selects_a_test(name, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # otherwise tests marked `triton` are deselected
    found = []
    plugin = SimpleNamespace(pytest_collection_finish=lambda session: found.extend(session.items))
    pytest.main([*pytest_words()[name], "--collect-only", "-p", "no:cacheprovider"], plugins=[plugin])
    assert found, capsys.readouterr().out


def test_without_a_history_rows_are_kept_out_and_all_else_runs(tmp_path, monkeypatch, capsys):
    """A copy of the tree has no .git: an option or the environment gives the commit."""
    rounds = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.setattr(record, "gpu", lambda: "a GPU")
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "bench", "gpu_check"])
    monkeypatch.setattr(gpu_check, "check", lambda found, *rest: rounds.append((found, *rest)) or True)
    monkeypatch.delenv("FASTMIM_COMMIT", raising=False)
    monkeypatch.setenv("OUT", str(tmp_path / "sent"))
    for words, environment in ((), None), (("--commit", "a" * 40), None), ((), "b" * 40), (("--parts", "ops"), "x"):
        if environment:
            monkeypatch.setenv("FASTMIM_COMMIT", environment)
        with pytest.raises(SystemExit) as end:
            gpu_check.main(["--out", str(tmp_path / "out"), *words])
        assert end.value.code == 0
        found, total, out, archive = rounds[-1]
        recorded = environment == "b" * 40 or "--commit" in words
        assert any("--record" in command for part in found for command in part.commands) == recorded
        assert ("rows are in the logs only" in capsys.readouterr().out) != recorded
        assert (total, archive) == (gpu_check.TOTAL, tmp_path / "sent/gpu_check.tar.gz")
        assert os.environ["FASTMIM_RESULTS"] == str(tmp_path / "out/rows")
        os.environ.pop("FASTMIM_COMMIT", None)
    assert [part.name for part in rounds[-1][0]] == ["ops"] and len(rounds[0][0]) > 12
    assert len(list((tmp_path / "out/images").iterdir())) == 64  # there are no others
    with pytest.raises(SystemExit):
        gpu_check.main(["--parts", "opps"])
    assert "--parts: expected some of build,each kernel once," in capsys.readouterr().err


@pytest.mark.slow
def test_a_stopped_run_is_compared_with_an_undisturbed_one(tmp_path):
    """On the CPU, as the round does it on a GPU."""
    gpu_check.draw(tmp_path / "images")
    command = gpu_check.resumed(tmp_path / "images", tmp_path / "run", "--train.zero_stage", "1")
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("no difference\n"), done.stdout + done.stderr
    trace = tmp_path / "run/stopped/trace.jsonl"
    assert len(trace.read_text().splitlines()) == 12


def shared(share: str, items: list) -> list:
    """Returns the items that a process with this `--share` takes; the others are reported as deselected."""
    left, given = list(items), []
    hook = SimpleNamespace(pytest_deselected=lambda items: given.extend(items))
    conftest.pytest_collection_modifyitems(SimpleNamespace(getoption=lambda name: share, hook=hook), left)
    assert sorted(left + given) == items
    return left


def test_shares_are_all_tests():
    """Each test is taken once."""
    items = list(range(11))
    shares = [shared(f"{k}/3", items) for k in (1, 2, 3)]
    assert sorted(sum(shares, [])) == items and {len(share) for share in shares} == {3, 4}
    assert shared(None, items) == shared("1/1", items) == items
    for share in ("0/2", "3/2", "2", "1/0"):
        with pytest.raises(pytest.UsageError, match=rf"--share: expected K/N with 1 <= K <= N, got {share}"):
            shared(share, items)


@pytest.mark.slow
def test_shares_of_three_processes():
    options = ["tests/kernels/test_scale_gradient.py", "--collect-only", "-q"]
    shares = ([], ["--share", "1/2"], ["--share", "2/2"])
    outputs = [
        subprocess.run(python("-m", "pytest", *options, *share), cwd=ROOT, capture_output=True, text=True).stdout
        for share in shares
    ]
    every, first, second = ([line for line in output.splitlines() if "::" in line] for output in outputs)
    assert sorted(first + second) == sorted(every) and abs(len(first) - len(second)) <= 1 < len(every)


def test_a_share_of_the_calls_runs(monkeypatch, capsys):
    found, launched = sanitize.calls(), []
    assert {name for name, *_ in found} == fastmim_kernels.OPS.keys()
    name, case, dtype = found[3]
    module = SimpleNamespace(inputs=lambda *call: call, launch=lambda *inputs: launched.append(inputs))
    monkeypatch.setattr(sanitize, "calls", lambda: found)
    monkeypatch.setattr(sanitize, "importlib", SimpleNamespace(import_module=lambda path: module))
    sanitize.main(["--device", "cpu", "--share", f"4/{len(found)}"])
    assert launched == [(case, dtype, "cpu")] and capsys.readouterr().out == f"{name} {case} {dtype}\n"


@pytest.mark.slow
def test_a_share_of_the_calls_runs_in_the_interpreter():
    found = sanitize.calls()
    done = subprocess.run(
        gpu_check.bench("sanitize", "--device", "cpu", "--share", f"4/{len(found)}"),
        cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [" ".join(map(str, found[3]))]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_refuses_without_a_gpu(capsys):
    status, output, errors = start(capsys, "gpu_check")
    assert status == 2 and "expected a GPU" in errors and not output
