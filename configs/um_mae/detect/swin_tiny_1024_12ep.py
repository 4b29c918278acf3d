"""Mask R-CNN on UM-MAE's Swin-T, windows of 16, 1024 px, 12 epochs of COCO ("1x").

UM-MAE published Swin-L with HTC++ only. Optimiser and schedule are Swin's for Mask R-CNN, 1x (arXiv:2103.14030, its
detection code), in the form of swin_base_window7_1024_36ep.py of SimMIM.

Published: none.
"""

from fastmim.recipe import ScaleJitterCrop, change, load

base = load("../../simmim/detect/swin_base_window7_1024_36ep.py")
row = load("../finetune/swin_tiny_256_100ep.py")
config = change(
    base,
    encoder=change(row.encoder, drop_path=0.1),
    data=dict(crop=ScaleJitterCrop((1.0, 1.0), interpolation="bilinear")),
    optim=dict(decay_epochs=(8, 11), no_decay=()),
    train=dict(epochs=12),
    run=dict(dir="runs/um_mae_swin_tiny_detect", init=row.run.init),
)
