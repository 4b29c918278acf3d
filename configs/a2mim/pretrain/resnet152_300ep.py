"""A2MIM, ResNet-152, 224 px, 300 epochs.   arXiv:2205.13943; row A2MIM, ResNet-152 of the official readme.

Recipe of openmixup `a2mim/imagenet/r152_l3_sz224_init_8xb256_cos_ep300.py`, which the readme links and whose Fourier
weight is 0; Westlake-AI/A2MIM's own copy has 0.1 (as in resnet101_300ep.py).

Published: 82.5 % fine-tune (RSB A2), 80.9 % (RSB A3).
"""

from fastmim.recipe import MaskedFocalL1, change, load

base = load("resnet50_300ep.py")
config = change(base, encoder=dict(name="resnet152"), loss=MaskedFocalL1())
