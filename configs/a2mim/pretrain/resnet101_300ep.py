"""A2MIM, ResNet-101, 224 px, 300 epochs.   arXiv:2205.13943; row A2MIM, ResNet-101 of the official readme.

Recipe of openmixup `a2mim/imagenet/r101_l3_sz224_init_8xb256_cos_ep300.py`. Its Fourier loss is focal L1 of the complex
spectra, image by image, not the focal frequency loss.

Published: 81.9 % fine-tune (RSB A2), 80.3 % (RSB A3).
"""

from fastmim.recipe import ComplexFocalL1, MaskedFocalL1, WithFourier, change, load

base = load("resnet50_300ep.py")
config = change(
    base,
    encoder=dict(name="resnet101"),
    loss=WithFourier(MaskedFocalL1(), ComplexFocalL1(), weight=0.1, visible_weight=1e-3),
)
