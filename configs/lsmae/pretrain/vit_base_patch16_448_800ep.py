"""Long-sequence MAE, ViT-B/16, 448 px, 800 epochs.   arXiv:2210.07224; PRETRAIN_LONG_SEQ_GPU.md, on ImageNet-1k.

Published: unknown (the repository has no table of accuracies).
"""

from fastmim.recipe import (
    Config,
    Data,
    JointMasking,
    MaskedL2,
    NormalizedPatches,
    Optim,
    RandomResizedCrop,
    Run,
    Train,
    TransformerDecoder,
    ViT,
)

config = Config(
    masking=JointMasking(ratio=0.75, side=2),
    encoder=ViT("vit_base_patch16_224"),
    decoder=TransformerDecoder(dim=384, depth=8, num_heads=12),
    target=NormalizedPatches(),
    loss=MaskedL2(),
    data=Data(crop=RandomResizedCrop(scale=(0.2, 1.0), interpolation="bicubic"), size=(448, 448)),
    optim=Optim(blr=1.5e-4, warmup_epochs=40, betas=(0.9, 0.95), weight_decay=0.05),
    train=Train(epochs=800, global_batch=4096),
    run=Run(dir="runs/lsmae_vit_base_800ep"),
)
