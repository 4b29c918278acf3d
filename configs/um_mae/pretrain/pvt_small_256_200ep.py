"""UM-MAE, PVT-S, 256 px, 200 epochs.   arXiv:2205.10063, main table, row PVT-S UM-MAE.

Recipe of implus/UM-MAE's Makefile, `pretrain_mae_pvt_small_256_mask_vmr025_200e`.

Published (the repository's README): 79.31 % fine-tune, 21.3 hours of pre-training on hardware not stated.
"""

from fastmim.recipe import UMPVT, change, load

swin = load("swin_tiny_256_200ep.py")
config = change(
    swin,
    encoder=UMPVT(dims=(64, 128, 320, 512), depths=(3, 4, 6, 3), num_heads=(1, 2, 5, 8)),
    run=dict(dir="runs/um_mae_pvt_small_200ep"),
)
