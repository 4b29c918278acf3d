"""A2MIM, ConvNeXt-S, 224 px, 300 epochs.   arXiv:2205.13943; row A2MIM, ConvNeXt-S of the official readme.

Recipe of openmixup `a2mim/imagenet/convnext_s_l3_sz224_init_8xb256_cos_ep300.py`, whose Fourier weight is 0. Layer-norm
weights decay there.

Published: 83.7 % fine-tune (300 epochs of AdamW, which the readme calls RSB A2).
"""

from fastmim.recipe import (
    BlockMasking,
    Config,
    ConvNeXt,
    Data,
    LinearHead,
    MaskedFocalL1,
    Optim,
    Pixels,
    RandomResizedCrop,
    Train,
)

config = Config(
    masking=BlockMasking(ratio=0.6, block=32),
    encoder=ConvNeXt("convnext_small", token_layer=3, token="gated", fill="mean"),
    decoder=LinearHead(init="trunc_normal"),
    target=Pixels(),
    loss=MaskedFocalL1(),
    data=Data(crop=RandomResizedCrop(scale=(0.8, 1.0), interpolation="bilinear"), size=(224, 224)),
    optim=Optim(
        blr=3e-4,
        lr_batch=512,
        min_lr=1e-5,
        warmup_epochs=10,
        betas=(0.9, 0.999),
        weight_decay=0.05,
        no_decay=("mask_token",),
        decay=(r"norm\.weight", r"stem\.1\.weight", r"downsample\.0\.weight"),
        lr_scale=(("mask_token", 0.1), ("mask_gamma", 0.1)),
    ),
    train=Train(epochs=300, global_batch=2048),
)
