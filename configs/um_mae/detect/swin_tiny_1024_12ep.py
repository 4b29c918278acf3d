"""Mask R-CNN on UM-MAE's Swin-T, windows of 16, 1024 px, 12 epochs of COCO ("1x").

UM-MAE published Swin-L with HTC++ only. Optimiser and schedule are Swin's for Mask R-CNN, 1x (arXiv:2103.14030, its
detection code), in the form of swin_base_window7_1024_36ep.py of SimMIM.

Published: none.
Measured here: not yet.
"""

from dataclasses import replace

from fastmim.config.base import load
from fastmim.data.crops import ScaleJitterCrop

base = load("../../simmim/detect/swin_base_window7_1024_36ep.py")
row = load("../finetune/swin_tiny_256_100ep.py")
config = replace(
    base,
    encoder=replace(row.encoder, drop_path=0.1),
    data=replace(base.data, crop=ScaleJitterCrop((1.0, 1.0), interpolation="bilinear")),
    optim=replace(base.optim, decay_epochs=(8, 11), no_decay=()),
    train=replace(base.train, epochs=12),
    run=replace(base.run, dir="runs/um_mae_swin_tiny_detect", init=row.run.init),
)
