"""A2MIM, ConvNeXt-B, 224 px, 300 epochs.   arXiv:2205.13943; row A2MIM, ConvNeXt-B of the official readme.

Recipe of openmixup `a2mim/imagenet/convnext_b_l3_sz224_init_8xb256_cos_ep300.py`, that of ConvNeXt-S.

Published: 84.1 % fine-tune (300 epochs of AdamW, which the readme calls RSB A2).
"""

from fastmim.recipe import change, load

base = load("convnext_small_300ep.py")
config = change(base, encoder=dict(name="convnext_base"))
