"""Segmentation of ADE20K with PixMIM's ViT-B/16 and UPerNet, 512 px, 160,000 updates.   arXiv:2303.02416.

MAE's recipe, which mmselfsup's evaluation uses too.

Published: a gain over MAE's 48.15 mIoU; its size is not known here.
"""

from fastmim.recipe import change, load

base = load("../../mae/segment/vit_base_patch16_512_160k.py")
row = load("../pretrain/vit_base_patch16_224_800ep.py")
config = change(base, run=dict(dir="runs/pixmim_vit_base_segment", init=row.run.dir))
