"""Fixtures and settings of every test."""

import os
import re

import pytest
from hypothesis import settings

pytest_plugins = ["tests.cpu_seconds"]

# Examples of a fuzz test, `pytest --hypothesis-profile=NAME`: of an op, and of one in Triton's interpreter.
EXAMPLES = {"test": (100, 8), "campaign": (10_000, 300)}
for name, (compiled, interpreted) in EXAMPLES.items():
    examples = interpreted if os.environ.get("TRITON_INTERPRET") == "1" else compiled
    settings.register_profile(name, max_examples=examples, deadline=None, derandomize=True)
settings.load_profile("test")


def pytest_addoption(parser):
    parser.addoption("--share", metavar="K/N", help="every Nth test from the Kth on, for N processes at once")


def pytest_collection_modifyitems(config, items):
    if share := config.getoption("--share"):
        if not (found := re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", share)) or int(found[1]) > int(found[2]):
            raise pytest.UsageError(f"--share: expected K/N with 1 <= K <= N, got {share}")
        first, step = map(int, found.groups())
        kept = items[first - 1 :: step]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


@pytest.fixture(autouse=True)
def environment():
    """Restores the environment variables, which a run of one process changes and later processes read."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
