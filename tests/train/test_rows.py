"""A covering sample of the row campaign: each kind of encoder, made tiny, trains, resumes bit for bit, is exported."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest

from fastmim.config import load
from fastmim.data.demo import write_demo_images
from fastmim.tasks.parts import PARTS
from fastmim.tokens import Encoder
from tests.campaign import rows
from tests.methods.tiny import ENCODERS, ROWS

SAMPLE = {}
for path in ROWS:
    parts = load(path)
    kinds = [type(part).__name__ for part in (parts.encoder, parts.masking, parts.decoder)]
    SAMPLE.setdefault("-".join(kinds), path)


@pytest.fixture(scope="module")
def attempt(tmp_path_factory):
    """attempt(path, **train): in a process of its own, as a run changes the environment of its process."""
    images = tmp_path_factory.mktemp("rows") / "images"
    write_demo_images(str(images), rows.UPDATES * rows.BATCH, (64, 64))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield lambda path, **how: pool.submit(rows.attempt, path, images, True, **how).result()


@pytest.mark.parametrize("name", SAMPLE)
def test_a_row_trains_resumes_and_is_exported(attempt, name):
    row = attempt(SAMPLE[name])
    assert len(row["losses"]) == rows.UPDATES and row["parameters_millions"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE)
@pytest.mark.parametrize(
    ("precision", "zero_stage"), [("autocast", 0), ("bf16-master", 0), ("fp32", 3), ("bf16-master", 3)]
)
def test_a_row_in_other_arithmetic(attempt, name, precision, zero_stage):
    attempt(SAMPLE[name], precision=precision, zero_stage=zero_stage, activation_checkpointing=True)


def test_every_encoder_has_a_row_and_a_small_form():
    encoders = {part.__name__ for part in PARTS if issubclass(part, Encoder)}
    assert encoders == ENCODERS.keys() == {name.split("-")[0] for name in SAMPLE}


def test_a_change_of_what_a_row_depends_on_is_named():
    path = ROWS[0]
    covered = rows.covered(path)
    assert "fastmim/encoders/convnet.py" in covered and "fastmim/engine.py" in covered
    assert rows.stale({"covered": covered}, path) == []
    assert rows.stale({"covered": covered | {"fastmim/optim.py": "other"}}, path) == ["fastmim/optim.py"]
    assert "the config" in rows.stale({"covered": covered}, ROWS[1])


def test_a_large_model_is_made_shallower():
    large = next(path for path in ROWS if "vit_huge" in path.name)
    config, changed = rows.shallower(load(large))
    assert config.encoder.depth == 4 and changed == "depth 4"
    small = next(path for path in ROWS if "vit_base" in path.name)
    assert rows.shallower(load(small)) == (load(small), "")
