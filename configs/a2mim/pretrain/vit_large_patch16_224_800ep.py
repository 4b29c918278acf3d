"""A2MIM, ViT-L/16, 224 px, 800 epochs.   arXiv:2205.13943; recipe of Westlake-AI/openmixup's configs.

The Fourier loss averages spectra over 128 images of a micro-batch: choose a micro-batch that is a multiple of 128.
Published (official README, "ViT-L"): 86.1 % fine-tune (of 150 epochs).
"""

from fastmim.recipe import change, load

base = load("vit_base_patch16_224_800ep.py")
config = change(base, encoder=dict(name="beit_large_patch16_224"))
