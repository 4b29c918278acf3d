"""A2MIM, ResNet-152, 224 px, 800 epochs.   arXiv:2205.13943; row A2MIM, ResNet-152 of the official readme.

Recipe of openmixup `a2mim/imagenet/r152_l3_sz224_init_8xb256_cos_ep300.py`, which the readme links and whose Fourier
weight is 0; Westlake-AI/A2MIM's own copy has 0.1 (as in resnet101_300ep.py). There is no official config for 800
epochs, only weights.

Published: 82.5 % fine-tune (RSB A2), for 300 or 800 epochs: the readme gives one number for both.
"""

from fastmim.recipe import change, load

base = load("resnet152_300ep.py")
config = change(base, train=dict(epochs=800))
