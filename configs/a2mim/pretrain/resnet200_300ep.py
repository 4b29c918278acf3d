"""A2MIM, ResNet-200, 224 px, 300 epochs.   arXiv:2205.13943; row A2MIM, ResNet-200 of the official readme.

Recipe of openmixup `a2mim/imagenet/r200_l3_sz224_init_8xb256_cos_ep300.py`, whose Fourier weight is 0.

Published: 83.0 % fine-tune (RSB A2).
"""

from fastmim.recipe import change, load

base = load("resnet152_300ep.py")
config = change(base, encoder=dict(name="resnet200"))
