"""A2MIM, ResNet-101, 224 px, 300 epochs.   arXiv:2205.13943; row A2MIM, ResNet-101 of the official readme.

Recipe of openmixup `a2mim/imagenet/r101_l3_sz224_init_8xb256_cos_ep300.py`: no focal frequency loss here, but focal L1
of the complex spectra, image by image.

Published: 81.9 % fine-tune (RSB A2), 80.3 % (RSB A3).
Measured here: not yet.
"""

from dataclasses import replace

from fastmim.config.base import load
from fastmim.model.losses import ComplexFocalL1, MaskedFocalL1, WithFourier

base = load("resnet50_300ep.py")
config = replace(
    base,
    encoder=replace(base.encoder, name="resnet101"),
    loss=WithFourier(MaskedFocalL1(), ComplexFocalL1(), weight=0.1, visible_weight=1e-3),
    run=replace(base.run, dir="runs/a2mim_resnet101_300ep"),
)
