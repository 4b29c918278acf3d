"""What every test gets."""

import os

import pytest


@pytest.fixture(autouse=True)
def environment():
    """Gives the environment back as it was: a run of one process says so there, and what is started next reads it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
