"""The commands of the bench suite: help, and one line when they cannot do what is asked."""

import importlib
import subprocess
import sys

import pytest

from tests.methods.tiny import ROOT

COMMANDS = sorted(path.stem for path in (ROOT / "bench").glob("*.py") if "Parser(" in path.read_text())


def run(monkeypatch, capsys, command, *words):
    """Returns the exit status and what was printed."""
    monkeypatch.setattr(sys, "argv", [f"bench/{command}.py", *words])
    with pytest.raises(SystemExit) as done:
        importlib.import_module(f"bench.{command}").main()
    return done.value.code, capsys.readouterr()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_describes_every_option_and_speaks_of_no_imports(command, monkeypatch, capsys):
    code, (text, _) = run(monkeypatch, capsys, command, "--help")
    assert code == 0 and text.startswith(f"usage: python -m bench.{command}")
    assert "import" not in text.lower()
    _, _, listed = text.partition("\noptions:\n")
    for line in listed.splitlines():
        if line.startswith("  -") and not line.startswith("  -h"):
            assert "  " in line.strip() or f"{line}\n                    " in text, f"{line} is not described"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("words", "said"), [(["--recrod"], "--recrod"), (["--data="], "--data: expected a value")])
def test_a_refusal_is_one_line(command, words, said, monkeypatch, capsys):
    code, (_, errors) = run(monkeypatch, capsys, command, *words)
    assert code == 2 and errors.startswith(f"python -m bench.{command}: ") and errors.count("\n") == 1
    assert said in errors or "missing" in errors


def test_what_is_found_out_later_is_one_line_too():
    command = [sys.executable, "-m", "bench.loader", "--data", "nowhere"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("python -m bench.loader: ") and "nowhere" in done.stderr
