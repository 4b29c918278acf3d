"""SimMIM baseline of A2MIM, ConvNeXt-B, 224 px, 300 epochs.   arXiv:2205.13943; row SimMIM, ConvNeXt-B of its readme.

Recipe of openmixup `simmim/imagenet/convnext_base_sz224_8xb256_fp16_ep300.py`, that of ConvNeXt-S (its file name says 8
GPUs, its comments 4, which makes the batch 2048). AS PUBLISHED, NOTHING IS HIDDEN: see simmim_convnext_small_300ep.py.

Published: 83.6 % fine-tune (300 epochs of AdamW, which the readme calls RSB A2).
"""

from fastmim.recipe import change, load

base = load("simmim_convnext_small_300ep.py")
config = change(base, encoder=dict(name="convnext_base"))
