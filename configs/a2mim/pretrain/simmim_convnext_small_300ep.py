"""SimMIM baseline of A2MIM, ConvNeXt-S, 224 px, 300 epochs.   arXiv:2205.13943; row SimMIM, ConvNeXt-S of its readme.

Recipe of openmixup `simmim/imagenet/convnext_small_sz224_8xb256_fp16_ep300.py`. AS PUBLISHED, NOTHING IS HIDDEN: the
image stays as it is, and the token is only added to the embeddings of hidden positions, so the network reads the pixels
that it predicts. Set encoder.token="replace" for a masked baseline: the stem does not cross the borders of hidden
patches.

Published: 83.2 % fine-tune (300 epochs of AdamW, which the readme calls RSB A2).
"""

from fastmim.recipe import (
    BlockMasking,
    Config,
    ConvNeXt,
    Data,
    LinearHead,
    MaskedL1,
    Optim,
    Pixels,
    RandomResizedCrop,
    Train,
)

config = Config(
    masking=BlockMasking(ratio=0.6, block=32),
    encoder=ConvNeXt("convnext_small", token_layer=0, token="add", fill="none"),
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
        decay=(r"norm\.weight", r"stem\.1\.weight", r"downsample\.0\.weight"),
    ),
    train=Train(epochs=300, global_batch=2048),
)
