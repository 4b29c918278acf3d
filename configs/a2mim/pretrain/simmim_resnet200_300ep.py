"""SimMIM baseline of A2MIM, ResNet-200, 224 px, 300 epochs.   arXiv:2205.13943; row SimMIM, ResNet-200 of its readme.

Recipe of openmixup `simmim/imagenet/r200_sz224_8xb256_fp16_ep300.py`, that of ResNet-50, with its leak.

Published: 82.2 % fine-tune (RSB A2).
"""

from fastmim.recipe import change, load

base = load("simmim_resnet50_300ep.py")
config = change(base, encoder=dict(name="resnet200"))
