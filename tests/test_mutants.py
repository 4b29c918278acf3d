"""Tests that the list of seeded mistakes fits the sources, and that the committed verdicts are current."""

import ast
import collections
import warnings
from pathlib import Path

from bench.record import ROOT
from tests import mutants

LISTED = mutants.read()
SOURCES = (".py", ".cpp", ".h")


def test_every_mistake_has_one_place():
    assert len({mutant.id for mutant in LISTED}) == len(LISTED) >= 60
    for mutant in LISTED:
        assert (ROOT / mutant.file).read_text().count(mutant.before) == 1, mutant.id
        assert mutant.after != mutant.before, mutant.id


def test_every_mistake_names_a_test():
    functions = {}
    for mutant in LISTED:
        file, *_, name = mutant.test.split("::")
        if file not in functions:
            nodes = ast.walk(ast.parse((ROOT / file).read_text()))
            functions[file] = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
        assert name.partition("[")[0] in functions[file], mutant.test


def test_every_folder_has_two():
    count = collections.Counter(Path(mutant.file).parent for mutant in LISTED)
    for top in ("fastmim", "kernels", "bench"):
        for folder in {path.parent for path in (ROOT / top).rglob("*.*") if path.suffix in SOURCES}:
            assert count[folder.relative_to(ROOT)] >= 2, folder


def test_every_mistake_was_caught_and_says_when_that_is_stale():
    """A missing or stale verdict is a warning, as in tests/campaign/test_results.py."""
    known = mutants.newest()
    rows = [known[mutant.id] for mutant in LISTED if mutant.id in known]
    assert all(row["verdict"] == "caught" and not row["provenance"]["dirty"] for row in rows)
    changed = {name for mutant in LISTED if mutant.id in known for name in mutants.stale(known[mutant.id], mutant)}
    if len(rows) < len(LISTED) or changed:
        words = f"{len(LISTED) - len(rows)} of {len(LISTED)} mutants have no verdict, others one before a change of"
        warnings.warn(f"{words} {sorted(changed)}: run python -m tests.mutants", stacklevel=1)
