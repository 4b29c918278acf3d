"""Long-sequence MAE, ViT-L/16, 448 px, 1600 epochs.   arXiv:2210.07224; PRETRAIN_LONG_SEQ_GPU.md, on ImageNet-1k.

Published: unknown (the repository has no table of accuracies).
"""

from fastmim.recipe import TransformerDecoder, ViT, change, load

base = load("vit_base_patch16_448_1600ep.py")
config = change(
    base,
    encoder=ViT("vit_large_patch16_224"),
    decoder=TransformerDecoder(dim=512, depth=8, num_heads=16),
    run=dict(dir="runs/lsmae_vit_large_1600ep"),
)
