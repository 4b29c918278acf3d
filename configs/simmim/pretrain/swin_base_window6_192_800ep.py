"""SimMIM, Swin-B, windows of 6 at 192 px, 800 epochs.   arXiv:2111.09886; recipe of microsoft/SimMIM's configs.

Published (official README, "Swin-Base", 800 epochs): 84.0 % fine-tune at 224 px.
"""

from fastmim.recipe import (
    BlockMasking,
    Config,
    Data,
    LinearHead,
    MaskedL1,
    Optim,
    Pixels,
    RandomResizedCrop,
    Swin,
    Train,
)

config = Config(
    masking=BlockMasking(ratio=0.6, block=32),
    encoder=Swin("swin_base_patch4_window7_224", window=6),
    decoder=LinearHead(),
    target=Pixels(),
    loss=MaskedL1(),
    data=Data(crop=RandomResizedCrop(scale=(0.67, 1.0), interpolation="bilinear"), size=(192, 192)),
    optim=Optim(
        blr=1e-4,
        lr_batch=512,
        schedule="multistep",
        decay_epochs=(700,),
        warmup_epochs=10,
        warmup_lr=2e-6,
        betas=(0.9, 0.999),
        weight_decay=0.05,
        no_decay=("mask_token",),
        clip=5.0,
    ),
    train=Train(epochs=800, global_batch=2048),
)
