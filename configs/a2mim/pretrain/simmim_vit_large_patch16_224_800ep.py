"""SimMIM as A2MIM's baseline, ViT-L/16, 224 px, 800 epochs.   arXiv:2205.13943; recipe of openmixup's configs.

Unlike microsoft's, this ViT has absolute positions and a table of relative ones in each block.
Published (README of Westlake-AI/A2MIM, "ViT-L", SimMIM): 85.6 % fine-tune.
"""

from fastmim.recipe import change, load

base = load("simmim_vit_base_patch16_224_800ep.py")
config = change(base, encoder=dict(name="beit_large_patch16_224"))
