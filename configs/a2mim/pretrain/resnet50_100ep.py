"""A2MIM, ResNet-50, 224 px, 100 epochs.   arXiv:2205.13943; row A2MIM, ResNet-50, PT 100 of the official readme.

Recipe of openmixup `a2mim/imagenet/r50_l3_sz224_init_8xb256_cos_ep100.py`, the only ResNet recipe in which the token's
gamma learns at a tenth of the rate and does not decay.

Published: 78.8 % fine-tune (RSB A3).
"""

from fastmim.recipe import change, load

base = load("resnet50_300ep.py")
config = change(
    base,
    optim=dict(decay=(r"downsample\.1\.weight",), lr_scale=(("mask_token", 0.1), ("mask_gamma", 0.1))),
    train=dict(epochs=100),
)
