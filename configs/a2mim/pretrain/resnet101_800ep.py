"""A2MIM, ResNet-101, 224 px, 800 epochs.   arXiv:2205.13943; row A2MIM, ResNet-101 of the official readme.

Recipe of openmixup `a2mim/imagenet/r101_l3_sz224_init_8xb256_cos_ep300.py`. Its Fourier loss is focal L1 of the complex
spectra, image by image, not the focal frequency loss. There is no official config for 800 epochs, only weights.

Published: 81.9 % fine-tune (RSB A2), for 300 or 800 epochs: the readme gives one number for both.
"""

from fastmim.recipe import change, load

base = load("resnet101_300ep.py")
config = change(base, train=dict(epochs=800))
