"""The commands of the benchmarks: one table, help for each, and refusals of one line."""

import ast
import subprocess
import sys

import pytest

from bench.__main__ import COMMANDS, overview, run
from tests.methods.tiny import ROOT


def refusal(capsys, *words) -> str:
    """Runs a command that refuses its words, and returns what it says."""
    with pytest.raises(SystemExit) as done:
        run(list(words))
    errors = capsys.readouterr().err
    assert done.value.code == 2 and errors.count("\n") == 1
    return errors


def test_every_command_is_in_the_table():
    found = set()
    for path in (ROOT / "bench").rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        names = [call.args[0] for call in calls if isinstance(call.func, ast.Name) and call.func.id == "command_parser"]
        module = ".".join(path.relative_to(ROOT / "bench").with_suffix("").parts)
        found |= {(ast.literal_eval(name), module) for name in names}
    assert found == {(name, command.module) for name, command in COMMANDS.items()}


def test_without_a_name_every_command_is_listed(capsys):
    assert run([]) == run(["--help"]) == 0
    assert capsys.readouterr().out == f"{overview()}\n" * 2
    for name, command in COMMANDS.items():
        assert f"\n{name} " in overview() and command.time in overview()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_describes_every_option_and_speaks_of_no_imports(command, capsys):
    with pytest.raises(SystemExit) as done:
        run([command, "--help"])
    text = capsys.readouterr().out
    assert done.value.code == 0 and text.startswith(f"usage: python -m bench {command}")
    assert "import" not in text.lower()
    _, _, listed = text.partition("\noptions:\n")
    for line in listed.splitlines():
        if line.startswith("  -") and not line.startswith("  -h"):
            assert "  " in line.strip() or f"{line}\n                    " in text, f"{line} is not described"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("word", "said"), [("--recrod", "--recrod"), ("--data=", "--data: expected a value")])
def test_a_refusal_is_one_line(command, word, said, capsys):
    errors = refusal(capsys, command, word)
    assert errors.startswith(f"python -m bench {command}: ") and (said in errors or "missing" in errors)


def test_an_unknown_command_is_refused_with_the_nearest(capsys):
    assert refusal(capsys, "compere").endswith("got 'compere'; nearest: compare\n")


def test_a_refusal_after_the_start_is_one_line(capsys):
    errors = refusal(capsys, "loader", "--data", "nowhere")
    assert errors.startswith("python -m bench loader: ") and "nowhere" in errors
    assert "'stpe'" in refusal(capsys, "rows", "stpe")


@pytest.mark.slow
def test_a_command_runs_in_a_new_process():
    command = [sys.executable, "-m", "bench", "ops", "--op", "philox", "--dtype", "fp32"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "nothing to measure" in done.stderr
