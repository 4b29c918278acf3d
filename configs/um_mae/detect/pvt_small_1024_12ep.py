"""Mask R-CNN on UM-MAE's PVT-S, 1024 px, 12 epochs of COCO ("1x").

UM-MAE published Swin-L with HTC++ only. The recipe is swin_tiny_1024_12ep.py's.

Published: none.
"""

from fastmim.recipe import change, load

base = load("swin_tiny_1024_12ep.py")
row = load("../finetune/pvt_small_256_100ep.py")
config = change(
    base,
    encoder=row.encoder,
    optim=dict(no_decay=("pos_embed",)),
    run=dict(dir="runs/um_mae_pvt_small_detect", init=row.run.init),
)
