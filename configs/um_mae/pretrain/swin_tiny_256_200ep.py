"""UM-MAE, Swin-T, 256 px, 200 epochs.   arXiv:2205.10063, main table, row Swin-T UM-MAE.

Recipe of implus/UM-MAE's Makefile, `pretrain_mae_swin_tiny_256_mask_vmr025_200e`.

Published (the repository's README): 82.04 % fine-tune, 25.0 hours of pre-training on hardware not stated.
"""

from fastmim.recipe import (
    Config,
    Data,
    MaskedL2,
    NormalizedPatches,
    Optim,
    RandomResizedCrop,
    Run,
    Train,
    TransformerDecoder,
    UMSwin,
    UniformMasking,
)

config = Config(
    masking=UniformMasking(secondary=0.25),
    encoder=UMSwin(embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), window=16, posmlp_dim=32),
    decoder=TransformerDecoder(dim=512, depth=2, num_heads=16, official_pos_order=True),
    target=NormalizedPatches(),
    loss=MaskedL2(),
    data=Data(crop=RandomResizedCrop(scale=(0.2, 1.0), interpolation="bicubic"), size=(256, 256)),
    optim=Optim(blr=1.5e-4, warmup_epochs=10, betas=(0.9, 0.95), weight_decay=0.05),
    train=Train(epochs=200, global_batch=4096),
    run=Run(dir="runs/um_mae_swin_tiny_200ep"),
)
