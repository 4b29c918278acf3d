"""MAE, ViT-B/16, 224 px, 800 epochs.   arXiv:2111.06377; recipe of the official PRETRAIN.md.

Published (open-mmlab/mmpretrain reproduction, 800 epochs): 83.3 % fine-tune, 65.1 % linear.
"""

from fastmim.recipe import (
    Config,
    Data,
    MaskedL2,
    NormalizedPatches,
    Optim,
    RandomMasking,
    RandomResizedCrop,
    Run,
    Train,
    TransformerDecoder,
    ViT,
)

config = Config(
    masking=RandomMasking(ratio=0.75),
    encoder=ViT("vit_base_patch16_224"),
    decoder=TransformerDecoder(dim=512, depth=8, num_heads=16),
    target=NormalizedPatches(),
    loss=MaskedL2(),
    data=Data(crop=RandomResizedCrop(scale=(0.2, 1.0), interpolation="bicubic"), size=(224, 224)),
    optim=Optim(blr=1.5e-4, warmup_epochs=40, betas=(0.9, 0.95), weight_decay=0.05),
    train=Train(epochs=800, global_batch=4096),
    run=Run(dir="runs/mae_vit_base_800ep"),
)
