"""FLOPs of the published models equal the published figures; ours are fewer by the skipped work."""

import functools
from fnmatch import fnmatch

import pytest

from bench.step import flops
from fastmim.config.config_file import load
from tests.methods.tiny import ROOT, tiny

# Forward GFLOP per image: tables of the methods' sheets (A2MIM's with the head added, section 1.5).
SHEETS = {
    "mae/pretrain/vit_base_*": 19.562,
    "mae/pretrain/vit_large_*": 41.512,
    "mae/pretrain/vit_huge_*": 97.124,
    "pixmim/pretrain/vit_base_*": 19.562,
    "convmae/pretrain/convmae_base_*": 2 * 17.2,
    "pixmim/pretrain/convmae_base_*": 2 * 17.2,
    "lsmae/pretrain/vit_base_*": 2 * 33.1,
    "lsmae/pretrain/vit_large_*": 2 * 87.2,
    "pixmim/pretrain/lsmae_vit_base_*": 2 * 33.1,
    "simmim/pretrain/swin_base_window6_192_*": 22.780,
    "simmim/pretrain/swin_large_window12_192_*": 52.251,
    "simmim/pretrain/vit_base_*": 35.357,
    "um_mae/pretrain/vit_base_*": 11.649,
    "um_mae/pretrain/swin_tiny_256_[0-9]*": 6.807,
    "um_mae/pretrain/swin_large_256_*": 37.356,
    "um_mae/pretrain/pvt_small_256_[0-9]*": 6.363,
    "um_mae/pretrain/swin_tiny_256_simmim_*": 13.50,
    "um_mae/pretrain/pvt_small_256_simmim_*": 9.896,
    "a2mim/pretrain/*vit_small_*": 19.776 + 0.231,
    "a2mim/pretrain/*vit_base_*": 35.357,
    "a2mim/pretrain/*vit_large_*": 123.107 + 0.308,
    "a2mim/pretrain/*resnet50_*": 8.791,
    "a2mim/pretrain/*resnet101_*": 15.599 + 0.617,
    "a2mim/pretrain/*resnet152_*": 23.023 + 0.617,
    "a2mim/pretrain/*resnet200_*": 30.011 + 0.617,
    "a2mim/pretrain/*convnext_small_*": 17.597,
    "a2mim/pretrain/*convnext_base_*": 30.707 + 0.308,
}
QUICK = ("mae/pretrain/vit_base_patch16_224_800ep.py", "a2mim/pretrain/resnet50_100ep.py")
ROWS = sorted(path.relative_to(ROOT / "configs").as_posix() for path in ROOT.glob("configs/*/pretrain/*.py"))


def of_sheet(row):
    """The sheet's figure for a config; the same for all its schedules."""
    found = {value for pattern, value in SHEETS.items() if fnmatch(row, f"{pattern}.py")}
    assert len(found) == 1, f"{row}: expected one figure in SHEETS, found {found}"
    return found.pop() * 1e9


@functools.cache
def counted(row: str) -> tuple[int, int]:
    """Returns the forward FLOPs of the published model of a config, and of ours."""
    cfg = load(ROOT / "configs" / row)
    return flops.model_flops(cfg), flops.ours(cfg)


def test_every_row_has_a_figure():
    assert ROWS and [of_sheet(row) for row in ROWS]


@pytest.mark.parametrize("row", [pytest.param(row, marks=() if row in QUICK else pytest.mark.slow) for row in ROWS])
def test_model_flops_are_the_sheets(row):
    published, ours = counted(row)
    assert published == pytest.approx(of_sheet(row), rel=0.01)
    assert 0 < ours <= published


def test_ours_skips_hidden_patches_and_visible_predictions():
    published, ours = counted("mae/pretrain/vit_base_patch16_224_800ep.py")
    embed, pred = 2 * 196 * 768 * 768, 2 * 196 * 512 * 768
    # The last block: queries, attention, projection and MLP of 147 tokens instead of 197; and no prediction of the
    # class token.
    block = 50 * (2 * 512**2 * (1 + 1 + 8) + 4 * 197 * 512)
    expected = embed * 147 / 196 + pred * 50 / 196 + block
    assert published - ours == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("small", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_swin_skips_no_attention(small):
    """A Swin that reads whole images saves only the prediction of the 14 visible blocks of 36."""
    cfg = load(ROOT / "configs/simmim/pretrain/swin_base_window6_192_100ep.py")
    cfg, dim = (tiny(cfg), 128) if small else (cfg, 1024)
    assert flops.model_flops(cfg) - flops.ours(cfg) == 2 * 14 * dim * 32**2 * 3


def test_a_config_is_counted_from_the_command_line(capsys):
    flops.main(["configs/debug/tiny_cpu.py"])
    assert "GFLOP an image forward as published" in capsys.readouterr().out
    with pytest.raises(SystemExit) as refusal:
        flops.main(["configs/mae/pretrain/vit_bose_patch16_224_800ep.py"])
    assert refusal.value.code == 2 and "did you mean" in capsys.readouterr().err
