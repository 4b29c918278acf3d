"""A2MIM, ViT-S/16, 224 px, 800 epochs.   arXiv:2205.13943; recipe of Westlake-AI/openmixup's configs.

ViT-S is 768 wide, 8 blocks of 8 heads and 2304 hidden units: timm's old ViT-S, 48.8 M. The Fourier loss averages
spectra over 256 images of a micro-batch: choose a micro-batch that is a multiple of 256.
Published (official README, "ViT-S"): 82.1 % fine-tune (of 200 epochs).
"""

from fastmim.recipe import FocalFrequency, change, load

base = load("vit_base_patch16_224_800ep.py")
config = change(base, encoder=dict(depth=8, num_heads=8, mlp_ratio=3.0), loss=dict(fourier=FocalFrequency(batch=256)))
