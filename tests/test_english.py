"""Checks of how docstrings begin. Ruff checks their form (D205, D400, D415, D417)."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
    cwd=ROOT, capture_output=True, text=True, check=True,
).stdout.split()  # fmt: skip
UNCLEAR = {
    "What",
    "Whether",
    "Those",
    "How",
    "Where",
    "That",
    "Which",
    "When",
    "Who",
    "It",
    "They",
    "This",
    "These",
    "As",
}
"""First words that hide the subject of a sentence."""
LONGEST = 100


def docstrings(path: Path) -> list[tuple[int, str]]:
    """Returns (line, text) of every docstring of a file, also those below fields and constants."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        body = getattr(node, "body", None)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            statements = body[:1] + [
                after
                for before, after in zip(body, body[1:], strict=False)
                if isinstance(before, ast.Assign | ast.AnnAssign)
            ]
            for statement in statements:
                value = getattr(statement, "value", None)
                if isinstance(statement, ast.Expr) and isinstance(value, ast.Constant) and isinstance(value.value, str):
                    found.append((statement.lineno, value.value))
    return found


@pytest.mark.parametrize("name", FILES)
def test_docstrings_name_their_subject(name):
    for line, text in docstrings(ROOT / name):
        first = text.strip().partition("\n")[0]
        word = first.partition(" ")[0].rstrip(",:;")
        assert word not in UNCLEAR, f"{name}:{line}: a docstring starts with {word!r}; name the subject"
        assert len(first) <= LONGEST or not name.startswith(("fastmim", "kernels")), (
            f"{name}:{line}: the first line has {len(first)} characters, expected at most {LONGEST}"
        )
