"""SimMIM as in UM-MAE's repository, PVT-S, 256 px, 200 epochs.   arXiv:2205.10063, main table, row PVT-S SimMIM.

Recipe of implus/UM-MAE's Makefile, `pretrain_simmim_pvt_small_256_200e`.

Published (the repository's README): 79.28 % fine-tune, 38.0 hours of pre-training on hardware not stated.
"""

from fastmim.recipe import change, load

swin, um_mae = load("swin_tiny_256_simmim_200ep.py"), load("pvt_small_256_200ep.py")
config = change(swin, encoder=change(um_mae.encoder, reads="all"), run=dict(dir="runs/um_mae_pvt_small_simmim_200ep"))
