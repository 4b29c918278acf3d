"""Long-sequence MAE, ViT-B/16, 448 px, 1600 epochs.   arXiv:2210.07224; PRETRAIN_LONG_SEQ_GPU.md, on ImageNet-1k.

Published: unknown (the repository has no table of accuracies).
Measured here: not yet.
"""

from dataclasses import replace

from fastmim.config.base import load

base = load("vit_base_patch16_448_800ep.py")
config = replace(
    base,
    train=replace(base.train, epochs=1600),
    run=replace(base.run, dir="runs/lsmae_vit_base_1600ep"),
)
