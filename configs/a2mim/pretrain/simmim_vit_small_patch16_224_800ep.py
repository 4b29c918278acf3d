"""SimMIM as A2MIM's baseline, ViT-S/16, 224 px, 800 epochs.   arXiv:2205.13943; recipe of openmixup's configs.

ViT-S is 768 wide, 8 blocks of 8 heads and 2304 hidden units: timm's old ViT-S, 48.8 M.
Unlike microsoft's, this ViT has absolute positions and a table of relative ones in each block.
Published (README of Westlake-AI/A2MIM, "ViT-S", SimMIM): 81.7 % fine-tune.
"""

from fastmim.recipe import change, load

base = load("simmim_vit_base_patch16_224_800ep.py")
config = change(base, encoder=dict(depth=8, num_heads=8, mlp_ratio=3.0))
