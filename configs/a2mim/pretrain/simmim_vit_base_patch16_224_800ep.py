"""SimMIM as A2MIM's baseline, ViT-B/16, 224 px, 800 epochs.   arXiv:2205.13943; recipe of openmixup's configs.

Unlike microsoft's, this ViT has absolute positions and a table of relative ones in each block.
Published (README of Westlake-AI/A2MIM, "ViT-B", SimMIM): 83.8 % fine-tune.
"""

from fastmim.recipe import MaskedL1, change, load

base = load("vit_base_patch16_224_800ep.py")
config = change(base, encoder=dict(fill="none", token="replace"), loss=MaskedL1())
