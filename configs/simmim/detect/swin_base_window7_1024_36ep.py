"""Mask R-CNN on SimMIM's Swin-B, windows of 7, 1024 px, 36 epochs of COCO ("3x").

SimMIM published no such row. Optimiser and schedule are Swin's for Mask R-CNN, 3x (arXiv:2103.14030, its detection
code), with the range of its scales (short side 480 to 800) on a sample of one size; drop path is that of its larger
detectors.

Published: none.
"""

from fastmim.recipe import RCNN, Optim, ScaleJitterCrop, change, load

base = load("../../mae/detect/vit_base_patch16_1024_100ep.py")
row = load("../finetune/swin_base_window7_224_800ep_100ep.py")
config = change(
    base,
    encoder=change(row.encoder, drop_path=0.3),
    data=dict(crop=ScaleJitterCrop((0.6, 1.0), interpolation="bilinear")),
    rcnn=RCNN(norm="none", rpn_convs=1, box_convs=0),
    optim=Optim(
        blr=1e-4,
        lr_batch=16,
        schedule="multistep",
        decay_epochs=(27, 33),
        warmup_epochs=0.07,
        warmup_lr=1e-7,
        betas=(0.9, 0.999),
        weight_decay=0.05,
        no_decay=("relative_position_bias_table",),
    ),
    train=dict(epochs=36, global_batch=16),
    run=dict(dir="runs/simmim_swin_base_detect", init=row.run.init, evaluate_every=22_000),
)
