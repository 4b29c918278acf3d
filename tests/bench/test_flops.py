"""FLOPs of the published models are those of the sheets; ours are fewer, and by what is skipped."""

import pytest

from bench import flops
from fastmim import config

# Forward GFLOP per image, from the methods' sheets.
SHEETS = {
    "mae/pretrain/vit_base_patch16_224_800ep": 19.562,
    "mae/pretrain/vit_large_patch16_224_800ep": 41.512,
    "mae/pretrain/vit_huge_patch14_224_800ep": 97.124,
}


@pytest.mark.parametrize("name", SHEETS)
def test_model_flops_are_the_sheets(name):
    assert flops.model_flops(config.load(f"configs/{name}.py")) == pytest.approx(SHEETS[name] * 1e9, rel=0.01)


def test_ours_skips_hidden_patches_and_visible_predictions():
    cfg = config.load("configs/mae/pretrain/vit_base_patch16_224_800ep.py")
    embed, pred = 2 * 196 * 768 * 768, 2 * 196 * 512 * 768
    # The last block: queries, attention, projection and MLP of 147 tokens instead of 197; and no prediction of the
    # class token.
    block = 50 * (2 * 512**2 * (1 + 1 + 8) + 4 * 197 * 512)
    expected = embed * 147 / 196 + pred * 50 / 196 + block
    assert flops.model_flops(cfg) - flops.ours(cfg) == pytest.approx(expected, rel=0.01)


def test_a_config_is_counted_from_the_command_line(capsys):
    flops.main(["configs/debug/tiny_cpu.py"])
    assert "GFLOP an image forward as published" in capsys.readouterr().out
    with pytest.raises(SystemExit) as refusal:
        flops.main(["configs/mae/pretrain/vit_bose_patch16_224_800ep.py"])
    assert refusal.value.code == 2 and "did you mean" in capsys.readouterr().err
