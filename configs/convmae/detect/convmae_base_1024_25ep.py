"""Mask R-CNN on ConvMAE-B, 1024 px, 25 epochs of COCO.   arXiv:2205.03892; the official detection code.

Optimiser, batch, schedule and warm-up (0.5 % of the run) are those of the official code. Differences: every block of
the third stage attends to the whole image (windows of 16 in all but 4 blocks there), without tables of relative
positions; the position embedding is trained, not frozen. Layer decay and drop path, which the source does not give, are
ViTDet's, and so are scales, heads and norms.

Published: box AP 53.2, mask AP 47.1 (1600 epochs of pre-training).
"""

from fastmim.recipe import change, load

base = load("../../mae/detect/vit_base_patch16_1024_100ep.py")
row = load("../pretrain/convmae_base_224_1600ep.py")
config = change(
    base,
    encoder=change(row.encoder, drop_path=0.1),
    optim=dict(blr=8e-5, lr_batch=32, schedule="cosine", decay_epochs=(), warmup_epochs=0.125, warmup_lr=8e-8),
    train=dict(epochs=25, global_batch=32),
    run=dict(dir="runs/convmae_base_detect", init=row.run.dir),
)
