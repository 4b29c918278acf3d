"""Tests that the environment of a launcher is checked before any process waits for another."""

import pytest

from fastmim.engine.process import check_launch

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")
WHOLE = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.fixture
def environment(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    return lambda **values: [monkeypatch.setenv(name, value) for name, value in values.items()]


@pytest.mark.parametrize("values", [{}, WHOLE, {**WHOLE, "LOCAL_RANK": "1"}, {"MASTER_PORT": "29500"}])
def test_what_launchers_set_is_accepted(environment, values):
    environment(**values)
    check_launch()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"RANK": "3", "WORLD_SIZE": "2"}, "^MASTER_ADDR in the environment: expected a value beside RANK, got none"),
        ({**WHOLE, "RANK": "3"}, "^RANK=3 in the environment: expected less than WORLD_SIZE=2"),
        ({**WHOLE, "RANK": "0", "WORLD_SIZE": "0"}, "^RANK=0 in the environment: expected less than WORLD_SIZE=0"),
        ({"RANK": "0"}, "^WORLD_SIZE in the environment: expected a value beside RANK"),
        ({"WORLD_SIZE": "2"}, "^RANK in the environment: expected a value beside WORLD_SIZE"),
        ({**WHOLE, "WORLD_SIZE": "two"}, "^WORLD_SIZE in the environment: expected a whole number, got two"),
        ({**WHOLE, "RANK": "-1"}, "^RANK in the environment: expected a whole number, got -1"),
        ({**WHOLE, "LOCAL_RANK": "\n"}, r"^LOCAL_RANK in the environment: expected a whole number, got \\n"),
        ({**WHOLE, "MASTER_PORT": "70000"}, "^MASTER_PORT=70000 in the environment: expected at most 65535"),
    ],
)
def test_an_environment_of_no_run_is_refused_with_what_to_do(environment, values, message):
    environment(**values)
    with pytest.raises(ValueError, match=f"{message}.*: start with torchrun or deepspeed, or unset RANK"):
        check_launch()
