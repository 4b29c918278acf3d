"""SimMIM as in UM-MAE's repository, Swin-T, 256 px, 200 epochs.   arXiv:2205.10063, main table, row Swin-T SimMIM.

Recipe of implus/UM-MAE's Makefile, `pretrain_simmim_swin_tiny_256_200e`.

Not microsoft's SimMIM: 75 % of 16-px patches are hidden, the loss is a mean over hidden patches, and the Swin is
UM-MAE's, at 256 px.

Published (the repository's README): 82.20 % fine-tune, 49.3 hours of pre-training on hardware not stated.
"""

from fastmim.recipe import LinearHead, MaskedL1, Pixels, RandomMasking, change, load

um_mae = load("swin_tiny_256_200ep.py")
config = change(
    um_mae,
    masking=RandomMasking(ratio=0.75),
    encoder=dict(reads="all"),
    decoder=LinearHead(layout="channels_last", init="xavier"),
    target=Pixels(),
    loss=MaskedL1(),
    run=dict(dir="runs/um_mae_swin_tiny_simmim_200ep"),
)
