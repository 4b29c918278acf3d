"""Tests of a sample of the row campaign: tiny encoders train, resume bit for bit, and are exported."""

import pytest

from fastmim.data.demo import write_demo_images
from tests.methods.tiny import ENCODERS, ROOT, ROWS
from tests.train.launched import restored

# A row of each kind: encoder, masking, decoder.
SAMPLE = {
    "ConvNeXt-BlockMasking-LinearHead": "a2mim/pretrain/convnext_base_300ep",
    "ResNet-BlockMasking-LinearHead": "a2mim/pretrain/resnet101_300ep",
    "BEiT-BlockMasking-LinearHead": "a2mim/pretrain/simmim_vit_base_patch16_224_800ep",
    "ConvMAE-RandomMasking-TransformerDecoder": "convmae/pretrain/convmae_base_224_1600ep",
    "ViT-JointMasking-TransformerDecoder": "lsmae/pretrain/vit_base_patch16_448_1600ep",
    "ViT-RandomMasking-TransformerDecoder": "mae/pretrain/vit_base_patch16_224_1600ep",
    "Swin-BlockMasking-LinearHead": "simmim/pretrain/swin_base_window6_192_100ep",
    "UMPVT-UniformMasking-TransformerDecoder": "um_mae/pretrain/pvt_small_256_200ep",
    "UMPVT-RandomMasking-LinearHead": "um_mae/pretrain/pvt_small_256_simmim_200ep",
    "UMSwin-UniformMasking-TransformerDecoder": "um_mae/pretrain/swin_large_256_800ep",
    "UMSwin-RandomMasking-LinearHead": "um_mae/pretrain/swin_tiny_256_simmim_200ep",
    "ViT-UniformMasking-TransformerDecoder": "um_mae/pretrain/vit_base_patch16_224_200ep",
}


def attempt(name, images, **how):
    from tests.campaign import rows

    with restored():
        return rows.attempt(ROOT / f"configs/{SAMPLE[name]}.py", images, small=True, **how)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    from tests.campaign import rows

    folder = tmp_path_factory.mktemp("rows") / "images"
    write_demo_images(str(folder), rows.UPDATES * rows.BATCH, (64, 64))
    return folder


@pytest.mark.parametrize("name", SAMPLE)
def test_a_row_trains_resumes_and_is_exported(images, name):
    row = attempt(name, images)
    assert len(row["losses"]) == 3 and row["parameters_millions"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE)
@pytest.mark.parametrize(
    ("precision", "zero_stage"), [("autocast", 0), ("bf16-master", 0), ("fp32", 3), ("bf16-master", 3)]
)
def test_a_row_in_other_arithmetic(images, name, precision, zero_stage):
    attempt(name, images, precision=precision, zero_stage=zero_stage, activation_checkpointing=True)


def test_every_encoder_has_a_row_and_a_small_form():
    from fastmim import recipe
    from fastmim.config.config_file import load
    from fastmim.parts import Encoder

    kinds = {}
    for path in ROWS:
        parts = load(path)
        kind = "-".join(type(part).__name__ for part in (parts.encoder, parts.masking, parts.decoder))
        kinds.setdefault(kind, set()).add(path.relative_to(ROOT / "configs").with_suffix("").as_posix())
    assert kinds.keys() == SAMPLE.keys() and all(SAMPLE[kind] in rows for kind, rows in kinds.items())
    parts = [part for part in vars(recipe).values() if isinstance(part, type)]
    encoders = {part.__name__ for part in parts if issubclass(part, Encoder)}
    assert encoders == ENCODERS.keys() == {name.split("-")[0] for name in SAMPLE}


def test_a_change_of_what_a_row_depends_on_is_named():
    from tests.campaign import rows

    path = ROWS[0]
    covered = rows.covered(path)
    assert "fastmim/model/encoders/convnet.py" in covered and "fastmim/engine" in covered
    assert rows.stale({"covered": covered}, path) == []
    assert rows.stale({"covered": covered | {"fastmim/engine": "other"}}, path) == ["fastmim/engine"]
    assert "the config" in rows.stale({"covered": covered}, ROWS[1])


def test_a_large_model_is_made_shallower():
    from fastmim.config.config_file import load
    from tests.campaign import rows

    large = next(path for path in ROWS if "vit_huge" in path.name)
    config, changed = rows.shallower(load(large))
    assert config.encoder.depth == 4 and changed == "depth 4"
    small = next(path for path in ROWS if "vit_base" in path.name)
    assert rows.shallower(load(small)) == (load(small), "")
