"""SimMIM baseline of A2MIM, ResNet-50, 224 px, 300 epochs.   arXiv:2205.13943; row SimMIM, ResNet-50 of its readme.

Recipe of openmixup `simmim/imagenet/r50_sz224_8xb256_fp16_ep300.py`. The image stays as it is, and the token replaces
hidden positions after the stem. As published, some hidden content leaks, because the 7x7 convolution and 3x3 pool of
the stem reach across the borders of hidden patches. Set encoder.fill="mean" to prevent the leak.

Published: 79.9 % fine-tune (RSB A2).
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
    ResNet,
    Train,
)

config = Config(
    masking=BlockMasking(ratio=0.6, block=32),
    encoder=ResNet("resnet50", token_layer=0, token="replace", fill="none"),
    decoder=LinearHead(init="trunc_normal"),
    target=Pixels(),
    loss=MaskedL1(),
    data=Data(crop=RandomResizedCrop(scale=(0.67, 1.0), interpolation="bilinear"), size=(224, 224)),
    optim=Optim(
        blr=2e-4,
        lr_batch=512,
        min_lr=1e-5,
        warmup_epochs=10,
        betas=(0.9, 0.999),
        weight_decay=0.05,
        no_decay=("mask_token",),
        decay=(r"downsample\.1\.weight",),
    ),
    train=Train(epochs=300, global_batch=2048),
)
