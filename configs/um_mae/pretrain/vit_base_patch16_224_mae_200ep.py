"""MAE with a decoder of 2 blocks, ViT-B/16, 224 px, 200 epochs.   arXiv:2205.10063, main table, row ViT-B MAE.

Recipe of implus/UM-MAE's Makefile, `pretrain_mae_vit_base_patch16_dec512d2b_224_200e`.

Published (the repository's README): 82.88 % fine-tune.
"""

from fastmim.recipe import TransformerDecoder, change, load

mae = load("../../mae/pretrain/vit_base_patch16_224_800ep.py")
config = change(
    mae,
    decoder=TransformerDecoder(dim=512, depth=2, num_heads=16),
    optim=dict(warmup_epochs=10),
    train=dict(epochs=200),
    run=dict(dir="runs/um_mae_vit_base_mae_200ep"),
)
