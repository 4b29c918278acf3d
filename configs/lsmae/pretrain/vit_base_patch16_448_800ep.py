"""Long-sequence MAE, ViT-B/16, 448 px, 800 epochs.   arXiv:2210.07224; PRETRAIN_LONG_SEQ_GPU.md, on ImageNet-1k.

Published: unknown (the repository has no table of accuracies).
"""

from fastmim.recipe import JointMasking, change, load

base = load("../../mae/pretrain/vit_base_patch16_224_800ep.py")
config = change(
    base,
    masking=JointMasking(ratio=0.75, side=2),
    decoder=dict(dim=384, num_heads=12),
    data=dict(size=(448, 448)),
    run=dict(dir="runs/lsmae_vit_base_800ep"),
)
