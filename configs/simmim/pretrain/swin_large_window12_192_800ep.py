"""SimMIM, Swin-L, windows of 12 at 192 px, 800 epochs.   arXiv:2111.09886; recipe of microsoft/SimMIM's configs.

Published (official README, "Swin-Large", 800 epochs): 85.4 % fine-tune at 224 px.
Measured here: not yet.
"""

from fastmim.config import Config, Data, Optim, Run, Train
from fastmim.data.crops import RandomResizedCrop
from fastmim.decoders import LinearHead
from fastmim.encoders.swin import Swin
from fastmim.losses import MaskedL1
from fastmim.masking import BlockMasking
from fastmim.targets import Pixels

config = Config(
    masking=BlockMasking(ratio=0.6, block=32),
    encoder=Swin("swin_large_patch4_window7_224", window=12),
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
    run=Run(dir="runs/simmim_swin_large_window12_192_800ep"),
)
