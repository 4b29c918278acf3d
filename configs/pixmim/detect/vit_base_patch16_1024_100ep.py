"""Mask R-CNN on PixMIM's ViT-B/16, 1024 px, 100 epochs of COCO.   arXiv:2303.02416.

MAE's recipe (ViTDet's), which mmselfsup's evaluation uses too.

Published: a gain over MAE's 51.6 and 45.9; its size is not known here.
"""

from fastmim.recipe import change, load

base = load("../../mae/detect/vit_base_patch16_1024_100ep.py")
row = load("../pretrain/vit_base_patch16_224_800ep.py")
config = change(base, run=dict(dir="runs/pixmim_vit_base_detect", init=row.run.dir))
