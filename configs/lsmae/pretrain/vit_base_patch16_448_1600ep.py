"""Long-sequence MAE, ViT-B/16, 448 px, 1600 epochs.   arXiv:2210.07224; PRETRAIN_LONG_SEQ_GPU.md, on ImageNet-1k.

Published: unknown (the repository has no table of accuracies).
"""

from fastmim.recipe import change, load

base = load("vit_base_patch16_448_800ep.py")
config = change(base, train=dict(epochs=1600), run=dict(dir="runs/lsmae_vit_base_1600ep"))
