"""A2MIM, ResNet-50, 224 px, 300 epochs.   arXiv:2205.13943; row A2MIM, ResNet-50, PT 300 of the official readme.

Recipe of openmixup `a2mim/imagenet/r50_l3_sz224_init_8xb256_cos_ep300.py`. The official loss is not the paper's: focal
L1, and the focal frequency loss of the mean residual of 256 images; see the table of quirks in configs/README.md.

Published: 80.4 % fine-tune (RSB A2), 78.9 % (RSB A3).
"""

from fastmim.recipe import (
    BlockMasking,
    Config,
    Data,
    FocalFrequency,
    LinearHead,
    MaskedFocalL1,
    Optim,
    Pixels,
    RandomResizedCrop,
    ResNet,
    Train,
    WithFourier,
)

config = Config(
    masking=BlockMasking(ratio=0.6, block=32),
    encoder=ResNet("resnet50", token_layer=3, token="gated", fill="mean"),
    decoder=LinearHead(init="trunc_normal"),
    target=Pixels(),
    loss=WithFourier(MaskedFocalL1(), FocalFrequency(batch=256), weight=0.5, visible_weight=1e-3),
    data=Data(crop=RandomResizedCrop(scale=(0.8, 1.0), interpolation="bilinear"), size=(224, 224)),
    optim=Optim(
        blr=3e-4,
        lr_batch=512,
        min_lr=1e-5,
        warmup_epochs=10,
        betas=(0.9, 0.999),
        weight_decay=0.05,
        no_decay=("mask_token",),
        decay=(r"downsample\.1\.weight", "mask_gamma"),
        lr_scale=(("mask_token", 0.1),),
    ),
    train=Train(epochs=300, global_batch=2048),
)
