"""What every test gets."""

import os

import pytest
from hypothesis import settings

# Examples of a fuzz test, `pytest --hypothesis-profile=NAME`: of an op, and of one in Triton's interpreter. On a GPU
# nearly every example is a kernel that has to be compiled first.
EXAMPLES = {"test": (100, 20), "campaign": (10_000, 300), "gpu_check": (20, 20)}
for name, (compiled, interpreted) in EXAMPLES.items():
    examples = interpreted if os.environ.get("TRITON_INTERPRET") == "1" else compiled
    settings.register_profile(name, max_examples=examples, deadline=None, derandomize=True)
settings.load_profile("test")


@pytest.fixture(autouse=True)
def environment():
    """Gives the environment back as it was: a run of one process says so there, and what is started next reads it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
